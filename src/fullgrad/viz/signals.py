"""Pictures of maps of volumes, sounds and series.

Red raises the output, blue lowers it; each picture has one scale, symmetric about zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from fullgrad.errors import InputError
from fullgrad.viz.style import (
    DIVERGING,
    FAINT,
    LOWERS,
    RAISES,
    Array,
    Writer,
    bare,
    limit_of,
    lines,
    page,
    scale_bar,
    shortened,
    signed,
    signed_colors,
    wrap,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST = 24  # channels with a strip of their own
_BARS = 300  # of a sound's map
_WIDTH, _SIDE = 8.0, 0.75  # inches
_SLICE = 2.6
_OPACITY = 0.7


def sound(
    waveform: Tensor | Array,
    saliency: Tensor | Array,
    rate: float,
    title: str = "",
    *,
    spectrogram: Tensor | Array | None = None,
    top: float | None = None,
) -> Figure:
    """A waveform, and under it the sums of its map over equal spans of time.

    Args:
        waveform: shape (samples,); axes of length 1 before are dropped.
        saliency: its map, of the same shape.
        rate: samples a second.
        title: on top; long ones are wrapped.
        spectrogram: a map over frequency and time, shape (frequencies, frames), lowest frequency
            first: drawn below, over the same time.
        top: its highest frequency in Hz; needed with a spectrogram.

    Returns:
        A matplotlib figure, to be saved with :func:`fullgrad.viz.png`.

    Raises:
        InputError: shapes that do not fit, NaN or infinite values, or no rate.
        MissingDependencyError: matplotlib is not installed.
    """
    wave, numbers = _line(waveform, "the waveform"), _line(saliency, "the map")
    if len(wave) != len(numbers):
        raise InputError(f"a waveform of {len(wave)} samples, and a map of {len(numbers)}")
    if not rate > 0:
        raise InputError(f"the rate must be samples a second, not {rate!r}")
    if (spectrogram is None) != (top is None):
        raise InputError("give spectrogram= and top=, its highest frequency, together")
    title = wrap(title, _WIDTH - 0.3, 12)
    head = 0.2 + 0.24 * lines(title)
    height = head + 1.1 + 0.15 + 1.1 + 0.55 + (0 if spectrogram is None else 1.9)
    figure = page(_WIDTH, height)
    write = Writer(figure)
    write(0.15, 0.1, title, va="top", size=12)
    wide, seconds = _WIDTH - _SIDE - 0.2, len(wave) / rate
    above = write.axes(_SIDE, head, wide, 1.1)
    above.plot(np.arange(len(wave)) / rate, wave, color="0.25", lw=0.6)
    above.set(xlim=(0, seconds), xticks=[])
    above.set_ylabel("waveform", size=8)
    below = write.axes(_SIDE, head + 1.25, wide, 1.1)
    count = min(_BARS, len(numbers))
    edges = np.linspace(0, len(numbers), count + 1)
    sums = np.diff(np.interp(edges, np.arange(len(numbers) + 1), _cumulated(numbers)))
    colors = [RAISES if v > 0 else LOWERS for v in sums]
    below.bar((edges[:-1] + edges[1:]) / 2 / rate, sums, seconds / count, color=colors)
    below.axhline(0, color="0.4", lw=0.6)
    below.set(xlim=(0, seconds))
    below.set_ylabel("part of\nthe output", size=8)
    last, colors_of = below, ""
    if spectrogram is not None and top is not None:
        below.set_xticks([])
        last = write.axes(_SIDE, head + 2.5, wide, 1.6)
        frames = _grid(spectrogram, "the spectrogram's map", 2)
        limit = limit_of(frames)
        extent = (0, seconds, 0, top)
        last.imshow(signed_colors(frames, limit), origin="lower", aspect="auto", extent=extent)
        last.set_ylabel("frequency (Hz)", size=8)
        colors_of = f"; colors from {signed(-limit)} (blue) to {signed(limit)} (red)"
    last.set_xlabel(f"time (seconds){colors_of}", size=8)
    for axes in (above, below, last):
        axes.tick_params(labelsize=7)
    return figure


def series(
    values: Tensor | Array,
    saliency: Tensor | Array,
    names: Sequence[str] | None = None,
    title: str = "",
    *,
    time: str = "step",
) -> Figure:
    """A strip for each channel: its values as a line, its map as the color behind.

    Args:
        values: shape (steps, channels), or (steps,).
        saliency: a number for each step and channel, of the same shape; shape (steps,) where the
            map is of all channels together: then one strip above them has the colors.
        names: of the channels.
        title: on top; long ones are wrapped.
        time: what the steps are, for the axis.

    Returns:
        A matplotlib figure.

    Raises:
        InputError: shapes that do not fit, too many channels, NaN or infinite values.
        MissingDependencyError: matplotlib is not installed.
    """
    lines_of = _grid(values, "the series", 2)
    found = _grid(saliency, "the map", 2)
    steps, channels = lines_of.shape
    together = found.shape == (steps, 1) and channels > 1
    if found.shape != (steps, channels) and not together:
        raise InputError(
            f"a series of shape {lines_of.shape} needs a map of that shape, or ({steps},), not "
            f"{found.shape}"
        )
    if channels > MOST:
        raise InputError(f"{channels} channels are more than the {MOST} that are drawn: choose")
    labels = [f"channel {i}" for i in range(channels)] if names is None else list(names)
    if len(labels) != channels:
        raise InputError(f"{len(labels)} names for {channels} channels")
    title = wrap(title, _WIDTH - 0.3, 12)
    head, tall = 0.2 + 0.24 * lines(title), 0.62
    rows = channels + together
    figure = page(_WIDTH, head + rows * (tall + 0.08) + 1.05)
    write = Writer(figure)
    write(0.15, 0.1, title, va="top", size=12)
    left, limit = 1.2, limit_of(found)
    for row in range(rows):
        axes = write.axes(left, head + row * (tall + 0.08), _WIDTH - left - 0.2, tall)
        channel = row - together
        name = "all channels" if channel < 0 else labels[channel]
        if channel >= 0:
            own = lines_of[:, channel]
            axes.plot(np.arange(steps), own, color="black", lw=1)
            low, high = float(own.min()), float(own.max())
            room = 0.1 * (high - low) or 1.0
            axes.set_ylim(low - room, high + room)
        if channel < 0 or not together:
            band = signed_colors(found[None, :, max(channel, 0)], limit)
            extent = (-0.5, steps - 0.5, *axes.get_ylim())
            axes.imshow(band, aspect="auto", extent=extent, zorder=0, interpolation="nearest")
        axes.set(xlim=(-0.5, steps - 0.5), yticks=[])
        if row < rows - 1:
            axes.set_xticks([])
        axes.tick_params(labelsize=7)
        write(
            0.1,
            head + row * (tall + 0.08) + tall / 2,
            shortened(name, left - 0.2, 8),
            va="center",
            size=8,
        )
    bottom = head + rows * (tall + 0.08)
    write(left, bottom + 0.22, time, va="top", size=8, color=FAINT)
    _scale(write, bottom + 0.55, limit)
    return figure


def slices(
    volume: Tensor | Array,
    saliency: Tensor | Array,
    title: str = "",
    *,
    at: Sequence[int] | None = None,
    spacing: Sequence[float] = (1.0, 1.0, 1.0),
) -> Figure:
    """Three planes of a volume through one place, the map over them.

    Args:
        volume: shape (depth, height, width); axes of length 1 before are dropped.
        saliency: its map, of the same shape.
        title: on top; long ones are wrapped.
        at: the place (z, y, x) that all planes hold; None for that of the largest number.
        spacing: of places along z, y and x, for the planes' proportions.

    Returns:
        A matplotlib figure.

    Raises:
        InputError: shapes that do not fit, a place outside, NaN or infinite values.
        MissingDependencyError: matplotlib is not installed.
    """
    gray, found = _grid(volume, "the volume", 3), _grid(saliency, "the map", 3)
    if gray.shape != found.shape:
        raise InputError(f"a volume of shape {gray.shape}, and a map of shape {found.shape}")
    if at is None:
        at = tuple(int(i) for i in np.unravel_index(np.abs(found).argmax(), found.shape))
    if len(at) != 3 or not all(0 <= i < n for i, n in zip(at, gray.shape, strict=False)):
        raise InputError(f"at={tuple(at)!r} is not a place (z, y, x) of a volume of {gray.shape}")
    if len(spacing) != 3 or not all(s > 0 for s in spacing):
        raise InputError(f"spacing must be three positive numbers, not {tuple(spacing)!r}")
    low, high = float(gray.min()), float(gray.max())
    scaled, limit = (gray - low) / ((high - low) or 1.0), limit_of(found)
    title = wrap(title, 3 * _SLICE, 12)
    head = 0.2 + 0.24 * lines(title)
    figure = page(0.3 + 3 * (_SLICE + 0.1), head + _SLICE + 1.1)
    write = Writer(figure)
    write(0.15, 0.1, title, va="top", size=12)
    names = "zyx"
    for place, axis in enumerate((0, 1, 2)):
        rest = [d for d in range(3) if d != axis]
        cut = np.take(scaled, at[axis], axis)[..., None] * 255
        own = np.take(found, at[axis], axis)
        heat = np.clip(np.abs(own) / limit, 0, 1)[..., None] * _OPACITY
        mixed = np.rint((1 - heat) * cut + heat * signed_colors(own, limit)).astype(np.uint8)
        left = 0.15 + place * (_SLICE + 0.1)
        axes = write.axes(left, head, _SLICE, _SLICE)
        origin: Any = "upper" if axis == 0 else "lower"  # z runs upwards
        axes.imshow(mixed, origin=origin, aspect=spacing[rest[0]] / spacing[rest[1]])
        mark: dict[str, Any] = {"color": "#00a000", "lw": 0.5, "alpha": 0.8}
        axes.axhline(at[rest[0]], **mark)
        axes.axvline(at[rest[1]], **mark)
        bare(axes)
        text = f"{names[axis]} = {at[axis]} of {gray.shape[axis]}"
        write(left, head + _SLICE + 0.05, text, va="top", size=8, color=FAINT)
    _scale(write, head + _SLICE + 0.4, limit)
    return figure


def _scale(write: Writer, y: float, limit: float) -> None:
    ticks = {-limit: signed(-limit), 0.0: "0", limit: signed(limit)}
    scale_bar(write.axes(2.4, y, 3.2, 0.12), (-limit, limit), ticks, DIVERGING)
    text = "blue lowers the output, red raises it"
    write(5.8, y + 0.06, text, va="center", size=8, color=FAINT)


def _grid(values: Tensor | Array, what: str, dims: int) -> Array:
    """Numbers with ``dims`` axes, float64; a series of one channel gets an axis for it.

    Raises:
        InputError: of another shape, or not finite.
    """
    array = values.detach().cpu().double().numpy() if isinstance(values, Tensor) else values
    found: Array = np.asarray(array, np.float64)
    while found.ndim > dims and found.shape[0] == 1:
        found = found[0]
    if found.ndim == 1 and dims == 2:
        found = found[:, None]
    if found.ndim != dims or found.size == 0:
        raise InputError(f"{what} must have {dims} axes, not shape {found.shape}")
    if not bool(np.isfinite(found).all()):
        raise InputError(f"{what} holds NaN or infinite values")
    return found


def _line(values: Tensor | Array, what: str) -> Array:
    found = _grid(values, what, 2)
    flat: Array = found.reshape(-1)
    if flat.size != max(found.shape):
        raise InputError(f"{what} must have one axis, not shape {found.shape}")
    return flat


def _cumulated(numbers: Array) -> Array:
    found: Array = np.concatenate([[0.0], np.cumsum(numbers)])
    return found
