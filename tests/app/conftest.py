"""What the tests of the viewer share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

pytest.importorskip("starlette")
from app_server import Running, running


@pytest.fixture(scope="package")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A viewer of small models, which all tests of this folder may ask."""
    makes = ("make_net", "make_functional", "make_broken", "make_infinite", "make_detached")
    with running(tmp_path_factory.mktemp("app"), *makes) as found:
        yield found
