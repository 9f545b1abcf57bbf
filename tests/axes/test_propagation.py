"""Axes are followed to where the numbers really go: every place is compared with a number that
was sent through the same operations."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import fullgrad
from fullgrad.axes.coordinates import NOWHERE
from fullgrad.axes.placement import Placement, arranged, on_grid, placement_of
from fullgrad.errors import LayoutError

H, W, C = 8, 12, 4


class Moved(nn.Module):
    """Numbers are moved, and then each gets a bias; the sum of all counts for every sample."""

    def __init__(self, move: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.move = move

    def forward(self, x: Tensor) -> Tensor:
        return (self.move(x) + torch.ones((), dtype=x.dtype)).sum() + x.flatten(1).sum(1)


def term_of(move: Callable[[Tensor], Tensor], batch: int) -> fullgrad.BiasTerm:
    torch.manual_seed(0)
    x = torch.randn(batch, C, H, W, dtype=torch.float64)
    terms = fullgrad.decompose(Moved(move), x, lambda y: y, per_sample=False).bias_terms
    return [t for t in terms if t.op == "add" and t.kind == "explicit"][-1]


def labels(move: Callable[[Tensor], Tensor], batch: int) -> Tensor:
    """Each number's place in the image plus one; zero is nowhere."""
    places = torch.arange(1.0, H * W + 1, dtype=torch.float64).view(1, 1, H, W)
    return move(places.repeat(batch, C, 1, 1))


def check(move: Callable[[Tensor], Tensor], batch: int) -> Placement:
    term = term_of(move, batch)
    assert term.axes is not None
    placement = placement_of(term.axes, batch)
    assert placement is not None
    sent = labels(move, batch)
    assert sent.shape == term.shape
    view, positions = arranged(sent, placement)
    others = [d for d in range(view.dim()) if d not in positions]
    flat = view.permute(*others, *positions).flatten(len(others)).flatten(0, -2)
    places = placement.places
    expected = np.arange(flat.shape[-1]) if places is None else places[places != NOWHERE]
    assert placement.extents == (H, W)
    assert bool((flat == torch.from_numpy(expected) + 1).all())
    return placement


def windows(x: Tensor, size: int = 4) -> Tensor:
    b, c, h, w = x.shape
    x = x.permute(0, 2, 3, 1).view(b, h // size, size, w // size, size, c)
    return x.permute(0, 1, 3, 2, 4, 5).reshape(-1, size * size, c)


def tokens(x: Tensor) -> Tensor:
    return x.flatten(2).transpose(1, 2)


def with_class(x: Tensor, count: int = 1) -> Tensor:
    return torch.cat([torch.zeros(x.shape[0], count, x.shape[2], dtype=x.dtype), x], 1)


MOVES: dict[str, Callable[[Tensor], Tensor]] = {
    "stays": lambda x: x,
    "channels last": lambda x: x.permute(0, 2, 3, 1),
    "rows of all samples": lambda x: x.permute(0, 2, 3, 1).reshape(-1, C),
    "tokens": tokens,
    "class token": lambda x: with_class(tokens(x)),
    "registers": lambda x: with_class(tokens(x), 5),
    "class token at the end": lambda x: torch.cat(
        [tokens(x), torch.zeros_like(tokens(x))[:, :1]], 1
    ),
    "class token taken off": lambda x: with_class(tokens(x))[:, 1:],
    "heads": lambda x: tokens(x).reshape(x.shape[0], -1, 2, 2).permute(0, 2, 1, 3),
    "folded heads": lambda x: (
        tokens(x).reshape(x.shape[0], -1, 2, 2).permute(0, 2, 1, 3).reshape(-1, H * W, 2)
    ),
    "qkv": lambda x: (
        tokens(x).repeat(1, 1, 3).reshape(x.shape[0], -1, 3, 2, 2).permute(2, 0, 3, 1, 4)[1]
    ),
    "unbind": lambda x: tokens(x).repeat(1, 1, 3).reshape(x.shape[0], -1, 3, C).unbind(2)[2],
    "windows": windows,
    "shifted windows": lambda x: windows(torch.roll(x, (-2, -3), (2, 3))),
    "padded windows": lambda x: windows(F.pad(x, (0, 4, 4, 0))),
    "padded and cut": lambda x: F.pad(x, (3, 1, 0, 2))[:, :, :H, 3:-1],
    "flipped": lambda x: x.flip(3),
    "split": lambda x: torch.cat(tokens(x).split(24, 1)[::-1], 1),
    "grid (MaxViT)": lambda x: (
        x.permute(0, 2, 3, 1).view(-1, 4, 2, 4, 3, C).permute(0, 2, 4, 1, 3, 5).reshape(-1, 16, C)
    ),
    "samples second": lambda x: tokens(x).transpose(0, 1),
    "windows of 4, then of 2": lambda x: windows(
        windows(x).view(-1, H // 4, W // 4, 4, 4, C).permute(0, 5, 1, 3, 2, 4).reshape(x.shape), 2
    ),
    "patches put back": lambda x: F.fold(F.unfold(x, 1), (H, W), 1),
    "indexed": lambda x: tokens(x)[:, torch.arange(H * W).flip(0)],
    "selected": lambda x: torch.stack([x[:, :, i] for i in range(H)], 2),
    "columns": lambda x: torch.stack(x.unbind(3), 1),
    "masked": lambda x: tokens(x).masked_fill(torch.zeros(H * W, 1, dtype=torch.bool), 0.0),
    "expanded": lambda x: x.unsqueeze(2).expand(-1, -1, 3, -1, -1),
    "stacked": lambda x: torch.stack([x, x], 1),
    "doubled channels": lambda x: torch.cat([x, x], 1),
    "shuffled channels": lambda x: x.view(-1, 2, 2, H, W).transpose(1, 2).reshape(-1, 4, H, W),
}


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("name", MOVES)
def test_places(name: str, batch: int) -> None:
    check(MOVES[name], batch)


STEPS: list[tuple[str, Callable[[Tensor], Tensor]]] = [
    ("roll", lambda x: torch.roll(x, (1, -2), (2, 3))),
    ("flip", lambda x: x.flip(2)),
    ("pad and cut", lambda x: F.pad(x, (2, 2))[:, :, :, 2:-2]),
    ("last and back", lambda x: x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)),
    ("flat and back", lambda x: x.flatten(2).reshape(x.shape)),
    ("tokens and back", lambda x: with_class(tokens(x))[:, 1:].transpose(1, 2).reshape(x.shape)),
    ("relu", torch.relu),
    ("double", lambda x: x * 1),
    ("halves", lambda x: torch.cat(list(x.chunk(2, 3)), 3)),
    ("swap halves", lambda x: torch.cat(x.split(W // 2, 3)[::-1], 3)),
]


@given(st.lists(st.sampled_from(STEPS), max_size=6), st.integers(1, 3))
def test_any_sequence(steps: list[tuple[str, Callable[[Tensor], Tensor]]], batch: int) -> None:
    def move(x: Tensor) -> Tensor:
        for _, step in steps:
            x = step(x)
        return windows(x)

    check(move, batch)


def test_patches_make_a_coarser_grid() -> None:
    """Patches cut by hand and mixed: one place each, numbered on their own grid."""

    def by_hand(x: Tensor) -> Tensor:
        patches = x.view(-1, C, H // 2, 2, W // 2, 2).permute(0, 2, 4, 1, 3, 5).reshape(-1, C * 4)
        return (patches @ torch.ones(C * 4, 5, dtype=x.dtype)).view(-1, H // 2 * (W // 2), 5)

    def by_slices(x: Tensor) -> Tensor:
        x = x.permute(0, 2, 3, 1)
        parts = [x[:, i::2, j::2] for i in (0, 1) for j in (0, 1)]
        return torch.cat(parts, -1) @ torch.ones(C * 4, 5, dtype=x.dtype)

    def by_window(x: Tensor) -> Tensor:
        return F.conv2d(x, torch.ones(5, C, 2, 2, dtype=x.dtype), stride=2)

    def by_unfolding(x: Tensor) -> Tensor:
        patches = F.unfold(x, 2, stride=2).transpose(1, 2)
        return patches @ torch.ones(C * 4, 5, dtype=x.dtype)

    def in_windows(x: Tensor) -> Tensor:
        x = x.view(-1, C, H // 4, 4, W // 4, 4).permute(0, 2, 4, 1, 3, 5).reshape(-1, C, 4, 4)
        x = F.max_pool2d(x, 2)
        x = x.view(-1, H // 4, W // 4, C, 2, 2).permute(0, 3, 1, 4, 2, 5)
        return x.reshape(-1, C, H // 2, W // 2)

    def with_class_token(x: Tensor) -> Tensor:
        x = with_class(tokens(x))
        pooled = F.max_pool2d(x[:, 1:].transpose(1, 2).reshape(-1, C, H, W), 2)
        return torch.cat([x[:, :1], tokens(pooled)], 1)[:, 1:]

    for move in (with_class_token, by_hand, by_slices, by_window, by_unfolding, in_windows):
        placement = placement_of(term_of(move, 2).axes, 2)
        assert placement is not None
        assert (placement.extents, placement.places) == ((H // 2, W // 2), None)


def attention(x: Tensor, over: str = "tokens") -> Tensor:
    t = tokens(x)
    if over == "channels":
        return torch.softmax(t.transpose(1, 2) @ t / 9, -1)
    return torch.softmax(t @ t.transpose(1, 2) / 9, -1)


class Applied(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def test_scores_lie_where_their_query_does() -> None:
    d = fullgrad.decompose(
        Applied(attention), torch.randn(2, C, H, W).double(), lambda y: y[:, 3, 5]
    )
    (scores,) = [t for t in d.bias_terms if t.op == "_softmax"]
    placement = placement_of(scores.axes, 2)
    assert placement is not None
    assert (placement.positions, placement.extents, placement.places) == ((1, 2), (H, W), None)


def test_attention_over_channels_lies_nowhere() -> None:
    d = fullgrad.decompose(
        Applied(lambda x: attention(x, "channels")),
        torch.randn(2, C, H, W).double(),
        lambda y: y[:, 1, 2],
    )
    assert placement_of(d.bias_terms[-1].axes, 2) is None


def test_a_layer_across_tokens_gets_its_places_from_the_sum() -> None:
    """As in an MLP-mixer: its output's tokens are positions only because they are added to some."""

    class Mixer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(H * W, 7)
            self.outer = nn.Linear(7, H * W)

        def forward(self, x: Tensor) -> Tensor:
            t = tokens(x)
            return t + self.outer(torch.relu(self.inner(t.transpose(1, 2)))).transpose(1, 2)

    d = fullgrad.decompose(Mixer().double(), torch.randn(2, C, H, W).double(), lambda y: y[:, 3, 1])
    inner, outer = (d.select(name)[0] for name in ("inner", "outer"))
    assert placement_of(inner.axes, 2) is None
    placement = placement_of(outer.axes, 2)
    assert placement is not None
    assert (placement.extents, placement.positions, placement.places) == ((H, W), (2,), None)


def test_recurrence_over_columns_has_places() -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell = nn.LSTM(C, 5, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            return self.cell(x.transpose(1, 2))[0][:, -1]

    x = torch.randn(2, C, 9, dtype=torch.float64)
    saliency = fullgrad.saliency(Recurrent().double(), x, 1)
    assert saliency.shape == (2, 1, 9)
    assert float(saliency.std()) > 0


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("psi", ["layer", "channel", "signed"])
@pytest.mark.parametrize("name", ["stays", "class token", "padded windows", "samples second"])
def test_reading_is_the_same_however_a_term_is_arranged(name: str, psi: str, batch: int) -> None:
    """A term's map does not depend on how its numbers lie in memory."""
    from fullgrad.maps.aggregation import rescaled_channel_sum, rescaled_sum

    move, values = MOVES[name], torch.randn(batch, C, H, W, dtype=torch.float64)
    placement = check(move, batch)
    view, positions = arranged(move(values), placement)
    channels = [d for d in range(1, view.dim()) if d not in positions]
    ours = on_grid(rescaled_sum(view, channels, psi), placement)
    torch.testing.assert_close(ours, rescaled_channel_sum(values, psi))


def test_what_cannot_be_followed_says_so() -> None:
    def scrambled(x: Tensor) -> Tensor:
        return x.reshape(x.shape[0], 6, 8, 8)

    model, x = Applied(lambda x: scrambled(x) + 1), torch.randn(2, C, H, W)
    with pytest.raises(LayoutError, match=r"numbers of add in the model \(shape \(2, 6, 8, 8\)\)"):
        fullgrad.saliency(model, x, lambda y: y.flatten(1).sum(1))
