"""Small modules written as functions, and the identities that every decomposition must meet."""

from __future__ import annotations

import random as python_random
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import fullgrad
from fullgrad.maps.tokens import TokenScores

DOUBLE = torch.float64


class Snippet(nn.Module):
    """A forward given as a function of the module and its inputs, with one linear layer."""

    def __init__(
        self, run: Callable[..., Any], width: int = 4, classes: int = 3, **parts: Any
    ) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.fc = nn.Linear(width, classes)
        for name, part in parts.items():
            if isinstance(part, Tensor) and not isinstance(part, nn.Parameter):
                self.register_buffer(name, part)
            else:
                setattr(self, name, part)
        self.run = run
        self.double()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.run(self, *args, **kwargs)


def batch(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(
        *shape,
        dtype=DOUBLE,
        generator=torch.Generator(torch.get_default_device()).manual_seed(seed),
    )


def assert_exact(model: nn.Module, x: Tensor, target: int = 1, **options: Any) -> Any:
    """Output and gradient are PyTorch's own, and the bias terms are f - <grad f, x>."""
    result = fullgrad.decompose(model, x, target, **options)
    leaf = x.detach().clone().requires_grad_()
    output = model(leaf.clone())[:, target]
    (gradient,) = torch.autograd.grad(output.sum(), leaf)
    torch.testing.assert_close(result.output, output.detach())
    torch.testing.assert_close(result.input_gradients[0], gradient)
    rest = output.detach() - (gradient * x).flatten(1).sum(1)
    torch.testing.assert_close(result.bias_sums, rest, rtol=1e-9, atol=1e-11)
    return result


def in_threads(*functions: Callable[[], Any], timeout: float = 60) -> None:
    """Run functions at once; raise what they raise, and fail rather than wait for ever."""
    failures: list[BaseException] = []

    def guarded(function: Callable[[], Any]) -> None:
        try:
            function()
        except BaseException as e:
            failures.append(e)

    threads = [threading.Thread(target=guarded, args=(f,), daemon=True) for f in functions]
    for t in threads:
        t.start()
    for t in threads:
        t.join(timeout)
    assert not any(t.is_alive() for t in threads), "a thread hangs"
    if failures:
        raise failures[0]


def state_of(model: nn.Module, *tensors: Tensor) -> Any:
    """Everything of a model, of tensors and of the process that a call must leave alone."""
    return (
        [
            (n, id(t), t.requires_grad, id(t.grad), t.detach().flatten().tolist())
            for n, t in model.state_dict(keep_vars=True).items()
        ],
        [
            (
                n,
                m.training,
                sorted(m.__dict__),
                len(m._forward_hooks),
                len(m._backward_hooks),
                len(m._forward_pre_hooks),
                getattr(m, "inplace", None),
            )
            for n, m in model.named_modules()
        ],
        [(t.requires_grad, t.grad is None, t.detach().flatten().tolist()) for t in tensors],
        torch.get_rng_state().tolist(),
        np.random.get_state()[1].tolist(),
        python_random.getstate(),
        torch.is_grad_enabled(),
    )


def check_sum(s: TokenScores, tolerance: float = 1e-10) -> None:
    """Token scores add up to the output."""
    total = s.total.flatten(1).sum(1) + s.elsewhere
    torch.testing.assert_close(total + s.residual, s.output.double(), rtol=1e-15, atol=1e-15)
    size = s.elsewhere.abs() + s.output.abs()
    size = size + sum(t.flatten(1).sum(1).abs() for t in (s.scores, s.bias_scores))
    assert (s.residual.abs() <= tolerance * size).all()
    torch.testing.assert_close(s.sums, total)
    torch.testing.assert_close(s.total, s.scores + s.bias_scores)
    assert (s.relative_residual <= s.tolerance).all()
