"""Classes by name, and the names closest to one that is not known."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from fullgrad.errors import TargetError

WAY_OUT = "give an index, or the names with --labels FILE"
_SUGGESTED = 5


def class_index(
    target: str, names: Sequence[str] | None, classes: int | None = None, way_out: str = WAY_OUT
) -> int:
    """The class that a user means.

    Args:
        target: an index, or a name in any case. With zeros before it an index is no name: 02.
        names: of the classes, if they are known.
        classes: how many there are; None if that is not known either.
        way_out: what helps where names are not known.

    Returns:
        The index.

    Raises:
        TargetError: out of range, an unknown name (with those that are close), a name that
            several classes bear, the index of one class that is another's name, or a name where
            none are known.

    Example:
        >>> class_index("dog", ["cat", "dog"])
        1
    """
    text = target.strip()
    lower = [name.lower() for name in names or ()]
    named = [i for i, name in enumerate(lower) if name == text.lower()]
    if len(named) == 1:
        if names is not None and text == str(_index(text)) and _index(text) != named[0]:
            if _index(text) < (len(names) if classes is None else classes):
                raise _two_readings(text, named[0], names)
        return named[0]
    if named:
        raise TargetError(
            f"several classes are named {text!r}: give one of the indices "
            f"{', '.join(_written(i, lower) for i in named)}"
        )
    if text.removeprefix("-").isdecimal():
        if int(text) < 0 or (classes is not None and int(text) >= classes):
            most = "upwards" if classes is None else f"to {classes - 1}"
            raise TargetError(f"target {text} is out of range: the classes are 0 {most}")
        return int(text)
    if names is None:
        raise TargetError(
            f"the target {text!r} is not an index, and this model's class names are not known: "
            f"{way_out}"
        )
    close = _close(text.lower(), lower)
    hint = f"; did you mean {', '.join(repr(names[i]) for i in close)}?" if close else ""
    raise TargetError(f"no class is named {text!r}{hint}")


def _index(text: str) -> int:
    return int(text) if text.isdecimal() else -1


def _written(index: int, lower: Sequence[str]) -> str:
    """An index as text that is no name: with zeros before it where need be."""
    text = str(index)
    while text in lower:
        text = f"0{text}"
    return text


def _two_readings(text: str, named: int, names: Sequence[str]) -> TargetError:
    lower = [name.lower() for name in names]
    index = int(text)
    other = f", which is named {names[index]!r}" if index < len(names) else ""
    return TargetError(
        f"the target {text!r} is the name of class {named} and the index of class {index}{other}: "
        f"give the index as {_written(named, lower)} for the first, as {_written(index, lower)} "
        "for the second"
    )


def _close(text: str, lower: Sequence[str]) -> list[int]:
    containing = [name for name in lower if text and text in name.replace("-", " ").split()]
    similar = difflib.get_close_matches(text, lower, n=_SUGGESTED, cutoff=0.7)
    names = list(dict.fromkeys([*containing, *similar]))[:_SUGGESTED]
    return [lower.index(name) for name in names]
