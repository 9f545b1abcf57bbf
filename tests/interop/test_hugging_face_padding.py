"""Answers to padded prompts: the numbers that ``generate`` chose the tokens by."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from fullgrad.errors import InputError
from fullgrad.interop import hugging_face as hf
from hf_models import SMALL, WORDS, ids, llama, seeded, tf


def gpt2() -> nn.Module:
    sizes = {"n_layer": 2, "n_head": 2, "n_embd": 16, "n_positions": 20, "vocab_size": WORDS}
    model = seeded(tf.GPT2LMHeadModel, tf.GPT2Config(bos_token_id=1, eos_token_id=2, **sizes))
    for p in model.parameters():
        p.data *= 3
    return model


def opt() -> nn.Module:
    sizes = {"vocab_size": WORDS, "ffn_dim": 24, "word_embed_proj_dim": 16, "pad_token_id": 0}
    return seeded(tf.OPTForCausalLM, tf.OPTConfig(**(SMALL | sizes)))


MASK = torch.tensor([[1, 1, 1, 1], [0, 0, 1, 1]])


@pytest.mark.parametrize("make", [gpt2, llama, opt])
@pytest.mark.parametrize("size", [None, 1])
def test_padding_on_the_left(make: Any, size: int | None) -> None:
    model, batch = make(), {"input_ids": ids(2, 4), "attention_mask": MASK}
    written = model.generate(
        **batch,
        max_new_tokens=3,
        min_new_tokens=3,
        do_sample=False,
        pad_token_id=0,
        output_logits=True,
        return_dict_in_generate=True,
    )
    answer = written.sequences[:, 4:]
    logits = torch.stack(
        [x.gather(1, answer[:, i : i + 1])[:, 0] for i, x in enumerate(written.logits)], 1
    )
    got = hf.explain_answer(model, batch, answer, batch_size=size)
    torch.testing.assert_close(got.found.output.double(), logits.double(), rtol=1e-5, atol=1e-6)
    assert (got.map["input_ids"][1, :, :2] == 0).all()


def test_padding_behind_a_prompt() -> None:
    batch = {"input_ids": ids(2, 4), "attention_mask": MASK.flip(1)}
    with pytest.raises(InputError, match=r"ends in padding.*padding_side = 'left'.*one prompt"):
        hf.explain_answer(llama(), batch, ids(2, 2))
