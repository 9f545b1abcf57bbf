"""Matrix products, attention, Fourier transforms: axes are contracted and made anew."""

from __future__ import annotations

from fullgrad.axes.algebra import Axes, fresh, neutral, with_groups
from fullgrad.axes.coordinates import Group
from fullgrad.operations.propagation.operation import Answer, Operation, dims_of, placed, rule


def _product(left: Axes | None, right: Axes | None, shape: tuple[int, ...]) -> Axes | None:
    """Rows of the left factor, columns of the right one; positions of one of the two.

    Of two factors with positions the rows count: a score lies where its query does.
    """
    if left is None and right is None:
        return None
    rows = fresh(shape[-2]) if left is None else left.groups[-2]
    columns = fresh(shape[-1]) if right is None else right.groups[-1]
    by_columns = right is not None and (
        left is None
        or (placed(columns, right) and not placed(rows, left))
        or any(a.batch for a in columns)
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
    if source is None:
        return None
    return with_groups(source, [*batches, rows, columns])


@rule("mm", "bmm")
def _matrices(operation: Operation) -> Answer:
    left, right = (operation.axes_of(a) for a in operation.args[:2])
    return _product(left, right, operation.shape)


@rule("addmm", "baddbmm")
def _added_matrices(operation: Operation) -> Answer:
    left, right = (operation.axes_of(a) for a in operation.args[1:3])
    return _product(left, right, operation.shape)


@rule("mv", "dot", "addmv")
def _vector(operation: Operation) -> Answer:
    return None


@rule("linear")
def _linear(operation: Operation) -> Answer:
    axes = operation.first()
    return axes and with_groups(axes, [*axes.groups[:-1], fresh(operation.shape[-1])])


@rule(
    "_scaled_dot_product_flash_attention_for_cpu",
    "_scaled_dot_product_flash_attention",
    "_scaled_dot_product_efficient_attention",
    "_scaled_dot_product_cudnn_attention",
    "_scaled_dot_product_fused_attention_overrideable",
)
def _attention(operation: Operation) -> Answer:
    query, _, value = (operation.axes_of(a) for a in operation.args[:3])
    if query is None:
        return None
    last = fresh(operation.shape[-1]) if value is None else neutral(value.groups[-1])
    return with_groups(query, [*query.groups[:-1], last])


@rule("_fft_r2c", "_fft_c2c", "_fft_c2r")
def _fourier(operation: Operation) -> Answer:
    axes = operation.first()
    if axes is None:
        return None
    changed = dims_of(operation.args[1], len(axes.groups))
    groups = [fresh(n) if d in changed else axes.groups[d] for d, n in enumerate(operation.shape)]
    return with_groups(axes, groups)
