"""FullGrad+: input times gradient at every block, and explicit biases, with their signs.

The definition implemented here is, at each position p of the input's grid,

    S(p) = sum over blocks l, channels c of (df/dx_l * x_l)(c, p)
         + sum over explicit biases b, channels c of (df/db * b)(c, p)

with x_l the activation that block l is given, and b what convolutions, dense layers, sums with
constants (positional embeddings) and batch norms in evaluation mode add, and the shift of other
norms. Nothing is rescaled and no sign is dropped; implicit biases and the network's own input have
no part, nor has what has no place in the input, such as a class token. That is FullGrad+ as signed
sums over blocks of input times gradient and explicit biases; the paper's repaired gradients are
not part of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fullgrad.axes.layouts import ActivationLayouts, InputLayout
from fullgrad.engine.backward import bias_of, product, run, widen
from fullgrad.engine.tape import Entry
from fullgrad.errors import MethodError
from fullgrad.maps.aggregation import Aggregate, reduced
from fullgrad.methods.activations import Activation, Recording, gradients
from fullgrad.methods.registry import Method, unlike
from fullgrad.operations import Bias

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
        if g is None or a.value is None:
            continue
        placement = recording.place(a)
        if placement is not None:
            term = widen(g) * widen(a.value)
            total.add(reduced(term, placement, "signed"), placement.cells)
    if total.map() is None:
        raise MethodError(
            "fullgrad_plus: no block is given an activation with positions of the input's grid: "
            "name others with blocks="
        )
    _add_biases(recording, output, total)
    found = total.map()
    assert found is not None
    return found


def _add_biases(recording: Recording, output: Tensor, total: Aggregate) -> None:
    """Count every explicit bias that has a place, times its gradient."""
    tape = recording.recorder.tape
    biases: dict[int, Tensor] = {}
    kept: list[Entry] = []
    for entry in tape.entries:
        bias = _explicit(entry)
        if bias is not None:
            biases[len(kept)] = bias
            kept.append(entry)
    tape.entries = kept

    def receive(place: int, entry: Entry, gradient: Tensor) -> None:
        placement = recording.placed(entry.module, entry.shape, entry.axes)
        if placement is not None:
            term = product(widen(gradient), biases.pop(place), entry.bias.may_be_infinite)
            total.add(reduced(term, placement, "signed"), placement.cells)

    run(tape, output, [recording.leaf], torch.ones_like(output), receive)


def _explicit(entry: Entry) -> Tensor | None:
    """The constant that an operation adds; None if it adds none.

    Raises:
        MethodError: it adds one to a product of two activations, which is not taken apart.
    """
    bias = entry.bias
    if not isinstance(bias, Bias) or bias.kind == "implicit":
        return None
    evaluated = "batch_norm" in entry.op and entry.held[0].dim() == 1
    if bias.kind == "explicit" or evaluated:
        return bias_of(entry)
    if "norm" not in entry.op:
        raise MethodError(
            f"fullgrad_plus: {entry.op} in {entry.module or 'the model'} adds a constant to a "
            "product of two activations; use method='fullgrad'"
        )
    beta = widen(entry.held[-1])  # a norm's last argument
    if "layer_norm" in entry.op:
        return beta
    return beta.view(1, -1, *[1] * (len(entry.shape) - 2))


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
