"""Which of a model's outputs is explained."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from fullgrad.errors import OutputError

# Where the main output stands in dicts and dataclasses of torchvision, timm and transformers.
_MAIN_KEYS = ("logits", "out", "output", "prediction_logits", "last_hidden_state")


def main_tensor(output: Any) -> tuple[Tensor, str]:
    """The float tensor to explain in a model's output, and where it stood.

    A tensor is itself; of a dict or dataclass the entry ``logits``, ``out``, ``output``, ... or
    else its only float tensor; of a tuple the first element, PyTorch's place for the result.

    Raises:
        OutputError: there is none, or the choice is not clear.
    """
    if isinstance(output, Tensor):
        if not output.is_floating_point():
            raise OutputError(
                f"the model's output is of type {output.dtype}, which has no gradient; use a "
                "callable target that returns a float scalar per sample"
            )
        return output, "output"
    if isinstance(output, Mapping):
        entries = {str(k): v for k, v in output.items()}
    elif dataclasses.is_dataclass(output) and not isinstance(output, type):
        entries = {f.name: getattr(output, f.name) for f in dataclasses.fields(output)}
    elif any(name in _MAIN_KEYS for name in getattr(output, "_fields", ())):  # a named tuple
        entries = output._asdict()
    elif isinstance(output, (tuple, list)) and output and isinstance(output[0], Tensor):
        tensor, source = main_tensor(output[0])
        return tensor, f"{source}[0]"
    else:
        raise OutputError(
            f"the model returns {type(output).__name__}, which holds no tensor to explain; use a "
            "callable target that picks one"
        )
    floats = {k: v for k, v in entries.items() if isinstance(v, Tensor) and v.is_floating_point()}
    for key in _MAIN_KEYS:
        if key in floats:
            return floats[key], f"output[{key!r}]"
    if len(floats) == 1:
        key, tensor = next(iter(floats.items()))
        return tensor, f"output[{key!r}]"
    raise OutputError(
        f"the model returns {type(output).__name__} with {len(floats)} float tensors "
        f"({', '.join(floats) or 'none'}): use a callable target that picks one"
    )
