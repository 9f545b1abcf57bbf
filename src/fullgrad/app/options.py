"""A method's options as the page offers them, and the check of the values that come back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field, TypeAdapter, ValidationError

from fullgrad.app.refusal import Refusal
from fullgrad.maps.aggregation import PSI
from fullgrad.maps.selection import NAMED
from fullgrad.methods import Method
from fullgrad.operations.linearization import NAMES

Kind: TypeAlias = Literal["choice", "number", "integer", "flag", "text"]

_LONGEST = 300  # characters of a text
_SAFE = 2**53  # whole numbers that every JSON reader holds exactly
_NEVER = ("activation_layouts",)  # layouts of activations: for programs
_CHOICES: dict[str, tuple[Any, ...]] = {
    "psi": (None, *PSI),
    "linearization": NAMES,
    "depth": ("input", "mean"),
    "of": ("fullgrad", "balanced_input", "input_gradient", "grad_cam"),  # at their usual cost
}
_SUGGESTED: dict[str, tuple[str, ...]] = {"terms": NAMED}
# What one request may cost: each is one pass through the model.
_RANGES = {
    "samples": (1, 100),
    "n_steps": (1, 300),
    "scale": (0, 10),
    "baseline": (-1e6, 1e6),
    "grid": (2, 256),
    "cell": (1, 256),
}
_KINDS: dict[type, Kind] = {
    bool: "flag",
    int: "integer",
    float: "number",
    str: "text",
    type(None): "text",
}
_TYPES: dict[Kind, Any] = {"flag": bool, "integer": int, "number": float, "text": str}
_NAMES = {"flag": "true or false", "integer": "a whole number", "number": "a number"}


@dataclass(frozen=True, slots=True)
class Option:
    """One option of a method.

    Args:
        name: the option's name.
        kind: the kind of its values.
        default: its default, JSON-ready.
        choices: all values of a ``choice``; suggestions for a ``text``; else None.
        least: the smallest number.
        most: the largest number.
    """

    name: str
    kind: Kind
    default: Any
    choices: tuple[Any, ...] | None = None
    least: float | None = None
    most: float | None = None

    def checked(self, value: Any) -> Any:
        """Check a value from parsed JSON.

        Raises:
            ValueError: the option cannot have this value; the message says what it can have.
        """
        if self.kind == "text" and value in (None, ""):
            return self.default
        if self.kind == "integer" and isinstance(value, float) and value.is_integer():
            value = int(value)  # 3.0: the same number in JSON
        try:
            return self._adapter().validate_python(value)
        except ValidationError as error:
            raise ValueError(f"must be {self._wanted()}, not {str(value)[:50]!r}") from error

    def _adapter(self) -> TypeAdapter[Any]:
        if self.kind == "choice":
            annotation: Any = Literal[self.choices]
            return TypeAdapter(annotation)
        bounds: dict[str, Any] = {}
        if self.kind == "text":
            bounds = {"max_length": _LONGEST}
        elif self.kind in {"integer", "number"}:
            bounds = {"ge": self.least, "le": self.most}
        if self.kind == "number":
            bounds["allow_inf_nan"] = False
        annotation = Annotated[_TYPES[self.kind], Field(strict=True, **bounds)]
        return TypeAdapter(annotation)

    def _wanted(self) -> str:
        if self.kind == "choice":
            return f"one of {', '.join('none' if c is None else c for c in self.choices or ())}"
        if self.kind == "text":
            return f"a text of at most {_LONGEST} characters"
        if self.least is None or self.least == -_SAFE:
            return _NAMES[self.kind]
        return f"{_NAMES[self.kind]} from {self.least:g} to {self.most:g} here"


def offered_options(method: Method) -> tuple[Option, ...]:
    """Return the options that can be chosen in the browser: those with a simple default."""
    found = []
    for f in fields(method.options):
        default = f.default
        if default is MISSING:
            default = f.default_factory() if f.default_factory is not MISSING else None
        kind = "choice" if f.name in _CHOICES else _KINDS.get(type(default))
        if f.name in _NEVER or kind is None:
            continue
        least, most = _RANGES.get(f.name, (-_SAFE, _SAFE) if kind == "integer" else (None, None))
        choices = _CHOICES.get(f.name, _SUGGESTED.get(f.name))
        if kind == "choice" and choices is not None and default not in choices:
            choices = (*choices, default)
        found.append(Option(f.name, kind, default, choices, least, most))
    return tuple(found)


def check_options(method: Method, given: Mapping[str, Any]) -> dict[str, Any]:
    """Check values of options.

    Args:
        method: the method that has the options.
        given: parsed JSON.

    Returns:
        The values that differ from the defaults, as the method takes them.

    Raises:
        Refusal: an option is not offered, or cannot have the value.
    """
    known = {o.name: o for o in offered_options(method)}
    chosen: dict[str, Any] = {}
    for name, value in given.items():
        option = known.get(name)
        if option is None:
            have = f"it has {', '.join(known)}" if known else "it has none"
            raise Refusal(f"The method {method.name} has no option {name[:50]!r} here; {have}.")
        try:
            checked = option.checked(value)
            if name == "terms" and value:
                checked = _terms(checked)
        except ValueError as error:
            raise Refusal(f"{method.name}: {name} {error}.") from error
        if checked != option.default:
            chosen[name] = checked
    try:
        method.settings(chosen)
    except (ValueError, TypeError) as error:
        raise Refusal(f"{method.name}: {error}") from error
    return chosen


def _terms(text: str) -> str | tuple[str, ...]:
    """One name, or several with commas between them."""
    parts = tuple(part.strip() for part in text.split(","))
    if not all(parts):
        raise ValueError(
            f"must be one of {', '.join(NAMED)}, or module paths with commas between them"
        )
    return parts[0] if len(parts) == 1 else parts
