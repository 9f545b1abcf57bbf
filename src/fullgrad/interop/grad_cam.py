"""FullGrad in the call style of the grad-cam package."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fullgrad.engine.lending import lent, own
from fullgrad.engine.targets import main_tensor, select
from fullgrad.engine.wrappers import unwrap
from fullgrad.errors import TargetError
from fullgrad.maps.aggregation import Psi
from fullgrad.maps.saliency import METHODS, saliency


class FullGrad:
    """Called like a class of the grad-cam package, on all layers of a model.

    Args:
        model: any ``nn.Module``; unlike there, it keeps its training mode.
        target_layers: none or empty: FullGrad reads every layer.
        reshape_transform: None: where numbers lie is followed, not stated.
        method: ``"fullgrad"``, or another of :func:`fullgrad.saliency`'s.
        psi: see :func:`fullgrad.saliency`.
        terms: see :func:`fullgrad.saliency`.
        batch_size: see :func:`fullgrad.saliency`.

    Attributes:
        outputs: the model's main output in the last call, shape (B, ...); None before.

    Raises:
        ValueError: layers or a transform are given, or an unknown method.
    """

    def __init__(
        self,
        model: nn.Module,
        target_layers: Sequence[nn.Module] | None = None,
        reshape_transform: Callable[..., Any] | None = None,
        *,
        method: str = "fullgrad",
        psi: Psi = "layer",
        terms: Any = "all",
        batch_size: int | None = None,
    ) -> None:
        if target_layers is not None and len(target_layers) > 0:
            raise ValueError(
                f"target_layers must be [] or None, not {len(target_layers)} layers: FullGrad "
                "reads every layer; choose terms with terms="
            )
        if reshape_transform is not None:
            raise ValueError("reshape_transform must be None: where numbers lie is followed")
        if method not in METHODS:
            raise ValueError(f"unknown method {method!r}; known: {', '.join(METHODS)}")
        if batch_size is not None and (type(batch_size) is not int or batch_size < 1):
            raise ValueError(f"batch_size must be a positive integer or None, not {batch_size!r}")
        self.model = model
        self.outputs: Tensor | None = None
        self._method, self._psi, self._terms = method, psi, terms
        self._batch_size = batch_size

    def __enter__(self) -> FullGrad:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Nothing to release: no hook outlives a call."""

    def __call__(
        self,
        input_tensor: Tensor,
        targets: Sequence[Callable[[Any], Tensor]] | None = None,
        aug_smooth: bool = False,
        eigen_smooth: bool = False,
    ) -> NDArray[np.float32]:
        """The maps of a batch, each stretched to [0, 1].

        Args:
            input_tensor: shape (B, C, *positions); moved to the model's device.
            targets: one function for each sample, from its output to one number; None for the
                predicted class.
            aug_smooth: must be False.
            eigen_smooth: must be False.

        Returns:
            Shape (B, *positions).

        Raises:
            ValueError: an option that FullGrad does not have.
            TargetError: targets that do not fit.
            FullGradError: as :func:`fullgrad.saliency`.
        """
        for name, value in (("aug_smooth", aug_smooth), ("eigen_smooth", eigen_smooth)):
            if value:
                raise ValueError(
                    f"{name} is not an option of FullGrad; for a smoother map use "
                    "method='smooth_fullgrad'"
                )
        device = next((t.device for t in self.model.parameters()), input_tensor.device)
        x = input_tensor.detach().to(device)
        count = len(x)
        if targets is not None and len(targets) != count:
            raise TargetError(f"{len(targets)} targets for a batch of {count} samples")
        model = unwrap(self.model)
        with lent(model), torch.no_grad():
            result = model(own(x))
            self.outputs = main_tensor(result)[0].detach().clone()
            predicted = select(result, None).index if targets is None else None
        size = self._batch_size or count
        maps = []
        for start in range(0, count, size):
            rows = slice(start, start + size)
            chosen: Any = None if predicted is None else predicted[rows]
            if targets is not None:
                chosen = _joined(targets[rows])
            maps.append(
                saliency(
                    self.model,
                    x[rows],
                    chosen,
                    method=self._method,
                    psi=self._psi,
                    terms=self._terms,
                )
            )
        return _stretched(torch.cat(maps).squeeze(1))


def _joined(targets: Sequence[Callable[[Any], Tensor]]) -> Callable[[Any], Tensor]:
    """One function for the whole batch's output, of one function for each sample's."""

    def scalars(result: Any) -> Tensor:
        output, _ = main_tensor(result)
        # Noisy copies come one round of the batch after the other.
        return torch.stack(
            [_scalar(targets[i % len(targets)], one) for i, one in enumerate(output)]
        )

    return scalars


def _scalar(target: Callable[[Any], Tensor], output: Tensor) -> Tensor:
    value = target(output)
    if not isinstance(value, Tensor) or value.numel() != 1:
        what = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise TargetError(f"a target must return one number for one sample's output, not {what}")
    return value.reshape(())


def _stretched(maps: Tensor) -> NDArray[np.float32]:
    over = list(range(1, maps.dim()))
    low, high = maps.amin(over, keepdim=True), maps.amax(over, keepdim=True)
    spread = torch.where(high > low, high - low, torch.ones_like(high))
    stretched: NDArray[np.float32] = ((maps - low) / spread).float().cpu().numpy()
    return stretched
