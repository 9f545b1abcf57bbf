"""What stands in the files that options of ``fullgrad explain`` name, for its records."""

from __future__ import annotations

import argparse
import hashlib
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

from fullgrad import methods
from fullgrad._files import printable
from fullgrad.cli.arguments import Asked
from fullgrad.errors import MethodError
from fullgrad.evaluation._own_sources import own_sources
from fullgrad.methods.choice import MethodChoice
from fullgrad.targets import Known, parse
from fullgrad.vision.images import read_photograph
from fullgrad.vision.models import LoadedModel

_DIGITS = 16


def contents_of(
    args: argparse.Namespace, model: LoadedModel, asked: Asked, options: dict[str, Any]
) -> dict[str, str]:
    """Digests of what a result depends on beside the options' own words.

    Args:
        args: of ``fullgrad explain``.
        model: that is explained; its own file is a part of its state.
        asked: what the arguments say is to be explained.
        options: of the method.

    Returns:
        By what it is: class names that are not the model's own, the files of own methods, and the
        pictures that the target names.
    """
    found: dict[str, str] = {}
    given = asked.names is not None and asked.names is not model.class_names
    if given and args.labels != "imagenet":
        text = "\n".join(asked.names or ())
        found["class names"] = hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:_DIGITS]
    with suppress(MethodError):  # of an installed package, without a source
        for text in own_sources([MethodChoice(args.method or methods.RECOMMENDED, options)]):
            name, _, digest = text.rpartition(" ")
            found[_content_of(name)] = digest

    def noted(path: str) -> Tensor:
        found[_content_of(path)] = read_photograph(path).sha256[:_DIGITS]
        return torch.ones(1)

    if args.target is not None:
        classes = None if asked.names is None else len(asked.names)
        parse(args.target, Known(asked.names, classes, noted, noted))
    return found


def _content_of(name: str) -> str:
    return f"content of {printable(name)}"
