"""A method with its options, from one text such as ``fullgrad:psi=channel``."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fullgrad.methods.registry import get


@dataclass(frozen=True, slots=True)
class MethodChoice:
    """A method with its options.

    Args:
        name: of a method in :mod:`fullgrad.methods`.
        options: those that differ from the defaults; ``signed`` is one of them, see
            :func:`fullgrad.methods.attribute`.

    Raises:
        ValueError: an unknown method or option, or a sign that the method does not have.
    """

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        method = get(self.name)
        options = dict(self.options)
        signed = options.pop("signed", False)
        settings = method.settings(options)
        if signed:
            method.require_sign(settings)

    @property
    def label(self) -> str:
        """The text for tables and figures, such as ``fullgrad:terms=explicit``."""
        given = ",".join(f"{k}={_written(v)}" for k, v in sorted(self.options.items()))
        return f"{self.name}:{given}" if given else self.name

    @classmethod
    def parse(cls, text: str) -> MethodChoice:
        """Read ``NAME`` or ``NAME:OPTION=VALUE,OPTION=VALUE``; ``+`` joins several values.

        The name may also be ``path/to/file.py:FUNCTION``.

        A value with a colon is another method with its options, and is kept as it stands:
        ``random_phase:of=integrated_gradients:n_steps=20;signed=True,seed=3``.

        Raises:
            ValueError: not of that form, an option given twice, or an unknown method or option.

        Example:
            >>> MethodChoice.parse("fullgrad:psi=channel").options
            {'psi': 'channel'}
        """
        name, _, rest = text.partition(":")
        if name.endswith(".py"):
            function, _, rest = rest.partition(":")
            name = f"{name}:{function}"
        options: dict[str, Any] = {}
        for part in rest.split(",") if rest else []:
            key, equals, value = part.partition("=")
            if not equals or not key.isidentifier():
                raise ValueError(
                    f"{text!r} is not METHOD, METHOD:OPTION=VALUE,... or path/to/file.py:FUNCTION"
                )
            if key in options:
                raise ValueError(f"{text!r} gives {key} twice: leave one of them out")
            options[key] = _parsed(value)
        return cls(name, options)


def _written(value: Any) -> str:
    return "+".join(map(str, value)) if isinstance(value, (tuple, list)) else str(value)


def _parsed(text: str) -> Any:
    if "+" in text and ":" not in text:
        return tuple(text.split("+"))
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
