"""The proof on every call: the terms sum to the output."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from fullgrad._decisions import decided
from fullgrad.errors import CompletenessError

# Largest accepted |residual| / (|output| + sum of |terms' sums|), by the coarsest dtype at work.
TOLERANCES = {torch.float64: 1e-10, torch.float32: 1e-5, torch.bfloat16: 3e-2, torch.float16: 5e-3}
# Where a GPU may round float32 factors to ten bits (TensorFloat-32).
TF32_TOLERANCE = 5e-3
_ROUNDING = 16  # times the spacing of numbers
_COARSENESS = (torch.bfloat16, torch.float16, torch.float32, torch.float64)


def _tf32_allowed() -> bool:
    try:
        return bool(torch.backends.cudnn.allow_tf32 or torch.backends.cuda.matmul.allow_tf32)
    except RuntimeError:  # set through the newer fp32_precision interface
        return True


def tolerance_for(dtypes: Iterable[torch.dtype], device: torch.device) -> float:
    """The stated tolerance for a model that computes in these dtypes on this device."""
    real = {torch.float32 if d == torch.complex64 else d for d in dtypes}
    coarsest = next((d for d in _COARSENESS if d in real), torch.float64)
    if coarsest == torch.float32 and device.type == "cuda" and _tf32_allowed():
        return TF32_TOLERANCE
    return TOLERANCES[coarsest]


def balance(output: Tensor, sums: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Residual and scale of a decomposition.

    Args:
        output: explained scalars, shape (B,).
        sums: each term's sums, shape (B,).

    Returns:
        output - sum of the terms, and |output| + sum of |terms' sums|; both (B,), float64.
    """
    total = output.to(torch.float64)
    stacked = torch.stack([s.to(total.device) for s in sums]) if sums else total.new_zeros(1, 1)
    return total - stacked.sum(0), total.abs() + stacked.abs().sum(0)


def holds(residual: Tensor, scale: Tensor, tolerance: float) -> bool:
    """Whether every residual is finite and within the tolerance."""
    return decided((residual.abs() <= tolerance * scale).all(), proof=True)


def is_rounding(residual: Tensor, size: float, dtypes: Iterable[torch.dtype]) -> bool:
    """Whether residuals are no more than rounding of numbers whose sizes sum to that.

    Args:
        residual: of each sample.
        size: sum of the absolute values of one operation's numbers.
        dtypes: that the model computes in.
    """
    epsilon = max(torch.finfo(d).eps for d in dtypes)
    if epsilon > torch.finfo(torch.float32).eps:  # too coarse to tell rounding from a mistake
        return False
    return bool((residual.abs() <= _ROUNDING * epsilon * size).all())


_IN_FLOAT64 = (
    "The model computes in float64, so this is no rounding of its numbers: the gradient of these "
    "operations is wrong, or its kernel computes it in float32 (tolerance=1e-6 accepts that)."
)
_TRY_FLOAT64 = (
    "Try float64 (model.double(), input.double()) to tell rounding from a wrong gradient."
)


def breach(
    residual: Tensor,
    scale: Tensor,
    tolerance: float,
    gaps: list[tuple[str, str, float]],
    dtypes: Iterable[torch.dtype],
    hooked: Sequence[str] = (),
) -> CompletenessError:
    """The error for terms that do not sum to the output, naming where local sums fail.

    Args:
        residual: of each sample.
        scale: what it is relative to.
        tolerance: the largest relative residual accepted.
        gaps: of :func:`fullgrad.engine.backward.local_gaps`.
        dtypes: that the model computes in.
        hooked: modules with backward hooks.
    """
    relative = (residual.abs() / scale).nan_to_num(nan=float("inf"))
    worst = int(relative.argmax())
    infinite = ", ".join(f"{op} in {m or 'the model'}" for m, op, gap in gaps if gap == math.inf)
    if infinite:
        return CompletenessError(
            f"the gradient of sample {worst} is infinite or NaN, so its terms have no sum. It "
            f"comes from {infinite}. A root has such a gradient at zero: keep its argument from "
            "there, as in x.clamp(min=1e-6).sqrt(), or explain other samples."
        )
    lines = [
        f"the terms do not sum to the output: relative residual {float(relative[worst]):.2e} in "
        f"sample {worst}, tolerance {tolerance:.0e}."
    ]
    exact = set(dtypes) == {torch.float64}
    bad = [g for g in gaps if not g[2] <= (tolerance if exact else max(tolerance, 1e-6))][:5]
    if shown := bad or gaps[: 0 if exact else 3]:
        lines.append("Local sums fail most at:")
        lines += [f"  {m or 'the model'}: {op}, relative gap {gap:.1e}" for m, op, gap in shown]
        lines.append(_IN_FLOAT64 if exact else _TRY_FLOAT64)
    else:
        where = f" (there are some on {', '.join(hooked)})" if hooked else ""
        lines.append(
            "The sum of each operation holds, so the gradient is changed between them: remove the "
            f"backward hooks that change it{where}."
        )
    return CompletenessError("\n".join(lines))
