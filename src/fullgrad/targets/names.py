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
        target: an index, or a name in any case.
        names: of the classes, if they are known.
        classes: how many there are; None if that is not known either.
        way_out: what helps where names are not known.

    Returns:
        The index.

    Raises:
        TargetError: out of range, an unknown name (with those that are close), a name that
            several classes bear, or a name where none are known.

    Example:
        >>> class_index("dog", ["cat", "dog"])
        1
    """
    text = target.strip()
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
    lower = [name.lower() for name in names]
    found = [i for i, name in enumerate(lower) if name == text.lower()]
    if len(found) == 1:
        return found[0]
    if found:
        raise TargetError(
            f"several classes are named {text!r}: give one of the indices "
            f"{', '.join(map(str, found))}"
        )
    close = _close(text.lower(), lower)
    hint = f"; did you mean {', '.join(repr(names[i]) for i in close)}?" if close else ""
    raise TargetError(f"no class is named {text!r}{hint}")


def _close(text: str, lower: Sequence[str]) -> list[int]:
    containing = [name for name in lower if text and text in name.replace("-", " ").split()]
    similar = difflib.get_close_matches(text, lower, n=_SUGGESTED, cutoff=0.7)
    names = list(dict.fromkeys([*containing, *similar]))[:_SUGGESTED]
    return [lower.index(name) for name in names]
