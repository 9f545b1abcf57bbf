"""Optional packages: imported where they are used, with a clear message where they are missing."""

from __future__ import annotations

import importlib
from typing import Any

from fullgrad.errors import MissingDependencyError


def require(module: str, extra: str) -> Any:
    """Import a module of an optional package.

    Args:
        module: dotted name of the module.
        extra: the extra of fullgrad that installs it.

    Returns:
        The module.

    Raises:
        MissingDependencyError: it is not installed, or cannot be imported.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise MissingDependencyError(
            f"{package} cannot be imported ({error}); install it with: "
            f"pip install 'fullgrad[{extra}]'"
        ) from error
