"""The documentation site as a folder: axe, narrow screens, and a search without a server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from browser_steps import scan

SITE = Path(__file__).parents[2] / "build" / "site"
PAGES = (
    "index",
    "install",
    "notebooks/photographs",
    "own-models",
    "how-to/index",
    "reference/fullgrad",
    "recommendation",
    "gallery",
)
pytestmark = pytest.mark.skipif(not SITE.is_dir(), reason="the site is not built: make docs")


@pytest.mark.parametrize("name", PAGES)
@pytest.mark.parametrize("width", [390, 1440])
def test_pages_fit_and_axe_finds_nothing_serious(browser: Any, name: str, width: int) -> None:
    page = browser.new_page(viewport={"width": width, "height": 900})
    page.goto((SITE / f"{name}.html").as_uri())
    page.wait_for_load_state("load")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert [v for v in scan(page) if v.startswith(("serious", "critical"))] == []
    page.close()


def test_the_search_finds_a_page_without_a_server(browser: Any) -> None:
    page = browser.new_page()
    page.goto((SITE / "search.html").as_uri() + "?q=checkerboard")
    found = page.locator("#search-results li a", has_text="Checkerboard patterns")
    found.first.wait_for(timeout=20_000)
    page.close()
