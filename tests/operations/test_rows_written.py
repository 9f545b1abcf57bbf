"""Rows that ``masked_scatter`` writes keep their places: patches of an image among tokens."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import fullgrad
from fullgrad.errors import LayoutError


class Mixed(nn.Module):
    """Tokens and patches of an image in one sequence, put together as ``write`` does."""

    def __init__(self, write: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.patch, self.norm, self.head = nn.Conv2d(3, 8, 4, 4), nn.LayerNorm(8), nn.Linear(8, 2)
        self.attend = nn.MultiheadAttention(8, 2, batch_first=True)
        self.write = write
        self.double()

    def forward(self, tokens: Tensor, image: Tensor) -> Tensor:
        patches = self.patch(image).relu().flatten(2).transpose(1, 2)
        z = self.norm(self.write(tokens, patches)).relu()
        return self.head(self.attend(z, z, z)[0]).mean(1)


MASK = torch.tensor([False, True, True, True, True, False, False])


def scattered(tokens: Tensor, patches: Tensor) -> Tensor:
    return tokens.masked_scatter(MASK[:, None].expand_as(tokens), patches)


def put_together(tokens: Tensor, patches: Tensor) -> Tensor:
    return torch.cat([tokens[:, :1], patches, tokens[:, 5:]], 1)


def inputs(batch: int = 2) -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(3)
    tokens = torch.rand(batch, 7, 8, generator=random, dtype=torch.float64)
    return {"tokens": tokens, "image": torch.rand(batch, 3, 8, 8, generator=random).double()}


LAYOUT = ["BTC", "BCHW"]


def test_it_is_the_same_as_putting_them_together() -> None:
    got = fullgrad.complete_map(Mixed(scattered), inputs(), 1, layout=LAYOUT)
    expected = fullgrad.complete_map(Mixed(put_together), inputs(), 1, layout=LAYOUT)
    for name in ("tokens", "image"):
        torch.testing.assert_close(got.map[name], expected.map[name])
    torch.testing.assert_close(got.elsewhere, expected.elsewhere)
    assert (got.map["tokens"][:, :, 1:5] == 0).all() and (got.map["image"] != 0).any()


def test_the_image_alone_among_constant_tokens() -> None:
    given = inputs()
    got = fullgrad.complete_map(
        Mixed(scattered), {"image": given["image"]}, 1, forward_kwargs={"tokens": given["tokens"]}
    )
    both = fullgrad.complete_map(Mixed(put_together), given, 1, layout=LAYOUT)
    torch.testing.assert_close(got.output, both.output)
    assert (got.map["image"] != 0).any()


def test_rows_of_constants_leave_places_alone() -> None:
    given = inputs()
    got = fullgrad.complete_map(
        Mixed(scattered),
        {"tokens": given["tokens"]},
        1,
        forward_kwargs={"image": given["image"]},
        layout="BTC",
    )
    assert (got.map["tokens"] != 0).any()


def exchanged(tokens: Tensor, patches: Tensor) -> Tensor:
    return scattered(tokens, patches.flip(0))


def half_rows(tokens: Tensor, patches: Tensor) -> Tensor:
    mask = MASK[:, None] & (torch.arange(8) < 4)
    return tokens.masked_scatter(mask.expand_as(tokens), patches)


@pytest.mark.parametrize("write", [exchanged, half_rows], ids=["other samples", "parts of rows"])
def test_places_that_are_not_known_are_refused(write: Callable[[Tensor, Tensor], Tensor]) -> None:
    with pytest.raises(LayoutError, match="it is not known where the numbers"):
        fullgrad.complete_map(Mixed(write), inputs(), 1, layout=LAYOUT)
    assert len(fullgrad.decompose(Mixed(write), inputs(1), 1).output) == 1
