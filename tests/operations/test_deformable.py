"""``deform_conv2d``: exact whatever depends, with places where the offsets move the windows."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import deform_conv2d

import fullgrad
from rule_cases import Case, defined_biases, n, recorded_biases

OPTIONS = {
    "plain": {"stride": 1, "padding": 1, "dilation": 1},
    "wide": {"stride": (2, 1), "padding": (2, 1), "dilation": (1, 2)},
}
GROUPS = {"one": (1, 1), "two": (2, 2), "offsets": (1, 2)}


def size(how: str) -> tuple[int, int]:
    options = OPTIONS[how]
    return tuple(F.conv2d(torch.zeros(1, 1, 4, 3), torch.zeros(1, 1, 3, 2), **options).shape[2:])  # type: ignore[arg-type, return-value]


def by_hand(
    x: Tensor, weight: Tensor, offset: Tensor, bias: Tensor, mask: Tensor, how: str, groups: str
) -> Tensor:
    """The definition, one number at a time: a bilinear sample for each place of a window."""
    count, parts = GROUPS[groups]
    pair = {k: v if isinstance(v, tuple) else (v, v) for k, v in OPTIONS[how].items()}
    out = torch.zeros(len(x), len(weight), *offset.shape[2:], dtype=x.dtype)
    padded = F.pad(x, (20, 20, 20, 20))
    for b in range(len(x)):
        for o in range(len(weight)):
            for r in range(out.shape[2]):
                for c in range(out.shape[3]):
                    total = bias[o]
                    for i in range(weight.shape[1]):
                        channel = i + (o // (len(weight) // count)) * weight.shape[1]
                        part = channel // (x.shape[1] // parts)
                        for kr in range(3):
                            for kc in range(2):
                                k = part * 6 + kr * 2 + kc
                                row = (
                                    r * pair["stride"][0]
                                    - pair["padding"][0]
                                    + kr * pair["dilation"][0]
                                    + offset[b, 2 * k, r, c]
                                )
                                column = (
                                    c * pair["stride"][1]
                                    - pair["padding"][1]
                                    + kc * pair["dilation"][1]
                                    + offset[b, 2 * k + 1, r, c]
                                )
                                top, left = int(row.floor()), int(column.floor())
                                dr, dc = row - top, column - left
                                around = padded[
                                    b, channel, top + 20 : top + 22, left + 20 : left + 22
                                ]
                                rows = torch.stack([1 - dr, dr])
                                columns = torch.stack([1 - dc, dc])
                                total = total + (
                                    weight[o, i, kr, kc]
                                    * mask[b, k, r, c]
                                    * (rows @ around @ columns)
                                )
                    out[b, o, r, c] = total
    return out


def arguments(how: str, groups: str) -> list[Tensor]:
    generator = torch.Generator(torch.get_default_device()).manual_seed(4)
    count, parts = GROUPS[groups]
    high, wide = size(how)
    shapes = [
        (1, 2, 4, 3),
        (2, 2 // count, 3, 2),
        (1, 12 * parts, high, wide),
        (2,),
        (1, 6 * parts, high, wide),
    ]
    return [torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes]


@pytest.mark.parametrize("groups", GROUPS)
@pytest.mark.parametrize("how", OPTIONS)
def test_the_bias_is_what_the_definition_leaves_over(how: str, groups: str) -> None:
    values = arguments(how, groups)

    def operation(*a: Tensor) -> Tensor:
        x, weight, offset, bias, mask = a
        return deform_conv2d(x, offset, weight, bias, mask=mask, **OPTIONS[how])  # type: ignore[arg-type]

    y = operation(*values)
    torch.testing.assert_close(y, by_hand(*values, how, groups))
    makes = [n(*v.shape) for v in values]
    case = Case(operation, *makes)
    defined = Case(lambda *a: by_hand(*a, how, groups), *makes)
    for depend in [(0,), (0, 1), (2,), (3,), (0, 1, 3, 4), (0, 1, 2, 3, 4)]:
        (got,) = recorded_biases(case, values, depend)
        (expected,) = defined_biases(defined, values, depend)
        torch.testing.assert_close(got.expand_as(expected), expected, rtol=1e-9, atol=1e-9)


def test_offsets_may_be_whole_numbers() -> None:
    """There the derivative jumps; the fallback takes the one that back-propagation takes."""
    values = arguments("plain", "one")
    values[2] = values[2].round()
    x, weight, offset, bias, mask = (v.requires_grad_() for v in values)
    y = deform_conv2d(x, offset, weight, bias, padding=1, mask=mask)
    seed = torch.randn_like(y)
    case = Case(
        lambda *a: deform_conv2d(a[0], a[2], a[1], a[3], padding=1, mask=a[4]),
        *[n(*v.shape) for v in values],
    )
    detached = [v.detach() for v in values]
    (bias_found,) = recorded_biases(case, detached, (0, 1, 2, 3, 4))
    gradients = torch.autograd.grad(y, values, seed)
    linear = sum((g * v).sum() for g, v in zip(gradients, values, strict=True))
    torch.testing.assert_close((bias_found * seed).sum() + linear, (y * seed).sum())


class Deformed(nn.Module):
    """Two deformable convolutions whose offsets and masks depend on the image."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.where, self.how = nn.Conv2d(3, 18, 3, padding=1), nn.Conv2d(3, 9, 3, padding=1)
        self.weight = nn.Parameter(torch.randn(4, 3, 3, 3))
        self.bias, self.head = nn.Parameter(torch.randn(4)), nn.Linear(4, 3)
        self.again = nn.Parameter(torch.randn(4, 4, 3, 3))
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        moves = 2 * self.where(x)
        y = deform_conv2d(x, moves, self.weight, self.bias, padding=1, mask=self.how(x).sigmoid())
        y = deform_conv2d(y.relu(), moves, self.again, padding=1)
        out: Tensor = self.head(y.relu().mean((2, 3)))
        return out


def test_a_model_whose_offsets_depend_on_the_image() -> None:
    x = torch.rand(2, 3, 10, 10, dtype=torch.float64)
    d = fullgrad.decompose(Deformed(), x, 1)
    assert float(d.relative_residual.max()) < 1e-12
    assert sum(t.op == "torchvision::deform_conv2d" for t in d) == 2
    assert fullgrad.saliency(Deformed(), x, 1).shape == (2, 1, 10, 10)


class Shifted(nn.Module):
    """Every sample's window of one place is moved by its own number of columns."""

    def __init__(self, columns: list[float]) -> None:
        super().__init__()
        self.columns = columns
        self.bias = nn.Parameter(torch.rand(1, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        moves = torch.zeros(len(x), 2, *x.shape[2:], dtype=x.dtype)
        moves[:, 1] = torch.tensor(self.columns[: len(x)], dtype=x.dtype)[:, None, None]
        y = deform_conv2d(x, moves, torch.ones(1, 1, 1, 1, dtype=x.dtype), self.bias)
        first = torch.tensor([1.0, 0, 0, 0, 0, 0, 0, 0], dtype=x.dtype)
        out: Tensor = (F.silu(y) * first).sum((2, 3))
        return out


def test_terms_lie_where_the_offsets_move_the_window() -> None:
    x = torch.rand(2, 1, 4, 8, dtype=torch.float64)
    found = fullgrad.saliency(Shifted([2.0, 5.0]), x, 0, psi="signed", terms="bias")
    read = [found[i, 0].abs().sum(0).gt(1e-9).nonzero().flatten().tolist() for i in (0, 1)]
    assert read == [[2], [5]]
    term = fullgrad.decompose(Shifted([2.0, 5.5]), x, 0).bias_terms[-1]
    assert term.axes is not None
    columns = term.axes.coordinates[1]
    assert columns is not None
    samples, places = (2, 8)
    assert [a.size for a in columns.atoms] == [samples, places]
    low, high, _ = columns.table
    assert low[:, 0].tolist() == [2, 5] and high[:, 0].tolist() == [2, 6]
    assert low[:, 2].tolist() == [4, 7] and high[:, 2].tolist() == [4, 7]


def test_offsets_of_zero_leave_the_intervals_of_a_convolution() -> None:
    weight = torch.randn(1, 1, 3, 3, dtype=torch.float64)
    moves = torch.zeros(2, 18, 3, 4, dtype=torch.float64)
    x = torch.rand(2, 1, 6, 8, dtype=torch.float64)
    options = {"stride": 2, "padding": 1}

    class Net(nn.Module):
        def __init__(self, plain: bool) -> None:
            super().__init__()
            self.plain = plain

        def forward(self, x: Tensor) -> Tensor:
            y = (
                F.conv2d(x, weight, **options)  # type: ignore[arg-type]
                if self.plain
                else deform_conv2d(x, moves, weight, **options)  # type: ignore[arg-type]
            )
            return F.silu(y).sum((1, 2, 3))[:, None]

    tables = []
    for plain in (True, False):
        term = fullgrad.decompose(Net(plain), x, 0).bias_terms[-1]
        assert term.op == "silu" and term.axes is not None
        tables.append([c.table[:2] for c in term.axes.coordinates if c is not None])
    for conv, deformed in zip(*tables, strict=True):
        torch.testing.assert_close(torch.tensor(conv), torch.tensor(deformed))
