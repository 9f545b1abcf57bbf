"""What loading a model by any kind of name gives, and weights from a file or at random."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fullgrad._files import printable
from fullgrad.errors import ModelLoadError
from fullgrad.vision._settings import FIELDS
from fullgrad.vision.checkpoints import load_checkpoint, split_key
from fullgrad.vision.images import Preprocessing

NO_WEIGHTS = "none"
SEED = 0
RANDOM = f"none: random initialization, seed {SEED}"


@dataclass(frozen=True, slots=True)
class Found:
    """What the loader of one kind of specification gives.

    ``stated`` are the fields of the preprocessing that belong to the weights or stand in the
    model's file; the other ones come from ``origin``.
    """

    module: nn.Module
    weights: str
    preprocessing: Preprocessing
    class_names: tuple[str, ...] | None = None
    checkpoint: Path | None = None
    trained: bool = True
    stated: frozenset[str] = frozenset(FIELDS)
    origin: str = ""
    way_out: str = ""
    notes: tuple[str, ...] = ()


def refuse_head(classes: int | None, what: str) -> None:
    """Refuse another number of classes than that of pre-trained weights."""
    if classes is not None:
        raise ModelLoadError(
            f"--num-classes {classes} is of another last layer than that of {what}, and a last "
            "layer without training means nothing: give a checkpoint that holds it, --weights FILE"
        )


def local_or_random(
    module: nn.Module, weights: str, preprocessing: Preprocessing, known: str, origin: str
) -> Found:
    if weights == NO_WEIGHTS:
        return Found(module, RANDOM, preprocessing, trained=False)
    path, _ = split_key(weights)
    if not path.exists() and path.suffix == "" and path.name == weights:
        raise ModelLoadError(f"unknown weights {weights!r}: give {known}")
    notes = load_checkpoint(module, weights)
    text = f"checkpoint {printable(weights)}"
    return Found(
        module,
        text,
        preprocessing,
        checkpoint=path,
        stated=frozenset(),
        origin=f"the preprocessing of the checkpoint {printable(path)} to be {origin}",
        notes=notes,
    )


def fresh(make: Callable[[], Any]) -> Any:
    """Make a model with the same random initialization each time, and without warnings."""
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(SEED)
        return make()
