"""Small modules written as functions, and the identities that every decomposition must meet."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import fullgrad

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
    return torch.randn(*shape, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed))


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


def in_threads(*functions: Callable[[], Any], timeout: float = 20) -> None:
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
