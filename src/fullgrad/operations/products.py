"""Matrix products: the degree is the number of factors that depend on the input.

Axes are contracted: what was summed over is gone, rows and columns are left.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from fullgrad.axes.algebra import Axes, fresh, has_batch, neutral, samples, with_groups
from fullgrad.axes.coordinates import Group
from fullgrad.axes.reading import Reading
from fullgrad.operations._local import Local, LocalRule, of_factors, product
from fullgrad.operations._origins import OriginOf, multiplied
from fullgrad.operations.call import NO_BIAS, Bias, BiasRule, Call, Kind, explicit
from fullgrad.operations.propagation import Answer, AxesRule, Propagation
from fullgrad.operations.registry import put


def multiplied_again(call: Call, multiply: Callable[[Tensor, Tensor], Tensor]) -> tuple[Bias, ...]:
    """The bias -y of a product of two factors that both depend on the input.

    It is multiplied out when it is needed: autograd keeps the factors, not the product.
    """
    left, right = call.args[:2]
    if not (call.depends(left) and call.depends(right)):
        return NO_BIAS
    return (
        Bias(
            "implicit",
            # The smaller factor takes the sign: one pass less over the product.
            lambda a, b: multiply(-a, b) if a.numel() < b.numel() else multiply(a, -b),
            (left.detach(), right.detach()),
            samplewise=multiply is torch.mul or call.outputs[0].dim() == 3,
        ),
    )


def _product_bias(call: Call) -> tuple[Bias, ...]:
    return multiplied_again(call, torch.matmul)


def _added_bias(*names: str) -> BiasRule:
    """The rule of ``beta * c + alpha * (a @ b)``, whose arguments have these names."""

    def rule(call: Call) -> tuple[Bias, ...]:
        c, a, b = (call.get(n) for n in names)
        beta = call.get("beta", 1)
        factors = call.depends(a) + call.depends(b)
        constant = not call.depends(c)
        y = call.outputs[0]
        if factors == 1:
            if not constant:
                return NO_BIAS
            # Only a batched product takes masks along.
            return explicit(c.detach(), beta, y.shape, y.dim() > 2)
        alpha = call.get("alpha", 1)
        # All of a constant product, less a product of degree 2.
        sign = alpha if factors == 0 else -alpha
        held = (a.detach(), b.detach(), c.detach())

        def compute(left: Tensor, right: Tensor, added: Tensor) -> Tensor:
            product: Tensor = sign * (left @ right)
            return product + beta * added if constant else product

        kind: Kind = "both" if constant else "implicit"
        return (Bias(kind, compute, held, may_be_infinite=True, samplewise=y.dim() == 3),)

    return rule


def _product_axes(p: Propagation, factors: Sequence[Any]) -> Axes | None:
    """Rows of the left factor, columns of the right one; positions of one of the two.

    Of two factors with positions the rows count: a score lies where its query does. Where the
    right factor is of one window, and the rows are of none (GCViT's global queries), the window.
    """
    left, right = (p.axes_of(f) for f in factors)
    by_rows = left is not None and left.depends(left.groups[-2])
    for a, other, axis in ((left, factors[1], -1), (right, factors[0], -2)):
        if a is not None and not p.call.depends(other):  # weights
            p.bindings.readings.append(Reading(a, together=(axis,)))
    if p.lost(factors[:1] if by_rows else factors):
        return None
    shape = p.shape
    if left is not None and right is not None and _right_has_windows(left, right, shape):
        return with_groups(right, [*right.groups[:-2], fresh(shape[-2]), fresh(shape[-1])])
    rows = fresh(shape[-2]) if left is None else left.groups[-2]
    columns = fresh(shape[-1]) if right is None else right.groups[-1]
    by_columns = right is not None and (
        left is None or (right.depends(columns) and not left.depends(rows)) or samples(columns) > 1
    )
    outer = [left, right] if not by_columns else [right, left]
    batches: list[Group] = []
    for d in range(len(shape) - 2):
        groups = [a.groups[d] for a in outer if a is not None and len(a.groups) == len(shape)]
        batches.append(groups[0] if groups else fresh(shape[d]))
    if by_columns:
        rows, source = neutral(rows), right
    else:
        columns, source = neutral(columns), left
    return source and with_groups(source, [*batches, rows, columns])


def _right_has_windows(left: Axes, right: Axes, shape: Sequence[int]) -> bool:
    """Whether only the right factor's places depend on what both factors are divided along."""
    lefts, rights = left.groups[:-2], right.groups[:-2]
    return (
        right.shape[:-2] == left.shape[:-2] == tuple(shape[:-2])
        and [has_batch(g) for g in lefts] == [has_batch(g) for g in rights]
        and left.depends(left.groups[-2])
        and not any(left.depends(g) for g in lefts)
        and any(right.depends(tuple(a for a in g if not a.batch)) for g in rights)
    )


def _factors_at(start: int) -> AxesRule:
    return lambda p: _product_axes(p, p.call.args[start : start + 2])


def _balanced_sum(*names: str) -> LocalRule:
    """The rule of ``beta * c + alpha * (a @ b)`` in the balanced linearization."""

    def rule(call: Call, origin_of: OriginOf) -> Local | None:
        c, *places = (call.names.index(n) for n in names)
        transpose, c = of_factors(call, places, origin_of), call.args[c]
        if transpose is None:
            return None
        if call.depends(c):
            return Local((), transpose)
        return Local(explicit(c.detach(), call.get("beta", 1), call.outputs[0].shape), transpose)

    return rule


_plain = partial(put, bias=_product_bias, balanced=product(0, 1), origin=multiplied)
_plain(["mm", "bmm"], axes=_factors_at(0), family="homogeneous")
_plain(["mv", "dot"], family="homogeneous")
put(
    "addmm",
    _added_bias("self", "mat1", "mat2"),
    _factors_at(1),
    family="affine",
    balanced=_balanced_sum("self", "mat1", "mat2"),
    reads_input=True,
)
put(
    "baddbmm",
    _added_bias("self", "batch1", "batch2"),
    _factors_at(1),
    family="affine",
    balanced=_balanced_sum("self", "batch1", "batch2"),
    reads_input=True,
)
put(
    "addmv",
    _added_bias("self", "mat", "vec"),
    family="affine",
    balanced=_balanced_sum("self", "mat", "vec"),
    reads_input=True,
)


def _linear_layer(p: Propagation) -> Answer:
    axes = p.first()
    if axes is None:
        return None
    p.bindings.readings.append(Reading(axes, together=(-1,)))
    return with_groups(axes, [*axes.groups[:-1], fresh(p.shape[-1])])


put("linear", axes=_linear_layer, family="affine")  # only some devices have it as one operation
