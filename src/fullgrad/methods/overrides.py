"""Methods that replace the gradient of non-linearities, by Captum, where that is possible.

Both work on modules alone. What a model computes by functions they do not see, and would silently
treat as the plain gradient does; that is looked for and refused.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fullgrad._compat import DispatchMode
from fullgrad.axes.layouts import InputLayout
from fullgrad.engine.inputs import baseline_like, check_baseline
from fullgrad.errors import MethodError
from fullgrad.methods.captum_adapter import Explained, captum, prepare_hooks, speaking_plainly
from fullgrad.methods.gradients import NoOptions
from fullgrad.methods.positions import letters, positions_of
from fullgrad.methods.registry import Method
from fullgrad.operations.registry import overload

# Of the sum of DeepLIFT's numbers, as a share of the outputs' difference; rounding comes on top.
_TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3}
_TOLERANCE_HALF = 5e-2
_ROUNDING = 100  # times the spacing of numbers, of the sum of all sizes


class _Activations(DispatchMode):
    """Counts the activation functions on the way from the input to the output."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.relu = 0
        self.other: Counter[str] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        entry = overload(func).entry
        if entry.activation and isinstance(args[0], Tensor) and args[0].requires_grad:
            if entry.activation == "relu":
                self.relu += 1
            else:
                self.other[entry.label] += 1
        return func(*args, **(kwargs or {}))


def _refuse_changed(method: str, explained: Explained, inputs: Tensor) -> None:
    """Prepare the model for hooks, and refuse one whose output depends on working in place."""
    with torch.no_grad():
        before = explained(inputs)
        changed = prepare_hooks(explained.model)
        if changed and not torch.allclose(before, explained(inputs)):
            raise MethodError(
                f"{method} does not apply to the model: it needs activations out of place, and "
                f"the output changes without inplace=True of {', '.join(changed[:3])}"
            )


def guided_backprop(
    model: nn.Module, inputs: Tensor, target: Any, *, additional_forward_args: Any = None
) -> Tensor:
    """Guided back-propagation, of the input's shape."""
    refused = "guided_backprop does not apply to the model: it replaces the gradient of nn.ReLU "
    relus = [m for m in model.modules() if isinstance(m, nn.ReLU)]
    if not relus:
        raise MethodError(
            refused + "modules, and there are none; use another method, or the model with its "
            "ReLU as modules"
        )
    explained = Explained(model, target, additional_forward_args, len(inputs))
    _refuse_changed("guided_backprop", explained, inputs)
    calls = 0

    def count(module: nn.Module, args: Any, output: Any) -> None:
        nonlocal calls
        calls += bool(output.requires_grad)

    for relu in set(relus):
        relu.register_forward_hook(count)  # the lender removes it
    with speaking_plainly("guided_backprop"), _Activations() as seen:
        found: Tensor = captum().GuidedBackprop(explained).attribute(inputs)
    if seen.other:
        raise MethodError(
            refused + f"only, and the model also uses {', '.join(sorted(seen.other))}, which would "
            "keep the plain gradient"
        )
    if seen.relu != calls:
        raise MethodError(
            refused + f"modules only, which made {calls} of the {seen.relu} ReLU operations; the "
            "others (functional relu or clamp) would keep the plain gradient"
        )
    if calls == 0:
        raise MethodError(refused + "modules, and the model called none of its own")
    return found


@dataclass(frozen=True, slots=True)
class DeepLiftOptions:
    """What DeepLIFT compares with.

    Args:
        baseline: a number, a tensor of shape (B or 1, C, *positions), or ``"mean"``: each sample's
            mean over its positions, for each channel.

    Raises:
        ValueError: a baseline that is neither.
    """

    baseline: float | Tensor | str = 0.0

    def __post_init__(self) -> None:
        check_baseline(self.baseline, or_mean=True)


_CAUSE = (
    "DeepLIFT needs every non-linearity to be a module of its own that is called once (functional "
    "relu, GELU, products of activations, max-pools whose windows overlap or a module called twice "
    "are the likely cause)"
)


def deeplift(
    model: nn.Module,
    inputs: Tensor,
    target: Any,
    *,
    baseline: float | Tensor | str,
    additional_forward_args: Any = None,
    layout: InputLayout = None,
) -> Tensor:
    """DeepLIFT (rescale rule), of the input's shape, its sum proved."""
    explained = Explained(model, target, additional_forward_args, len(inputs))
    start = baseline_like(baseline, inputs, positions_of(letters(inputs, layout)))
    _refuse_changed("deeplift", explained, inputs)
    with speaking_plainly("deeplift"):
        try:
            found: Tensor = captum().DeepLift(explained).attribute(inputs, baselines=start)
        except RuntimeError as error:
            if "used more than once" in str(error) or "being used only once" in str(error):
                raise MethodError(f"{_CAUSE}: {error}") from error
            raise
    _prove_sum(explained, found, inputs, start)
    return found


def _prove_sum(explained: Explained, found: Tensor, inputs: Tensor, start: Tensor) -> None:
    """Refuse numbers that do not sum to the difference of the outputs.

    That is Captum's convergence delta; computed here, the outputs are available for its scale.
    """
    with torch.no_grad():
        output, before = explained(inputs), explained(start)
        numbers = found.detach().flatten(1)
        off = (numbers.sum(1) - (output - before)).abs()
        sizes = numbers.abs().sum(1) + output.abs() + before.abs()
        tolerance = _TOLERANCE.get(inputs.dtype, _TOLERANCE_HALF)
        difference = (output - before).abs()
        accepted = tolerance * difference + _ROUNDING * torch.finfo(inputs.dtype).eps * sizes
    if not bool((off <= accepted).all()):
        worst = int((off - accepted).argmax())
        raise MethodError(
            "deeplift's numbers do not sum to the difference of the outputs: off by "
            f"{float(off[worst]):.1e} of {float(difference[worst]):.1e}, where {tolerance:.0e} of "
            f"it is accepted. {_CAUSE}."
        )


METHODS = (
    Method(
        "guided_backprop",
        guided_backprop,
        options=NoOptions,
        about="The gradient at the input, with negative gradients cut off at every ReLU.",
        reference="Springenberg, Dosovitskiy, Brox & Riedmiller 2015, Striving for Simplicity",
        package="captum.attr",
    ),
    Method(
        "deeplift",
        deeplift,
        options=DeepLiftOptions,
        call_options=("layout",),
        about="The share of each input in the output's difference from a baseline, by slopes.",
        reference="Shrikumar, Greenside & Kundaje 2017, Learning Important Features (DeepLIFT)",
        package="captum.attr",
    ),
)
