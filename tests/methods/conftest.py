"""What tests of methods share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from fullgrad import methods


@pytest.fixture(autouse=True)
def registry_as_it_was() -> Iterator[None]:
    before = {name: methods.get(name) for name in methods.names()}
    yield
    for name in methods.names():
        if name not in before:
            methods.unregister(name)
    assert {name: methods.get(name) for name in methods.names()} == before
