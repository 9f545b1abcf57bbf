"""Random programs that move numbers, and an oracle of what each number reads.

The oracle runs the same program on indicator inputs: with kernels of ones, a number is positive
exactly where it reads the place that the indicator marks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

import fullgrad
from fullgrad.axes import coordinates as places

Step: TypeAlias = Callable[[list[Tensor]], Tensor]
Draw: TypeAlias = np.random.Generator
HEIGHT, WIDTH, CHANNELS = 6, 8, 4


@dataclass
class Program:
    """Steps that each make one more tensor out of those that are there.

    Args:
        shapes: of the inputs.
        steps: each from the tensors so far to a new one; the last one is the result.
        names: of the steps, for messages.
    """

    shapes: list[tuple[int, ...]]
    steps: list[Step] = field(default_factory=list)
    names: list[str] = field(default_factory=list)

    def run(self, inputs: Sequence[Tensor]) -> Tensor:
        tensors = list(inputs)
        for step in self.steps:
            tensors.append(step(tensors))
        return tensors[-1]


def ones(*shape: int) -> Tensor:
    return torch.ones(*shape, dtype=torch.float64)


# -- steps: each draws its settings, and is None where it does not fit -------------------------


def _image(x: Tensor) -> bool:
    return x.dim() == 4 and min(x.shape[2:]) >= 2


def _conv(draw: Draw, x: Tensor) -> Step | None:
    if not _image(x):
        return None
    k, s, d = int(draw.integers(1, 4)), int(draw.integers(1, 3)), int(draw.integers(1, 3))
    p = tuple(int(v) for v in draw.integers(0, 2, 2))
    if any(n + 2 * q < d * (k - 1) + 1 for n, q in zip(x.shape[2:], p, strict=True)):
        return None
    groups = 2 if x.shape[1] % 2 == 0 and draw.random() < 0.3 else 1
    weight = ones(CHANNELS, x.shape[1] // groups, k, k)
    return lambda t: F.conv2d(t[-1], weight, None, s, p, d, groups)


def _transposed(draw: Draw, x: Tensor) -> Step | None:
    if not _image(x) or max(x.shape[2:]) > 9:
        return None
    k, s = int(draw.integers(1, 4)), int(draw.integers(1, 3))
    p = int(draw.integers(0, (k + 1) // 2))
    out = int(draw.integers(0, s))
    weight = ones(x.shape[1], CHANNELS, k, k)
    if min(x.shape[2:]) * s < 2:
        return None
    return lambda t: F.conv_transpose2d(t[-1], weight, None, s, p, out)


def _causal(draw: Draw, x: Tensor) -> Step | None:
    if not _image(x):
        return None
    weight = ones(x.shape[1], 1, 1, 3)
    return lambda t: F.conv2d(F.pad(t[-1], (2, 0)), weight, groups=t[-1].shape[1])


def _pool(draw: Draw, x: Tensor) -> Step | None:
    if not _image(x) or min(x.shape[2:]) < 3:
        return None
    k, s, ceil = int(draw.integers(2, 4)), int(draw.integers(1, 3)), bool(draw.integers(2))
    if draw.integers(2):
        return lambda t: F.max_pool2d(t[-1], k, s, 1, 1, ceil)
    return lambda t: F.avg_pool2d(t[-1], k, s, 0, ceil)


def _adaptive(draw: Draw, x: Tensor) -> Step | None:
    if not _image(x):
        return None
    size = tuple(int(draw.integers(2, n + 1)) for n in x.shape[2:])
    return lambda t: F.adaptive_avg_pool2d(t[-1], size)


def _resized(draw: Draw, x: Tensor) -> Step | None:
    if not _image(x) or max(x.shape[2:]) > 9:
        return None
    size = tuple(int(n * (1 + draw.random())) for n in x.shape[2:])
    return lambda t: F.interpolate(t[-1], size, mode="nearest")


def _flip(draw: Draw, x: Tensor) -> Step | None:
    dim = int(draw.integers(1, x.dim()))
    return lambda t: t[-1].flip(dim)


def _roll(draw: Draw, x: Tensor) -> Step | None:
    dim = int(draw.integers(1, x.dim()))
    shift = int(draw.integers(-3, 4))
    return lambda t: t[-1].roll(shift, dim)


def _rot90(draw: Draw, x: Tensor) -> Step | None:
    if not _image(x):
        return None
    k = int(draw.integers(1, 4))
    return lambda t: t[-1].rot90(k, (2, 3))


def _slice(draw: Draw, x: Tensor) -> Step | None:
    dim = int(draw.integers(1, x.dim()))
    n = x.shape[dim]
    if n < 3:
        return None
    start = int(draw.integers(0, n // 2))
    stop = int(draw.integers(start + 2, n + 1))
    step = int(draw.integers(1, 3))
    cut = (*[slice(None)] * dim, slice(start, stop, step))
    return lambda t: t[-1][cut]


def _pad(draw: Draw, x: Tensor) -> Step | None:
    if not _image(x) or max(x.shape[2:]) > 12:
        return None
    widths = [int(v) for v in draw.integers(0, 2, 4)]
    mode = ("constant", "reflect", "replicate", "circular")[int(draw.integers(4))]
    return lambda t: F.pad(t[-1], widths, mode)


def _permute(draw: Draw, x: Tensor) -> Step | None:
    order = (0, *(int(v) + 1 for v in draw.permutation(x.dim() - 1)))
    return lambda t: t[-1].permute(order)


def _swapped(draw: Draw, x: Tensor) -> Step | None:
    return (lambda t: t[-1].transpose(2, 3)) if _image(x) else None


def _tokens(draw: Draw, x: Tensor) -> Step | None:
    """To tokens with a class token, and back to an image."""
    if not _image(x):
        return None

    def run(t: list[Tensor]) -> Tensor:
        y = t[-1].flatten(2).transpose(1, 2)
        y = torch.cat([torch.zeros_like(y[:, :1]).detach(), y], 1)
        return y[:, 1:].transpose(1, 2).reshape(t[-1].shape)

    return run


def _partition(draw: Draw, x: Tensor) -> Step | None:
    """Windows onto the batch axis, a convolution in each, and back."""
    if not _image(x) or any(n % 2 for n in x.shape[2:]):
        return None
    weight = ones(x.shape[1], 1, 3, 3)

    def run(t: list[Tensor]) -> Tensor:
        b, c, h, w = t[-1].shape
        y = t[-1].view(b, c, 2, h // 2, 2, w // 2).permute(0, 2, 4, 1, 3, 5)
        y = y.reshape(-1, c, h // 2, w // 2)
        y = F.conv2d(y, weight, padding=1, groups=c)
        y = y.view(b, 2, 2, c, h // 2, w // 2).permute(0, 3, 1, 4, 2, 5)
        return y.reshape(b, c, h, w)

    return run


def _halves(draw: Draw, x: Tensor) -> Step | None:
    """Halves through the same convolution, joined again; perhaps the other way round."""
    if not _image(x) or x.shape[3] < 4:
        return None
    weight = ones(x.shape[1], 1, 3, 3)
    turned = bool(draw.integers(2))

    def run(t: list[Tensor]) -> Tensor:
        parts = [F.conv2d(p, weight, padding=1, groups=p.shape[1]) for p in t[-1].chunk(2, 3)]
        return torch.cat(parts[::-1] if turned else parts, 3)

    return run


def _tiles(draw: Draw, x: Tensor) -> Step | None:
    """Halves on the batch axis, a convolution, and side by side again."""
    if not _image(x) or x.shape[3] % 2:
        return None
    weight = ones(x.shape[1], 1, 3, 3)

    def run(t: list[Tensor]) -> Tensor:
        half = t[-1].shape[3] // 2
        y = torch.cat([t[-1][..., :half], t[-1][..., half:]])
        y = F.conv2d(y, weight, padding=1, groups=y.shape[1])
        return torch.cat(list(y.chunk(2)), 3)

    return run


def _unbound(draw: Draw, x: Tensor) -> Step | None:
    if not _image(x):
        return None
    dim = int(draw.integers(2, 4))
    return lambda t: torch.stack(t[-1].unbind(dim)[::-1], dim)


def _indexed(draw: Draw, x: Tensor) -> Step | None:
    dim = int(draw.integers(1, x.dim()))
    index = torch.from_numpy(draw.integers(0, x.shape[dim], x.shape[dim]))
    if draw.integers(2):
        return lambda t: t[-1].index_select(dim, index)
    return lambda t: t[-1][(*[slice(None)] * dim, index)]


def _written(draw: Draw, x: Tensor) -> Step | None:
    """Shifted channels written into zeros."""
    if not _image(x) or x.shape[1] < 2 or x.shape[3] < 3:
        return None

    def run(t: list[Tensor]) -> Tensor:
        y = torch.zeros_like(t[-1]).detach()
        y[:, :1, :, :-1] = t[-1][:, :1, :, 1:]
        y[:, 1:] = t[-1][:, 1:]
        return y

    return run


def _shuffle(draw: Draw, x: Tensor) -> Step | None:
    if not _image(x):
        return None
    if x.shape[1] % 4 == 0 and max(x.shape[2:]) < 9:
        return lambda t: F.pixel_shuffle(t[-1], 2)
    if not any(n % 2 for n in x.shape[2:]):
        return lambda t: F.pixel_unshuffle(t[-1], 2)
    return None


def _unfolded(draw: Draw, x: Tensor) -> Step | None:
    """Patches, and put back."""
    if not _image(x) or any(n % 2 for n in x.shape[2:]):
        return None
    size = tuple(x.shape[2:])
    k = 2 if draw.integers(2) else 3
    stride, padding = (2, 0) if k == 2 else (1, 1)
    return lambda t: F.fold(F.unfold(t[-1], k, 1, padding, stride), size, k, 1, padding, stride)


def _expanded(draw: Draw, x: Tensor) -> Step | None:
    return (lambda t: t[-1].repeat(1, 2, 1, 1)) if _image(x) and x.shape[1] < 9 else None


def _added(draw: Draw, x: Tensor) -> Step | None:
    """Added to what came before, if that has the same shape; or to itself, moved by one."""
    if not _image(x) or x.shape[3] < 3:
        return None
    return lambda t: t[-1][..., 1:] + t[-1][..., :-1]


def _residual(draw: Draw, x: Tensor) -> Step | None:
    if not _image(x):
        return None
    weight = ones(x.shape[1], 1, 3, 3)
    return lambda t: t[-1] + F.conv2d(t[-1], weight, padding=1, groups=t[-1].shape[1])


def _joined(draw: Draw, x: Tensor) -> Step | None:
    """The inputs, cut to a common size where need be, joined along some axis."""
    dim = int(draw.integers(0, 4))

    def run(t: list[Tensor]) -> Tensor:
        first, last = t[0], t[-1]
        if first.dim() != 4 or last.dim() != 4:
            raise ValueError("not both are images")
        sizes = [min(a, b) for a, b in zip(first.shape, last.shape, strict=True)]
        cut = [slice(None) if d == dim else slice(0, n) for d, n in enumerate(sizes)]
        cut[0] = slice(None)
        return torch.cat([first[tuple(cut)], last[tuple(cut)]], dim)

    return run


STEPS: dict[str, Callable[[Draw, Tensor], Step | None]] = {
    "convolution": _conv,
    "transposed": _transposed,
    "causal": _causal,
    "pool": _pool,
    "adaptive": _adaptive,
    "resized": _resized,
    "flip": _flip,
    "roll": _roll,
    "rot90": _rot90,
    "slice": _slice,
    "pad": _pad,
    "permute": _permute,
    "swapped": _swapped,
    "tokens": _tokens,
    "partition": _partition,
    "halves": _halves,
    "tiles": _tiles,
    "unbound": _unbound,
    "indexed": _indexed,
    "written": _written,
    "shuffle": _shuffle,
    "unfolded": _unfolded,
    "expanded": _expanded,
    "added": _added,
    "residual": _residual,
    "joined": _joined,
}


def program(seed: int, most: int = 6) -> Program:
    """A random program; equal seeds make equal programs."""
    draw = np.random.default_rng(seed)
    batch = int(draw.integers(1, 3))
    shapes = [(batch, CHANNELS, HEIGHT, WIDTH)]
    if draw.random() < 0.3:
        shapes.append((batch, CHANNELS, int(draw.integers(4, 8)), int(draw.integers(4, 9))))
    found = Program(shapes)
    tensors = [ones(*s) for s in shapes]
    names = list(STEPS)
    wanted = int(draw.integers(1, most + 1))
    if len(shapes) > 1:
        names = ["joined", *names]
    for _ in range(12 * wanted):
        if len(found.steps) == wanted:
            break
        name = (
            "joined"
            if len(shapes) > 1 and not found.steps
            else names[int(draw.integers(len(names)))]
        )
        step = STEPS[name](draw, tensors[-1])
        if step is None:
            continue
        try:
            after = step(tensors)
        except (RuntimeError, ValueError):
            continue
        if (
            not 0 < after.numel() < 6000
            or min(after.shape) == 0
            or (after.shape[0] != batch and name != "joined")
        ):
            continue
        if after.shape[0] != batch and draw.random() < 0.5:
            continue
        tensors.append(after)
        found.steps.append(step)
        found.names.append(name)
    return found


# -- what fullgrad says, and what is true ------------------------------------------------------


class Explained(nn.Module):
    """The program, and then a bias for each number."""

    def __init__(self, run: Callable[..., Tensor]) -> None:
        super().__init__()
        self.run = run

    def forward(self, *inputs: Tensor) -> Tensor:
        total = (self.run(inputs) + torch.ones((), dtype=torch.float64)).sum()
        for x in inputs:
            total = total + x.flatten(1).sum(1)
        return total


def axes_of(found: Program, modules: Any = Explained) -> Any:
    """The axes of the program's result, None where they or those of a term before it are lost."""
    generator = torch.Generator(torch.get_default_device()).manual_seed(0)
    inputs = tuple(
        torch.rand(s, dtype=torch.float64, generator=generator) + 0.5 for s in found.shapes
    )
    d = fullgrad.decompose(modules(found.run), inputs, lambda y: y, per_sample=False)
    if any(t.axes is None for t in d.bias_terms):
        return None
    return [t for t in d.bias_terms if t.op == "add" and t.kind == "explicit"][-1].axes


def truth(found: Program) -> list[NDArray[Any]]:
    """For each axis of each input: first, last and mean place that each number reads.

    Returns:
        Shapes (3, *shape of the result), NaN where nothing is read.
    """
    results = []
    for number, shape in enumerate(found.shapes):
        for axis in range(2, len(shape)):
            read = []
            for place in range(shape[axis]):
                inputs = [torch.zeros(s, dtype=torch.float64) for s in found.shapes]
                inputs[number].select(axis, place).fill_(1.0)
                read.append(found.run(inputs).numpy())
            weights = np.stack(read)
            there = weights > 0
            any_ = there.any(0)
            low = np.where(any_, there.argmax(0), np.nan)
            high = np.where(any_, shape[axis] - 1 - there[::-1].argmax(0), np.nan)
            numbers = np.arange(shape[axis]).reshape(-1, *[1] * (weights.ndim - 1))
            total = weights.sum(0)
            mean = np.where(any_, (weights * numbers).sum(0) / np.where(any_, total, 1), np.nan)
            results.append(np.stack([low, high, mean]))
    return results


def said(axes: Any, k: int) -> NDArray[Any] | None:
    """What the axes say along the k-th axis of the inputs, shape (3, *shape of the result)."""
    c = axes.coordinates[k]
    if c is None:
        return None
    atoms = tuple(a for g in axes.groups for a in g)
    return places.over(c, atoms).reshape(3, *axes.shape)


def faults(found: Program, axes: Any) -> list[str]:
    """Where the axes say something that is not so."""
    wrong = []
    sizes = [n for shape in found.shapes for n in shape[2:]]
    owner = [i for i, shape in enumerate(found.shapes) for _ in shape[2:]]
    tables = [said(axes, k) for k in range(len(owner))]
    truths = truth(found)
    for k, true in enumerate(truths):
        if tables[k] is not None:  # what reads the whole axis has no place along it
            whole = (true[0] == 0) & (true[1] == sizes[k] - 1)
            tables[k] = np.where(whole, true, tables[k])
    for k, true in enumerate(truths):
        table = tables[k]
        if table is not None:  # a number reads an input if it has a place along all its axes
            for other, other_table in zip(owner, tables, strict=True):
                if other == owner[k] and other_table is not None:
                    table = np.where(np.isnan(other_table[:1]), np.nan, table)
            if "permute" in found.names:  # padding along channels goes with them
                table = np.where(np.isnan(true), true, table)
        if table is None:
            c = true[:2]
            owned = ~np.isnan(c[0])
            size = int(np.nanmax(c[1])) + 1 if owned.any() else 0
            if owned.any() and not ((c[0][owned] == 0).all() and (c[1][owned] == size - 1).all()):
                wrong.append(f"axis {k}: no place is said")
            continue
        if not np.array_equal(np.isnan(table[0]), np.isnan(true[0])):
            wrong.append(f"axis {k}: who reads the input is wrong")
        elif (
            not ((table[0] <= true[0]) | np.isnan(true[0])).all()
            or not ((table[1] >= true[1]) | np.isnan(true[0])).all()
        ):
            wrong.append(f"axis {k}: something outside the interval is read")
        elif "joined" not in found.names and not np.array_equal(
            table[:2], true[:2], equal_nan=True
        ):  # channels that are joined are taken together
            wrong.append(f"axis {k}: the interval is too wide")
        elif not {"residual", "added"}.intersection(found.names):
            inside = np.clip(table[2], true[0], true[1])
            if (np.abs(inside - true[2]) > (true[1] - true[0]) / 2 + 0.5).any():
                wrong.append(f"axis {k}: the center is off")
    return wrong
