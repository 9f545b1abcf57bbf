"""Keyword options of public calls: old names, and a clear refusal of those that a call lacks."""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ParamSpec, TypeVar

from fullgrad.errors import OptionError

_P = ParamSpec("_P")
_Result = TypeVar("_Result")

_TAKEN: dict[str, frozenset[str]] = {}  # the options of each public call


def takes_options(
    name: str, typed: type | None = None, *, without: Iterable[str] = (), **renamed: str
) -> Callable[[Callable[_P, _Result]], Callable[_P, _Result]]:
    """Decorate a public call: unknown options are refused, and old names still work.

    Args:
        name: of the call, for messages.
        typed: a ``TypedDict`` of the options that the function passes on.
        without: options of it that the function does not pass on.
        **renamed: from old names of options to new ones.
    """

    def decorate(function: Callable[_P, _Result]) -> Callable[_P, _Result]:
        kinds = inspect.signature(function).parameters.values()
        named = {p.name for p in kinds if p.kind in {p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD}}
        passed_on: frozenset[str] = getattr(typed, "__optional_keys__", frozenset())
        taken = frozenset(named) | passed_on - frozenset(without)
        _TAKEN[name] = taken

        @functools.wraps(function)
        def call(*args: _P.args, **options: _P.kwargs) -> _Result:
            if not options.keys() <= taken:
                options = with_new_names(options, renamed)  # type: ignore[assignment]
                for option in options.keys() - taken:
                    raise OptionError(f"{name}() has no option {option!r}{elsewhere(option)}")
            return function(*args, **options)

        return call

    return decorate


def with_new_names(
    options: Mapping[str, Any], renamed: Mapping[str, str], stacklevel: int = 3
) -> dict[str, Any]:
    """Options under their new names, with a warning about each old one.

    Raises:
        OptionError: an option is given under both names.
    """
    found = dict(options)
    for old in options.keys() & renamed.keys():
        new = renamed[old]
        if new in options:
            raise OptionError(f"{old} is the old name of {new}: give {new} alone")
        warnings.warn(
            f"{old}= is now {new}=; the old name will be removed in version 0.3",
            DeprecationWarning,
            stacklevel=stacklevel,
        )
        found[new] = found.pop(old)
    return found


def elsewhere(option: str) -> str:
    """Which public calls take an option, as the end of a message; empty if none does."""
    calls = calls_with(option)
    return f"; it is an option of {', '.join(calls)}" if calls else ""


def calls_with(option: str) -> list[str]:
    """The public calls that take an option."""
    return [name for name, taken in _TAKEN.items() if option in taken]
