"""Models that a Python file of the user's makes."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from fullgrad._files import printable
from fullgrad._user_code import loaded, running
from fullgrad.errors import ModelLoadError
from fullgrad.vision._found import NO_WEIGHTS, Found, fresh
from fullgrad.vision._settings import FIELDS
from fullgrad.vision.checkpoints import load_checkpoint, split_key
from fullgrad.vision.images import Preprocessing


def python_file(spec: str, weights: str | None, classes: int | None) -> Found:
    namespace, make = loaded(spec, ModelLoadError)
    file, _, function = spec.rpartition(":")
    path = Path(file)
    name = printable(path)
    if not callable(make):
        raise ModelLoadError(f"{name} has no function {function!r}")
    with running(path, ModelLoadError):
        module = fresh(_with_classes(make, classes, f"{function} in {name}"))
    if not isinstance(module, nn.Module):
        raise ModelLoadError(
            f"{function} in {name} returned {type(module).__name__}, not an nn.Module"
        )
    preprocessing, stated = _stated(getattr(namespace, "PREPROCESSING", {}), name)
    names = getattr(namespace, "CLASSES", None)
    found = Found(
        module,
        f"as {function} set them",
        preprocessing,
        None if names is None else tuple(map(str, names)),
        stated=stated,
        origin=f"for {path.name} ImageNet's preprocessing, as far as it states no other",
        way_out=f", or in PREPROCESSING in {path.name}",
    )
    if weights in {None, NO_WEIGHTS}:
        return found
    assert weights is not None
    notes = load_checkpoint(module, weights)
    text = f"checkpoint {printable(weights)}"
    return replace(found, weights=text, checkpoint=split_key(weights)[0], notes=notes)


def _with_classes(make: Any, classes: int | None, name: str) -> Callable[[], Any]:
    if classes is None:
        found: Callable[[], Any] = make
        return found
    if "num_classes" not in inspect.signature(make).parameters:
        raise ModelLoadError(
            f"{name} has no argument num_classes, so --num-classes {classes} cannot be passed on: "
            "leave it out, or give the function that argument"
        )
    return lambda: make(num_classes=classes)


def _stated(given: Any, name: str) -> tuple[Preprocessing, frozenset[str]]:
    """The preprocessing that a file states, and which of its parts those are."""
    keys = ", ".join(FIELDS)
    if not isinstance(given, Mapping):
        raise ModelLoadError(f"PREPROCESSING in {name} must be a dict with some of {keys}")
    for key in given:
        if key not in FIELDS:
            close = difflib.get_close_matches(str(key), FIELDS, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise ModelLoadError(f"PREPROCESSING in {name} has {key!r}, not one of {keys}{hint}")
    fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in given.items()}
    if "resize" in fields:  # a size without a crop is the input's, as for the command's options
        side = fields["resize"]
        fields.setdefault("crop", (side, side) if isinstance(side, int) else side)
    try:
        return Preprocessing(**fields), frozenset(fields)
    except (TypeError, ValueError) as error:
        raise ModelLoadError(f"PREPROCESSING in {name} is not valid: {error}") from error
