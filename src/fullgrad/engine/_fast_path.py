"""PyTorch's fused transformer encoder, whose output may be another than the explained one."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fullgrad._decisions import tracing
from fullgrad.engine import verification
from fullgrad.engine.inputs import prepare
from fullgrad.engine.request import Request, Traced
from fullgrad.engine.targets import select
from fullgrad.errors import GraphError


def compare_with_fast_path(
    request: Request,
    model: nn.Module,
    several: Sequence[Traced],
    totals: Sequence[tuple[Tensor, float]],
) -> None:
    """Warn where PyTorch's fused encoder gives another output than the explained one.

    Without gradients, ``nn.TransformerEncoder`` cuts padded positions out and puts zeros there.

    Args:
        request: the call.
        model: the eager module.
        several: the recorded forward, once for each target.
        totals: scale and tolerance of each target's sum.

    Raises:
        GraphError: the call is traced.
    """
    if tracing():
        raise GraphError(
            "whether nn.TransformerEncoder gives another output without gradients is compared in "
            "numbers, which a graph does not hold."
        )
    again = prepare(request.inputs, request.additional_forward_args, request.forward_kwargs)
    count = several[0].layouts.samples
    with torch.no_grad(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The PyTorch API of nested tensors")
        result = model(*again.args, **again.kwargs)
        outputs = [select(result, t.selected.target, count).output for t in several]
    for traced, (scale, tolerance), fast in zip(several, totals, outputs, strict=True):
        explained = traced.output.detach()
        gap = (fast - explained).abs()
        if verification.holds(gap.sum(), scale.sum(), 10 * tolerance):
            continue
        worst = int(gap.argmax())
        warnings.warn(
            f"without gradients this model's output is another: {float(fast[worst]):.6g} in "
            f"sample {worst}, but {float(explained[worst]):.6g} is explained. "
            "nn.TransformerEncoder then puts zeros at padded positions, and the model reads "
            "them. Leave them out where positions are pooled, or make the encoder with "
            "enable_nested_tensor=False",
            UserWarning,
            stacklevel=2,
        )
        return
