"""Submodules that are loaded when they are first used."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Collection
from types import ModuleType
from typing import Any


def submodules(
    package: str, names: Collection[str], otherwise: Callable[[str], Any] | None = None
) -> Callable[[str], Any]:
    """A package's ``__getattr__``, which imports the submodule that is asked for.

    Args:
        package: the package's ``__name__``.
        names: of its submodules.
        otherwise: asked for any other name.
    """

    def find(name: str) -> ModuleType | Any:
        if name in names:
            return importlib.import_module(f"{package}.{name}")
        if otherwise is not None:
            return otherwise(name)
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return find
