"""A method's options as the page offers them, and their values as they come back."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any, Literal, TypeAlias

from fullgrad.app.refusal import Refusal
from fullgrad.maps.aggregation import PSI
from fullgrad.maps.selection import NAMED
from fullgrad.methods import Method

Kind: TypeAlias = Literal["choice", "number", "integer", "flag", "text"]

_LONGEST = 300  # characters of a text
_SAFE = 2**53  # whole numbers that every JSON reader holds exactly
_NEVER = ("activation_layouts",)  # layouts of activations: for programs
_CHOICES: dict[str, tuple[Any, ...]] = {"psi": (None, *PSI)}
_SUGGESTED: dict[str, tuple[str, ...]] = {"terms": NAMED}
# What one request may cost: each is one pass through the model.
_RANGES = {
    "samples": (1, 100),
    "n_steps": (1, 300),
    "scale": (0, 10),
    "baseline": (-1e6, 1e6),
    "grid": (2, 256),
}


@dataclass(frozen=True, slots=True)
class Option:
    """One option of a method.

    Args:
        name: of it.
        kind: of its values.
        default: JSON-ready.
        choices: all values of a ``choice``; suggestions for a ``text``; else None.
        least: of a number.
        most: of a number.
    """

    name: str
    kind: Kind
    default: Any
    choices: tuple[Any, ...] | None = None
    least: float | None = None
    most: float | None = None


def offered(method: Method) -> tuple[Option, ...]:
    """The options that can be chosen in the browser: those with a simple default."""
    found = []
    for f in fields(method.options):
        if f.name in _NEVER:
            continue
        default = f.default
        if default is MISSING:
            default = f.default_factory() if f.default_factory is not MISSING else None
        choices = _CHOICES.get(f.name)
        if choices is not None:
            found.append(Option(f.name, "choice", default, choices))
            continue
        kind = _kind(default)
        if kind is None:
            continue
        least, most = _RANGES.get(f.name, (-_SAFE, _SAFE) if kind == "integer" else (None, None))
        found.append(Option(f.name, kind, default, _SUGGESTED.get(f.name), least, most))
    return tuple(found)


def _kind(default: Any) -> Kind | None:
    if isinstance(default, bool):
        return "flag"
    if isinstance(default, int):
        return "integer"
    if isinstance(default, float):
        return "number"
    return "text" if default is None or isinstance(default, str) else None


def checked(method: Method, given: Mapping[str, Any]) -> dict[str, Any]:
    """Values of options as the method takes them.

    Args:
        method: whose they are.
        given: parsed JSON.

    Returns:
        Those that differ from the defaults.

    Raises:
        Refusal: an option that is not offered, or a value it cannot have.
    """
    known = {o.name: o for o in offered(method)}
    chosen: dict[str, Any] = {}
    for name, value in given.items():
        option = known.get(name)
        if option is None:
            have = f"it has {', '.join(known)}" if known else "it has none"
            raise Refusal(f"The method {method.name} has no option {name[:50]!r} here; {have}.")
        value = _value(method, option, value)
        if value != option.default:
            chosen[name] = value
    try:
        method.settings(chosen)
    except (ValueError, TypeError) as error:
        raise Refusal(f"{method.name}: {error}") from error
    return chosen


def _value(method: Method, option: Option, value: Any) -> Any:
    def wrong(wanted: str) -> Refusal:
        return Refusal(f"{method.name}: {option.name} must be {wanted}, not {str(value)[:50]!r}.")

    if option.kind == "choice":
        assert option.choices is not None
        if not any(value is c or (isinstance(value, str) and value == c) for c in option.choices):
            raise wrong(
                f"one of {', '.join('none' if c is None else str(c) for c in option.choices)}"
            )
        return value
    if option.kind == "flag":
        if not isinstance(value, bool):
            raise wrong("true or false")
        return value
    if option.kind == "text":
        return _text(option, value, wrong)
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if option.kind == "integer":
        if isinstance(value, float) and value.is_integer() and abs(value) <= _SAFE:
            value = int(value)  # 3.0: the same number in JSON
        if not number or not isinstance(value, int):
            raise wrong("a whole number")
    elif not number or not math.isfinite(_float(value)):
        raise wrong("a number")
    if option.least is not None and option.most is not None:
        if not option.least <= value <= option.most:
            raise wrong(f"from {option.least:g} to {option.most:g} here")
    return value if option.kind == "integer" else float(value)


def _float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:  # a whole number of hundreds of digits
        return math.inf


def _text(option: Option, value: Any, wrong: Any) -> Any:
    if value is None or value == "":
        return option.default
    if not isinstance(value, str) or len(value) > _LONGEST:
        raise wrong(f"a text of at most {_LONGEST} characters")
    if option.name != "terms":
        return value
    parts = tuple(part.strip() for part in value.split(","))
    if not all(parts):
        raise wrong(f"one of {', '.join(NAMED)}, or module paths with commas between them")
    return parts[0] if len(parts) == 1 else parts
