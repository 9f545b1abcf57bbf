"""What is kept of a network in training, so that a killed run resumes in its middle."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch
from torch import Tensor

from fullgrad.evaluation.store import Content, Store
from fullgrad.evaluation.training.loader import Loader
from fullgrad.evaluation.training.stacked import Networks

EVERY = 60.0  # seconds of training between two checkpoints


class Checkpoint:
    """Keeps one group's file in the store, until the group's first stage is stored.

    Args:
        store: of the stages.
        stages: digests of the networks that are trained together.
    """

    def __init__(self, store: Store, stages: Sequence[str]) -> None:
        self._store, self._first, self._key = store, stages[0], "+".join(stages)
        self._last = time.monotonic()

    def load(self) -> Content | None:
        """Return what is there of the same group; None if nothing, or nothing whole."""
        return self._store.get_partial(self._first, self._key)

    @property
    def due(self) -> bool:
        """Tells whether the last one is old enough."""
        return time.monotonic() - self._last >= EVERY

    def save(self, content: Content) -> None:
        """Put this in the place of the last one.

        Raises:
            StoreError: it cannot be written.
        """
        self._store.put_partial(self._first, self._key, content)
        self._last = time.monotonic()


class TrainingState:
    """Holds all that changes while networks are trained.

    Args:
        networks: their weights and buffers.
        optimizer: with tensors for each weight.
        loaders: with their generators.
        total: of the losses in this epoch.
        device: whose generator dropout draws from.
    """

    def __init__(
        self,
        networks: Networks,
        optimizer: torch.optim.Optimizer,
        loaders: Sequence[Loader],
        total: Tensor,
        device: torch.device,
    ) -> None:
        self._optimizer, self._loaders, self._device = optimizer, loaders, device
        self._weights = list(networks.parameters.values())
        self._tensors = {"total": total}
        for name, value in (*networks.parameters.items(), *networks.buffers.items()):
            self._tensors[f"network/{name}"] = value.detach()

    def taken(self, step: int, seconds: float, drawn: Sequence[Tensor]) -> Content:
        """Return it as it is now.

        Args:
            step: how many steps are done.
            seconds: of training, until now.
            drawn: state of each loader's generator before the epoch of the next step.
        """
        found = dict(self._tensors)
        for i, weight in enumerate(self._weights):
            for name, value in self._optimizer.state[weight].items():
                if value is not None:
                    found[f"optimizer/{i}/{name}"] = value
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
            for name, value in arrays.items():
                kind, _, rest = name.partition("/")
                if kind == "optimizer":
                    number, _, key = rest.partition("/")
                    weight = self._weights[int(number)]
                    own = value if value.dim() == 0 else torch.empty_like(weight).copy_(value)
                    self._optimizer.state[weight][key] = own
        for i, loader in enumerate(self._loaders):
            loader.drawn = arrays[f"drawn/{i}"]
        torch.set_rng_state(arrays["random"])
        if self._device.type == "cuda" and "random cuda" in arrays:
            torch.cuda.set_rng_state(arrays["random cuda"], self._device)
        return int(content.values["step"]), float(content.values["seconds"])
