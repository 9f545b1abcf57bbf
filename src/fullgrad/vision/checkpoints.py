"""Local checkpoints: read without executing anything in them, and load into a model."""

from __future__ import annotations

import pickle
import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fullgrad._files import AnyPath, printable
from fullgrad._optional import require
from fullgrad.errors import ModelLoadError

_SHOWN = 3
_USUAL = ("", "state_dict", "model_state_dict", "model")  # where weights are looked for first
_NO_WEIGHTS = re.compile(r"optim|callback|loop|sched", re.I)
_DEEPEST = 3
# Weights under these names are means over training steps: an alternative to those beside them.
_AVERAGED = re.compile(r"ema|averag|swa|shadow|teacher", re.I)
_COUNTERS = "num_batches_tracked"
_PARALLEL = "module."


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The weights in a file.

    Args:
        state: from key to tensor, on the CPU, in the file's order.
        name: of the file, for messages.
        under: where in the file they stand; empty for the top.
        others: where other weights stand.
    """

    state: dict[str, Tensor]
    name: str
    under: str = ""
    others: tuple[str, ...] = ()


def split_key(text: AnyPath) -> tuple[Path, str]:
    """The file, and what it names in it: ``mine.ckpt#ema`` is ``ema`` in ``mine.ckpt``."""
    path, sign, key = str(text).partition("#")
    return (Path(path), key) if sign and not Path(text).exists() else (Path(text), "")


def read_checkpoint(path: AnyPath) -> dict[str, Tensor]:
    """The state dict in a checkpoint file; see :func:`open_checkpoint`."""
    return open_checkpoint(path).state


def open_checkpoint(path: AnyPath) -> Checkpoint:
    """Read the weights in a checkpoint file.

    ``.safetensors`` files are read with safetensors, all others with ``torch.load`` restricted to
    tensors (``weights_only=True``): no code in the file is ever executed. The weights may stand
    under any name (``state_dict``, as Lightning writes them, ``model``, ...) beside numbers, texts
    and an optimizer's state. Of several, those under ``state_dict`` or ``model`` are taken, means
    over training steps last, and ``FILE#NAME`` chooses others: ``mine.ckpt#ema``.

    Args:
        path: the file, perhaps with ``#NAME``.

    Raises:
        ModelLoadError: missing, empty, damaged, holding code, without weights, or with several
            between which it must be chosen.
        MissingDependencyError: safetensors is needed and not installed.
    """
    path, key = split_key(path)
    name = printable(path)
    if path.is_dir():
        raise ModelLoadError(f"the checkpoint {name} is a folder")
    if not path.is_file():
        raise ModelLoadError(f"the checkpoint {name} does not exist")
    try:
        if path.stat().st_size == 0:
            raise ModelLoadError(f"the checkpoint {name} is empty (0 bytes)")
        safe = path.suffix.lower() == ".safetensors"
        content = _read_safetensors(path, name) if safe else _read_pickle(path, name)
    except OSError as error:
        raise ModelLoadError(f"the checkpoint {name} cannot be read: {error}") from error
    return _chosen(content, name, key)


def _read_safetensors(path: Path, name: str) -> Any:
    safetensors = require("safetensors", "cli")
    try:
        return require("safetensors.torch", "cli").load_file(path, device="cpu")
    except safetensors.SafetensorError as error:
        raise ModelLoadError(
            f"the checkpoint {name} is truncated, damaged or not a safetensors file: {error}"
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
            found = re.search(r"GLOBAL ([\w.]+)", str(error))
            what = f" ({found[1]})" if found else ""
            raise ModelLoadError(
                f"the checkpoint {name} holds more than tensors{what}: loading it would execute "
                "code in it, which fullgrad never does. Where you trust the file, save its weights "
                'alone and give that: python -c "import torch; c = torch.load('
                f"{str(path)!r}, weights_only=False, map_location='cpu'); "
                "c = c.get('state_dict', c.get('model', c)) if isinstance(c, dict) else c; "
                "torch.save(c.state_dict() if hasattr(c, 'state_dict') else c, 'weights.pt')\""
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


def _chosen(content: Any, name: str, key: str) -> Checkpoint:
    if not isinstance(content, Mapping):
        raise ModelLoadError(
            f"the checkpoint {name} holds a {type(content).__name__}, not a state dict"
        )
    if not content:
        raise ModelLoadError(f"the checkpoint {name} holds an empty state dict")
    found = dict(_states(content))
    names = ", ".join(n or "the top" for n in found)
    if key:
        if key not in found:
            raise ModelLoadError(
                f"the checkpoint {name} has no weights under {key!r}; there are some under: "
                f"{names or 'nothing'}"
            )
        chosen = key
    elif not found:
        other = [str(k) for k, v in content.items() if not isinstance(v, Tensor)]
        raise ModelLoadError(
            f"the checkpoint {name} is not a state dict: {_some(other)} "
            f"{'is not a tensor' if len(other) == 1 else 'are not tensors'}"
        )
    else:
        plain = [n for n in found if not _AVERAGED.search(n)] or list(found)
        plain = [n for n in _USUAL if n in plain][:1] or plain
        if len(plain) > 1:
            raise ModelLoadError(
                f"the checkpoint {name} holds several weights, under {', '.join(plain)}: choose "
                f"with {name}#{plain[0]}"
            )
        (chosen,) = plain
    return Checkpoint(found[chosen], name, chosen, tuple(n for n in found if n != chosen))


def _states(content: Mapping[Any, Any], at: str = "") -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Every part of a file that is nothing but named tensors, with where it stands."""
    if content and all(isinstance(v, Tensor) for v in content.values()):
        if any(isinstance(k, str) for k in content):  # an optimizer counts its parameters
            parallel = all(str(k).startswith(_PARALLEL) for k in content)
            cut = len(_PARALLEL) if parallel else 0
            yield at, {str(k)[cut:]: v for k, v in content.items()}
        return
    for k, v in content.items():
        deeper = at.count(".") < _DEEPEST - 1 and not _NO_WEIGHTS.search(str(k))
        if isinstance(v, Mapping) and deeper:
            yield from _states(v, f"{at}.{k}" if at else str(k))


def load_checkpoint(module: nn.Module, path: AnyPath) -> tuple[str, ...]:
    """Put the weights in a file into a model, whatever stands before the names of its tensors.

    All keys may begin with the same words (``model.``, ``module.``, ``backbone.``, ``_orig_mod.``,
    ...), in the file or in the model. Tensors of the file beside those (a loss's) are left out.

    Args:
        module: the model; its tensors are overwritten.
        path: see :func:`open_checkpoint`.

    Returns:
        What was chosen or left out, in sentences; empty where all of the file was taken.

    Raises:
        ModelLoadError: it cannot be read, or does not fit.
    """
    found = open_checkpoint(path)
    state, left = _renamed(module, found)
    load_state(module, state, found.name)
    notes = []
    if found.others:
        there = ", ".join(n or "the top" for n in found.others)
        notes.append(
            f"{found.name} has weights under {found.under or 'the top'}, which were taken, and "
            f"under {there}: choose those with {found.name}#{found.others[0]}"
        )
    if left:
        what = "tensors that belong" if len(left) > 1 else "tensor that belongs"
        notes.append(
            f"{found.name}: left out {len(left)} {what} to no part of the model: {_some(left)}"
        )
    return tuple(notes)


def _renamed(module: nn.Module, found: Checkpoint) -> tuple[dict[str, Tensor], list[str]]:
    """A file's tensors under the model's names, and those that belong to something else."""
    state, own = found.state, [k for k in module.state_dict() if not k.endswith(_COUNTERS)]
    if not own or all(k in state for k in own):
        return state, []
    ends = [k.removesuffix(own[0]) for k in state if k.endswith(f".{own[0]}")]
    fitting = [p for p in dict.fromkeys(ends) if all(p + k in state for k in own)]
    plain = [p for p in fitting if not _AVERAGED.search(p)] or fitting
    if len(plain) > 1:
        raise ModelLoadError(
            f"the checkpoint {found.name} holds the model's weights several times, as "
            f"{', '.join(f'{p}{own[0]}' for p in plain)}: save one of them alone"
        )
    if plain:
        (prefix,) = plain
        below = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
        return below, [k for k in state if not k.startswith(prefix)]
    words = {k.split(".", 1)[0] for k in own}
    if len(words) == 1:  # the model is wrapped, and the file is not
        longer = {f"{next(iter(words))}.{k}": v for k, v in state.items()}
        if all(k in longer for k in own):
            return longer, []
    first = {k.split(".", 1)[0] for k in state}
    if len(first) == 1:  # for a message about what is behind the common word
        prefix = f"{next(iter(first))}."
        return {k.removeprefix(prefix): v for k, v in state.items()}, []
    return state, []


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
            f"{_difference(own, state, missing, unexpected)}{_head(own, state, faults)}"
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


def _difference(
    own: Mapping[str, Tensor],
    state: Mapping[str, Tensor],
    missing: list[str],
    unexpected: list[str],
) -> str:
    """The first names of both that differ, with their shapes."""
    if not (missing and unexpected):
        return ""
    theirs, mine = unexpected[0], missing[0]
    return (
        f". The first that differ: {theirs} ({_size(state[theirs])}) in the file, {mine} "
        f"({_size(own[mine])}) in the model"
    )


def _head(own: Mapping[str, Tensor], state: Mapping[str, Tensor], faults: list[str]) -> str:
    """A hint where only the last layer's number of classes differs."""
    pairs = [(state[k].shape, own[k].shape) for k in own if k in state]
    differing = {(a[:1], b[:1], a[1:] == b[1:]) for a, b in pairs if a != b}
    if len(faults) != 1 or len(differing) != 1:
        return ""
    ((theirs, mine, same),) = differing
    if not (same and theirs and mine):
        return ""
    return (
        f". The file's last layer has {theirs[0]} classes, the model's {mine[0]}: give "
        f"--num-classes {theirs[0]}"
    )


def _size(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"


def _some(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
