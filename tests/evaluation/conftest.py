"""What tests of tests share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Networks this small are slower on several threads, which also round otherwise."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def cluster() -> Iterator[Any]:
    """Ray with two workers on this machine, started once."""
    pytest.importorskip("ray", reason="Ray is not installed")
    from fullgrad.evaluation.tests.remove_and_retrain.executors import OnRay

    executor = OnRay(workers=2)
    yield executor
    executor.close()
