"""A large input read window by window: the sum over windows with their weights, exactly.

The output at a place is the mean of the windows that cover it, each with its weight there:
y(p) = Σ w_i(p) y_i(p) / Σ w_i(p). A weighted sum of such numbers is a sum over windows, so each is
explained alone, and memory is that of one window.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypedDict

import torch
from torch import Tensor, nn

from fullgrad._options import takes_options
from fullgrad.axes.layouts import ActivationLayouts
from fullgrad.axes.spread import MassPlacement
from fullgrad.engine.inputs import check
from fullgrad.engine.request import Detached, Mode
from fullgrad.engine.targets import main_tensor
from fullgrad.errors import InputError, OptionError, TargetError
from fullgrad.maps.complete import CompleteMap, complete_map
from fullgrad.operations.linearization import Linearization, Named

if TYPE_CHECKING:
    from typing_extensions import Unpack

Weights: TypeAlias = 'Literal["constant", "gaussian"] | Tensor'
_ALL = slice(None)
_SIGMA, _LEAST = 0.125, 1e-3  # of a Gaussian window: of its size, and the smallest weight


class WindowOptions(TypedDict, total=False):
    """Options of :func:`window_map`, as for ``complete_map``."""

    placement: MassPlacement
    mode: Mode
    detached: Detached
    tolerance: float | None
    activation_layouts: ActivationLayouts | None
    linearization: Named | Linearization


@takes_options("maps.windows.window_map", WindowOptions)
def window_map(
    model: nn.Module,
    inputs: Tensor,
    region: Tensor,
    *,
    size: int | Sequence[int],
    overlap: float = 0.25,
    weights: Weights = "constant",
    **options: Unpack[WindowOptions],
) -> CompleteMap:
    """The complete map of a dense output that is put together from windows.

    It is the map of the whole computation, such as MONAI's ``sliding_window_inference``, of which
    only one window is in memory at a time.

    Args:
        model: from a window, shape (1, C, *size), to an output of shape (1, K, *size).
        inputs: one image or volume, shape (1, C, *positions).
        region: what is explained: the sum of the output times these numbers, shape
            (K, *positions); for a class in a mask zeros, and the mask in the class' place.
        size: of a window, one number for all axes or one for each.
        overlap: the part of a window that the next one shares at least, from 0 to below 1.
        weights: of a window's places in the mean: ``"constant"``; ``"gaussian"``: standard
            deviations of an eighth of the window, at least 0.001; or numbers of shape size.
        **options: of :func:`fullgrad.complete_map`.

    Returns:
        The map, of the input's positions; its sum, with what lies elsewhere, is the output's.

    Raises:
        InputError: windows, weights or a region that do not fit.
        TargetError: an output that is not of a window's size, or no window is read.
        FullGradError: as :func:`fullgrad.complete_map`.

    Example:
        >>> import torch
        >>> from fullgrad.maps.windows import window_map
        >>> model = torch.nn.Conv2d(1, 2, 3, padding=1)
        >>> region = torch.zeros(2, 8, 12)
        >>> region[1, 3, 5] = 1
        >>> found = window_map(model, torch.ones(1, 1, 8, 12), region, size=6)
        >>> found.map.shape, len(found.output)
        (torch.Size([1, 1, 8, 12]), 1)
    """
    check(inputs)
    positions = tuple(inputs.shape[2:])
    sizes = _sizes(size, positions)
    if inputs.dim() < 3 or len(inputs) != 1:
        raise InputError(
            f"inputs must have shape (1, C, *positions), not {tuple(inputs.shape)}: explain one "
            "image or volume in each call"
        )
    if region.shape[1:] != positions:
        raise InputError(f"region must have shape (K, *{positions}), not {tuple(region.shape)}")
    if not 0 <= overlap < 1:
        raise OptionError(f"overlap must be from 0 to below 1, not {overlap!r}")
    layout = "BCXYZ"[: inputs.dim()]
    weight = _weights(weights, sizes, inputs)
    cuts = _windows(positions, sizes, overlap)
    total = torch.zeros(positions, dtype=weight.dtype, device=weight.device)
    for cut in cuts:
        total[cut] += weight
    found = _Together(inputs)
    share = region.to(inputs.device, weight.dtype)
    for cut in cuts:
        classes, window = (_ALL, *cut), (_ALL, _ALL, *cut)
        factor = share[classes] * weight / total[cut]
        if bool((factor != 0).any()):
            target = _Sum(factor)
            part = complete_map(model, inputs[window], target, layout=layout, **options)
            found.add(window, part)
    return found.result()


class _Sum:
    """A target: the sum of a window's output times some numbers."""

    def __init__(self, factor: Tensor) -> None:
        self._factor = factor

    def __call__(self, output: Any) -> Tensor:
        tensor, _ = main_tensor(output)
        if tensor.shape[1:] != self._factor.shape:
            raise TargetError(
                f"the model must return shape (1, *{tuple(self._factor.shape)}) for a window, the "
                f"region's classes and the window's places, not {tuple(tensor.shape)}"
            )
        return (tensor * self._factor.to(tensor.dtype)).flatten(1).sum(1)

    def __str__(self) -> str:
        return "the sum over a region"


class _Together:
    """The maps of windows, added up."""

    def __init__(self, inputs: Tensor) -> None:
        shape = (1, 1, *inputs.shape[2:])
        self._map = torch.zeros(shape, dtype=torch.float64, device=inputs.device)
        self._parts: list[CompleteMap] = []

    def add(self, window: tuple[slice, ...], part: CompleteMap) -> None:
        self._map[window] += part.map
        self._parts.append(part)

    def result(self) -> CompleteMap:
        if not self._parts:
            raise TargetError("the region is zero everywhere: there is nothing to explain")
        first = self._parts[0]
        stages: dict[str, Tensor] = {}
        for part in self._parts:
            for name, value in part.elsewhere_by_stage.items():
                stages[name] = stages.get(name, torch.zeros_like(value)) + value
        return CompleteMap(
            map=self._map.to(first.map.dtype),
            elsewhere=sum((p.elsewhere for p in self._parts), torch.zeros_like(first.elsewhere)),
            elsewhere_by_stage=stages,
            output=sum((p.output for p in self._parts), torch.zeros_like(first.output)),
            residual=sum((p.residual for p in self._parts), torch.zeros_like(first.residual)),
            target=None,
            input_names=first.input_names,
            steps=first.steps,
            linearization=first.linearization,
            zero=first.zero,
        )


def _sizes(size: int | Sequence[int], positions: Sequence[int]) -> tuple[int, ...]:
    sizes = (size,) * len(positions) if isinstance(size, int) else tuple(size)
    if len(sizes) != len(positions) or any(
        type(n) is not int or not 0 < n <= whole for n, whole in zip(sizes, positions, strict=False)
    ):
        raise InputError(
            f"a window must have {len(positions)} sizes, each from 1 to the input's "
            f"{' x '.join(map(str, positions))}, not {size!r}; pad smaller inputs first"
        )
    return sizes


def _weights(weights: Weights, sizes: tuple[int, ...], like: Tensor) -> Tensor:
    if isinstance(weights, Tensor):
        if weights.shape != sizes or not bool((weights > 0).all()):
            raise InputError(f"weights must be positive numbers of shape {sizes}")
        return weights.to(like.device, torch.float64)
    if weights not in ("constant", "gaussian"):
        raise OptionError(f"weights must be 'constant', 'gaussian' or a tensor, not {weights!r}")
    found = torch.ones(sizes, dtype=torch.float64, device=like.device)
    if weights == "gaussian":
        for d, n in enumerate(sizes):
            away = torch.arange(n, dtype=torch.float64, device=like.device) - (n - 1) / 2
            bell = torch.exp(-(away**2) / (2 * (_SIGMA * n) ** 2))
            found = found * bell.view([-1 if i == d else 1 for i in range(len(sizes))])
        found = found.clamp(min=max(float(found.min()), _LEAST))
    return found


def _windows(
    positions: Sequence[int], sizes: Sequence[int], overlap: float
) -> list[tuple[slice, ...]]:
    """Where the windows lie; the last along each axis ends with it."""
    starts = []
    for whole, n in zip(positions, sizes, strict=True):
        step = n if n == whole else max(int(n * (1 - overlap)), 1)
        count = math.ceil((whole - n) / step) + 1
        starts.append([min(i * step, whole - n) for i in range(count)])
    return [
        tuple(slice(s, s + n) for s, n in zip(corner, sizes, strict=True))
        for corner in itertools.product(*starts)
    ]
