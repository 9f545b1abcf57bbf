"""What is kept of a network in training, so that a killed run goes on in its middle."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch
from torch import Tensor

from fullgrad.evaluation.retraining.feed import Feed
from fullgrad.evaluation.retraining.stacked import Networks
from fullgrad.evaluation.retraining.store import Content, StageStore

EVERY = 60.0  # seconds of training between two checkpoints


class Checkpoint:
    """One group's file in the store; it is removed when the group's first stage is stored.

    Args:
        store: of the stages.
        stages: digests of the networks that are trained together.
    """

    def __init__(self, store: StageStore, stages: Sequence[str]) -> None:
        self._store, self._first, self._key = store, stages[0], "+".join(stages)
        self._last = time.monotonic()

    def load(self) -> Content | None:
        """What is there of the same group; None if nothing, or nothing whole."""
        return self._store.get_partial(self._first, self._key)

    @property
    def due(self) -> bool:
        """Whether the last one is old enough."""
        return time.monotonic() - self._last >= EVERY

    def save(self, content: Content) -> None:
        """Put this in the place of the last one.

        Raises:
            StoreError: it cannot be written.
        """
        self._store.put_partial(self._first, self._key, content)
        self._last = time.monotonic()


class Moment:
    """All that changes while networks are trained.

    Args:
        networks: their weights and buffers.
        optimiser: with a momentum for each weight.
        feeds: with their generators.
        total: of the losses in this epoch.
        device: whose generator dropout draws from.
    """

    def __init__(
        self,
        networks: Networks,
        optimiser: torch.optim.SGD,
        feeds: Sequence[Feed],
        total: Tensor,
        device: torch.device,
    ) -> None:
        self._optimiser, self._feeds, self._device = optimiser, feeds, device
        self._weights = list(networks.parameters.values())
        self._tensors = {"total": total}
        for name, value in (*networks.parameters.items(), *networks.buffers.items()):
            self._tensors[f"network/{name}"] = value.detach()

    def taken(self, step: int, seconds: float, drawn: Sequence[Tensor]) -> Content:
        """As it is now.

        Args:
            step: so many steps are done.
            seconds: of training, until now.
            drawn: state of each feed's generator before the epoch of the next step.
        """
        found = dict(self._tensors)
        for i, weight in enumerate(self._weights):
            momentum = self._optimiser.state[weight].get("momentum_buffer")
            if momentum is not None:
                found[f"momentum/{i}"] = momentum
        for i, state in enumerate(drawn):
            found[f"drawn/{i}"] = state
        found["random"] = torch.get_rng_state()
        if self._device.type == "cuda":
            found["random cuda"] = torch.cuda.get_rng_state(self._device)
        values = {"step": step, "seconds": seconds}
        return Content(values, {name: t.cpu().numpy() for name, t in found.items()})

    def restored(self, content: Content) -> tuple[int, float]:
        """Put everything back.

        Returns:
            The steps that are done, and their seconds.
        """
        arrays = {name: torch.from_numpy(a) for name, a in content.arrays.items()}
        with torch.no_grad():
            for name, value in self._tensors.items():
                value.copy_(arrays[name])
            for i, weight in enumerate(self._weights):
                if f"momentum/{i}" in arrays:
                    momentum = torch.empty_like(weight).copy_(arrays[f"momentum/{i}"])
                    self._optimiser.state[weight]["momentum_buffer"] = momentum
        for i, feed in enumerate(self._feeds):
            feed.drawn = arrays[f"drawn/{i}"]
        torch.set_rng_state(arrays["random"])
        if self._device.type == "cuda" and "random cuda" in arrays:
            torch.cuda.set_rng_state(arrays["random cuda"], self._device)
        return int(content.values["step"]), float(content.values["seconds"])
