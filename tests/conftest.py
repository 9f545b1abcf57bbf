"""What all tests share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

from fullgrad import _optional
from fullgrad._compat import load_forward_mode

# torch.func.jvp, the tests' oracle, loads the same module, which warns on newer versions.
load_forward_mode()
# The tests' own tensors and models are made here: `FULLGRAD_DEVICE=cuda` puts them on
# a GPU, where not all tests are at home (test_cuda.py).
if "FULLGRAD_DEVICE" in os.environ:
    torch.set_default_device(os.environ["FULLGRAD_DEVICE"])
# Drawn examples have no time limit: a busy machine is no fault of the code. A service
# that checks each change draws the same examples each time; elsewhere they are new.
settings.register_profile(
    "fullgrad",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize="CI" in os.environ,
)
settings.load_profile("fullgrad")
torch.set_num_threads(1 if os.environ.get("PYTEST_XDIST_WORKER") else torch.get_num_threads())


@pytest.fixture(autouse=True, scope="session")
def from_an_index() -> Iterator[None]:
    """Messages name the command of a fullgrad that came from an index, however it came here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            _optional, "install_command", lambda e: _optional.command_for({}, "pip", "/usr", e)
        )
        yield


@pytest.fixture(scope="session")
def shared() -> Path:
    """The reference data beside the project; tests that need it are skipped without it."""
    place = Path(os.environ.get("FULLGRAD_SHARED", Path(__file__).parents[2] / "shared"))
    if not place.is_dir():
        pytest.skip("reference data not found beside the project (set FULLGRAD_SHARED)")
    return place
