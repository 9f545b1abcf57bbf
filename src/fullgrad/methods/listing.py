"""All methods with their options, as JSON-ready values."""

from __future__ import annotations

from dataclasses import MISSING, fields
from typing import Any

from fullgrad.methods.registry import Method, get, names


def listing() -> list[dict[str, Any]]:
    """Return name, description, options with defaults, and source of every method.

    Example:
        >>> import fullgrad.methods
        >>> next(m["options"] for m in listing() if m["name"] == "random")
        {'seed': 0}
    """
    return [_described(get(name)) for name in names()]


def _described(method: Method) -> dict[str, Any]:
    defaults = {}
    for f in fields(method.options):
        value = f.default if f.default is not MISSING else None
        defaults[f.name] = list(value) if isinstance(value, tuple) else value
    return {
        "name": method.name,
        "about": method.about,
        "options": defaults,
        "reference": method.reference,
        "package": method.package,
    }
