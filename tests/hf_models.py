"""Small random models of transformers, and batches for them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

tf: Any = pytest.importorskip("transformers")

WORDS = 40
SMALL = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
}
BART = {
    "vocab_size": WORDS,
    "d_model": 16,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 24,
    "decoder_ffn_dim": 24,
    "max_position_embeddings": 32,
    "decoder_start_token_id": 2,
}


def bert(kind: str, **options: Any) -> nn.Module:
    config = tf.BertConfig(vocab_size=WORDS, max_position_embeddings=32, **SMALL, **options)
    return seeded(getattr(tf, f"BertFor{kind}"), config)


def seeded(kind: Any, config: Any) -> nn.Module:
    torch.manual_seed(0)
    return kind(config).double().eval()


def ids(batch: int = 2, tokens: int = 6, seed: int = 0) -> Tensor:
    return torch.randint(
        3, WORDS - 1, (batch, tokens), generator=torch.Generator().manual_seed(seed)
    )


def text(batch: int = 2, tokens: int = 6) -> Any:
    x = ids(batch, tokens)
    mask = torch.ones_like(x)
    mask[-1, -2:] = 0
    return tf.BatchEncoding({"input_ids": x, "attention_mask": mask})


def images(count: int = 2, size: int = 16) -> Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(1))


def llama(**options: Any) -> nn.Module:
    return seeded(tf.LlamaForCausalLM, tf.LlamaConfig(vocab_size=WORDS, **SMALL, **options))


def two_towers(kind: str) -> nn.Module:
    texts = {"vocab_size": WORDS, "max_position_embeddings": 6, **SMALL}
    texts |= {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    towers = {"text_config": texts, "vision_config": {"image_size": 16, "patch_size": 8, **SMALL}}
    more = {"projection_dim": 8} if kind == "CLIP" else {}
    return seeded(getattr(tf, f"{kind}Model"), getattr(tf, f"{kind}Config")(**towers, **more))


def llava() -> nn.Module:
    vision = tf.CLIPVisionConfig(image_size=16, patch_size=8, **SMALL)
    words = tf.LlamaConfig(vocab_size=WORDS, **SMALL)
    config = tf.LlavaConfig(vision_config=vision, text_config=words, image_token_index=39)
    return seeded(tf.LlavaForConditionalGeneration, config)


def prompt(batch: int = 2) -> Any:
    """A question with four patches of an image in it."""
    x = ids(batch, 8)
    x[:, 1:5] = 39
    return tf.BatchFeature(
        {"input_ids": x, "attention_mask": torch.ones_like(x), "pixel_values": images(batch)}
    )


def check(got: Any, expected: Tensor, tolerance: float = 1e-9) -> None:
    """The independent sum: all numbers, against what the model alone returns."""
    total = got.found.elsewhere + sum(
        m.double().flatten(2).sum(2).view(expected.shape) for m in got.map.values()
    )
    torch.testing.assert_close(total, expected, rtol=0, atol=tolerance)


def alone(model: nn.Module, batch: Any) -> Any:
    with torch.no_grad():
        return model(**{k: v.double() if v.is_floating_point() else v for k, v in batch.items()})


def tokenizer() -> Any:
    """WordPiece over a few pieces."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    pieces = ["[PAD]", "[UNK]", "play", "##ing", "##er", "the", "guitar", "##s", "."]
    vocabulary = {p: i for i, p in enumerate(pieces)}
    fast = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    fast.decoder = decoders.WordPiece()
    fast.pre_tokenizer = pre_tokenizers.Whitespace()
    return tf.PreTrainedTokenizerFast(tokenizer_object=fast, pad_token="[PAD]", unk_token="[UNK]")
