"""The only module that touches private parts of PyTorch."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _python_dispatch


def outside_modes() -> AbstractContextManager[Any]:
    """No dispatch mode sees what runs inside."""
    return _python_dispatch._disable_current_modes()


def ordinary(t: Any) -> bool:
    """Whether it is a dense tensor of no subclass and inside no function transform."""
    return (
        type(t) in (Tensor, nn.Parameter)
        and t.layout == torch.strided
        and not torch._C._functorch.is_functorch_wrapped_tensor(t)
    )
