"""Which part of a tensor a view of it is, read off sizes and strides."""

from __future__ import annotations

from collections.abc import Sequence


def region_of(
    shape: Sequence[int],
    strides: Sequence[int],
    view_shape: Sequence[int],
    view_strides: Sequence[int],
    offset: int,
) -> tuple[list[slice], list[int]] | None:
    """The part of a tensor that a view made by slicing and selecting covers.

    Args:
        shape: of the tensor.
        strides: of the tensor, in numbers.
        view_shape: of the view.
        view_strides: of the view.
        offset: where the view starts in the tensor, in numbers.

    Returns:
        A slice for each axis of the tensor, and which of its axes the view lacks (those that a
        place was selected of); None if the view is of another kind.
    """
    starts = [0] * len(shape)
    for d in sorted(range(len(shape)), key=lambda d: -strides[d]):
        if shape[d] > 1 and strides[d] > 0:
            starts[d], offset = divmod(offset, strides[d])
            if starts[d] >= shape[d]:
                return None
    if offset:
        return None
    region: list[slice] = []
    lacking: list[int] = []
    place = 0
    for d, size in enumerate(shape):
        left_in_base, left_in_view = len(shape) - d, len(view_shape) - place
        fits = left_in_view > 0 and _fits(
            size, strides[d], starts[d], view_shape[place], view_strides[place]
        )
        if fits and (left_in_view == left_in_base or view_shape[place] > 1 or size == 1):
            step = max(view_strides[place] // strides[d], 1) if size > 1 else 1
            region.append(slice(starts[d], starts[d] + (view_shape[place] - 1) * step + 1, step))
            place += 1
        elif left_in_view < left_in_base:
            region.append(slice(starts[d], starts[d] + 1))
            lacking.append(d)
        else:
            return None
    return (region, lacking) if place == len(view_shape) else None


def _fits(size: int, stride: int, start: int, view_size: int, view_stride: int) -> bool:
    if view_size == 1:
        return True
    step, rest = divmod(view_stride, stride) if stride else (0, 1)
    return rest == 0 and step > 0 and start + (view_size - 1) * step < size
