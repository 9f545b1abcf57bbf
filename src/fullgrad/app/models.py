"""The models of the command line, a copy for each worker, and which methods apply to them."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch

from fullgrad import methods
from fullgrad.app.refusal import public
from fullgrad.errors import FullGradError, ModelLoadError
from fullgrad.methods import Method
from fullgrad.vision.classification import number_of_classes
from fullgrad.vision.models import LoadedModel

# One pass is enough to see whether a method applies.
_SHORT = {"samples": 1, "n_steps": 1}


@dataclass(frozen=True, slots=True, eq=False)
class Served:
    """A model of the command line.

    Args:
        model: the loaded model, its paths cut down to file names.
        names: the names of its classes, if they are known.
        outputs: the number of its classes.
        applies: for each method, in the order of their names: True, or why it does not apply.
    """

    model: LoadedModel
    names: tuple[str, ...] | None
    outputs: int
    applies: tuple[bool | str, ...] = ()


def serve(model: LoadedModel, names: tuple[str, ...] | None) -> Served:
    """Make a model ready to be served: try every method once.

    Args:
        model: a model from :func:`fullgrad.vision.models.load_model`.
        names: the names of its classes.

    Raises:
        ModelLoadError: it is not an image classifier.
    """
    outputs = number_of_classes(model)
    shown = without_folders(model)
    tried = tuple(_applies(methods.get(name), shown) for name in methods.names())
    return Served(shown, names, outputs, tried)


def without_folders(model: LoadedModel) -> LoadedModel:
    """Return the same model with file names instead of paths in its specification and weights."""
    spec, weights, checkpoint = model.spec, model.weights, model.checkpoint
    file, colon, function = spec.rpartition(":")
    if ".py" in spec and colon:
        spec = f"{Path(file).name}:{function}"
    if checkpoint is not None:
        weights = weights.replace(str(checkpoint), checkpoint.name)
        checkpoint = Path(checkpoint.name)
    return replace(model, spec=spec, weights=weights, checkpoint=checkpoint)


def _applies(method: Method, model: LoadedModel) -> bool | str:
    height, width = model.preprocessing.crop
    generator = torch.Generator().manual_seed(0)
    shape = (1, model.preprocessing.channels, height, width)
    noise = torch.randn(shape, generator=generator, device="cpu").to(model.device)
    known = {f.name for f in fields(method.options)}
    options: dict[str, Any] = {k: v for k, v in _SHORT.items() if k in known}
    try:
        methods.attribute(method, model.module, noise, torch.tensor([0]), **options)
    except FullGradError as error:
        return public(str(error))
    except Exception as error:  # of the model's own code, perhaps
        return public(f"it failed on a trial: {type(error).__name__}: {error}")
    return True


def copies(models: Sequence[Served], count: int) -> list[tuple[LoadedModel, ...]]:
    """Copy the models for each worker, so that no two workers ever touch the same module.

    Args:
        models: the models of the command line.
        count: the number of workers.

    Raises:
        ModelLoadError: a model cannot be copied.
    """
    sets: list[tuple[LoadedModel, ...]] = []
    for place in range(count):
        own = []
        for m in models:
            try:
                module = m.model.module if place == 0 else copy.deepcopy(m.model.module)
            except Exception as error:
                raise ModelLoadError(
                    f"{m.model.spec} cannot be copied for a second worker "
                    f"({type(error).__name__}: {error}): start with --workers 1"
                ) from error
            own.append(replace(m.model, module=module))
        sets.append(tuple(own))
    return sets
