"""Targets as one writes them on a command line."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from fullgrad.engine.targets import Target
from fullgrad.errors import ImageError, TargetError
from fullgrad.targets.boxes import instance
from fullgrad.targets.classes import regression, several_classes, token
from fullgrad.targets.contrasts import against_rest, log_probability, margin
from fullgrad.targets.names import WAY_OUT, class_index
from fullgrad.targets.places import neuron, region
from fullgrad.targets.similarity import similarity

FORMS = {
    "281": "class 281",
    "tabby": "the class of that name",
    "tabby - tiger cat": "why the first class rather than the second",
    "tabby + tiger cat": "both classes together",
    "log:tabby": "the logarithm of its probability",
    "rest:tabby": "its odds against all other classes",
    "5,80,120": "one number of a dense output: class, row, column",
    "region:12": "class 12 wherever the model predicts it (segmentation)",
    "region:12:mask.png": "class 12 where the picture is white",
    "similar:other.jpg": "how alike the embedding is to that of another photograph",
    "value:0:EUR": "a number that is no class: output 0, in EUR; value alone: the only one",
    "token:-1:42": "token 42 at the last position",
    "neuron:layer3.0:5,3,4": "one number that a layer returns",
    "box:3 or box:10,20,60,90": "a detector's box by its number, or that overlaps this one best",
}
"""How targets are written, and what each means."""


@dataclass(frozen=True, slots=True)
class Known:
    """What a text may refer to.

    Args:
        names: of the classes, if they are known.
        classes: how many there are, if that is known.
        read_mask: from the path of a picture to a mask; None where pictures are not read.
        embed: from the path of a photograph to its embedding, shape (D,); None likewise.
        way_out: what helps where names are not known.
    """

    names: Sequence[str] | None = None
    classes: int | None = None
    read_mask: Callable[[str], Tensor] | None = None
    embed: Callable[[str], Tensor] | None = None
    way_out: str = WAY_OUT

    def class_of(self, text: str) -> int:
        """The class that a name or an index means."""
        return class_index(text, self.names, self.classes, self.way_out)


def parse(text: str, known: Known | None = None) -> Target:
    """Read a target that is written as :data:`FORMS` shows.

    Args:
        text: the target. A text that is the name of a class is that class, whatever it looks like;
            one that is the index of another class, too, is refused.
        known: what it may refer to: class names, files.

    Returns:
        A class index, a tuple of indices, or one of this package's targets.

    Raises:
        TargetError: not of a known form, an unknown class (with those of close names), or what
            stands in it cannot be.
        ImageError: a picture that it names cannot be read.

    Example:
        >>> known = Known(["tabby", "tiger cat", "Egyptian cat"])
        >>> str(parse("tabby - egyptian cat", known)), parse("2"), parse("Tiger Cat", known)
        ('class 0 rather than class 2', 2, 1)
    """
    known = known or Known()
    text = text.strip()
    if not text:
        raise TargetError("the target is empty: give a class, or leave it out")
    lower = text.lower()
    if known.names is not None and any(name.lower() == lower for name in known.names):
        return known.class_of(text)
    kind, colon, rest = text.partition(":")
    if colon and kind in _OF_FILES and rest.strip():
        if " - " in text:  # of two such targets, or in the name of a file
            with suppress(TargetError, ImageError):
                return _sides(text, known)
        return _KINDS[kind](rest, known)
    if " - " in text:
        return _sides(text, known)
    if " + " in text:
        return several_classes([known.class_of(part) for part in text.split(" + ")])
    if text == "value":
        return regression()
    if colon and kind in _KINDS:
        if not rest.strip():
            raise TargetError(f"the target {text!r} ends after {kind}: give {_form(kind)}")
        return _KINDS[kind](rest, known)
    if colon and kind.isidentifier():
        close = difflib.get_close_matches(kind, _KINDS, n=1)
        hint = f"did you mean {close[0]}:? " if close else ""
        raise TargetError(f"unknown kind of target {kind!r}; {hint}known: {', '.join(_KINDS)}")
    if "," in text and all(p.strip().isdecimal() and p.isascii() for p in text.split(",")):
        found: Target = _indices(text)
        return found
    return known.class_of(text)


def _sides(text: str, known: Known) -> Target:
    """A margin; names may hold ' - ' themselves, so every way to split it is tried."""
    parts = text.split(" - ")
    first: TargetError | ImageError | None = None
    for i in range(1, len(parts)):
        try:
            a, b = (parse(" - ".join(side), known) for side in (parts[:i], parts[i:]))
        except (TargetError, ImageError) as error:
            first = first or error
            continue
        return margin(a, b)
    assert first is not None
    raise first


def _indices(text: str, what: str = "indices") -> Any:
    parts = [p.strip() for p in text.split(",")]
    if not all(p.removeprefix("-").isdecimal() and p.isascii() for p in parts):
        raise TargetError(f"{text!r} are not {what}: give whole numbers with commas between them")
    found = tuple(map(int, parts))
    return found[0] if len(found) == 1 else found


def _form(kind: str) -> str:
    return next(form for form in FORMS if form.startswith(f"{kind}:"))


def _region(rest: str, known: Known) -> Target:
    c, colon, path = rest.partition(":")
    if not colon:
        return region(known.class_of(c))
    if known.read_mask is None:
        raise TargetError(f"masks are not read here: leave {path!r} out, or explain a photograph")
    return region(known.class_of(c), known.read_mask(path), fit=True)


def _similar(rest: str, known: Known) -> Target:
    if known.embed is None:
        raise TargetError(f"photographs are not read here: {rest!r} cannot be compared with")
    return similarity(known.embed(rest), name=rest)


def _value(rest: str, known: Known) -> Target:
    index, _, unit = rest.partition(":")
    if not index.strip():
        return regression("the output", unit.strip())
    if not index.strip().isdecimal():
        raise TargetError(f"value:{rest} names no output: give {_form('value')}")
    return regression(f"output {int(index)}", unit.strip(), index=int(index))


def _token(rest: str, known: Known) -> Target:
    position, _, of = rest.partition(":")
    return token(_indices(position, "positions"), _indices(of, "token ids") if of else None)


def _neuron(rest: str, known: Known) -> Target:
    layer, colon, index = rest.rpartition(":")
    if not colon:
        raise TargetError(f"neuron:{rest} has no index: give {_form('neuron')}")
    return neuron(layer, _indices(index))


def _box(rest: str, known: Known) -> Target:
    place, _, c = rest.partition(":")
    of = known.class_of(c) if c else None
    if place.strip().isdecimal():
        return instance(int(place), c=of)
    try:
        corners = [float(v) for v in place.split(",")]
    except ValueError as error:
        raise TargetError(f"box:{rest} is not a box: give {_form('box')}") from error
    return instance(box=corners, c=of)


_KINDS: dict[str, Callable[[str, Known], Target]] = {
    "log": lambda rest, known: log_probability(known.class_of(rest)),
    "rest": lambda rest, known: against_rest(known.class_of(rest)),
    "region": _region,
    "similar": _similar,
    "value": _value,
    "token": _token,
    "neuron": _neuron,
    "box": _box,
}
_OF_FILES = ("region", "similar")
