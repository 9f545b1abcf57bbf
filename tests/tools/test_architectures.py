"""A quick part of the sweep over architectures; `make sweep` does all of it."""

from __future__ import annotations

import pytest
import timm
import torch

import fullgrad
from sweep import (
    BAR,
    Case,
    measure,
    sequence_cases,
    timm_cases,
    torchvision_cases,
    transformers_cases,
)

torchvision_quick = {
    "mobilenet_v3_small",
    "shufflenet_v2_x0_5",
    "googlenet",
}  # more in test_complete_map
timm_quick = {"test_vit", "test_convnext", "test_resnet", "test_nfnet", "test_efficientnet"}


def quick() -> list[Case]:
    cases = [*sequence_cases(), *transformers_cases()]
    cases += [c for c in torchvision_cases(names=torchvision_quick)]
    cases += [c for c in timm_cases(names=timm_quick)]
    return cases


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", quick(), ids=lambda c: f"{c.source}:{c.name}")
def test_sum_closes(case: Case) -> None:
    result = measure(case)
    assert result.refusal == ""
    assert result.residual <= BAR
    assert result.terms > 0
    assert result.input_share > 1e-4


def test_tokens_pooled_along_rows_have_their_places() -> None:
    """NextViT pools keys along the flattened image: each lies where its tokens do."""
    torch.manual_seed(0)
    model = timm.create_model("nextvit_small", pretrained=False).eval()
    found = fullgrad.saliency(model, torch.randn(1, 3, 96, 96), 0)
    assert found.shape == (1, 1, 96, 96)
    assert float(found.std()) > 0
