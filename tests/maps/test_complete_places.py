"""Where the complete map draws: symmetries bit for bit, zero where nothing is read, causal grids."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import fullgrad
from complete_oracle import DOUBLE, After, check_sum
from fullgrad.axes.coordinates import Atom, Coordinate
from fullgrad.axes.spread import cells_along
from networks import seeded
from snippets import Snippet, batch

PLACEMENTS = ("receptive_field", "cells")


@st.composite
def conv_nets(draw: st.DrawFn) -> nn.Module:
    """Two or three convolutions or pools with strides and padding, then a mean and a head."""
    parts: list[nn.Module] = []
    width = 3
    for _ in range(draw(st.integers(2, 3))):
        kernel, stride = draw(st.integers(1, 3)), draw(st.integers(1, 2))
        padding = draw(st.integers(0, (kernel - 1) // 2))
        if draw(st.booleans()):
            parts.append(nn.Conv2d(width, 4, kernel, stride, padding, bias=draw(st.booleans())))
            width = 4
        else:
            parts.append(nn.MaxPool2d(kernel, stride, padding))
        parts.append(draw(st.sampled_from([nn.GELU(), nn.SiLU(), nn.ReLU()])))
    parts += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 3)]
    return seeded(lambda: nn.Sequential(*parts).double(), draw(st.integers(0, 99)))


SIZES = st.tuples(st.integers(16, 23), st.integers(16, 23))


@settings(max_examples=25)
@given(conv_nets(), SIZES, st.sampled_from(PLACEMENTS), st.sampled_from([(2,), (3,), (2, 3)]))
def test_a_flipped_model_of_a_flipped_image_has_the_flipped_map(
    model: nn.Module, size: tuple[int, int], placement: str, dims: tuple[int, ...]
) -> None:
    x = batch(2, 3, *size)
    found = fullgrad.complete_map(model, x, 1, placement=placement)
    flipped = After(lambda t: t.flip(dims), model)
    other = fullgrad.complete_map(flipped, x.flip(dims), 1, placement=placement)
    assert torch.equal(other.map.flip(dims), found.map)
    assert torch.equal(other.elsewhere, found.elsewhere)
    check_sum(found)


@settings(max_examples=25)
@given(conv_nets(), SIZES, st.sampled_from(PLACEMENTS), st.integers(0, 4), st.integers(0, 4))
def test_a_model_of_a_crop_has_the_crops_map_and_zero_around(
    model: nn.Module, size: tuple[int, int], placement: str, top: int, left: int
) -> None:
    x = batch(2, 3, size[0] + 4, size[1] + 4)
    rows, columns = slice(top, top + size[0]), slice(left, left + size[1])
    inside = x[:, :, rows, columns].clone()
    found = fullgrad.complete_map(model, inside, 1, placement=placement)
    # In memory as the crop alone is, so that the model's own kernels round alike.
    cropped = After(lambda t: t[:, :, rows, columns].contiguous(), model)
    other = fullgrad.complete_map(cropped, x, 1, placement=placement)
    expected = torch.zeros_like(other.map)
    expected[:, :, rows, columns] = found.map
    assert torch.equal(other.map, expected)
    assert torch.equal(other.elsewhere, found.elsewhere)


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_a_roll_by_whole_patches(placement: str) -> None:
    """Windows that reach across the seam read both ends, so that there only the sum is kept."""
    parts = [nn.Conv2d(3, 6, 4, 4), nn.GELU(), nn.Conv2d(6, 5, 1), nn.GELU()]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 3)]
    model, x = seeded(lambda: nn.Sequential(*parts, *head).double()), batch(2, 3, 16, 24)
    found = fullgrad.complete_map(model, x, 1, placement=placement)
    rolled = After(lambda t: t.roll((-4, -8), (2, 3)), model)
    other = fullgrad.complete_map(rolled, x.roll((4, 8), (2, 3)), 1, placement=placement)
    assert torch.equal(other.map.roll((-4, -8), (2, 3)), found.map)
    across = After(lambda t: t.roll((-3, -5), (2, 3)), model)
    check_sum(fullgrad.complete_map(across, x, 1, placement=placement))


def test_what_padding_and_unread_places_get() -> None:
    model = seeded(lambda: nn.Sequential(nn.Conv2d(3, 4, 3, 3), nn.GELU(), nn.Flatten()).double())
    model.append(nn.Linear(4 * 4 * 2, 3).double())
    x = batch(2, 3, 14, 8)  # the last two rows and columns are left over
    for placement in PLACEMENTS:
        found = fullgrad.complete_map(model, x, 1, placement=placement)
        assert not bool(found.map[:, :, 12:].any() or found.map[..., 6:].any())
        assert bool((found.map[:, :, :12, :6] != 0).all())
        check_sum(found)
    padded = After(lambda t: nn.functional.pad(t, (2, 2, 1, 1)), model)
    check_sum(fullgrad.complete_map(padded, batch(2, 3, 12, 4), 1))


class Causal(nn.Module):
    """Convolutions that read up to their own step."""

    def __init__(self, stride: int = 1, reverse: bool = False) -> None:
        super().__init__()
        self.first = nn.Conv1d(2, 4, 3, dilation=4)
        self.second = nn.Conv1d(4, 4, 3, stride, dilation=2)
        self.head = nn.Linear(4, 3)
        self.reverse = reverse

    def forward(self, x: Tensor) -> Tensor:
        pad = (0, 8) if self.reverse else (8, 0)
        y = nn.functional.gelu(self.first(nn.functional.pad(x, pad)))
        pad = (0, 4) if self.reverse else (4, 0)
        y = nn.functional.gelu(self.second(nn.functional.pad(y, pad)))
        return self.head(y.mean(2))


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("placement", PLACEMENTS)
def test_causal_convolutions_are_drawn_at_their_own_step(placement: str, reverse: bool) -> None:
    model, x = seeded(lambda: Causal(reverse=reverse)).double(), batch(2, 2, 9)
    found, d = (
        fullgrad.complete_map(model, x, 1, placement=placement),
        fullgrad.decompose(model, x, 1),
    )
    values = [d.input_terms[0], *(t.value for t in d.bias_terms if t.value.dim() == 3)]
    expected = sum(v.sum(1, keepdim=True) for v in values)
    torch.testing.assert_close(found.map, expected)
    check_sum(found)


def test_strided_causal_convolutions_never_draw_on_the_future() -> None:
    model, x = seeded(lambda: Causal(stride=3)).double(), batch(2, 2, 13)
    found, d = fullgrad.complete_map(model, x, 1), fullgrad.decompose(model, x, 1)
    check_sum(found)
    first = fullgrad.complete_map(model, x, 1, terms=["second"])
    own = d.select("second")[0].value.sum(1)  # at steps 0, 3, 6, 9, 12
    torch.testing.assert_close(first.map[:, 0, 0], own[:, 0] + own[:, 1] * _share(0, 3))
    torch.testing.assert_close(first.map[:, 0, 12], own[:, 4] * _share(12, 12))


def _share(place: int, center: int) -> float:
    """Of the number at a step, drawn up to that step: 1, 2/3, 1/3 and 0 three steps before."""
    return max(0.0, 1 - (center - place) / 3) / 2


class Kept(nn.Module):
    """Each sample keeps the patches that it finds brightest."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 6, 4, 4)
        self.last = nn.Linear(6, 6)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.patch(x).flatten(2).transpose(1, 2)
        kept = y.detach().sum(2).topk(5, 1).indices.sort(1).values
        y = y.gather(1, kept[..., None].expand(-1, -1, 6))
        return self.head(nn.functional.gelu(self.last(y)).mean(1))


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_places_that_differ_by_sample(placement: str) -> None:
    model, x = seeded(Kept).double(), batch(3, 3, 16, 12)
    found = fullgrad.complete_map(model, x, 1, placement=placement)
    check_sum(found)
    for i in range(3):
        alone = fullgrad.complete_map(model, x[i : i + 1], 1, placement=placement)
        torch.testing.assert_close(alone.map[0], found.map[i])
    patches = model.patch(x).flatten(2).transpose(1, 2)
    for i, kept in enumerate(patches.sum(2).topk(5, 1).indices):
        there = torch.zeros(12, dtype=torch.bool).index_fill(0, kept, True).reshape(4, 3)
        there = there.repeat_interleave(4, 0).repeat_interleave(4, 1)
        last = fullgrad.complete_map(model, x, 1, placement=placement, terms=["last"])
        assert not bool(last.map[i, 0][~there].any())


@pytest.mark.parametrize("bidirectional", [False, True])
def test_recurrent_layers(bidirectional: bool) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell = nn.LSTM(3, 4, batch_first=True, bidirectional=bidirectional)
            self.head = nn.Linear(8 if bidirectional else 4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.cell(x)[0][:, -1])

    torch.manual_seed(0)
    model, x = Net().double(), batch(2, 7, 3)
    found = fullgrad.complete_map(model, x, 1, layout="BTC")
    assert found.map.shape == (2, 1, 7)
    assert "head" in found.elsewhere_by_stage
    check_sum(found)


def test_cells_finer_than_the_input_and_upsampled_ones() -> None:
    def forward(model: Snippet, x: Tensor) -> Tensor:
        y = nn.functional.interpolate(model.conv(x), scale_factor=3, mode="bilinear")
        return model.fc(nn.functional.gelu(model.after(y)).mean((2, 3)))

    torch.manual_seed(0)
    parts = {"conv": nn.Conv2d(3, 4, 1), "after": nn.Conv2d(4, 4, 3, padding=1)}
    model, x = Snippet(forward, **parts), batch(2, 3, 5, 4)
    for placement in PLACEMENTS:
        check_sum(fullgrad.complete_map(model, x, 1, placement=placement))


class Join(nn.Module):
    """A module of two arguments, the first of which does not depend on the input."""

    def forward(self, shift: Tensor, x: Tensor) -> Tensor:
        return x.relu() + shift


@pytest.mark.parametrize("kind", ["register_full_backward_hook", "register_full_backward_pre_hook"])
def test_backward_hooks_move_nothing(kind: str) -> None:
    x = batch(2, 3, 8, 9)
    conv, join, coarse = nn.Conv2d(3, 4, 3), Join(), nn.Conv2d(4, 4, 3, stride=2)
    model = Snippet(
        lambda m, u: m.fc(m.coarse(m.join(m.shift, m.conv(u)) + 1).mean((2, 3))),
        conv=conv,
        join=join,
        coarse=coarse,
        shift=torch.ones(7, dtype=DOUBLE),
    )
    without = fullgrad.complete_map(model, x, 1)
    for module in (conv, join, coarse):
        getattr(module, kind)(lambda *gradients: None)
    assert torch.equal(fullgrad.complete_map(model, x, 1).map, without.map)


@settings(max_examples=60)
@given(st.data(), st.integers(1, 40), st.sampled_from(PLACEMENTS))
def test_every_column_sums_to_one_within_what_is_read(
    data: st.DataObject, size: int, placement: str
) -> None:
    """Whatever the intervals and centers, also with equal centers and many cells."""
    count = data.draw(st.integers(1, 12))
    ends = data.draw(
        st.lists(st.tuples(*[st.integers(0, size - 1)] * 2), min_size=count, max_size=count)
    )
    low, high = [min(e) for e in ends], [max(e) for e in ends]
    centers = data.draw(st.lists(st.floats(-5, size + 5, width=32), min_size=count, max_size=count))
    table = torch.tensor([low, high, centers], dtype=DOUBLE).numpy()
    cells, numbers = cells_along(Coordinate(0, size, (Atom(count),), table), placement)
    if cells.spread is None:
        assert cells.count == size
        return
    columns = torch.zeros(size, cells.count, dtype=DOUBLE)
    columns.scatter_add_(
        1, torch.from_numpy(cells.spread.index), torch.from_numpy(cells.spread.weights)
    )
    torch.testing.assert_close(columns.sum(0), torch.ones(cells.count, dtype=DOUBLE))
    places = torch.arange(size)
    for i, cell in enumerate(numbers.tolist()):
        outside = (places < low[i]) | (places > high[i])
        assert not bool(columns[outside, cell].any())
    assert bool((columns >= 0).all())
