"""Whether an input's axes hold what a call without ``layout=`` takes them to hold.

A series may be (B, C, T) or (B, T, C), and its shape does not tell. The model does: windows and
recurrent layers run over positions, dense layers read channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from fullgrad.axes.algebra import Axes
from fullgrad.axes.coordinates import Atom
from fullgrad.axes.layouts import Layouts


@dataclass(frozen=True, eq=False, slots=True)
class Reading:
    """How an executed operation reads an activation.

    Args:
        axes: of the activation.
        over: the axes that a window or a recurrence runs over.
        moved: those of them along which neighbors are read, or steps made.
        together: the axes whose numbers are all weighed and summed.
    """

    axes: Axes
    over: tuple[int, ...] = ()
    moved: tuple[int, ...] = ()
    together: tuple[int, ...] = ()


def told_by(layouts: Layouts, readings: Sequence[Reading]) -> Layouts:
    """The layouts with what the first reading of each input says of it.

    Args:
        layouts: of the inputs.
        readings: in the order of execution.
    """
    if all(layouts.known):
        return layouts
    known = list(layouts.known)
    for grid in layouts.grids:
        if known[grid.input]:
            continue
        (channels,) = layouts.axes[grid.input].groups[1]
        for reading in readings:
            coordinates = reading.axes.coordinates[grid.start : grid.stop]
            places = {a for c in coordinates if c and not c.pooled for a in c.atoms}
            said = _said(reading, places, channels, len(coordinates))
            if said:
                known[grid.input] = {"second": True, "other": False, "both": None}[said]
                break
    return replace(layouts, known=tuple(known))


def _said(reading: Reading, places: set[Atom], channels: Atom, rank: int) -> str | None:
    """Where a reading finds channels: on the ``second`` axis, on an ``other`` one, on ``both``.

    Returns:
        None if it reads neither channels nor positions of this input.
    """
    groups = reading.axes.groups
    # A network of images may read a series as an image, with windows along one axis alone.
    slid = reading.over if len(reading.over) == rank else reading.moved
    along = {a for d in slid for a in groups[d]}
    if along & (places | {channels}):
        if along <= places:
            return "second"
        return "both" if along >= places else "other"
    together = {a for d in reading.together for a in groups[d]}
    if together & places:
        return "other" if together <= places else "both"
    return "second" if channels in together else None


def doubt(
    layouts: Layouts,
    shapes: Sequence[Sequence[int]],
    names: Sequence[str],
    when: str = "",
    *,
    certain: bool = False,
) -> str | None:
    """What to say of inputs that have their channels elsewhere.

    Args:
        layouts: of the inputs.
        shapes: of them.
        names: of them.
        when: in which call the layout is stated, for messages.
        certain: whether those of which nothing is known are named as well.

    Returns:
        None if there is none.
    """
    unclear = [i for i, k in enumerate(layouts.known) if k is False or (certain and not k)]
    if not unclear:
        return None
    shape = shapes[unclear[0]]
    first = {3: "BCT", 4: "BCHW", 5: "BCDHW"}[len(shape)]
    last = first.replace("C", "") + "C"

    def example(text: str) -> str:
        if len(shapes) == 1:
            return repr(text)
        return repr([text if i in unclear else None for i in range(len(shapes))])

    which = f"{names[unclear[0]]} " if len(shapes) > 1 else ""
    return (
        f"it is not known which axis of the input {which}of shape {tuple(shape)} holds channels: "
        f"nothing in the model says that the second one does. State it{when}: "
        f"layout={example(last)} if it is the last one, layout={example(first)} if it is the "
        "second (letters: B samples, C channels, others are positions)"
    )
