"""FullGrad in the call style of the grad-cam package."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fullgrad._options import takes_options
from fullgrad.engine.inputs import check_keywords, check_one, failures_named
from fullgrad.engine.lending import as_tuple, lent, own
from fullgrad.engine.targets import Target, main_tensor, select
from fullgrad.engine.wrappers import unwrap
from fullgrad.errors import TargetError
from fullgrad.maps.minibatches import check_size
from fullgrad.maps.saliency import METHODS, SaliencyOptions, saliency

if TYPE_CHECKING:
    from typing_extensions import Unpack


class FullGrad:
    """Called like a class of the grad-cam package, on all layers of a model.

    Args:
        model: any ``nn.Module``; unlike there, it keeps its training mode.
        target_layers: none or empty: FullGrad reads every layer.
        reshape_transform: None: positions are known from the operations, not stated.
        method: ``"fullgrad"``, or another of :func:`fullgrad.saliency`'s.
        **options: of :func:`fullgrad.saliency`, but for ``top``.

    Attributes:
        outputs: the model's main output in the last call, shape (B, ...); None before.

    Raises:
        ValueError: layers or a transform are given, or an unknown method or option.

    Example:
        >>> import torch
        >>> from fullgrad.interop.grad_cam import FullGrad
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 2, 3), torch.nn.Flatten())
        >>> FullGrad(model, batch_size=1)(torch.rand(2, 3, 8, 8)).shape
        (2, 8, 8)
    """

    @takes_options("interop.grad_cam.FullGrad", SaliencyOptions, places="activation_layouts")
    def __init__(
        self,
        model: nn.Module,
        target_layers: Sequence[nn.Module] | None = None,
        reshape_transform: Callable[..., Any] | None = None,
        *,
        method: str = "fullgrad",
        **options: Unpack[SaliencyOptions],
    ) -> None:
        if target_layers is not None and (
            not isinstance(target_layers, Sequence) or len(target_layers) > 0
        ):
            listed = isinstance(target_layers, Sequence)
            given = f"{len(target_layers)} layers" if listed else repr(target_layers)
            raise ValueError(
                f"target_layers must be [] or None, not {given}: FullGrad "
                "reads every layer; choose terms with terms="
            )
        if reshape_transform is not None:
            raise ValueError(
                "reshape_transform must be None: positions are known from the operations, or "
                "stated with activation_layouts="
            )
        if options.get("top") is not None:
            raise ValueError("top must be None: targets choose one class for each sample")
        if method not in METHODS:
            raise ValueError(f"unknown method {method!r}; known: {', '.join(METHODS)}")
        check_size(
            options.get("batch_size"),
            options.get("memory"),
            per_sample=options.get("per_sample", True),
        )
        self.model = model
        self.outputs: Tensor | None = None
        self._method, self._options = method, options

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
            targets: one function for each sample, from its output to one number, or a target of
                :mod:`fullgrad.targets`; None for the predicted class.
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
        model, options = unwrap(self.model), self._options
        check_one(input_tensor, "input_tensor")
        check_keywords(options.get("forward_kwargs"))
        device = next((t.device for t in model.parameters()), input_tensor.device)
        x = input_tensor.detach().to(device)
        count = len(x)
        if not isinstance(targets, Sequence | None):
            raise TargetError(
                f"targets must be None or a list of functions, not {type(targets).__name__}"
            )
        if targets is not None and len(targets) != count:
            raise TargetError(f"{len(targets)} targets for a batch of {count} samples")
        extra = as_tuple(own(options.get("additional_forward_args")))
        with lent(model), torch.no_grad(), failures_named(x):
            result = model(own(x), *extra, **own(dict(options.get("forward_kwargs") or {})))
            self.outputs = main_tensor(result)[0].detach().clone()
            chosen: Target = select(result, None).index if targets is None else list(targets)
        return _stretched(saliency(self.model, x, chosen, self._method, **options).squeeze(1))


def _stretched(maps: Tensor) -> NDArray[np.float32]:
    over = list(range(1, maps.dim()))
    low, high = maps.amin(over, keepdim=True), maps.amax(over, keepdim=True)
    spread = torch.where(high > low, high - low, torch.ones_like(high))
    stretched: NDArray[np.float32] = ((maps - low) / spread).float().cpu().numpy()
    return stretched
