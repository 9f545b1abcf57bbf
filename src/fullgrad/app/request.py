"""From a query to a checked, frozen request."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NoReturn, TypeAlias

from fullgrad import methods
from fullgrad._files import printable
from fullgrad.app.models import Served
from fullgrad.app.options import checked
from fullgrad.app.refusal import Refusal
from fullgrad.methods import Method

Parts: TypeAlias = Literal["all", "map"]

NAMES = ("model", "target", "method", "options", "parts", "name", "opacity")
_LONGEST_NAME = 100
_LONGEST_OPTIONS = 4000


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked for.

    Args:
        model: its number among the models of the command line.
        target: class index; None for the most probable.
        method: that makes the map.
        options: of it that differ from the defaults, as :func:`fullgrad.methods.attribute` takes
            them.
        parts: all, or the map without stages and waterfall.
        name: of the photograph, for titles.
        opacity: of the map in the downloaded picture.
    """

    model: int
    target: int | None
    method: Method
    options: dict[str, Any]
    parts: Parts
    name: str
    opacity: float


def parsed(pairs: Sequence[tuple[str, str]], models: Sequence[Served]) -> Request:
    """Check a query.

    Args:
        pairs: names and values, decoded.
        models: of the command line.

    Raises:
        Refusal: an unknown name, one that is given twice, or a value it cannot have.
    """
    given: dict[str, str] = {}
    for name, value in pairs:
        if name not in NAMES:
            raise Refusal(f"Unknown parameter {name[:50]!r}; known: {', '.join(NAMES)}.")
        if name in given:
            raise Refusal(f"The parameter {name!r} is given twice.")
        given[name] = value
    model = _index(given.get("model", "0"), "model", len(models))
    target = given.get("target", "")
    parts = given.get("parts", "all")
    if parts not in {"all", "map"}:
        raise Refusal(f"parts must be 'all' or 'map', not {parts[:50]!r}.")
    method = _method(given.get("method", "fullgrad"))
    return Request(
        model=model,
        target=_index(target, "target", models[model].outputs) if target else None,
        method=method,
        options=checked(method, _object(given.get("options", ""))),
        parts="map" if parts == "map" else "all",
        name=_name(given.get("name", "")),
        opacity=_opacity(given.get("opacity", "")),
    )


def _index(text: str, name: str, count: int) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= 12) or int(text) >= count:
        raise Refusal(f"{name} must be a whole number from 0 to {count - 1}, not {text[:50]!r}.")
    return int(text)


def _method(name: str) -> Method:
    try:
        return methods.get(name[:100])
    except ValueError as error:
        raise Refusal(f"{error}.") from error


def _object(text: str) -> dict[str, Any]:
    if not text:
        return {}

    def constant(name: str) -> NoReturn:
        raise ValueError(f"{name} is no number of JSON")

    if len(text) > _LONGEST_OPTIONS:
        raise Refusal(f"options are longer than {_LONGEST_OPTIONS} characters.")
    try:
        found = json.loads(text, parse_constant=constant)
    except (ValueError, RecursionError) as error:
        raise Refusal("options are no JSON object.") from error
    if not isinstance(found, dict):
        raise Refusal("options are no JSON object.")
    return found


def _name(text: str) -> str:
    """The last part of a name, in characters that can be shown; never used to open a file."""
    last = text.replace("\\", "/").rpartition("/")[2]
    return printable(last[:_LONGEST_NAME]).strip().strip(".") or "photograph"


def _opacity(text: str) -> float:
    if not text:
        return 0.6
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise Refusal(f"opacity must be a number from 0 to 1, not {text[:50]!r}.")
    return value
