"""The version, where every module can read it."""

from __future__ import annotations

import importlib


def _version() -> str:
    """What the build wrote; sources that were never built are of the version in preparation."""
    try:
        return str(importlib.import_module("fullgrad._scm_version").version)
    except ModuleNotFoundError:
        return "0.2.0.dev0"


__version__ = _version()
