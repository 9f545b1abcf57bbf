"""Where an output comes from: the input, each stage's biases, and their sum."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fullgrad.decomposition.result import Decomposition
from fullgrad.errors import InputError
from fullgrad.vision.layers import MODEL
from fullgrad.vision.split import INPUT
from fullgrad.viz.style import (
    FAINT,
    LOWERS,
    RAISES,
    TOTAL,
    Writer,
    lines,
    number,
    page,
    shortened,
    signed,
    wrap,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST = 40  # bars; of more stages the small ones are put together
AGREES = 1e-6  # how far parts, residual and output may differ, relative to the parts' sizes
_WIDTH, _ROW, _NAMES, _NUMBERS = 8.2, 0.27, 2.5, 1.75  # inches


@dataclass(frozen=True, slots=True)
class Part:
    """One share of an output.

    Args:
        name: ``input``, a stage's module path, or how many stages were put together.
        value: its sum.
    """

    name: str
    value: float


@dataclass(frozen=True, slots=True)
class Waterfall:
    """An output and the parts that add up to it.

    Args:
        parts: in order: the input, then the stages from early to late.
        output: the explained scalar.
        residual: output minus all parts.

    Raises:
        InputError: no parts, numbers that are not finite, or that do not add up.
    """

    parts: tuple[Part, ...]
    output: float
    residual: float

    def __post_init__(self) -> None:
        if not self.parts:
            raise InputError("a waterfall needs at least one part")
        values = [*(p.value for p in self.parts), self.output, self.residual]
        if not all(map(math.isfinite, values)):
            raise InputError("a waterfall's parts, output and residual must be finite numbers")
        total = math.fsum(p.value for p in self.parts) + self.residual
        if abs(total - self.output) > AGREES * max(self.scale, 1e-300):
            raise InputError(
                f"the parts and the residual add up to {total:.6g}, not to the output "
                f"{self.output:.6g}"
            )

    @property
    def scale(self) -> float:
        """What the residual is compared with: the sizes of the output and of all parts."""
        return abs(self.output) + math.fsum(abs(p.value) for p in self.parts)

    def share(self, part: Part) -> float | None:
        """The share of the output, in %; None where the output is 0."""
        return 100 * part.value / self.output if self.output else None


def waterfall_of(decomposition: Decomposition, *, depth: int = 1, sample: int = 0) -> Waterfall:
    """The waterfall of one sample of a decomposition.

    Args:
        decomposition: from :func:`fullgrad.decompose`.
        depth: components of the module path that make a stage.
        sample: which of the batch.

    Raises:
        ValueError: depth is below 1.
        IndexError: the batch has no such sample, or the sums are the whole batch's.
    """
    d = decomposition
    if not -len(d.residual) <= sample < len(d.residual):
        raise IndexError(f"sample {sample} of a decomposition with sums of {len(d.residual)}")
    stages = d.by_module(depth).items()
    parts = [Part(INPUT, float(d.input_sums[sample]))]
    parts += [Part(name or MODEL, float(sums[sample])) for name, sums in stages]
    residual = float(d.residual[sample])
    if len(d.residual) == len(d.output):
        output = float(d.output[sample])
    else:  # one sum for the whole batch
        output = float(d.output.sum())
    return Waterfall(tuple(parts), output, residual)


def gathered(parts: Sequence[Part], most: int = MOST) -> tuple[Part, ...]:
    """At most ``most`` parts: the first and the largest stay, runs of small ones become one.

    Args:
        parts: in order.
        most: at least 3.

    Returns:
        Parts in the same order and of the same sum. Each run of stages that were put together is
        one part, named ``12 stages``; if that leaves too many, more are put together.

    Raises:
        ValueError: ``most`` is below 3.
    """
    if most < 3:
        raise ValueError(f"at least 3 parts must be left, not {most}")
    if len(parts) <= most:
        return tuple(parts)
    order = sorted(range(1, len(parts)), key=lambda i: -abs(parts[i].value))
    for kept in range(most - 1, -1, -1):
        chosen = {0, *order[:kept]}
        found: list[Part] = []
        run: list[Part] = []
        for i, part in enumerate([*parts, None]):
            if part is None or i in chosen:
                if run:
                    whole = Part(f"{len(run)} stages", math.fsum(p.value for p in run))
                    found.append(run[0] if len(run) == 1 else whole)
                run = []
                if part is not None:
                    found.append(part)
            else:
                run.append(part)
        if len(found) <= most:
            return tuple(found)
    raise AssertionError("the first part and one run are at most two")


def waterfall(shown: Waterfall, title: str = "", *, name: str = "logit") -> Figure:
    """One bar for each part, each beginning where the one above it ends.

    Args:
        shown: from :func:`waterfall_of`, or made of numbers that are known.
        title: on top; long ones are wrapped.
        name: of the output.

    Returns:
        A matplotlib figure.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    parts = gathered(shown.parts)
    together = len(shown.parts) - len(parts)
    title = wrap(title, _WIDTH - 0.3, 12)
    note = (
        f"Each bar begins where the one above it ends; red raises the {name}, blue lowers it. "
        f"'{INPUT}' is gradient times input; a stage is the sum of gradient times bias over all "
        f"its operations. The residual is what the parts leave over, by rounding: "
        f"{shown.residual:.1e}, or {_relative(shown):.0e} of the parts' sizes."
    )
    if together:
        note += " 'n stages': small neighbors, put together."
    note = wrap(note, _WIDTH - 0.3, 8)
    rows = len(parts) + 2
    head = 0.15 + 0.22 * lines(title) + 0.08
    height = head + rows * _ROW + 0.68 + 0.16 * lines(note)
    figure = page(_WIDTH, height)
    write = Writer(figure)
    write(0.15, 0.1, title, va="top", size=12)
    axes = write.axes(_NAMES, head, _WIDTH - _NAMES - _NUMBERS, rows * _ROW)
    _bars(axes, parts, shown)
    for i, part in enumerate(parts):
        y = head + (i + 0.5) * _ROW
        write(
            _NAMES - 0.1, y, shortened(part.name, _NAMES - 0.2, 9), ha="right", va="center", size=9
        )
        percent = shown.share(part)
        said = "" if percent is None else f"{_percent(percent)} %"
        write(_WIDTH - 0.85, y, signed(part.value), ha="right", va="center", size=9)
        write(_WIDTH - 0.12, y, said, ha="right", va="center", size=9, color=FAINT)
    y = head + (rows - 1.5) * _ROW
    write(_NAMES - 0.1, y, "residual", ha="right", va="center", size=9, color=FAINT)
    write(_WIDTH - 0.85, y, _small(shown.residual), ha="right", va="center", size=9, color=FAINT)
    y += _ROW
    bold = {"va": "center", "size": 9, "weight": "bold"}
    write(_NAMES - 0.1, y, f"= {shortened(name, _NAMES - 0.5, 9, bold=True)}", ha="right", **bold)
    write(_WIDTH - 0.85, y, signed(shown.output), ha="right", **bold)
    under = head + rows * _ROW + 0.24
    middle = _NAMES + (_WIDTH - _NAMES - _NUMBERS) / 2
    write(middle, under, "running sum", ha="center", va="top", size=8.5)
    write(0.15, height - 0.1 - 0.16 * lines(note), note, va="top", size=8, color=FAINT)
    return figure


def _bars(axes: Axes, parts: Sequence[Part], shown: Waterfall) -> None:
    values = np.array([p.value for p in parts])
    ends = np.cumsum(values)
    starts = ends - values
    rows = len(parts) + 2
    for i, (start, value) in enumerate(zip(starts, values, strict=True)):
        axes.barh(i, value, left=start, height=0.66, color=RAISES if value > 0 else LOWERS)
        axes.plot([ends[i]] * 2, [i - 0.33, i + 1.33], color="0.55", lw=0.7)
    axes.barh(rows - 1, shown.output, height=0.66, color=TOTAL)
    axes.axvline(0, color="0.2", lw=0.9)
    low, high = min(0.0, *ends, *starts), max(0.0, *ends, *starts)
    room = 0.03 * (high - low) or 1.0
    axes.set_xlim(low - room, high + room)
    axes.set_ylim(rows - 0.5, -0.5)
    axes.set_yticks([])
    axes.tick_params(labelsize=8, length=2)
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: number(v).replace("-", "−", 1)))
    axes.grid(axis="x", alpha=0.3, lw=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)


def _relative(shown: Waterfall) -> float:
    return abs(shown.residual) / shown.scale if shown.scale else 0.0


def _small(value: float) -> str:
    return "0" if value == 0 else f"{value:+.1e}".replace("-", "−", 1)


def _percent(value: float) -> str:
    text = f"{value:+.1f}" if 0.05 <= abs(value) < 1e4 else f"{value:+.1g}"
    return text.replace("-", "−", 1)
