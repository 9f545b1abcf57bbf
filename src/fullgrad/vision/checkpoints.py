"""Local checkpoints: read without executing anything in them, and load into a model."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fullgrad._files import AnyPath, printable
from fullgrad._optional import require
from fullgrad.errors import ModelLoadError

_WRAPPERS = ("state_dict", "model", "model_state_dict")
_PARALLEL_PREFIX = "module."
_SHOWN = 3


def read_checkpoint(path: AnyPath) -> dict[str, Tensor]:
    """The state dict in a checkpoint file.

    ``.safetensors`` files are read with safetensors, all others with ``torch.load`` restricted to
    tensors (``weights_only=True``): no code in the file is ever executed. The state dict may
    stand under ``state_dict``, ``model`` or ``model_state_dict``, and its keys may all begin with
    ``module.`` (from ``DataParallel``).

    Args:
        path: the file.

    Returns:
        From key to tensor, on the CPU, in the file's order.

    Raises:
        ModelLoadError: missing, empty, damaged, holding code, or not a state dict.
        MissingDependencyError: safetensors is needed and not installed.
    """
    path = Path(path)
    name = printable(path)
    if path.is_dir():
        raise ModelLoadError(f"the checkpoint {name} is a folder")
    if not path.is_file():
        raise ModelLoadError(f"the checkpoint {name} does not exist")
    try:
        if path.stat().st_size == 0:
            raise ModelLoadError(f"the checkpoint {name} is empty (0 bytes)")
        if path.suffix.lower() == ".safetensors":
            return _unwrap(_read_safetensors(path, name), name)
        return _unwrap(_read_pickle(path, name), name)
    except OSError as error:
        raise ModelLoadError(f"the checkpoint {name} cannot be read: {error}") from error


def _read_safetensors(path: Path, name: str) -> Any:
    safetensors = require("safetensors", "cli")
    try:
        return require("safetensors.torch", "cli").load_file(path, device="cpu")
    except safetensors.SafetensorError as error:
        raise ModelLoadError(
            f"the checkpoint {name} is truncated, damaged or no safetensors file: {error}"
        ) from error


def _read_pickle(path: Path, name: str) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(path, weights_only=True, map_location="cpu")
    except OSError:
        raise
    except Exception as error:  # damaged files make the unpickler raise anything
        if _needs_code(error):
            raise ModelLoadError(
                f"the checkpoint {name} holds more than tensors: loading it would execute code in "
                "it, which fullgrad never does. Save model.state_dict() alone where you trust the "
                "file, and give that"
            ) from error
        raise ModelLoadError(
            f"the checkpoint {name} is truncated, damaged or no PyTorch file "
            f"({type(error).__name__})"
        ) from error


def _needs_code(error: Exception) -> bool:
    text = str(error)
    if isinstance(error, pickle.UnpicklingError):
        return "Unsupported global" in text or "Unsupported class" in text or "GLOBAL" in text
    return "TorchScript" in text


def _unwrap(loaded: Any, name: str) -> dict[str, Tensor]:
    for key in _WRAPPERS:
        if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
            loaded = loaded[key]
    if not isinstance(loaded, Mapping):
        raise ModelLoadError(
            f"the checkpoint {name} holds a {type(loaded).__name__}, not a state dict"
        )
    if not loaded:
        raise ModelLoadError(f"the checkpoint {name} holds an empty state dict")
    other = [str(k) for k, v in loaded.items() if not isinstance(v, Tensor)]
    if other:
        raise ModelLoadError(
            f"the checkpoint {name} is not a state dict: {_some(other)} "
            f"{'is' if len(other) == 1 else 'are'} no tensor"
        )
    state = {str(k): v for k, v in loaded.items()}
    if all(k.startswith(_PARALLEL_PREFIX) for k in state):
        state = {k.removeprefix(_PARALLEL_PREFIX): v for k, v in state.items()}
    return state


def load_state(module: nn.Module, state: Mapping[str, Tensor], name: str) -> None:
    """Put a state dict into a model, all of it or nothing.

    Args:
        module: the model; its tensors are overwritten.
        state: must hold every key of the model, and no other. Batch-norm's counters
            (``num_batches_tracked``), which evaluation does not use, may be missing.
        name: of the checkpoint, for messages.

    Raises:
        ModelLoadError: missing, unexpected or differently shaped tensors; a few of each are named.
    """
    own = module.state_dict()
    missing = [k for k in own if k not in state and not k.endswith("num_batches_tracked")]
    unexpected = [k for k in state if k not in own]
    reshaped = [
        f"{k} ({_size(state[k])} in the file, {_size(own[k])} in the model)"
        for k in own
        if k in state and state[k].shape != own[k].shape
    ]
    faults = [
        f"{len(keys)} of {total} tensors {what}: {_some(keys)}"
        for keys, total, what in (
            (missing, len(own), "missing"),
            (unexpected, len(state), "unexpected"),
            (reshaped, len(own), "of another shape"),
        )
        if keys
    ]
    if faults:
        raise ModelLoadError(
            f"the checkpoint {name} is of another architecture: {'; '.join(faults)}"
        )
    try:
        module.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise ModelLoadError(f"the checkpoint {name} cannot be loaded: {error}") from error


def in_order_of(module: nn.Module, state: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """A state dict whose tensors stand in the model's order under other names, renamed.

    Args:
        module: gives the keys.
        state: as many tensors, of the same shapes, in the same order.
        name: of the checkpoint, for messages.

    Raises:
        ModelLoadError: number or shapes differ.
    """
    own = module.state_dict()
    if len(state) != len(own):
        raise ModelLoadError(
            f"the checkpoint {name} holds {len(state)} tensors where the model has {len(own)}"
        )
    pairs = list(zip(own.items(), state.items(), strict=True))
    for (key, mine), (other, theirs) in pairs:
        if mine.shape != theirs.shape:
            raise ModelLoadError(
                f"the checkpoint {name} is of another architecture: {other} is {_size(theirs)} "
                f"where {key} is {_size(mine)}"
            )
    return {key: theirs for (key, _), (_, theirs) in pairs}


def _size(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"


def _some(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
