"""A small decomposition to draw."""

from __future__ import annotations

import pytest
import torch

import fullgrad
from drawn import Net


@pytest.fixture(scope="module")
def decomposition() -> fullgrad.Decomposition:
    torch.manual_seed(0)
    return fullgrad.decompose(Net().double(), torch.randn(2, 3, 12, 10).double(), 1)
