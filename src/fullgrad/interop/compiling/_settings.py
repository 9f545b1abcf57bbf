"""Settings of the process that change what a model computes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor


def _read(owner: Any, name: str) -> Any:
    """A setting; None where this PyTorch lacks it, or it was set through another one."""
    try:
        value = getattr(owner, name)
        return value() if callable(value) else value
    except (AttributeError, RuntimeError):
        return None


_BACKENDS = torch.backends
_SETTINGS: tuple[tuple[Any, str], ...] = (
    (torch, "get_default_dtype"),
    (torch, "get_default_device"),
    (torch, "get_float32_matmul_precision"),
    (torch, "are_deterministic_algorithms_enabled"),
    *((_BACKENDS.cudnn, n) for n in ("enabled", "deterministic", "benchmark", "allow_tf32")),
    (_BACKENDS.cudnn.conv, "fp32_precision") if hasattr(_BACKENDS.cudnn, "conv") else (torch, ""),
    (_BACKENDS.cuda.matmul, "allow_tf32"),
    (_BACKENDS.cuda.matmul, "fp32_precision"),
    (_BACKENDS.cuda.matmul, "allow_fp16_reduced_precision_reduction"),
    (_BACKENDS.cuda.matmul, "allow_bf16_reduced_precision_reduction"),
    *((_BACKENDS.cuda, f"{n}_sdp_enabled") for n in ("flash", "mem_efficient", "math", "cudnn")),
    (_BACKENDS.mkldnn, "enabled"),
    (_BACKENDS.mha, "get_fastpath_enabled"),
)


def settings(tensors: Iterable[Tensor]) -> tuple[Any, ...]:
    """Precision flags, chosen kernels, defaults and autocast, for the devices of some tensors."""
    kinds = sorted({t.device.type for t in tensors})
    cast = [(k, torch.is_autocast_enabled(k), torch.get_autocast_dtype(k)) for k in kinds]
    return (*(_read(owner, name) for owner, name in _SETTINGS), *cast)
