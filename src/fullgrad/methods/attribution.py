"""One call for every saliency method: from a model and an input to a map."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import fields
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypedDict, overload

import torch
from torch import Tensor, nn

from fullgrad._optional import require
from fullgrad.axes.layouts import ActivationLayouts, InputLayout
from fullgrad.axes.spread import MassPlacement
from fullgrad.engine.inputs import failures_named
from fullgrad.engine.lending import as_tuple, lent, own
from fullgrad.engine.module_path import watched
from fullgrad.engine.request import Detached, Mode, ModelOptions, Request
from fullgrad.engine.targets import Target, predicts, select
from fullgrad.engine.wrappers import unwrap
from fullgrad.errors import MethodError, TargetError
from fullgrad.maps.aggregation import Psi
from fullgrad.maps.minibatches import BatchSize, in_minibatches
from fullgrad.maps.selection import Terms
from fullgrad.methods.positions import channels_first, letters, require_known_axes
from fullgrad.methods.registry import Method, resolved

if TYPE_CHECKING:
    from typing_extensions import Unpack

EXTRA = "baselines"


class FamilyOptions(ModelOptions, total=False):
    """The options of FullGrad and Simple FullGrad in :func:`attribute`."""

    signed: bool
    additional_forward_args: Any
    batch_size: BatchSize
    memory: int | None
    psi: Psi | None
    terms: Terms


class SmoothOptions(FamilyOptions, total=False):
    """The options of Smooth FullGrad in :func:`attribute`."""

    samples: int
    scale: float
    seed: int


class CompleteOptions(TypedDict, total=False):
    """The options of the complete map in :func:`attribute`."""

    signed: bool
    additional_forward_args: Any
    batch_size: BatchSize
    memory: int | None
    placement: MassPlacement
    terms: Terms
    forward_kwargs: Mapping[str, Any] | None
    mode: Mode
    detached: Detached
    tolerance: float | None
    layout: InputLayout
    activation_layouts: ActivationLayouts | None


@overload
def attribute(
    method: Literal["fullgrad", "simple_fullgrad"],
    model: nn.Module,
    inputs: Tensor,
    target: Target = None,
    **options: Unpack[FamilyOptions],
) -> Tensor: ...
@overload
def attribute(
    method: Literal["smooth_fullgrad"],
    model: nn.Module,
    inputs: Tensor,
    target: Target = None,
    **options: Unpack[SmoothOptions],
) -> Tensor: ...
@overload
def attribute(
    method: Literal["complete_fullgrad"],
    model: nn.Module,
    inputs: Tensor,
    target: Target = None,
    **options: Unpack[CompleteOptions],
) -> Tensor: ...
@overload
def attribute(
    method: str | Method | Callable[..., Tensor],
    model: nn.Module,
    inputs: Tensor,
    target: Target = None,
    *,
    signed: bool = False,
    additional_forward_args: Any = None,
    batch_size: BatchSize = None,
    layout: InputLayout = None,
    **options: Any,
) -> Tensor: ...
def attribute(
    method: str | Method | Callable[..., Tensor],
    model: nn.Module,
    inputs: Tensor,
    target: Target = None,
    *,
    signed: bool = False,
    additional_forward_args: Any = None,
    batch_size: BatchSize = None,
    layout: InputLayout = None,
    **options: Any,
) -> Tensor:
    """The saliency map of any method.

    The model is lent in evaluation mode and given back as it was, after failures too; the random
    state is unchanged and two calls give equal maps.

    A user's function is called as ``f(model, inputs, target, **options)``, with
    ``additional_forward_args=`` where there are any, and ``layout=`` if it takes it. It is given a
    copy of the inputs, and as target one class per sample, shape (B,), int64, where there are
    classes (else the target as it was passed). It returns numbers of the inputs' shape, of shape
    (B, 1, *positions) or (B, *positions).

    Args:
        method: a registered name, a :class:`Method`, or a function as above.
        model: any ``nn.Module``.
        inputs: shape (B, C, *positions) with 1 to 3 spatial axes, or as ``layout`` says.
        target: a class, one class per sample, a callable from the model's output to shape (B,),
            such as those of :mod:`fullgrad.targets`, or None for the class that is predicted for
            the input itself; see :func:`fullgrad.decompose`.
        signed: the sum over channels of the numbers themselves; otherwise of their sizes.
            FullGrad's maps sum over layers as well, so theirs are those of ``psi="signed"``.
            ``complete_fullgrad`` keeps its signs either way: sizes would sum to nothing.
        additional_forward_args: a value or tuple passed to the model after the inputs.
        batch_size: how many samples go through the model together; None for all. Tensors among
            additional arguments and options whose first size is B are cut too. FullGrad and its
            variants also take ``"auto"``, with ``memory``.
        layout: what the inputs' axes hold, one letter for each, as in ``"BTC"``: B samples, C
            channels, other letters positions. Numbers are summed over C alone, and the map's axes
            are the positions in this order. None reads (B, C, *positions) where the shape or the
            model's first layer (a convolution, a pool, a dense or recurrent one) says so, and is
            refused elsewhere: a series may as well be (B, T, C).
        **options: of the method; ``fullgrad.methods.get(name).options`` has the defaults. FullGrad
            and its variants also take ``forward_kwargs``, ``mode``, ``per_sample``, ``detached``,
            ``tolerance`` and ``memory``, as :func:`fullgrad.saliency` does.

    Returns:
        Shape (B, 1, *positions), on the inputs' device, outside any graph.

    Raises:
        ValueError: an unknown method, or a value that an option cannot have.
        OptionError: an option that the method does not have; a ``TypeError``.
        MethodError: the method does not apply to the model, or returned no map.
        MissingDependencyError: the method needs a package that is not installed.
        FullGradError: as :func:`fullgrad.decompose`.

    Example:
        >>> import torch
        >>> from fullgrad import methods
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 2, 3), torch.nn.Flatten())
        >>> methods.attribute("fullgrad", model, torch.ones(1, 3, 8, 8), 0, psi="channel").shape
        torch.Size([1, 1, 8, 8])
    """
    chosen = resolved(method)
    options = options if layout is None else options | {"layout": layout}
    of_call = {k: v for k, v in options.items() if k in chosen.call_options}
    settings = chosen.settings(
        {
            k: v
            for k, v in options.items()
            if k in chosen.takes or (k not in of_call and k != "layout")
        }
    )
    if signed not in (True, False):
        raise ValueError(f"signed must be True or False, not {signed!r}")
    if signed:
        chosen.require_sign(settings)
    whole = batch_size is None or "memory" in chosen.call_options
    if not whole and (type(batch_size) is not int or batch_size < 1):
        raise ValueError(f"batch_size must be a positive integer or None, not {batch_size!r}")
    if chosen.package is not None:
        require(chosen.package, EXTRA)
    axes = letters(inputs, layout)
    values = of_call | {f.name: getattr(settings, f.name) for f in fields(settings)}
    samples = axes.index("B")
    if samples and not chosen.direct:
        raise MethodError(
            f"method {chosen.name!r} needs the samples first, not layout={layout!r}; FullGrad and "
            "its variants take them anywhere"
        )
    target = indices(target, inputs, samples)
    if "memory" not in chosen.call_options:  # FullGrad and its variants see for themselves
        assert batch_size != "auto"
        require_known_axes(model, inputs, additional_forward_args, layout, batch_size)
    if chosen.direct:
        if layout is not None and "layout" not in values:
            raise MethodError(
                f"method {chosen.name!r} makes its maps itself and does not take layout: give its "
                "function a keyword of that name"
            )
        found = chosen.function(
            model,
            inputs,
            target,
            signed=signed,
            batch_size=batch_size,
            additional_forward_args=additional_forward_args,
            **values,
        )
        shape = (inputs.shape[samples], 1, *channels_first(inputs, axes).shape[2:])
        if shape[:1] + shape[2:] == found.shape[:1] + found.shape[2:] and found.shape[1] > 1:
            raise TargetError(
                f"attribute() explains one target for each sample, not {found.shape[1]}: "
                "fullgrad.saliency() and fullgrad.complete_map() explain several at once"
            )
        if tuple(found.shape) != shape:
            raise MethodError(
                f"method {chosen.name!r} returned shape {tuple(found.shape)}, not {shape}"
            )
        return _finite(chosen.name, found).to(inputs.device)
    if additional_forward_args is not None and not _takes_extra(chosen.function):
        raise MethodError(
            f"method {chosen.name!r} does not take additional_forward_args: give its function a "
            "keyword of that name"
        )
    request = Request(unwrap(model), inputs, target, additional_forward_args, values)
    run = partial(_map, method=chosen, signed=signed, axes=axes)
    (found,) = in_minibatches(request, run, batch_size, None)
    return found


def indices(target: Any, inputs: Tensor, axis: int = 0) -> Any:
    """A target that holds one class per sample as a tensor of shape (B,); any other as it is.

    Raises:
        TargetError: classes for another number of samples, or negative ones.
    """
    rows = target
    if hasattr(target, "tolist"):
        if getattr(target, "dtype", None) == torch.bool or target.ndim > 1:
            return target
        rows = target.tolist()
    if isinstance(rows, int) and not isinstance(rows, bool):
        rows = [rows] * inputs.shape[axis]
    if not isinstance(rows, list) or not all(_is_class(r) for r in rows):
        return target
    if len(rows) != inputs.shape[axis]:
        raise TargetError(f"{len(rows)} targets for a batch of {inputs.shape[axis]}")
    if any(int(r) < 0 for r in rows):
        raise TargetError(f"a target must not be negative: {min(int(r) for r in rows)}")
    return torch.tensor([int(r) for r in rows], device=inputs.device, dtype=torch.long)


def _is_class(value: Any) -> bool:
    if isinstance(value, Tensor):
        return value.dim() == 0 and not value.is_floating_point() and value.dtype != torch.bool
    return hasattr(value, "__index__") and not isinstance(value, bool)


def _takes_extra(function: Callable[..., Any]) -> bool:
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):
        return True
    return "additional_forward_args" in parameters or any(
        p.kind is p.VAR_KEYWORD for p in parameters.values()
    )


def predicted(model: nn.Module, inputs: Tensor, target: Any, extra: Any) -> Any:
    """A target in which predicted classes are those of these inputs; any other as it is."""
    if not predicts(target):
        return target
    with lent(model), watched(model, target), torch.no_grad(), failures_named(inputs):
        return select(model(own(inputs), *as_tuple(own(extra))), target).target


def _map(part: Request, method: Method, signed: bool, axes: str) -> tuple[Tensor]:
    """The map of one minibatch."""
    x = part.inputs
    assert isinstance(x, Tensor)
    extra = part.additional_forward_args
    target = predicted(part.model, x, part.target, extra)
    options = dict(part.forward_kwargs or {})
    if extra is not None:
        options["additional_forward_args"] = own(extra)
    with lent(part.model), watched(part.model, target):
        found = method.function(part.model, own(x), target, **options)
    return (reduced(method.name, found, x, signed, axes),)


def _finite(name: str, found: Tensor) -> Tensor:
    if not bool(torch.isfinite(found).all()):
        raise MethodError(f"method {name!r} returned NaN or infinite values")
    return found


def reduced(name: str, found: Any, x: Tensor, signed: bool, axes: str) -> Tensor:
    """What a method returned as a map of shape (B, 1, *positions).

    Args:
        name: of the method.
        found: what it returned.
        x: the inputs.
        signed: whether numbers keep their sign in the sum over channels.
        axes: the letters of the inputs' axes.

    Raises:
        MethodError: it is no finite floating tensor of an accepted shape.
    """
    if not isinstance(found, Tensor) or not found.is_floating_point():
        what = f"a {found.dtype} tensor" if isinstance(found, Tensor) else type(found).__name__
        raise MethodError(f"method {name!r} must return a floating tensor, not {what}")
    positions = channels_first(x, axes).shape[2:]
    accepted = (tuple(x.shape), (len(x), 1, *positions), (len(x), *positions))
    if tuple(found.shape) not in accepted:
        raise MethodError(
            f"method {name!r} returned shape {tuple(found.shape)} for an input of shape "
            f"{tuple(x.shape)}; accepted: {', '.join(map(str, dict.fromkeys(accepted)))}. State "
            "with layout= which of the input's axes are channels, if they are not as here: "
            f"{axes!r}"
        )
    found = _finite(name, found.detach())
    with torch.inference_mode(False), torch.no_grad():
        if found.shape == x.shape:
            found = channels_first(found, axes)
        elif found.dim() == len(positions) + 1:
            found = found.unsqueeze(1)
        total: Tensor = (found if signed else found.abs()).sum(1, keepdim=True).to(x.device)
    return total
