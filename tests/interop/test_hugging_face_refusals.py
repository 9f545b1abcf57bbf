"""Batches, targets and answers that cannot be explained, and what helps."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from fullgrad.errors import InputError, ModelError, OptionError, TargetError
from fullgrad.interop import hugging_face as hf
from fullgrad.maps.tokens import attribute_tokens
from hf_models import (
    BART,
    WORDS,
    alone,
    bert,
    check,
    ids,
    images,
    llama,
    seeded,
    text,
    tf,
    two_towers,
)


def test_batches_that_cannot_be_explained() -> None:
    model, batch = bert("SequenceClassification"), text()
    with pytest.raises(
        InputError,
        match="the batch must be what a tokenizer or processor returns, or a dict, not Tensor",
    ):
        hf.explain(model, batch["input_ids"], 1)  # type: ignore[arg-type]
    lists = {k: v.tolist() for k, v in batch.items()}
    with pytest.raises(
        InputError,
        match="input_ids is a list, not a tensor: call the tokenizer or processor with return_tensors='pt'",
    ):
        hf.explain(model, lists, 1)
    with pytest.raises(
        InputError,
        match=r"the batch holds none of input_ids, .*name what is explained with explained=",
    ):
        hf.explain(model, {"attention_mask": batch["attention_mask"]}, 1)
    with pytest.raises(
        OptionError,
        match="explained must name entries of the batch, not 'ids'; it has: input_ids, attention_mask",
    ):
        hf.explain(model, batch, 1, explained="ids")
    with pytest.raises(OptionError, match="no option 'psi'"):
        hf.explain(model, batch, 1, psi="layer")  # type: ignore[call-arg]


class Strange(nn.Module):
    def forward(self, features: Tensor) -> Tensor:
        return features.mean((2, 3))


def test_entries_of_an_unknown_name() -> None:
    x = {"features": torch.rand(2, 3, 4, 4)}
    with pytest.raises(
        InputError,
        match=r"is features to be explained\? Name all entries that are: explained=\['features'\]",
    ):
        hf.explain(Strange(), x, 1)
    with pytest.raises(
        InputError,
        match=r"what the axes of features, of shape \(2, 3, 4, 4\), hold: say so with layouts=\{'features': 'B...'\}",
    ):
        hf.explain(Strange(), x, 1, explained=["features"])
    got = hf.explain(Strange(), x, 1, explained=["features"], layouts={"features": "BCHW"})
    with pytest.raises(OptionError, match="layouts holds 'feature', which is not explained; expl"):
        hf.explain(Strange(), x, 1, explained=["features"], layouts={"feature": "BCHW"})
    assert got.map["features"].shape == (2, 1, 4, 4)


def test_targets_that_do_not_fit() -> None:
    model, batch = bert("SequenceClassification"), text()
    with pytest.raises(
        TargetError, match="no class is called 'GOOD'; the model has: LABEL_0, LABEL_1"
    ):
        hf.explain(model, batch, "GOOD")
    with pytest.raises(
        TargetError, match=r"span\(\) needs an output with start_logits: that of question answering"
    ):
        hf.explain(model, batch, hf.span())
    with pytest.raises(TargetError, match="token 9 is not one of the 6"):
        hf.explain(bert("QuestionAnswering"), batch, hf.span(9))
    with pytest.raises(
        TargetError, match="pairs needs an output with logits_per_image: that of CLIP or SigLIP"
    ):
        hf.explain(model, batch, hf.pairs)
    uneven = {"input_ids": ids(1, 6), "pixel_values": images(2)}
    with pytest.raises(
        TargetError,
        match="2 images and 1 texts do not make pairs: give as many of each, repeating an image or a text",
    ):
        hf.explain(two_towers("Siglip"), uneven, hf.pairs)
    repeated = {**uneven, "input_ids": ids(1, 6).repeat(2, 1)}
    assert hf.explain(two_towers("Siglip"), repeated, hf.pairs).found.output.shape == (2,)


def test_answers_that_do_not_fit() -> None:
    model, batch = llama(), text()
    for wrong in (ids(3, 2), torch.rand(2, 2), [1, 2], torch.zeros(2, 0, dtype=torch.long)):
        with pytest.raises(
            InputError, match=r"answer must be token ids of shape \(answer,\) or \(2, answer\), not"
        ):
            hf.explain_answer(model, batch, wrong)  # type: ignore[arg-type]
    with pytest.raises(
        InputError, match="an answer needs the input_ids of its prompt in the batch"
    ):
        hf.explain_answer(model, {"attention_mask": batch["attention_mask"]}, ids(2, 2))
    with pytest.raises(
        InputError, match="position_ids end with the prompt: leave them out of the batch"
    ):
        hf.explain_answer(model, {**batch, "position_ids": ids()}, ids(2, 2))
    with pytest.raises(OptionError, match="score must be 'logit' or 'log_probability', not 'p'"):
        hf.explain_answer(model, batch, ids(2, 2), score="p")  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="at_once must be a number of tokens, at least 1, not 0"):
        hf.explain_answer(model, batch, ids(2, 2), at_once=0)


def test_ids_of_encoder_and_decoder_that_are_the_same() -> None:
    model = seeded(tf.BartForConditionalGeneration, tf.BartConfig(**BART))
    same = {"input_ids": ids(1, 3), "decoder_input_ids": ids(1, 3)}
    with pytest.raises(
        InputError,
        match=r"decoder_input_ids are the same as input_ids.*: give the decoder others, such as one token more",
    ):
        hf.explain(model, same, (0, 1))
    longer = {**same, "decoder_input_ids": torch.cat([same["input_ids"], ids(1, 1)], 1)}
    check(hf.explain(model, longer, (0, 1)), alone(model, longer).logits[:, 0, 1])
    model.config.decoder_start_token_id = None
    with pytest.raises(
        InputError, match="the model's config has no decoder_start_token_id: set it"
    ):
        hf.explain_answer(model, text(), ids(2, 2))


def test_a_model_without_an_embedding() -> None:
    class OneHot(nn.Module):
        def forward(self, input_ids: Tensor) -> Tensor:
            return nn.functional.one_hot(input_ids, WORDS).double().mean(1)

    with pytest.raises(
        ModelError, match=r"looks the given ids, of shape \(2, 6\), up in no nn.Embedding; explain"
    ):
        hf.explain(OneHot(), {"input_ids": ids()}, 1)


def test_an_embedding_without_values() -> None:
    class Own(nn.Embedding):
        def forward(self, ids: Tensor) -> Tensor:
            return nn.functional.one_hot(ids, WORDS).to(self.weight) @ self.weight

    model = nn.Sequential(Own(WORDS, 4))
    with pytest.raises(ModelError, match="on the meta device, and its call brings none: load it"):
        attribute_tokens(model.to("meta"), ids(), 1)
    attribute_tokens(nn.Sequential(nn.Embedding(WORDS, 4)), ids(), (0, 1))
