"""One network's training images on the device, in a new order and varied in each epoch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor

_ORDER = 7919  # keeps the seeds of weights and of the order apart


class Loader(Protocol):
    """Gives one network its training images, epoch by epoch."""

    drawn: Tensor
    """The state of its generator, on which the next epoch depends."""

    def steps(self, batch: int) -> int:
        """Return how many batches an epoch has."""

    def epoch(self, batch: int, skip: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield batches of images and labels, but for the first ``skip`` ones."""


class Seeded:
    """Draws from a generator of its own, whose state is kept and put back."""

    def __init__(self, seed: int) -> None:
        self._generator = torch.Generator().manual_seed(seed)

    @property
    def drawn(self) -> Tensor:
        """The state of its generator, on which the next epoch depends."""
        return self._generator.get_state()

    @drawn.setter
    def drawn(self, state: Tensor) -> None:
        self._generator.set_state(state)


class AugmentedLoader(Seeded):
    """Gives batches of shifted and mirrored images; order and variations are drawn on the CPU.

    Args:
        images: uint8, shape (N, C, H, W).
        labels: shape (N,).
        seed: of order and variations.
        rim: what comes into a shifted image, for each channel, 0 to 255.
        shift: by up to how many pixels.
        mirror: half of the images are mirrored.
        device: where the images are kept.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        seed: int,
        rim: tuple[int, ...],
        shift: int,
        mirror: bool,
        device: torch.device,
    ) -> None:
        super().__init__(seed * _ORDER + 1)
        filling = torch.tensor(rim, dtype=torch.uint8).view(-1, 1, 1)
        n, channels, height, width = images.shape
        padded = filling.expand(channels, height + 2 * shift, width + 2 * shift).to(device)
        self._images = padded.expand(n, *padded.shape).clone()
        inner = self._images[:, :, shift : shift + height, shift : shift + width]
        inner.copy_(images)
        self._labels = labels.to(device)
        self._shift, self._mirror = shift, mirror
        self._size = (height, width)
        self._device = device

    def steps(self, batch: int) -> int:
        """Return how many batches an epoch has."""
        return len(self._images) // batch

    def epoch(self, batch: int, skip: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield all images once in a new order, but for an incomplete last batch.

        Args:
            batch: images at a time.
            skip: how many batches are left out at the beginning.
        """
        n, (height, width) = len(self._images), self._size
        order = torch.randperm(n, generator=self._generator, device="cpu")
        corner = torch.randint(
            0, 2 * self._shift + 1, (2, n), generator=self._generator, device="cpu"
        )
        mirrored = torch.rand(n, generator=self._generator, device="cpu") < 0.5
        order, corner, mirrored = (t.to(self._device) for t in (order, corner, mirrored))
        rows = torch.arange(height, device=self._device)
        columns = torch.arange(width, device=self._device)
        channels = torch.arange(self._images.shape[1], device=self._device)[None, :, None, None]
        for start in range(skip * batch, n - batch + 1, batch):
            part = slice(start, start + batch)
            chosen = order[part]
            y = corner[0, part, None] + rows
            x = corner[1, part, None] + columns
            if self._mirror:
                x = torch.where(mirrored[part, None], x.flip(1), x)
            yield (
                self._images[
                    chosen[:, None, None, None], channels, y[:, None, :, None], x[:, None, None, :]
                ],
                self._labels[chosen],
            )
