"""Layouts that the user states: of the inputs, and of activations where axis propagation ends.

An input's layout is one letter for each axis: ``B`` samples, ``C`` channels, any other letter an
axis of its grid (``BCHW``, ``BTC``, ``TBC``, ``BT``). An activation's layout names its axes in the
same letters, several of them in brackets where one axis holds a product, slowest first:
``B (H W) C``. A size may be given (``H=14``); the others follow from the shape.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np

from fullgrad.axes.algebra import Axes
from fullgrad.axes.coordinates import HIGH, LOW, Atom, Coordinate, Group, evenly, identity
from fullgrad.errors import LayoutError

InputLayout: TypeAlias = str | Sequence[str | None] | None
ActivationLayouts: TypeAlias = Mapping[str, str | Sequence[str]]

_DEFAULT = {3: "BCT", 4: "BCHW", 5: "BCDHW"}
USUAL_CHANNELS = (1, 3, 4)  # of images
_NAME = re.compile(r"([A-Za-z])(?:=([1-9][0-9]*))?")
_AXIS = re.compile(r"\(([^()]*)\)|([^\s()]+)")


@dataclass(frozen=True, slots=True)
class Grid:
    """One input's grid, a block of the coordinates that all activations carry.

    Args:
        input: which explained input it belongs to.
        letters: of its axes.
        sizes: of its axes: the map's size.
        start: the first of its coordinates.
        order: the letters of all axes of the input.
    """

    input: int
    letters: tuple[str, ...]
    sizes: tuple[int, ...]
    start: int
    order: str

    @property
    def stop(self) -> int:
        """One past the last of its coordinates."""
        return self.start + len(self.sizes)


@dataclass(frozen=True, slots=True, eq=False)
class Layouts:
    """What is known of the layouts before the model runs.

    Args:
        axes: of each explained input.
        grids: of those inputs that have positions.
        known: of each input whether its channels are where they are taken to be: True if that is
            stated, told by the model or usual for the shape; False if the model reads them
            elsewhere; None if nothing tells (:mod:`fullgrad.axes.reading`).
    """

    axes: tuple[Axes, ...]
    grids: tuple[Grid, ...]
    known: tuple[bool | None, ...]

    @property
    def rank(self) -> int:
        """Axes of the grid if there is one; 0 where a window cannot tell which grid it is on."""
        return len(self.grids[0].sizes) if len(self.grids) == 1 else 0

    def batch_axis(self, place: int) -> int:
        """Which axis of an explained input counts the samples; the first if none does."""
        groups = self.axes[place].groups
        return next((d for d, (a,) in enumerate(groups) if a.batch), 0)

    def positions(self, place: int) -> list[int]:
        """Which axes of an explained input are positions of its grid."""
        atoms = {id(a) for c in self.axes[place].coordinates if c is not None for a in c.atoms}
        return [d for d, (a,) in enumerate(self.axes[place].groups) if id(a) in atoms]

    def count(self, place: int) -> int:
        """How many samples an explained input holds."""
        shape = self.axes[place].shape
        return shape[self.batch_axis(place)] if shape else 1

    @property
    def samples(self) -> int | None:
        """How many samples all explained inputs hold; None if they differ."""
        counts = {self.count(i) for i in range(len(self.axes))}
        return counts.pop() if len(counts) == 1 else None


def _letters(text: str, shape: Sequence[int], name: str) -> str:
    letters = text.replace(" ", "")
    if not letters.isalpha() or len(set(letters)) != len(letters) or "B" not in letters:
        raise LayoutError(
            f"the layout {text!r} is not one letter for each axis, B (samples) among them, like "
            "'BCHW', 'BTC', 'TBC' or 'BT'"
        )
    if len(letters) != len(shape):
        raise LayoutError(
            f"the layout {text!r} names {len(letters)} axes, but {name} has shape {tuple(shape)}"
        )
    return letters


def input_layouts(
    shapes: Sequence[Sequence[int]], names: Sequence[str], layout: InputLayout
) -> Layouts:
    """What the axes of the explained inputs hold.

    Args:
        shapes: of the explained inputs.
        names: of them, for messages.
        layout: one for each, or one for all; None (or None among them) takes samples, channels,
            positions for inputs with 3 to 5 axes, and no positions for others.

    Raises:
        LayoutError: a layout that does not fit.
    """
    each: Sequence[str | None]
    if layout is None or isinstance(layout, str):
        each = [layout] * len(shapes)
    elif not (isinstance(layout, Sequence) and all(isinstance(t, str | None) for t in layout)):
        raise LayoutError(f"layout must be a text like 'BCHW', or a list of them, not {layout!r}")
    else:
        each = list(layout)
        if len(each) != len(shapes):
            raise LayoutError(f"{len(each)} layouts for {len(shapes)} explained inputs")
    named = []
    for shape, name, text in zip(shapes, names, each, strict=True):
        if text is None:
            named.append(_DEFAULT.get(len(shape), "BC"[: len(shape)]))
        else:
            named.append(_letters(text, shape, name))
    grids: list[Grid] = []
    start = 0
    for i, (shape, letters) in enumerate(zip(shapes, named, strict=True)):
        along = [(c, n) for c, n in zip(letters, shape, strict=False) if c not in "BC"]
        if len(along) > 3:
            raise LayoutError(f"the layout {letters!r} has {len(along)} grid axes; 3 are the most")
        if along:
            own, sizes = zip(*along, strict=True)
            grids.append(Grid(i, own, sizes, start, letters))
            start += len(along)
    by_input = {g.input: g for g in grids}
    axes = tuple(
        _of_input(shape, letters, by_input.get(i), start)
        for i, (shape, letters) in enumerate(zip(shapes, named, strict=True))
    )
    known = tuple(
        t is not None or not _in_doubt(shape) or None for t, shape in zip(each, shapes, strict=True)
    )
    return Layouts(axes, tuple(grids), known)


def _in_doubt(shape: Sequence[int]) -> bool:
    """Whether an input of a shape may as well have its channels elsewhere."""
    if len(shape) == 3:
        return shape[1] > 1
    return len(shape) in _DEFAULT and shape[1] not in USUAL_CHANNELS


def _of_input(shape: Sequence[int], letters: str, grid: Grid | None, total: int) -> Axes:
    atoms = [Atom(n, batch=d == letters.find("B")) for d, n in enumerate(shape)]
    coordinates: list[Coordinate | None] = [None] * total
    if grid is not None:
        along = [a for a, c in zip(atoms, letters, strict=True) if c not in "BC"]
        coordinates[grid.start : grid.stop] = [identity(a.size, a, grid.input) for a in along]
    return Axes(tuple((a,) for a in atoms), tuple(coordinates))


@dataclass(eq=False, slots=True)
class StatedLayouts:
    """Layouts of activations in named modules, used where axis propagation ends.

    Args:
        activations: from module path to one layout, or several for different numbers of axes.
        layouts: of the inputs, whose letters they use, and whose samples they count.
    """

    activations: ActivationLayouts
    layouts: Layouts
    used: set[tuple[str, str]] = field(default_factory=set)

    def __post_init__(self) -> None:
        given = self.activations
        if not isinstance(given, Mapping) or not all(
            isinstance(text, str) for path in given for text in (path, *self._texts(path))
        ):
            raise LayoutError(
                "activation_layouts must be a dict from module path to a layout or a list of "
                f"them, not {given!r}"
            )

    def axes_for(self, module: str, shape: Sequence[int], reach: Reach = ()) -> Axes | None:
        """The axes that are stated for an activation in a module; None if none are.

        Args:
            module: its path.
            shape: of the activation.
            reach: what of the inputs it may read.

        Raises:
            LayoutError: sizes do not fit the shape, or only a part of the input is read.
        """
        path = module
        while True:
            for text in self._texts(path):
                pattern = parse(text)
                if len(pattern) == len(shape):
                    self.used.add((path, text))
                    axes = _axes(pattern, shape, self.layouts, module, text)
                    _refuse_parts(axes, reach, self.layouts, module, text)
                    return axes
            if not path:
                return None
            path = path.rpartition(".")[0]

    def _texts(self, path: str) -> Sequence[str]:
        found = self.activations.get(path, ())
        return found if isinstance(found, (list, tuple)) else (found,)

    def check_used(self) -> None:
        """Refuse a statement that nothing needed.

        Raises:
            LayoutError: naming the modules.
        """
        stated = [(path, text) for path in self.activations for text in self._texts(path)]
        unused = [f"{text!r} in {path!r}" for path, text in stated if (path, text) not in self.used]
        if unused:
            raise LayoutError(
                f"activation_layouts holds layouts that nothing needs: {', '.join(unused)}. No "
                "activation there has that many axes and an unknown layout; leave them out"
            )


# For each coordinate the first and last place that may be read; None, or nothing: any.
Reach: TypeAlias = "tuple[tuple[float, float] | None, ...]"


def reach_of(axes: Axes) -> Reach:
    """What an activation reads of the inputs, all its numbers together."""
    ends = [None if c is None else (c.table[LOW], c.table[HIGH]) for c in axes.coordinates]
    return tuple(
        None
        if e is None
        else (float(np.fmin.reduce(e[0], None)), float(np.fmax.reduce(e[1], None)))
        for e in ends
    )


def reach_together(parts: Sequence[Reach]) -> Reach:
    """What several activations may read together."""
    if not parts or any(len(p) != len(parts[0]) for p in parts):
        return ()
    found: list[tuple[float, float] | None] = []
    for ends in zip(*parts, strict=True):
        known = [e for e in ends if e is not None]
        one = (
            (min(e[0] for e in known), max(e[1] for e in known))
            if len(known) == len(ends)
            else None
        )
        found.append(one)
    return tuple(found)


def _refuse_parts(axes: Axes, reach: Reach, layouts: Layouts, module: str, text: str) -> None:
    """Refuse a layout for numbers that read a part of the input alone: it covers the whole.

    Raises:
        LayoutError: a cell or more of the layout is not read at one end of an axis.
    """
    letters = [c for g in layouts.grids for c in g.letters]
    for c, ends, letter in zip(axes.coordinates, reach, letters, strict=False):
        if c is None or ends is None:
            continue
        cell = c.size / math.prod(a.size for a in c.atoms)
        if ends[0] >= cell or c.size - 1 - ends[1] >= cell:
            raise LayoutError(
                f"{module or 'the model'}: the layout {text!r} covers the whole input, but the "
                f"numbers read {int(ends[0])} to {int(ends[1])} of {letter}=0 to {c.size - 1} "
                "alone. "
                "Leave it out: fullgrad.decompose and maps with terms='input' need none, nor do "
                "maps of one sample at a time (batch_size=1) if only the samples' places differ"
            )


Pattern: TypeAlias = tuple[tuple[tuple[str, "int | None"], ...], ...]


def parse(text: str) -> Pattern:
    """Read a layout like ``B (H W) C`` or ``(B H=2) T C``.

    Returns:
        For each axis its letters, each with a size or None.

    Raises:
        LayoutError: it cannot be read.
    """
    axes = []
    rest = _AXIS.sub("", text).strip()
    for match in _AXIS.finditer(text):
        words = (match[1] if match[1] is not None else match[2]).split()
        found = [_NAME.fullmatch(w) for w in words]
        if not all(found):
            rest = rest or match[0]
            break
        axes.append(tuple((m[1], int(m[2]) if m[2] else None) for m in found if m))
    letters = [c for axis in axes for c, _ in axis]
    if rest or not axes or letters.count("B") != 1 or len(set(letters)) != len(letters):
        raise LayoutError(
            f"the layout {text!r} cannot be read: name each axis by a letter, B once for the "
            "samples, several letters in brackets, sizes after '=', like 'B (H W=14) C'"
        )
    return tuple(axes)


def _axes(pattern: Pattern, shape: Sequence[int], layouts: Layouts, module: str, text: str) -> Axes:
    batch = layouts.count(0)
    grids = {c: (g, k) for g in layouts.grids for k, c in enumerate(g.letters)}
    where = f"{module or 'the model'}: the layout {text!r} does not fit the shape {tuple(shape)}"
    groups: list[Group] = []
    coordinates: list[Coordinate | None] = [None] * sum(len(g.sizes) for g in layouts.grids)
    for axis, size in zip(pattern, shape, strict=True):
        sizes = {c: batch if c == "B" else n for c, n in axis}
        missing = [c for c, n in sizes.items() if n is None]
        left = size // math.prod(n for n in sizes.values() if n)
        if len(missing) == 1:
            sizes[missing[0]] = left
        elif len(missing) == 2 and all(c in grids for c in missing):
            a, b = (grids[c][0].sizes[grids[c][1]] for c in missing)
            first = math.isqrt(left * a // b)
            sizes[missing[0]], sizes[missing[1]] = first, left // max(first, 1)
            if first * b != (left // max(first, 1)) * a:
                raise LayoutError(f"{where}; give sizes, like '{missing[0]}=14'")
        elif missing:
            raise LayoutError(f"{where}; give sizes, like '{missing[0]}=14'")
        if math.prod(n or 0 for n in sizes.values()) != size:
            raise LayoutError(where)
        group = []
        for c, n in sizes.items():
            atom = Atom(n or 0, batch=c == "B")
            group.append(atom)
            if c in grids:
                grid, k = grids[c]
                coordinates[grid.start + k] = evenly(grid.sizes[k], atom, grid.input)
        groups.append(tuple(group))
    return Axes(tuple(groups), tuple(coordinates))


def example_layout(shape: Sequence[int], batch: int, grids: Sequence[Grid]) -> str | None:
    """A layout that an activation of a shape may have, for messages: it can be stated as it is.

    Args:
        shape: of the activation.
        batch: number of samples.
        grids: of the inputs.

    Returns:
        None if no axis holds as many numbers of each sample.
    """
    letters, sizes, order = grids[0].letters, grids[0].sizes, grids[0].order
    if len(shape) == len(order) and shape[order.index("B")] % batch == 0:
        folded = shape[order.index("B")] // batch
        return " ".join(f"(B N={folded})" if c == "B" and folded > 1 else c for c in order)
    if not shape or shape[0] % batch:
        return None
    folded = shape[0] // batch
    if len(shape) == 2 and folded > 1:
        return f"(B {' '.join(_places(folded, letters, sizes))}) C"
    if len(shape) < 3:
        return " ".join("BC"[: len(shape)])
    places = _places(shape[-2], letters, sizes)
    middle = places[0] if len(places) == 1 else f"({' '.join(places)})"
    others = [c for c in "SUVXYZ" if c not in letters][: len(shape) - 3]
    return " ".join((f"(B N={folded})" if folded > 1 else "B", *others, middle, "C"))


def without_positions(layout: str, letters: Collection[str]) -> str:
    """The same layout for numbers without a place in the input, such as those of boxes.

    Args:
        layout: of an activation.
        letters: of the inputs' positions, which are replaced.

    Example:
        >>> without_positions("(B N=4) C H W", "HW")
        '(B N=4) C K L'
    """
    free = [c for c in "KLMUVXYZ" if c not in {*letters, *layout}]
    others = dict(zip([c for c in letters if c in layout], free, strict=False))
    return "".join(others.get(c, c) for c in layout)


def _places(count: int, letters: Sequence[str], sizes: Sequence[int]) -> list[str]:
    """A grid of ``count`` places in the input's proportions, as letters with sizes.

    Where that cannot be they are no grid (regions of interest, object queries): a letter that is
    not of the input.
    """
    share = (count / math.prod(sizes)) ** (1 / len(sizes))
    along = [round(n * share) for n in sizes]
    fits = all(k * sizes[0] == along[0] * n for k, n in zip(along, sizes, strict=True))
    if len(letters) > 1 and not (fits and math.prod(along) == count):
        return [next(c for c in "KLM" if c not in letters)]
    return [f"{c}={n}" for c, n in zip(letters, along, strict=True)]
