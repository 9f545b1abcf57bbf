"""Completeness and weak dependence, seen on a small piecewise-linear network.

Srinivas & Fleuret 2019, section 3. A network of ReLUs on points of the plane is affine on each of
finitely many convex polygons, its linear regions. They are found exactly here, so that "constant
within a region" and "sums to the output" are measured, not assumed.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

from fullgrad._optional import require
from fullgrad.decomposition import decompose
from fullgrad.evaluation.theory.linear_regions import (
    EXTENT,
    Array,
    Pattern,
    Region,
    crossings,
    linear_regions,
    patterns,
    pre_activations,
    zero_line,
)

TOLERANCE = 1e-9  # of a gap or change, relative to the largest |f|
_WIDTH = 5
_POINTS = 240
_NOISE = 0.12
_STEPS = 300
_RATE = 0.02
_DECAY = 1e-3  # keeps f within a few units
_SAMPLES = 2000  # points at which the two properties are measured
_PER_PIECE = 16  # points of the path in each region


@dataclass(frozen=True, slots=True, eq=False)
class Trained:
    """A network and what it was trained on.

    Args:
        model: linear layers with ReLUs between them, float64, from (N, 2) to (N, 1).
        points: shape (N, 2).
        labels: 0 or 1, shape (N,).
        accuracy: on these points.
    """

    model: nn.Sequential
    points: Array
    labels: Array
    accuracy: float


@dataclass(frozen=True, slots=True, eq=False)
class Represented:
    """What each representation says of N points.

    Args:
        points: shape (N, 2).
        output: f, shape (N,).
        gradient: of f at the input, shape (N, 2).
        layers: names of the layers with a bias.
        bias_gradients: of f at each bias of a layer, shape (N, width), one for each layer.
        bias_terms: those times the bias.
        residual: f minus the input term and all bias terms, shape (N,).
        integrated: integrated gradients from the origin, shape (N, 2).
    """

    points: Array
    output: Array
    gradient: Array
    layers: tuple[str, ...]
    bias_gradients: tuple[Array, ...]
    bias_terms: tuple[Array, ...]
    residual: Array
    integrated: Array

    @property
    def input_term(self) -> Array:
        """Gradient times input, summed; shape (N,)."""
        total: Array = (self.gradient * self.points).sum(1)
        return total


@dataclass(frozen=True, slots=True, eq=False)
class Walk:
    """A straight path that crosses regions.

    Args:
        at: how far along it each point is, from 0 to 1, shape (N,).
        borders: where it passes from one region into the next.
        pieces: the number of the piece that each point lies in, shape (N,).
        seen: what is said of the points.
    """

    at: Array
    borders: tuple[float, ...]
    pieces: Array
    seen: Represented


@dataclass(frozen=True, slots=True)
class Measured:
    """One representation's two properties.

    Args:
        name: of the representation.
        sums_to: what completeness compares.
        gap: the largest absolute difference of the two, over all points.
        change: the largest range of any of its numbers within one region.
        limit: up to which gap and change count as rounding.
    """

    name: str
    sums_to: str
    gap: float
    change: float
    limit: float

    @property
    def complete(self) -> bool:
        """Whether it sums to what it should."""
        return self.gap <= self.limit

    @property
    def weakly_dependent(self) -> bool:
        """Whether it is constant within each region."""
        return self.change <= self.limit


@dataclass(frozen=True, slots=True, eq=False)
class Theory:
    """Everything that the worked example shows.

    Args:
        seed: of data, network and points.
        trained: the network.
        regions: all of them, in :data:`EXTENT`.
        names: of the marked points: A and B share a region, C lies in another.
        homes: the number of the region that each of them lies in.
        marked: what is said of them.
        walk: from A over B to C.
        origin_output: f at the origin, the baseline of integrated gradients.
        samples: at how many points the properties were measured.
        shared: how many of their regions hold at least two of them.
        measured: the properties.
    """

    seed: int
    trained: Trained
    regions: tuple[Region, ...]
    names: tuple[str, ...]
    homes: tuple[int, ...]
    marked: Represented
    walk: Walk
    origin_output: float
    samples: int
    shared: int
    measured: tuple[Measured, ...]


def two_moons(seed: int, count: int = _POINTS) -> tuple[Array, Array]:
    """Points of two interlocking half circles around the origin.

    Args:
        seed: of the noise.
        count: how many points, half of them in each moon.

    Returns:
        Points (count, 2) and labels 0 or 1 (count,).
    """
    random = np.random.default_rng(seed)
    half = count // 2
    angle = np.linspace(0, math.pi, half)
    upper = np.stack([np.cos(angle) - 0.5, np.sin(angle) - 0.25], 1)
    points = np.concatenate([upper, -upper]) * 1.2
    points = points + random.normal(scale=_NOISE, size=points.shape)
    return points, np.repeat([0, 1], half)


def train(seed: int) -> Trained:
    """Train a network of two hidden layers to tell the moons apart, on the CPU.

    Args:
        seed: of the points and of the first weights; the process's random state is left alone.
    """
    points, labels = two_moons(seed)
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(seed)
        model = nn.Sequential(
            OrderedDict(
                layer1=nn.Linear(2, _WIDTH, dtype=torch.float64),
                relu1=nn.ReLU(),
                layer2=nn.Linear(_WIDTH, _WIDTH, dtype=torch.float64),
                relu2=nn.ReLU(),
                layer3=nn.Linear(_WIDTH, 1, dtype=torch.float64),
            )
        )
        x = torch.from_numpy(points)
        wanted = torch.from_numpy(labels).to(torch.float64)[:, None]
        optimizer = torch.optim.Adam(model.parameters(), lr=_RATE, weight_decay=_DECAY)
        for _ in range(_STEPS):
            optimizer.zero_grad()
            nn.functional.binary_cross_entropy_with_logits(model(x), wanted).backward()
            optimizer.step()
        optimizer.zero_grad()
        accuracy = float(((model(x) > 0) == (wanted > 0)).double().mean())
    return Trained(model.eval(), points, labels, accuracy)


def integrated_gradients(model: nn.Sequential, points: Array) -> Array:
    """Integrated gradients from the origin (Sundararajan et al. 2017), by Captum, exactly.

    The gradient is constant on the part of the path that lies in one region, so that any
    number of steps is exact there; a path's parts add up.

    Args:
        model: of :func:`train`'s form.
        points: shape (N, 2).

    Returns:
        Shape (N, 2).

    Raises:
        MissingDependencyError: Captum is not installed.
    """
    captum = require("captum.attr", "baselines")
    starts, ends, owners = [], [], []
    for owner, point in enumerate(points):
        at = [0.0, *crossings(model, np.zeros(2), point), 1.0]
        for a, b in pairwise(at):
            starts.append(a * point)
            ends.append(b * point)
            owners.append(owner)
    method = captum.IntegratedGradients(model)
    parts: Tensor = method.attribute(
        torch.from_numpy(np.array(ends)).requires_grad_(),
        torch.from_numpy(np.array(starts)),
        target=0,
        n_steps=2,  # the fewest that Captum allows
        method="riemann_middle",
    )
    total = np.zeros((len(points), 2))
    np.add.at(total, owners, parts.detach().numpy())
    return total


def represent(model: nn.Sequential, points: Array) -> Represented:
    """What full-gradient, input-gradient and integrated gradients say of points (N, 2)."""
    d = decompose(model, torch.from_numpy(points), 0)
    terms = d.bias_terms
    return Represented(
        points=points,
        output=d.output.numpy(),
        gradient=d.input_gradients[0].numpy(),
        layers=tuple(t.module for t in terms),
        bias_gradients=tuple(t.gradient.numpy() for t in terms),
        bias_terms=tuple(t.value.numpy() for t in terms),
        residual=d.residual.numpy(),
        integrated=integrated_gradients(model, points),
    )


def marked_points(regions: Sequence[Region]) -> tuple[Array, tuple[int, ...]]:
    """A and B in one region and C in another, on one line.

    C is the center of the largest region where f is positive. A and B lie on the line from it to
    the center of a region where f is negative, inside that region: the one in which they lie
    furthest apart. Regions that the decision boundary crosses, or with a slope of zero, are left
    out where there are others.

    Returns:
        Points (3, 2), and the number of the region of each.
    """
    plain = [zero_line(r) is None and bool(r.slope.any()) for r in regions]
    positive = [bool(r.output(r.center[None])[0] > 0) for r in regions]
    other = max(range(len(regions)), key=lambda i: (positive[i], plain[i], regions[i].area))
    c = regions[other].center
    pairs = [_pair(r, c) for r in regions]
    home = max(
        (i for i in range(len(regions)) if i != other),
        key=lambda i: (not positive[i], plain[i], float(np.linalg.norm(np.diff(pairs[i], axis=0)))),
    )
    return np.array([*pairs[home], c]), (home, home, other)


def _pair(region: Region, towards: Array) -> Array:
    """Two points in a region, on the line from its center to a point outside, shape (2, 2)."""
    along = towards - region.center
    if not along.any():
        return np.array([region.center, region.center])
    back, ahead = (_reach(region, region.center, d) for d in (-along, along))
    ends: Array = region.center + np.array([[-0.7 * back], [0.6 * ahead]]) * along
    return ends


def _reach(region: Region, point: Array, direction: Array) -> float:
    """How many times a direction can be added to a point inside before the border."""
    reach = math.inf
    turn = np.array([[0, 1], [-1, 0]])
    for start, end in zip(region.vertices, np.roll(region.vertices, -1, 0), strict=True):
        normal = turn @ (end - start)
        speed = float(normal @ direction)
        distance = float(normal @ (start - point))
        if speed and distance / speed > 0:
            reach = min(reach, distance / speed)
    return reach


def walk(model: nn.Sequential, start: Array, end: Array) -> Walk:
    """What each representation says along a straight path."""
    borders = crossings(model, start, end)
    edges = [0.0, *borders, 1.0]
    inside = (np.arange(_PER_PIECE) + 0.5) / _PER_PIECE
    at = np.concatenate([a + inside * (b - a) for a, b in pairwise(edges)])
    pieces = np.repeat(np.arange(len(edges) - 1), _PER_PIECE)
    seen = represent(model, start + at[:, None] * (end - start))
    return Walk(at, borders, pieces, seen)


def measure(seen: Represented, where: Sequence[Pattern], at_origin: float) -> tuple[Measured, ...]:
    """The two properties of each representation, measured.

    Args:
        seen: what is said of many points.
        where: the activation pattern of each.
        at_origin: f at the origin.
    """
    limit = TOLERANCE * float(np.abs(seen.output).max())
    groups: dict[Pattern, list[int]] = {}
    for place, pattern in enumerate(where):
        groups.setdefault(pattern, []).append(place)
    bias_sum = sum(t.sum(1) for t in seen.bias_terms)

    def row(name: str, sums_to: str, gap: Array, numbers: Array) -> Measured:
        change = max(float(np.ptp(numbers[group], axis=0).max()) for group in groups.values())
        return Measured(name, sums_to, float(np.abs(gap).max()), change, limit)

    everything = np.concatenate([seen.gradient, *seen.bias_gradients], 1)
    difference = seen.integrated.sum(1) - (seen.output - at_origin)
    return (
        row("full-gradient", "f(x)", seen.input_term + bias_sum - seen.output, everything),
        row("input-gradient", "f(x)", seen.input_term - seen.output, seen.gradient),
        row("integrated gradients", "f(x) - f(0)", difference, seen.integrated),
    )


def theory(seed: int = 0) -> Theory:
    """Train the network, find its regions, and measure the two properties.

    Args:
        seed: of everything random.

    Raises:
        MissingDependencyError: Captum is not installed.
    """
    require("captum.attr", "baselines")
    trained = train(seed)
    model = trained.model
    regions = linear_regions(model)
    points, homes = marked_points(regions)
    random = np.random.default_rng((seed, 1))
    left, right, bottom, top = EXTENT
    samples = random.uniform((left, bottom), (right, top), (_SAMPLES, 2))
    where = patterns(model, samples)
    at_origin = float(pre_activations(model, np.zeros((1, 2)))[-1][0, 0])
    counts: dict[Pattern, int] = {}
    for pattern in where:
        counts[pattern] = counts.get(pattern, 0) + 1
    return Theory(
        seed=seed,
        trained=trained,
        regions=regions,
        names=("A", "B", "C"),
        homes=homes,
        marked=represent(model, points),
        walk=walk(model, points[0], points[2]),
        origin_output=at_origin,
        samples=_SAMPLES,
        shared=sum(count > 1 for count in counts.values()),
        measured=measure(represent(model, samples), where, at_origin),
    )
