"""Batches of transformers' tokenizers and processors: what is explained, and how it lies."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fullgrad.errors import InputError, OptionError

IDS = ("input_ids", "decoder_input_ids")
"""Token ids, which are explained through their embedding."""
LAYOUTS: dict[str, dict[int, str]] = {
    "pixel_values": {4: "BCHW", 5: "BTCHW"},
    "pixel_values_videos": {5: "BTCHW"},
    "input_values": {2: "BT", 3: "BTF"},
    "input_features": {3: "BFT"},
}
"""Images and sounds, which are explained as they are; what their axes hold, by their number."""


class Longer(dict[str, Any]):
    """Values that keep what the tokenizer knows of the prompt's words."""

    def __init__(self, values: Mapping[str, Any], batch: Mapping[str, Any]) -> None:
        super().__init__(values)
        self.encodings = getattr(batch, "encodings", None)


def checked(batch: Any) -> dict[str, Tensor]:
    """The entries of a batch that are there.

    Raises:
        InputError: not a batch, or one that does not hold tensors.
    """
    if not isinstance(batch, Mapping):
        raise InputError(
            "the batch must be what a tokenizer or processor returns, or a dict, not "
            f"{type(batch).__name__}"
        )
    values = {str(n): v for n, v in batch.items() if v is not None}
    for name, value in values.items():
        if not isinstance(value, Tensor):
            raise InputError(
                f"{name} is a {type(value).__name__}, not a tensor: call the tokenizer or "
                "processor with return_tensors='pt'"
            )
    return values


def on_device(values: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """On the model's device; images and sounds in its precision.

    Of a model that accelerate has split, the device of the first part that is on one. A part that
    is offloaded is on the meta device but for its call, and its inputs are moved by accelerate.
    """
    floats = [p for p in model.parameters() if p.is_floating_point()]
    if not floats:
        return values
    device = next((p.device for p in floats if p.device.type != "meta"), None)
    return {
        n: v.to(device, floats[0].dtype if n in LAYOUTS and v.is_floating_point() else None)
        for n, v in values.items()
    }


def explained_of(values: Mapping[str, Tensor], asked: Sequence[str] | None) -> list[str]:
    """The names of the entries that are explained.

    Raises:
        OptionError: names that there are not.
        InputError: none is known, or it is not known whether a float one is to be explained.
    """
    if asked is not None:
        missing = [n for n in asked if n not in values]
        if missing or isinstance(asked, str) or not asked:
            raise OptionError(
                f"explained must name entries of the batch, not {asked!r}; "
                f"{listed('it has', values)}"
            )
        return list(asked)
    unknown = [
        n
        for n, v in values.items()
        if v.is_floating_point() and n not in LAYOUTS and "mask" not in n
    ]
    if unknown:
        raise InputError(
            f"is {unknown[0]} to be explained? Name all entries that are: "
            f"explained={[n for n in values if n in IDS or n in LAYOUTS or n in unknown]!r}"
        )
    names = [n for n in (*IDS, *LAYOUTS) if n in values]
    if not names:
        raise InputError(
            f"the batch holds none of {', '.join((*IDS, *LAYOUTS))}: name what is explained with "
            "explained="
        )
    return names


def check_apart(values: Mapping[str, Tensor]) -> None:
    """Refuse a decoder's ids that are the encoder's: a lookup could be of either.

    Raises:
        InputError: they are.
    """
    first, second = (values.get(n) for n in IDS)
    if first is not None and second is not None and torch.equal(first.flatten(), second.flatten()):
        raise InputError(
            "decoder_input_ids are the same as input_ids, so a lookup may belong to either: "
            "give the decoder others, such as one token more"
        )


def layout_of(name: str, value: Tensor, tokens: bool, given: Mapping[str, str]) -> str:
    """What the axes of an entry hold.

    Raises:
        InputError: that is not known.
    """
    if name in given:
        return given[name]
    if tokens:
        return "BTC" if value.dim() == 2 else "BPTC"
    known = LAYOUTS.get(name, {}).get(value.dim())
    if known is None:
        raise InputError(
            f"it is not known what the axes of {name}, of shape {tuple(value.shape)}, hold: say so "
            f"with layouts={{{name!r}: 'B...'}}, a letter for each axis, B samples, C channels"
        )
    return known


def check_layouts(given: Mapping[str, str], names: Sequence[str]) -> None:
    """Refuse layouts of entries that are not explained.

    Raises:
        OptionError: naming one.
    """
    for name in given:
        if name not in names:
            raise OptionError(
                f"layouts holds {name!r}, which is not explained; {listed('explained are', names)}"
            )


def answer_of(answer: Any, values: Mapping[str, Tensor]) -> Tensor:
    """An answer as ids for each sample.

    Raises:
        InputError: it holds no token ids, or does not fit the batch.
    """
    count = len(next(iter(values.values()), torch.zeros(1)))
    if isinstance(answer, Tensor) and answer.dim() == 1:
        answer = answer[None].expand(count, -1)
    if (
        not isinstance(answer, Tensor)
        or answer.is_floating_point()
        or answer.dim() != 2
        or len(answer) != count
        or not answer.numel()
    ):
        what = f"shape {tuple(answer.shape)}" if isinstance(answer, Tensor) else repr(answer)[:60]
        raise InputError(
            f"answer must be token ids of shape (answer,) or ({count}, answer), not {what}"
        )
    return answer


def longer(values: Mapping[str, Tensor], answer: Tensor, model: nn.Module) -> dict[str, Tensor]:
    """The entries of a prompt with the answer behind it, as ``generate`` makes them.

    Raises:
        InputError: no prompt, padding behind one, or entries that cannot be made longer.
    """
    prompt = values.get("input_ids")
    if prompt is None:
        raise InputError("an answer needs the input_ids of its prompt in the batch")
    if "position_ids" in values:
        raise InputError("position_ids end with the prompt: leave them out of the batch")
    answer = answer.to(prompt.device)
    longer = {"input_ids": torch.cat([prompt, answer.to(prompt.dtype)], 1)}
    for name, fill in (("attention_mask", 1), ("token_type_ids", 0), ("mm_token_type_ids", 0)):
        if name in values:
            more = torch.full_like(answer, fill, dtype=values[name].dtype)
            longer[name] = torch.cat([values[name], more], 1)
    mask = longer.get("attention_mask")
    if mask is not None and mask.dim() == 2 and not bool(mask.all()):
        if not bool(mask[:, prompt.shape[1] - 1].all()):
            raise InputError(
                "a prompt ends in padding, so its answer does not follow it: pad on the left "
                "(tokenizer.padding_side = 'left'), or explain one prompt at a time"
            )
        if _counts_positions(model):
            counted = mask.long().cumsum(-1) - 1
            longer["position_ids"] = counted.masked_fill(mask == 0, 0)
    return longer


def _counts_positions(model: nn.Module) -> bool:
    """Whether ``generate`` tells a model the positions, counted from the first that is no padding.

    Models that make them in a way of their own do so in ``forward`` as well, from the mask.
    """
    if callable(inner := getattr(model, "get_base_model", None)):  # of peft
        model = inner()
    own = getattr(type(model), "_prepare_position_ids_for_generation", None)
    if own is not None and ".models." in own.__module__:
        return False
    return "position_ids" in inspect.signature(model.forward).parameters


def listed(what: str, names: Any) -> str:
    """Names as the end of a message."""
    return f"{what}: {', '.join(map(str, names)) or 'none'}"
