"""Grad-CAM, by Captum, and the choice of its layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fullgrad.axes.layouts import InputLayout
from fullgrad.engine.lending import lent
from fullgrad.errors import MethodError
from fullgrad.methods.captum_adapter import Explained, captum, speaking_plainly
from fullgrad.methods.positions import channels_first, letters
from fullgrad.methods.registry import Method, unlike

_CHANNELS_FIRST = (
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.BatchNorm3d,
    nn.GroupNorm,
)
_MODES = {1: "linear", 2: "bilinear", 3: "trilinear"}


@dataclass(frozen=True, slots=True)
class GradCamOptions:
    """Where Grad-CAM looks.

    Args:
        layer: path of the module whose output is weighted, as ``model.named_modules()`` calls it;
            None for the last one whose output has channels and positions.
        relu: keep positive numbers only, as in the paper.

    Raises:
        ValueError: values of other types.
    """

    layer: str | None = None
    relu: bool = True

    def __post_init__(self) -> None:
        if not (self.layer is None or isinstance(self.layer, str)):
            raise ValueError(f"layer must be a module's path or None, not {self.layer!r}")
        if not isinstance(self.relu, bool):
            raise ValueError(f"relu must be True or False, not {self.relu!r}")  # noqa: TRY004


def _channels_last(module: nn.Module, output: Tensor) -> bool:
    """Whether a module is known to put the channels into the last axis.

    Layer-norms of classes derived from PyTorch's may move the axes they normalise.
    """
    if isinstance(module, nn.LayerNorm):
        return output.shape[-1] == module.normalized_shape[-1]
    return isinstance(module, (nn.Linear, nn.Embedding, nn.TransformerEncoderLayer))


@dataclass(frozen=True, slots=True)
class _Grid:
    """The input's grid, of which layers hold a coarser one.

    Args:
        count: number of samples.
        sizes: of the axes of positions.
        first: whether the input's channels come before its positions.
    """

    count: int
    sizes: torch.Size
    first: bool

    def holds(self, module: nn.Module, output: Tensor) -> bool:
        """Whether an output may be (samples, channels, positions) of the grid, made coarser.

        All axes of a grid are coarser by about one factor; channels in the place of rows are not.
        Where the input has its channels elsewhere, an output that could be laid out in that way
        as well is left alone, unless the module is known to put channels first.
        """
        shape = output.shape
        if len(shape) != len(self.sizes) + 2 or shape[0] != self.count:
            return False
        sure = self.first or isinstance(module, _CHANNELS_FIRST)
        return self._coarser(shape[2:]) and (sure or not self._coarser(shape[1:-1]))

    def _coarser(self, positions: torch.Size) -> bool:
        if positions.numel() <= 1:
            return False
        factors = [(n + 1) / (part + 1) for n, part in zip(self.sizes, positions, strict=True)]
        return max(factors) <= 2.5 * min(factors) and (self.first or min(factors) >= 0.9)


def _grid(x: Tensor, layout: InputLayout) -> _Grid:
    axes = letters(x, layout)
    first = axes[1] == "C" or "C" not in axes
    return _Grid(len(x), channels_first(x, axes).shape[2:], first)


def last_grid(model: nn.Module, explained: nn.Module, x: Tensor, layout: InputLayout = None) -> str:
    """The path of the last module to finish whose output has channels and positions.

    Where several modules end with the same tensor, that is the outermost of them. The model
    itself is left out.

    Raises:
        MethodError: there is none, or what follows holds positions in another way.
    """
    whole = _grid(x, layout)
    finished: list[tuple[str, bool]] = []
    rows: list[Tensor] = []

    def watch(path: str) -> Any:
        def finish(module: nn.Module, args: Any, output: Any) -> None:
            if not isinstance(output, Tensor) or output.dim() < 3 or output.shape[0] != len(x):
                return
            if _channels_last(module, output) or any(output is r for r in rows):
                rows.append(output)
                if output.shape[1:-1].numel() > 1:
                    finished.append((path, False))
            elif whole.holds(module, output):
                finished.append((path, True))
            elif output.shape[1:-1].numel() > 1 and output.shape[2:].numel() > 1:
                finished.append((path, False))

        return finish

    with lent(model), torch.no_grad():
        for path, module in model.named_modules():
            if path:
                module.register_forward_hook(watch(path))  # the lender removes it
        explained(x)
    if not finished or not any(grid for _, grid in finished):
        raise MethodError(
            "grad_cam found no module whose output has channels and positions of the input's "
            "grid: give layer="
        )
    path, grid = finished[-1]
    if not grid:
        last = next(p for p, is_grid in reversed(finished) if is_grid)
        raise MethodError(
            f"grad_cam found no layer by itself: {path} follows the last one with channels and "
            f"positions ({last}), and its output is laid out as tokens, or with channels last: "
            "give layer="
        )
    return path


def grad_cam(
    model: nn.Module,
    inputs: Tensor,
    target: Any,
    *,
    layer: str | None,
    relu: bool,
    additional_forward_args: Any = None,
    layout: InputLayout = None,
) -> Tensor:
    """The map of one layer, upsampled, shape (B, 1, *positions)."""
    explained = Explained(model, target, additional_forward_args, len(inputs))
    whole = _grid(inputs, layout)
    modules = {path: module for path, module in model.named_modules() if path}
    path = last_grid(model, explained, inputs, layout) if layer is None else layer
    if path not in modules:
        raise MethodError(f"grad_cam: the model has no layer {path!r}; {unlike(path, [*modules])}")
    outputs: list[tuple[Any, bool]] = []

    def note(module: nn.Module, args: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            outputs.append((tuple(output.shape), whole.holds(module, output)))
        else:
            outputs.append((type(output).__name__, False))

    modules[path].register_forward_hook(note)  # the lender removes it
    explained(inputs)
    if len(outputs) != 1:
        raise MethodError(
            f"grad_cam needs a layer that is called once; {path} is called {len(outputs)} times"
        )
    what, fits = outputs[0]
    if not fits:
        unsure = (
            "" if whole.first else ", which may be laid out as the input is: take a convolution"
        )
        raise MethodError(
            f"grad_cam needs a layer whose output has shape (batch, channels, positions...) and "
            f"more than one position; {path} returns {what}{unsure}"
        )
    attr = captum()
    with speaking_plainly("grad_cam"):
        coarse = attr.LayerGradCam(explained, modules[path]).attribute(
            inputs, relu_attributions=relu
        )
    found: Tensor = attr.LayerAttribution.interpolate(
        coarse.detach(), tuple(whole.sizes), interpolate_mode=_MODES[len(whole.sizes)]
    )
    return found


def _has_sign(options: GradCamOptions) -> bool:
    return not options.relu


METHODS = (
    Method(
        "grad_cam",
        grad_cam,
        options=GradCamOptions,
        signed=_has_sign,
        call_options=("layout",),
        about="The channels of one layer, weighted by their mean gradient, summed and upsampled.",
        reference="Selvaraju, Cogswell, Das, Vedantam, Parikh & Batra 2017, Grad-CAM",
        package="captum.attr",
    ),
)
