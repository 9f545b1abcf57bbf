"""The linear regions of a small ReLU network on the plane, found exactly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import nn

Array: TypeAlias = np.ndarray[Any, Any]
Pattern: TypeAlias = tuple[bool, ...]

EXTENT = (-2.1, 2.1, -1.4, 1.4)  # left, right, bottom, top of the plane that is looked at


@dataclass(frozen=True, slots=True, eq=False)
class Region:
    """A convex polygon on which f(x) = slope . x + offset.

    Args:
        vertices: in order around it, shape (V, 2).
        pattern: which ReLUs are on, layer after layer.
        slope: shape (2,).
        offset: a number.
    """

    vertices: Array
    pattern: Pattern
    slope: Array
    offset: float

    @property
    def area(self) -> float:
        """The area, by the shoelace formula."""
        x, y = self.vertices.T
        return 0.5 * abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1)))

    @property
    def center(self) -> Array:
        """The mean of the vertices, which lies inside; shape (2,)."""
        center: Array = self.vertices.mean(0)
        return center

    def output(self, points: Array) -> Array:
        """The affine function at points of shape (N, 2): shape (N,)."""
        values: Array = points @ self.slope + self.offset
        return values


def pre_activations(model: nn.Sequential, points: Array) -> list[Array]:
    """What goes into each ReLU, and f last: shapes (N, width) and (N, 1)."""
    found = []
    with torch.no_grad():
        value = torch.from_numpy(np.asarray(points, np.float64))
        for layer in model:
            value = layer(value)
            if isinstance(layer, nn.Linear):
                found.append(value.numpy())
    return found


def patterns(model: nn.Sequential, points: Array) -> list[Pattern]:
    """Which ReLUs are on at each point."""
    on = np.concatenate(pre_activations(model, points)[:-1], 1) > 0
    return [tuple(map(bool, row)) for row in on]


def linear_regions(
    model: nn.Sequential, extent: tuple[float, float, float, float] = EXTENT
) -> tuple[Region, ...]:
    """All linear regions inside a rectangle, exactly.

    Layer after layer, every polygon is cut where a ReLU's input changes its sign. That input is
    affine on a polygon that all layers before have cut, so its values at the corners tell where.

    Args:
        model: of :func:`train`'s form, any number of layers.
        extent: left, right, bottom and top of the rectangle.

    Returns:
        Regions that cover the rectangle without overlap.
    """
    left, right, bottom, top = extent
    polygons = [np.array([(left, bottom), (right, bottom), (right, top), (left, top)])]
    layers = sum(isinstance(layer, nn.Linear) for layer in model) - 1
    for place in range(layers):
        cut: list[Array] = []
        for polygon in polygons:
            pieces = [polygon]
            for unit in range(pre_activations(model, polygon)[place].shape[1]):
                pieces = [
                    part
                    for piece in pieces
                    for part in _halves(piece, pre_activations(model, piece)[place][:, unit])
                ]
            cut += pieces
        polygons = cut
    centers = patterns(model, np.array([p.mean(0) for p in polygons]))
    return tuple(
        Region(polygon, pattern, *affine(model, pattern))
        for polygon, pattern in zip(polygons, centers, strict=True)
    )


def _halves(polygon: Array, values: Array) -> list[Array]:
    """A convex polygon cut where a function with these values at its corners is zero."""
    if not (values.min() < 0 < values.max()):
        return [polygon]
    halves: tuple[list[Array], list[Array]] = ([], [])
    for i, (corner, value) in enumerate(zip(polygon, values, strict=True)):
        following, after = polygon[(i + 1) % len(polygon)], values[(i + 1) % len(polygon)]
        for side, half in zip((-1, 1), halves, strict=True):
            if side * value >= 0:
                half.append(corner)
            if value * after < 0:
                half.append(corner + value / (value - after) * (following - corner))
    return [np.array(half) for half in halves]


def affine(model: nn.Sequential, pattern: Pattern) -> tuple[Array, float]:
    """Slope (2,) and offset of f where exactly these ReLUs are on."""
    slope, offset = np.eye(2), np.zeros(2)
    linear = [layer for layer in model if isinstance(layer, nn.Linear)]
    start = 0
    for layer in linear:
        weight, bias = layer.weight.detach().numpy(), layer.bias.detach().numpy()
        slope, offset = weight @ slope, weight @ offset + bias
        if layer is not linear[-1]:
            on = np.array(pattern[start : start + len(bias)])
            start += len(bias)
            slope, offset = slope * on[:, None], offset * on
    return slope[0], float(offset[0])


def zero_line(region: Region) -> Array | None:
    """The piece of the decision boundary f = 0 in a region: two points, shape (2, 2), or None."""
    values = region.output(region.vertices)
    if not (values.min() < 0 < values.max()):
        return None
    ends = []
    for i, value in enumerate(values):
        j = (i + 1) % len(values)
        if (value < 0) != (values[j] < 0):
            step = region.vertices[j] - region.vertices[i]
            ends.append(region.vertices[i] + value / (value - values[j]) * step)
    return np.array(ends)


def crossings(model: nn.Sequential, start: Array, end: Array) -> tuple[float, ...]:
    """Where the straight path between two points leaves a region, as shares of its length."""
    at = [0.0, 1.0]
    layers = sum(isinstance(layer, nn.Linear) for layer in model) - 1
    for place in range(layers):
        on_path = start + np.array(at)[:, None] * (end - start)
        values = pre_activations(model, on_path)[place]
        new = []
        for i in range(len(at) - 1):
            for a, b in zip(values[i], values[i + 1], strict=True):
                if a * b < 0:
                    new.append(at[i] + (at[i + 1] - at[i]) * float(a / (a - b)))
        at = sorted({*at, *new})
    return tuple(at[1:-1])
