"""Tasks on texts, and on texts with images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from fullgrad.interop import hugging_face
from task import Case, Task, ids, library, noise, seeded

WORDS = 40
SMALL = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
}


def of_ids(model: Any, target: Callable[[Any], Tensor], **options: Any) -> Case:
    x = ids(2, 6, WORDS - 1)
    mask = torch.ones_like(x)
    mask[1, 4:] = 0
    embedding = {"input_ids": model.get_input_embeddings()}
    batch = {"input_ids": x, "attention_mask": mask}
    return Case(model, batch, target, ["input_ids"], {}, embedding, **options)


def bert(kind: str) -> Any:
    tf = library("transformers")

    config = tf.BertConfig(vocab_size=WORDS, max_position_embeddings=32, **SMALL)
    return seeded(lambda: getattr(tf, f"BertFor{kind}")(config))


def llama() -> Any:
    tf = library("transformers")

    return seeded(lambda: tf.LlamaForCausalLM(tf.LlamaConfig(vocab_size=WORDS, **SMALL)))


def classes() -> Case:
    return of_ids(bert("SequenceClassification"), lambda o: o.logits[:, 1])


def entities() -> Case:
    return of_ids(bert("TokenClassification"), lambda o: o.logits[:, 2, 1])


def answers() -> Case:
    return of_ids(bert("QuestionAnswering"), hugging_face.span(2, 3))


def masked() -> Case:
    return of_ids(bert("MaskedLM"), lambda o: o.logits[:, 2, 7])


def causal() -> Case:
    return of_ids(llama(), lambda o: o.logits[:, 3, 7], tolerance=1e-6)


def adapted() -> Case:
    peft = library("peft")

    def make() -> nn.Module:
        config = peft.LoraConfig(target_modules=["q_proj", "v_proj"], init_lora_weights=False)
        model: nn.Module = peft.get_peft_model(llama(), config)
        return model

    return of_ids(seeded(make), lambda o: o.logits[:, 3, 7], tolerance=1e-6)


def translation() -> Case:
    tf = library("transformers")

    config = tf.T5Config(vocab_size=WORDS, d_model=16, d_kv=8, d_ff=24, num_layers=1, num_heads=2)
    model = seeded(lambda: tf.T5ForConditionalGeneration(config))
    batch = {"input_ids": ids(2, 6, WORDS), "decoder_input_ids": ids(2, 3, WORDS, 5)}
    parts = (model.encoder.embed_tokens, model.decoder.embed_tokens)
    embedding = dict(zip(batch, parts, strict=True))
    return Case(model, batch, lambda o: o.logits[:, 1, 3], [*batch], {}, embedding, tolerance=1e-6)


def clip() -> Case:
    open_clip = library("open_clip")

    sizes = {"width": 16, "layers": 1}
    vision = {"image_size": 16, "patch_size": 8, "head_width": 8, **sizes}
    texts = {"context_length": 6, "vocab_size": WORDS, "heads": 2, **sizes}
    model = seeded(lambda: open_clip.model.CLIP(8, vision, texts))
    batch = {"text": ids(2, 6, WORDS), "image": noise(2, 3, 16, 16)}

    def alike(output: Any) -> Tensor:
        image, text, scale = output
        found: Tensor = (image * text).sum(1) * scale
        return found

    embedding = {"text": model.token_embedding}
    return Case(model, batch, alike, [*batch], {"image": "BCHW"}, embedding)


def siglip() -> Case:
    tf = library("transformers")

    texts = {"vocab_size": WORDS, "max_position_embeddings": 6, **SMALL}
    vision = {"image_size": 16, "patch_size": 8, **SMALL}
    model = seeded(lambda: tf.SiglipModel(tf.SiglipConfig(text_config=texts, vision_config=vision)))
    batch = {"input_ids": ids(2, 6, WORDS), "pixel_values": noise(2, 3, 16, 16)}
    embedding = {"input_ids": model.text_model.get_input_embeddings()}
    where = {"pixel_values": "BCHW"}
    return Case(model, batch, hugging_face.pairs, [*batch], where, embedding)


def llava() -> Case:
    tf = library("transformers")

    vision = tf.CLIPVisionConfig(image_size=16, patch_size=8, **SMALL)
    config = tf.LlavaConfig(
        vision_config=vision,
        text_config=tf.LlamaConfig(vocab_size=WORDS, **SMALL),
        image_token_index=39,
    )
    model = seeded(lambda: tf.LlavaForConditionalGeneration(config))
    x = ids(1, 8, WORDS - 1)
    x[:, 1:5] = 39
    batch = {
        "input_ids": x,
        "attention_mask": torch.ones_like(x),
        "pixel_values": noise(1, 3, 16, 16),
    }
    embedding = {"input_ids": model.get_input_embeddings()}
    names, where = ["input_ids", "pixel_values"], {"pixel_values": "BCHW"}
    return Case(model, batch, lambda o: o.logits[:, 7, 7], names, where, embedding, tolerance=1e-6)


TASKS = (
    Task("text classification", "transformers", "BERT", "logit of class 1", classes),
    Task("token classification", "transformers", "BERT", "class 1 of token 2", entities),
    Task("question answering", "transformers", "BERT", "start 2 and end 3", answers),
    Task("masked language model", "transformers", "BERT", "word 7 in place 2", masked),
    Task("causal language model", "transformers", "Llama", "word 7 after place 3", causal),
    Task("low-rank adapters", "peft", "Llama with LoRA", "word 7 after place 3", adapted),
    Task("encoder and decoder", "transformers", "T5", "word 3 after place 1", translation),
    Task("similarity of image and text", "open_clip_torch", "CLIP", "similarity of pairs", clip),
    Task("similarity, sigmoid loss", "transformers", "SigLIP", "similarity of pairs", siglip),
    Task(
        "vision and language",
        "transformers",
        "LLaVA",
        "word 7 after the prompt",
        llava,
        note="several samples with `batch_size=1`: the model takes their images apart",
    ),
)
