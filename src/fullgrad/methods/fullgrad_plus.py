"""FullGrad+: input times gradient at every block, and explicit biases, with their signs.

The definition implemented here is, at each position p of the input's grid,

    S(p) = sum over blocks l, channels c of (df/dx_l * x_l)(c, p)
         + sum over explicit biases b, channels c of (df/db * b)(c, p)

with x_l the activation that block l is given. Nothing is rescaled and no sign is dropped; implicit
biases and the network's own input have no part. It follows the description of FullGrad+ as signed
sums over blocks of input times gradient and explicit biases; what the paper does beyond that (its
repaired gradients) is not part of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from fullgrad.axes.layouts import ActivationLayouts, InputLayout
from fullgrad.axes.placement import placement_of
from fullgrad.engine.backward import widen
from fullgrad.errors import MethodError
from fullgrad.maps.aggregation import Aggregate, reduced
from fullgrad.maps.saliency import saliency
from fullgrad.methods.activations import Activation, Recording, gradients
from fullgrad.methods.registry import Method, unlike

_CONTAINERS = (nn.Sequential, nn.ModuleList)


@dataclass(frozen=True, slots=True)
class FullGradPlusOptions:
    """What counts as a block.

    Args:
        blocks: path of a module, or several, as ``model.named_modules()`` calls them; None for
            those of :func:`blocks_of`.
        activation_layouts: layouts of activations that axis propagation cannot follow; see
            :func:`fullgrad.saliency`.

    Raises:
        ValueError: blocks that are no paths, or none.
    """

    blocks: str | Sequence[str] | None = None
    activation_layouts: ActivationLayouts | None = None

    def __post_init__(self) -> None:
        given = self.blocks
        if given is None or isinstance(given, str):
            return
        listed = isinstance(given, (list, tuple)) and all(isinstance(b, str) for b in given)
        if not listed or not given:
            raise ValueError(f"blocks must be modules' paths or None, not {given!r}")


def blocks_of(model: nn.Module) -> list[str]:
    """The paths of a model's blocks.

    A block is a member of an ``nn.Sequential`` or ``nn.ModuleList`` that has parts of its own and
    is no such list itself. Where several members of one class stand inside it (a stage), these are
    the blocks.

    Example:
        >>> import torchvision
        >>> blocks_of(torchvision.models.resnet18())[:3]
        ['layer1.0', 'layer1.1', 'layer2.0']
    """
    return [path for path, _ in _blocks("", model, False)]


def _blocks(path: str, module: nn.Module, listed: bool) -> Iterator[tuple[str, type]]:
    is_list = isinstance(module, _CONTAINERS)
    inside = [
        found
        for name, child in module.named_children()
        for found in _blocks(f"{path}.{name}" if path else name, child, is_list)
    ]
    if listed and not is_list and next(module.children(), None) is not None:
        most = Counter(kind for _, kind in inside).most_common(1)
        if not most or most[0][1] < 2:
            yield path, type(module)
            return
    yield from inside


def fullgrad_plus(
    model: nn.Module,
    inputs: Tensor,
    target: Any,
    *,
    blocks: str | Sequence[str] | None,
    additional_forward_args: Any = None,
    layout: InputLayout = None,
    activation_layouts: ActivationLayouts | None = None,
) -> Tensor:
    """The signed map of block inputs and explicit biases, shape (B, 1, *positions)."""
    paths = [blocks] if isinstance(blocks, str) else blocks
    modules = {path: module for path, module in model.named_modules() if path}
    for path in paths or ():
        if path not in modules:
            raise MethodError(
                f"fullgrad_plus: the model has no block {path!r}; {unlike(path, [*modules])}"
            )
    paths = blocks_of(model) if paths is None else paths
    if not paths:
        raise MethodError(
            "fullgrad_plus found no blocks (members of an nn.Sequential or nn.ModuleList that "
            "have parts of their own): name them, as in blocks=('layer1', 'layer2')"
        )
    extra = additional_forward_args
    recording = Recording("fullgrad_plus", model, inputs, extra, layout, activation_layouts)
    noted: list[Activation] = []
    for path in paths:
        modules[path].register_forward_hook(  # the lender removes it
            recording.noted(noted, path, values=True, given=True)
        )
    output = recording.run(target)
    called = {a.path for a in noted}
    missed = [p for p in paths if p not in called]
    if blocks is not None and missed:
        raise MethodError(
            f"fullgrad_plus: {missed[0]} is not called with a tensor that depends on the input"
        )
    total = Aggregate(recording.grid.sizes)
    for a, g in zip(noted, gradients(output, noted), strict=True):
        placement = None if g is None else recording.place(a)
        if placement is not None and a.value is not None:
            term = widen(g) * widen(a.value)
            total.add(reduced(term, placement, "signed"), placement.cells)
    found = total.map()
    if found is None:
        raise MethodError(
            "fullgrad_plus: no block is given an activation with positions of the input's grid: "
            "name others with blocks="
        )
    if not _biases_with_a_place(recording):
        return found
    return found + saliency(
        model,
        inputs,
        target,
        psi="signed",
        terms="explicit",
        additional_forward_args=extra,
        layout=layout,
        activation_layouts=activation_layouts,
    )


def _biases_with_a_place(recording: Recording) -> bool:
    """Whether an explicit bias lies on the grid, or may."""
    for entry in recording.recorder.tape.entries:
        if getattr(entry.bias, "kind", None) != "explicit":
            continue
        axes = recording.known(entry.axes)
        if axes is None and len(entry.shape) > 2:
            return True
        try:
            if axes is not None and placement_of(axes, recording.batch) is not None:
                return True
        except ValueError:
            return True
    return False


METHODS = (
    Method(
        "fullgrad_plus",
        fullgrad_plus,
        options=FullGradPlusOptions,
        call_options=("layout",),
        about="Every block's input times its gradient and every explicit bias times its gradient.",
        reference="Mehri, Soleymani Baghshah & Pilehvar 2025, LibraGrad",
    ),
)
