"""What all tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from fullgrad._compat import load_forward_mode

# torch.func.jvp, the tests' oracle, loads the same module, which warns on newer versions.
load_forward_mode()
# The tests' own tensors and models are made here: `FULLGRAD_DEVICE=cuda` runs the suite on a GPU.
if "FULLGRAD_DEVICE" in os.environ:
    torch.set_default_device(os.environ["FULLGRAD_DEVICE"])
torch.set_num_threads(1 if os.environ.get("PYTEST_XDIST_WORKER") else torch.get_num_threads())


@pytest.fixture(scope="session")
def shared() -> Path:
    """The reference data beside the project; tests that need it are skipped without it."""
    place = Path(os.environ.get("FULLGRAD_SHARED", Path(__file__).parents[2] / "shared"))
    if not place.is_dir():
        pytest.skip("reference data not found beside the project (set FULLGRAD_SHARED)")
    return place
