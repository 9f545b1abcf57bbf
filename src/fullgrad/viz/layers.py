"""A map for each stage, from the first to the last, with the stage's share of the output."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fullgrad.decomposition.result import Decomposition
from fullgrad.errors import InputError
from fullgrad.maps.aggregation import Psi
from fullgrad.maps.saliency import layer_maps
from fullgrad.viz.overlay import Array, colours, normalise, show
from fullgrad.viz.style import (
    BLANK,
    DIVERGING,
    FAINT,
    LOWERS,
    RAISES,
    RULE,
    SEQUENTIAL,
    Writer,
    bare,
    limit_of,
    lines,
    page,
    plane,
    scale_bar,
    shortened,
    signed,
    signed_colours,
    wrap,
)
from fullgrad.viz.waterfall import MODEL

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST = 48  # stages with a panel of their own
NO_MAP = "no positions"
_COLUMNS, _PANEL, _GAP, _WORDS = 6, 1.4, 0.14, 0.62  # inches, but for the columns
_LIMIT = 200_000_000  # bytes of maps in a file


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """A stage's part in an output.

    Args:
        name: its module path.
        sum: of its bias terms.
        map: shape (height, width); None where its terms have no positions (dense layers).
    """

    name: str
    sum: float
    map: Array | None = None


def layers_of(
    decomposition: Decomposition, *, depth: int = 1, psi: Psi = "layer", sample: int = 0
) -> tuple[Layer, ...]:
    """The stages of one sample of a decomposition, from the first to the last.

    Args:
        decomposition: of one input of shape (B, C, height, width), with sums for each sample.
        depth: components of the module path that make a stage.
        psi: see :func:`fullgrad.layer_maps`.
        sample: which of the batch.

    Raises:
        InputError: the input has not two spatial axes, or the sums are the whole batch's.
        LayoutError: where a term's numbers lie is not known.
        ValueError: depth is below 1, or psi unknown.
    """
    d = decomposition
    if len(d.inputs) != 1 or d.inputs[0].dim() != 4:
        raise InputError("a strip of layers needs one input of shape (batch, channels, h, w)")
    if len(d.residual) != len(d.output):
        raise InputError("a strip of layers needs sums for each sample: leave per_sample=True")
    maps = layer_maps(d, depth=depth, psi=psi)
    found = []
    for name, sums in d.by_module(depth).items():
        own = maps.get(name)
        drawn = None if own is None else own[sample, 0].detach().cpu().double().numpy()
        found.append(Layer(name or MODEL, float(sums[sample]), drawn))
    return tuple(found)


def layer_strip(
    layers: Sequence[Layer], output: float, title: str = "", *, sign: bool = False, most: int = MOST
) -> Figure:
    """A panel for each stage: its map, its name, its sum and its share of the output.

    Args:
        layers: from the first to the last; see :func:`layers_of`.
        output: the explained scalar that the shares are of.
        title: on top; long ones are wrapped.
        sign: whether the maps have a sign (``psi="signed"``): one diverging scale for all of them,
            symmetric about zero. Otherwise each map is stretched by itself.
        most: panels; of more stages those with the largest sums are shown.

    Returns:
        A matplotlib figure.

    Raises:
        InputError: no stages, numbers that are not finite, or maps that are none.
        ValueError: ``most`` is below 1.
        MissingDependencyError: matplotlib is not installed.
    """
    if not layers:
        raise InputError("a strip of layers needs at least one stage")
    if most < 1:
        raise ValueError(f"at least one panel is needed, not {most}")
    if not all(math.isfinite(v) for v in (output, *(s.sum for s in layers))):
        raise InputError("the output and the stages' sums must be finite numbers")
    largest = sorted(range(len(layers)), key=lambda i: -abs(layers[i].sum))[:most]
    shown = [layers[i] for i in sorted(largest)]
    limit = max((limit_of(plane(s.map)) for s in shown if s.map is not None), default=1.0)
    columns = min(_COLUMNS, max(len(shown), 3))
    rows = -(-len(shown) // columns)
    width = 0.3 + columns * (_PANEL + _GAP)
    title = wrap(title, width - 0.3, 12)
    text = wrap(_rule(layers, shown, output, sign), width - 0.3, 8)
    head = 0.16 + 0.24 * lines(title)
    under = head + rows * (_PANEL + _WORDS)
    figure = page(width, under + 0.55 + 0.16 * lines(text))
    write = Writer(figure)
    write(0.15, 0.1, title, va="top", size=12)
    scale = max(abs(s.sum) for s in shown) or 1.0
    for place, layer in enumerate(shown):
        left = 0.15 + (place % columns) * (_PANEL + _GAP)
        above = head + (place // columns) * (_PANEL + _WORDS)
        _panel(write.axes(left, above, _PANEL, _PANEL), layer, limit if sign else None)
        _share(write.axes(left, above + _PANEL + 0.03, _PANEL, 0.07), layer.sum / scale)
        below = above + _PANEL + 0.12
        write(
            left,
            below,
            shortened(layer.name, _PANEL, 8, bold=True),
            va="top",
            size=8,
            weight="bold",
        )
        write(left, below + 0.15, _words(layer, output), va="top", size=8, color=FAINT)
    bar = write.axes(width / 2 - 1.2, under + 0.05, 2.4, 0.12)
    if sign:
        ticks = {-limit: signed(-limit), 0.0: "0", limit: signed(limit)}
        scale_bar(bar, (-limit, limit), ticks, DIVERGING)
    else:
        scale_bar(bar, (0, 1), {0: "0: least", 1: "1: most"}, SEQUENTIAL)
    write(0.15, under + 0.45, text, va="top", size=8, color=FAINT)
    return figure


def _rule(layers: Sequence[Layer], shown: Sequence[Layer], output: float, sign: bool) -> str:
    rule = (
        "Colour: signed numbers on one scale for all stages; blue lowers the output, red raises it."
        if sign
        else f"Colour, for each stage on its own: {RULE}. Brightness cannot be compared between "
        "stages; the bars can: below each map, the size of the stage's sum, red where it raises "
        "the output, blue where it lowers it."
    )
    text = f"Stages from early to late. {rule} Shares are of the output {signed(output)}."
    if any(s.map is None for s in shown):
        text += f" '{NO_MAP}': terms that lie nowhere in the image, as those of dense layers."
    if left := len(layers) - len(shown):
        rest = math.fsum(s.sum for s in layers) - math.fsum(s.sum for s in shown)
        text += f" {left} more stages with smaller sums, {signed(rest)} together, are not shown."
    return text


def _words(layer: Layer, output: float) -> str:
    if not output:
        return signed(layer.sum)
    share = f"{100 * layer.sum / output:+.3g}".replace("-", "−", 1)
    return f"{signed(layer.sum)}  ({share} %)"


def _panel(axes: Axes, layer: Layer, limit: float | None) -> None:
    if layer.map is None:
        bare(axes)
        axes.set_facecolor(BLANK)
        axes.text(0.5, 0.5, NO_MAP, ha="center", va="center", size=8, color="0.3")
        return
    values = plane(layer.map)
    show(axes, colours(normalise(values)) if limit is None else signed_colours(values, limit))


def _share(axes: Axes, share: float) -> None:
    """A bar from the middle, to the right where the output is raised, to the left where not."""
    axes.set(xlim=(-1, 1), ylim=(0, 1))
    bare(axes)
    axes.set_facecolor(BLANK)
    axes.barh(0.5, share, height=1, color=RAISES if share > 0 else LOWERS)
    axes.axvline(0, color="0.2", lw=0.8)


def packed(layers: Sequence[Layer]) -> bytes:
    """Stages as the content of a file ``NAME.layers.npz``, which ``fullgrad report`` reads.

    Args:
        layers: at least one; all maps of one size.

    Raises:
        InputError: no stages, or maps of several sizes.
    """
    if not layers:
        raise InputError("a file of layers needs at least one stage")
    maps = {i: plane(s.map) for i, s in enumerate(layers) if s.map is not None}
    if len({m.shape for m in maps.values()}) > 1:
        raise InputError("the maps of all stages must be of one size")
    with io.BytesIO() as file:
        np.savez_compressed(
            file,
            names=np.array([s.name for s in layers], np.str_),
            sums=np.array([s.sum for s in layers], np.float64),
            places=np.array(list(maps), np.int64),
            maps=np.array(list(maps.values()), np.float32),
        )
        return file.getvalue()


def unpacked(content: bytes) -> tuple[Layer, ...]:
    """Stages from the content of a file that :func:`packed` made.

    Args:
        content: of the file; nothing in it is executed.

    Raises:
        InputError: it is no such file.
    """
    import zipfile

    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            if sum(member.file_size for member in archive.infolist()) > _LIMIT:
                raise InputError(f"the layers' file holds more than {_LIMIT // 1_000_000} MB")
        with np.load(io.BytesIO(content), allow_pickle=False) as found:
            arrays: dict[str, Any] = {k: found[k] for k in ("names", "sums", "places", "maps")}
        names, sums = arrays["names"], arrays["sums"].astype(np.float64)
        places, maps = arrays["places"], arrays["maps"].astype(np.float64)
        own: dict[int, Array] = {int(p): plane(m) for p, m in zip(places, maps, strict=True)}
        if not set(own) <= set(range(len(names))):
            raise InputError("the layers' file holds maps of no stage")
        if names.ndim != 1 or names.dtype.kind != "U" or not np.isfinite(sums).all():
            raise InputError("the layers' file holds names or sums that are none")
        return tuple(
            Layer(str(n), float(s), own.get(i))
            for i, (n, s) in enumerate(zip(names, sums, strict=True))
        )
    except InputError:
        raise
    except Exception as error:  # whatever damaged archives raise
        raise InputError(f"no file of layers: {type(error).__name__}: {error}") from error
