"""Models of transformers, small and random, with the batches that its processors return."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from fullgrad.errors import InputError, LayoutError, OptionError
from fullgrad.interop import hugging_face as hf
from fullgrad.maps.tokens import attribute_tokens
from hf_models import (
    BART,
    SMALL,
    alone,
    bert,
    check,
    ids,
    images,
    llama,
    llava,
    prompt,
    seeded,
    text,
    tf,
    tokenizer,
    two_towers,
)

CASES: dict[str, tuple[Any, Any, Any, Any]] = {
    "image classification": (
        lambda: seeded(
            tf.ViTForImageClassification, tf.ViTConfig(image_size=16, patch_size=8, **SMALL)
        ),
        lambda: tf.BatchFeature({"pixel_values": images()}),
        1,
        lambda out: out.logits[:, 1],
    ),
    "audio classification, spectrogram": (
        lambda: seeded(
            tf.ASTForAudioClassification,
            tf.ASTConfig(
                max_length=32,
                num_mel_bins=16,
                patch_size=8,
                frequency_stride=8,
                time_stride=8,
                **SMALL,
            ),
        ),
        lambda: tf.BatchFeature(
            {"input_values": torch.randn(2, 32, 16, generator=torch.Generator().manual_seed(2))}
        ),
        1,
        lambda out: out.logits[:, 1],
    ),
    "audio classification, waveform": (
        lambda: seeded(
            tf.Wav2Vec2ForSequenceClassification,
            tf.Wav2Vec2Config(
                conv_dim=(8, 8),
                conv_stride=(5, 2),
                conv_kernel=(10, 3),
                num_conv_pos_embeddings=8,
                num_conv_pos_embedding_groups=2,
                classifier_proj_size=8,
                **SMALL,
            ),
        ),
        lambda: tf.BatchFeature(
            {"input_values": torch.randn(2, 200, generator=torch.Generator().manual_seed(2))}
        ),
        1,
        lambda out: out.logits[:, 1],
    ),
    "text classification": (
        lambda: bert("SequenceClassification"),
        text,
        "LABEL_1",
        lambda out: out.logits[:, 1],
    ),
    "token classification": (
        lambda: bert("TokenClassification"),
        text,
        (2, "LABEL_1"),
        lambda out: out.logits[:, 2, 1],
    ),
    "question answering": (
        lambda: bert("QuestionAnswering"),
        text,
        hf.span(2),
        lambda out: out.start_logits[:, 2] + out.end_logits.amax(1),
    ),
    "masked language model": (
        lambda: bert("MaskedLM"),
        text,
        (2, 7),
        lambda out: out.logits[:, 2, 7],
    ),
    "causal language model": (llama, text, (3, 7), lambda out: out.logits[:, 3, 7]),
    "encoder-decoder": (
        lambda: seeded(tf.BartForConditionalGeneration, tf.BartConfig(**BART)),
        lambda: tf.BatchEncoding({**text(), "decoder_input_ids": ids(2, 3, 5)}),
        (1, 3),
        lambda out: out.logits[:, 1, 3],
    ),
    "CLIP": (
        lambda: two_towers("CLIP"),
        lambda: tf.BatchFeature(
            {
                "input_ids": torch.cat([ids(2, 5), torch.full((2, 1), 2)], 1),
                "pixel_values": images(),
            }
        ),
        hf.pairs,
        lambda out: out.logits_per_image.diagonal(),
    ),
    "SigLIP": (
        lambda: two_towers("Siglip"),
        lambda: tf.BatchFeature({"input_ids": ids(), "pixel_values": images()}),
        hf.pairs,
        lambda out: out.logits_per_image.diagonal(),
    ),
    "vision and language": (llava, lambda: prompt(1), (7, 7), lambda out: out.logits[:, 7, 7]),
}


@pytest.mark.parametrize("task", CASES)
def test_a_processors_batch_is_explained_as_it_is(task: str) -> None:
    make, batch, target, expected = CASES[task]
    model, given = make(), batch()
    before = {k: v.clone() for k, v in given.items()}
    got = hf.explain(model, given, target)
    names = [n for n in given if n not in ("attention_mask",)]
    assert sorted(got.map) == sorted(names)
    # Norms of llama's kind compute in float32, whatever the model's precision.
    check(got, expected(alone(model, given)), 1e-6)
    assert all(bool((m != 0).any()) for m in got.map.values())
    assert all(torch.equal(given[k], v) for k, v in before.items())
    assert not model.training and all(p.grad is None for p in model.parameters())


def test_padding_has_no_part_and_the_future_neither() -> None:
    got = hf.explain(bert("SequenceClassification"), text(), 1)
    assert (got.map["input_ids"][1, 0, -2:] == 0).all() and (got.map["input_ids"][0] != 0).all()
    later = hf.explain(llama(), text(), (2, 7))
    assert (later.map["input_ids"][:, :, 3:] == 0).all() and (
        later.map["input_ids"][:, :, :3] != 0
    ).all()


def test_an_image_among_tokens_lies_in_the_image() -> None:
    model, batch = llava(), prompt(1)
    got = hf.explain(model, batch, (7, 7))
    # Tokens that stand for patches hold nothing of the text.
    assert (got.map["input_ids"][:, :, 1:5] == 0).all() and (
        got.map["input_ids"][:, :, [0, 5, 6, 7]] != 0
    ).all()
    # What is asked before the image does not depend on it.
    early = hf.explain(model, batch, (0, 7))
    assert (early.map["pixel_values"] == 0).all() and (early.map["input_ids"][:, :, 1:] == 0).all()
    pixels = hf.explain(model, batch, (7, 7), explained=["pixel_values"])
    assert list(pixels.map) == ["pixel_values"]
    check(pixels, alone(model, batch).logits[:, 7, 7], 1e-6)


def test_images_of_a_batch_that_the_model_takes_apart() -> None:
    with pytest.raises(LayoutError, match=r"explain one sample at a time \(batch_size=1\) if only"):
        hf.explain(llava(), prompt(2), (7, 7))
    got = hf.explain(llava(), prompt(2), (7, 7), batch_size=1)
    check(got, alone(llava(), prompt(2)).logits[:, 7, 7], 1e-6)


def test_the_same_numbers_as_token_scores() -> None:
    model, batch = bert("SequenceClassification"), text()
    scores = attribute_tokens(model, batch, 1)
    got = hf.explain(model, batch, 1)
    torch.testing.assert_close(got.map["input_ids"][:, 0], scores.total)
    torch.testing.assert_close(got.found.elsewhere, scores.elsewhere)
    torch.testing.assert_close(
        got.map["input_ids"], hf.explain(model, dict(batch), 1).map["input_ids"]
    )


def test_a_batch_in_attribute_tokens() -> None:
    model, batch = bert("SequenceClassification"), text()
    apart = attribute_tokens(
        model, batch["input_ids"], 1, forward_kwargs={"attention_mask": batch["attention_mask"]}
    )
    assert torch.equal(attribute_tokens(model, batch, 1).scores, apart.scores)
    with pytest.raises(InputError, match="the batch has no input_ids; it has: attention_mask"):
        attribute_tokens(model, {"attention_mask": batch["attention_mask"]}, 1)
    with pytest.raises(
        InputError, match="given both in the batch and in forward_kwargs: attention_mask"
    ):
        attribute_tokens(
            model, batch, 1, forward_kwargs={"attention_mask": batch["attention_mask"]}
        )
    lists = {k: v.tolist() for k, v in batch.items()}
    with pytest.raises(
        InputError,
        match="input_ids must be a tensor, not list; a tokenizer returns one with return_tensors='pt'",
    ):
        attribute_tokens(model, lists, 1)


# -- answers ----------------------------------------------------------------------------------


@pytest.mark.parametrize("score", ["logit", "log_probability"])
def test_an_answer_token_by_token(score: Any) -> None:
    model, batch = llava(), prompt(2)
    answer = ids(2, 5, 9)
    got = hf.explain_answer(model, batch, answer, score=score, at_once=2, batch_size=1)
    whole = {
        "input_ids": torch.cat([batch["input_ids"], answer], 1),
        "attention_mask": torch.ones(2, 13, dtype=torch.long),
        "pixel_values": batch["pixel_values"],
    }
    logits = alone(model, whole).logits[:, 7:12]
    logits = logits.log_softmax(-1) if score == "log_probability" else logits
    check(got, logits.gather(2, answer[..., None]).squeeze(2), 1e-6)
    assert got.map["input_ids"].shape == (2, 5, 13) and got.map["pixel_values"].shape == (
        2,
        5,
        16,
        16,
    )
    for i in range(5):  # the i-th token of the answer was not read before it was written
        assert (got.map["input_ids"][:, i, 8 + i :] == 0).all()
    assert got.targets[1] == f"{score.replace('_', '-')} of token {answer[0, 1]} after position 8"
    torch.testing.assert_close(
        got.map["input_ids"],
        hf.explain_answer(model, batch, answer, score=score, batch_size=1).map["input_ids"],
    )


def test_an_answer_of_an_encoder_and_decoder() -> None:
    model, batch = seeded(tf.BartForConditionalGeneration, tf.BartConfig(**BART)), text(2)
    answer = ids(2, 3, 4)
    got = hf.explain_answer(model, batch, answer)
    decoder = torch.cat([torch.full((2, 1), 2), answer[:, :-1]], 1)
    logits = alone(model, {**batch, "decoder_input_ids": decoder}).logits
    check(got, logits.gather(2, answer[..., None]).squeeze(2))
    assert (got.map["decoder_input_ids"][:, 0, 1:] == 0).all()
    one = hf.explain_answer(model, batch, answer[:, :1])
    assert one.map["input_ids"].shape == (2, 1, 6) and one.found.output.shape == (2, 1)


def test_what_generate_returns() -> None:
    torch.manual_seed(0)
    model, batch = (
        llama(),
        tf.BatchEncoding(
            {"input_ids": ids(1, 4), "attention_mask": torch.ones(1, 4, dtype=torch.long)}
        ),
    )
    written = model.generate(**batch, max_new_tokens=3, do_sample=False, pad_token_id=0)
    got = hf.explain_answer(model, batch, written[:, 4:])
    logits = alone(model, {"input_ids": written}).logits
    check(got, logits[:, 3:6].amax(2), 1e-6)


# -- words ------------------------------------------------------------------------------------


def test_words_are_merged_from_tokens() -> None:
    words, model = tokenizer(), bert("SequenceClassification")
    batch = words(["playing guitars", "the player ."], return_tensors="pt", padding=True)
    got = hf.explain(model, batch, 1, tokenizer=words)
    assert [w for w, _ in got.tokens(0)] == ["play", "##ing", "guitar", "##s"]
    assert [w for w, _ in got.words(0)] == ["playing", "guitars"]
    assert [w for w, _ in got.words(1)] == ["the", "player", "."]
    values = got.map["input_ids"][0, 0]
    assert [v for _, v in got.words(0)] == [
        float(values[0] + values[1]),
        float(values[2] + values[3]),
    ]
    assert [w for w, _ in hf.explain(model, batch, 1).words(0)] == ["playing", "guitars"]
    plain = hf.explain(model, dict(batch), 1)
    assert [w for w, _ in plain.words(0)] == ["2", "3", "6", "7"]
    assert [w for w, _ in hf.explain(model, dict(batch), 1, tokenizer=words).words(0)] == [
        "play",
        "ing",
        "guitar",
        "s",
    ]


def test_words_of_an_answer() -> None:
    words, model = tokenizer(), llama()
    batch = words(["playing guitars"], return_tensors="pt")
    batch.pop("token_type_ids", None)
    got = hf.explain_answer(model, batch, torch.tensor([5, 6]), tokenizer=words)
    assert [w for w, _ in got.words(0, 1)] == ["playing", "guitars", "the", "guitar"]
    with pytest.raises(OptionError, match="sample 0, target 2: there are 1 samples with 2 targets"):
        got.words(0, 2)
    with pytest.raises(
        OptionError, match="no tokens 'pixel_values' were explained; there are: input_ids"
    ):
        got.tokens(name="pixel_values")


def test_explanations_travel(tmp_path: Path) -> None:
    words = tokenizer()
    got = hf.explain(
        bert("SequenceClassification"), words(["playing guitars"], return_tensors="pt"), 1
    )
    got.save(tmp_path / "e")
    again = hf.Explanation.load(tmp_path / "e")
    assert again.words() == got.words() and again.targets == got.targets == ("output 1",)
    assert again.cpu().tokens() == got.tokens() and repr(again) == repr(got)


# -- wrapped models ---------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
def test_adapters_of_peft() -> None:
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    config = peft.LoraConfig(
        task_type="SEQ_CLS", target_modules=["query", "value"], init_lora_weights=False
    )
    model = peft.get_peft_model(bert("SequenceClassification"), config).double().eval()
    batch = text()
    got = hf.explain(model, batch, "LABEL_1")
    check(got, alone(model, batch).logits[:, 1])
    plain = hf.explain(bert("SequenceClassification"), batch, 1)
    assert not torch.allclose(got.map["input_ids"], plain.map["input_ids"])


def test_gradient_checkpointing_changes_nothing() -> None:
    model, batch = llama(), text()
    plain = hf.explain(model, batch, (3, 7)).map["input_ids"]
    getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)()
    model.train()
    assert torch.equal(hf.explain(model, batch, (3, 7)).map["input_ids"], plain)
    assert model.training


@pytest.mark.parametrize("offloaded", [["model.embed_tokens"], ["lm_head", "model.layers.1"], None])
def test_models_that_accelerate_offloads(offloaded: list[str] | None, tmp_path: Path) -> None:
    accelerate = pytest.importorskip("accelerate")
    model, batch = llama(), text()
    plain = hf.explain(model, batch, (3, 7)).map["input_ids"]
    parts = ["model.embed_tokens", "model.layers.0", "model.layers.1", "model.norm", "lm_head"]
    places = {p: "disk" if p in (offloaded or parts) else "cpu" for p in parts}
    places["model.rotary_emb"] = "cpu"
    accelerate.dispatch_model(model, places, main_device="cpu", offload_dir=str(tmp_path))
    assert any(p.device.type == "meta" for p in model.parameters())
    assert torch.equal(hf.explain(model, batch, (3, 7)).map["input_ids"], plain)
    scores = attribute_tokens(model, batch["input_ids"], target=(3, 7))
    assert scores.residual.abs().max() < 1e-7  # its norms are in float32


def test_half_precision_takes_float_images() -> None:
    model = CASES["image classification"][0]().bfloat16()
    got = hf.explain(model, {"pixel_values": images()}, 1)
    assert got.found.output.dtype == torch.bfloat16 and got.map["pixel_values"].shape == (
        2,
        1,
        16,
        16,
    )
