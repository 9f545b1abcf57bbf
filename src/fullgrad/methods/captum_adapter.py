"""What Captum is given: the model's explained scalars, as a module of its own."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from fullgrad._optional import require
from fullgrad.engine.inputs import failures_named
from fullgrad.engine.lending import as_tuple, own
from fullgrad.engine.targets import select
from fullgrad.errors import MethodError
from fullgrad.maps.minibatches import with_rows

# Captum announces hooks that it removes again, and flags on copies that are ours.
_EXPECTED = (
    r"\s*Setting forward, backward hooks and attributes",
    r"\s*Setting backward hooks on ReLU",
    r"\s*Input Tensor \d+ did not already require gradients",
)
_UNUSED = ("does not require grad", "not have been used in the graph")


def captum() -> Any:
    """The module ``captum.attr``."""
    return require("captum.attr", "baselines")


class Explained(nn.Module):
    """From an input to one scalar per sample, so that Captum needs neither target nor arguments.

    Captum explains several variants of a batch at once, one whole batch after the other; targets
    and arguments that belong to samples are repeated to fit.

    Args:
        model: the user's model, lent.
        target: as :func:`fullgrad.engine.targets.select` takes it.
        extra: additional arguments of the model.
        count: number of samples.
    """

    def __init__(self, model: nn.Module, target: Any, extra: Any, count: int) -> None:
        super().__init__()
        self.model = model
        self._target, self._extra, self._count = target, as_tuple(extra), count

    def _repeated(self, value: Any, times: int) -> Any:
        if isinstance(value, Tensor) and value.dim() > 0 and value.shape[0] == self._count:
            return torch.cat([value] * times) if times > 1 else value
        if isinstance(value, dict):
            return {k: self._repeated(v, times) for k, v in value.items()}
        if type(value) in (tuple, list):
            return type(value)(self._repeated(v, times) for v in value)
        return value

    def forward(self, x: Tensor) -> Tensor:
        """The explained scalars, shape (number of samples,)."""
        times = len(x) // self._count
        # The copies let a model work in place on what it is given.
        extra = own(self._extra) if self._extra else ()
        with failures_named(x):
            result = self.model(x.clone(), *(self._repeated(v, times) for v in extra))
        target = with_rows(
            self._target, self._count, lambda t: torch.cat([t] * times), lambda rows: rows * times
        )
        return select(result, target).output


@contextmanager
def speaking_plainly(method: str) -> Iterator[None]:
    """Silence Captum's announcements, and say what its errors mean.

    Raises:
        MethodError: Captum found that the method does not apply.
    """
    with warnings.catch_warnings():
        for message in _EXPECTED:
            warnings.filterwarnings("ignore", message=message)
        try:
            yield
        except AssertionError as error:
            raise MethodError(f"{method} does not apply to the model: {error}") from error
        except RuntimeError as error:
            if any(text in str(error) for text in _UNUSED):
                raise MethodError(
                    f"{method} does not apply to the model: its output does not depend on the "
                    f"input through autograd ({error})"
                ) from error
            raise


def prepare_hooks(model: nn.Module) -> list[str]:
    """Make a model fit for hooks that replace the gradient at a module's input.

    Captum hangs such a hook on the input tensor itself. Where that is also the output of another
    hooked module (a ReLU before a max-pool), the other one reads its gradient before it is
    replaced, and where the tensor is used elsewhere too (a shortcut), the hook replaces the
    gradient of that use as well. So every module without parts gets a copy of its input.
    Activations that work in place are made to work beside it.

    Returns:
        The names of the modules that worked in place; the lender restores everything.
    """
    changed = []
    for name, module in model.named_modules():
        if next(module.children(), None) is None:
            module.register_forward_pre_hook(_copied)
        if getattr(module, "inplace", False) is True:
            module.inplace = False
            changed.append(name)
    return changed


def _copied(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(a.clone() if isinstance(a, Tensor) else a for a in args)
