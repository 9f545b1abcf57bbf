"""Backward operators written in forward operators: each equals PyTorch's own."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from fullgrad.errors import GraphError
from fullgrad.interop.exporting.backward import table

TABLE = table()


def rewritten(forward: Callable[[Tensor], Tensor], x: Tensor) -> None:
    """The gradient at x, with each operator of the table replaced, equals the gradient."""
    x = x.double()
    ones = torch.randn_like(forward(x))

    def gradient(x: Tensor) -> Tensor:
        x = x.detach().requires_grad_()
        return torch.autograd.grad(forward(x), x, ones)[0]

    plain = {n.target for n in make_fx(gradient)(x).graph.nodes}
    traced = make_fx(gradient, decomposition_table=TABLE)(x)
    found = plain & {*TABLE}
    assert found, "the operation has no backward operator of the table"
    assert not {n.target for n in traced.graph.nodes} & {*TABLE}
    torch.testing.assert_close(traced(x), gradient(x), rtol=1e-10, atol=1e-10)


@settings(max_examples=40, derandomize=True)
@given(data=st.data())
def test_convolutions(data: st.DataObject) -> None:
    def draw(low: int, high: int) -> int:
        return data.draw(st.integers(low, high))

    dims, groups, transposed = draw(1, 3), draw(1, 3), data.draw(st.booleans())
    ends, out = groups * draw(1, 2), groups * draw(1, 2)
    kernel, stride, padding, dilation = (
        [draw(*range_) for _ in range(dims)] for range_ in ((1, 3), (1, 3), (0, 2), (1, 2))
    )
    size = [dilation[i] * (kernel[i] - 1) + 1 + draw(0, 3) for i in range(dims)]
    over = [draw(0, max(stride[i], dilation[i]) - 1) if transposed else 0 for i in range(dims)]
    weight = torch.randn(*((ends, out // groups) if transposed else (out, ends // groups)), *kernel)
    if transposed:  # enough numbers that something is left of the output
        size = [n + 4 for n in size]

    def forward(x: Tensor) -> Tensor:
        return torch.ops.aten.convolution(
            x, weight.double(), None, stride, padding, dilation, transposed, over, groups
        )

    rewritten(forward, torch.randn(2, ends, *size))


CASES: dict[str, tuple[Callable[[Tensor], Tensor], tuple[int, ...]]] = {
    "avg": (lambda x: F.avg_pool2d(x, (3, 2), (2, 1), (1, 0)), (2, 3, 7, 5)),
    "avg_1d": (lambda x: F.avg_pool1d(x, 3, 2, 1), (2, 3, 8)),
    "avg_ceil": (
        lambda x: F.avg_pool2d(x, 3, 2, 1, ceil_mode=True, count_include_pad=False),
        (2, 3, 8, 6),
    ),
    "avg_ceil_padding": (lambda x: F.avg_pool2d(x, 3, 2, 1, ceil_mode=True), (2, 3, 8, 6)),
    "avg_divisor": (lambda x: F.avg_pool2d(x, (2, 3), divisor_override=5), (3, 8, 7)),
    "avg_3d": (lambda x: F.avg_pool3d(x, (2, 3, 2), 2, (1, 1, 0)), (1, 2, 5, 6, 7)),
    "adaptive": (lambda x: F.adaptive_avg_pool2d(x, (3, 4)), (2, 3, 7, 6)),
    "adaptive_finer": (lambda x: F.adaptive_avg_pool2d(x, (9, 4)), (2, 3, 7, 6)),
    "adaptive_1d": (lambda x: F.adaptive_avg_pool1d(x, 3), (2, 3, 7)),
    "adaptive_3d": (lambda x: F.adaptive_avg_pool3d(x, (2, 3, 4)), (1, 2, 5, 6, 7)),
    "max": (lambda x: F.max_pool2d(x, 3, 2, 1), (2, 3, 7, 6)),
    "max_1d": (lambda x: F.max_pool1d(x, 3, 1, 1), (2, 3, 7)),
    "max_dilated": (lambda x: F.max_pool2d(x, 2, 1, 1, (2, 1), True), (2, 3, 7, 6)),
    "max_3d": (lambda x: F.max_pool3d(x, 2, 1), (2, 2, 4, 5, 6)),
    "adaptive_max": (lambda x: F.adaptive_max_pool2d(x, (3, 4)), (2, 3, 7, 6)),
    "adaptive_max_3d": (lambda x: F.adaptive_max_pool3d(x, 2), (2, 2, 4, 5, 6)),
    "replicate_1d": (lambda x: F.pad(x, (2, 1), mode="replicate"), (2, 3, 5)),
    "replicate": (lambda x: F.pad(x, (2, 1, 0, 3), mode="replicate"), (2, 3, 5, 4)),
    "replicate_3d": (lambda x: F.pad(x, (1, 2, 0, 3, 2, 1), mode="replicate"), (2, 3, 5, 4, 3)),
    "hardshrink": (lambda x: F.hardshrink(x, 0.3), (2, 9)),
    "softshrink": (lambda x: F.softshrink(x, 0.3), (2, 9)),
    "take": (lambda x: x.take(torch.tensor([[3, 3], [-1, 0]])), (2, 9)),
}


@pytest.mark.parametrize("name", CASES)
def test_pools_padding_and_others(name: str) -> None:
    forward, shape = CASES[name]
    torch.manual_seed(0)
    rewritten(forward, torch.randn(shape))


ANY, ROWS = (2, 3, 5, 4, 3), {"linear": 1, "bilinear": 2, "bicubic": 2, "trilinear": 3}
KINDS = [*((m, n) for m, n in ROWS.items()), *(("nearest", n) for n in (1, 2, 3))]
KINDS += [("nearest-exact", n) for n in (1, 2, 3)]


@pytest.mark.parametrize(("mode", "dims"), KINDS, ids=[f"{m}-{n}d" for m, n in KINDS])
def test_resizing(mode: str, dims: int) -> None:
    x = torch.randn(ANY[: dims + 2])
    for corners in (True, False) if mode in ROWS else (None,):
        rewritten(lambda x: F.interpolate(x, 7, mode=mode, align_corners=corners), x)
        for known in (True, False):
            scale: dict[str, Any] = {
                "scale_factor": (1.7, 0.6, 2.0)[:dims],
                "recompute_scale_factor": known,
            }
            rewritten(lambda x: F.interpolate(x, mode=mode, align_corners=corners, **scale), x)
    if mode in ("bilinear", "bicubic"):
        rewritten(lambda x: F.interpolate(x, (3, 7), mode=mode, antialias=True), x)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("keys", [2, 4])
def test_attention(causal: bool, keys: int) -> None:
    other, mask = torch.randn(2, 2, keys, 5, 4, dtype=torch.float64), None
    if not causal:
        mask = torch.zeros(2, 1, 5, 5, dtype=torch.float64)
        mask[0, 0, 1, 2:] = mask[1, 0, 3] = -torch.inf  # some keys, and all of them

    def forward(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(
            query, key, value, mask, is_causal=causal, enable_gqa=keys != 4
        )

    query = torch.randn(2, 4, 5, 4, dtype=torch.float64)
    rewritten(lambda x: forward(x, *other), query)
    rewritten(lambda x: forward(query, x, other[1]), other[0])
    rewritten(lambda x: forward(query, other[0], x), other[1])


def test_axes_of_one_number_are_taken_away() -> None:
    rewrite, x = TABLE[torch.ops.aten.squeeze.dims], torch.randn(2, 1, 3, 1)
    for dims in ([1, -1], [0, 2], [3], []):
        assert torch.equal(rewrite(x, dims), torch.ops.aten.squeeze.dims(x, dims))


def test_the_gradient_at_a_weight_is_refused() -> None:
    x = torch.randn(1, 2, 5, 5)
    with pytest.raises(GraphError, match=r"the gradient at a convolution's weight.*format='torch'"):
        make_fx(
            lambda w: torch.autograd.grad(F.conv2d(x, w.requires_grad_()).sum(), w),
            decomposition_table=TABLE,
        )(torch.randn(3, 2, 3, 3))


def test_reading_and_writing_memory_in_strides() -> None:
    aten = torch.ops.aten
    read, write = TABLE[aten.as_strided.default], TABLE[aten.as_strided_scatter.default]
    x = torch.randn(3, 4, 5).permute(2, 0, 1)
    where = (2, 3), (11, 4), 5
    assert torch.equal(read(x, *where), x.as_strided(*where))
    source = torch.randn(2, 3)
    assert torch.equal(write(x, source, *where), torch.as_strided_scatter(x, source, *where))
    with pytest.raises(GraphError, match=r"as_strided, of a tensor with gaps .* format='torch'"):
        read(torch.randn(4, 6)[:, ::2], (2,), (1,))
