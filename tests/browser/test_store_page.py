"""The page of a store in a browser: one click to a sample, filters, means, clusters, narrow screens."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

import stored_images
import stored_maps
from browser_steps import overflow, scan

READY = "#content[aria-busy='false']"


@contextlib.contextmanager
def viewer(maps: Path) -> Iterator[str]:
    """The address of a running viewer of a store."""
    command = [sys.executable, "-m", "fullgrad", "app", "--port", "0", "--store", str(maps)]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        found = re.search(r"http://\S+", process.stdout.readline())
        assert found
        try:
            yield found.group()
        finally:
            process.terminate()
            process.wait(20)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a running viewer of a small store."""
    with viewer(stored_images.write(tmp_path_factory.mktemp("store"))) as address:
        yield address


@pytest.fixture
def opened(browser: Any, store: str, watched: Any) -> Iterator[Callable[..., Any]]:
    contexts = []

    def go(width: int, words: str = "", dark: bool = False) -> Any:
        scheme = "dark" if dark else "light"
        contexts.append(
            browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        )
        page = contexts[-1].new_page()
        watched.watch(page)
        page.goto(store + words)
        page.wait_for_selector(READY, state="attached")
        return page

    yield go
    for context in contexts:
        context.close()


@pytest.mark.parametrize("width", [1440, 390])
def test_from_filter_to_sample_and_back(
    opened: Callable[..., Any], shot: Callable[[Any, str], None], width: int
) -> None:
    page = opened(width)
    expect(page.locator("#status")).to_have_text("25 of 25 samples.")
    page.select_option("#target", label="dog")
    page.select_option("#outcome", label="wrong")
    page.select_option("#sort", label="logit")
    page.select_option("#direction", label="largest first")
    page.click("text=Show")
    expect(page.locator("#status")).to_have_text("4 of 25 samples.")
    shot(page, f"store-filtered-{width}")
    name = page.locator(".samples strong").first.inner_text()
    page.locator(".samples a").first.click()
    expect(page.locator("#content h2")).to_have_text(name)
    expect(page.locator(".large img")).to_have_count(3)
    page.wait_for_function(
        "() => [...document.querySelectorAll('.large img')].every((i) => i.naturalWidth)"
    )
    expect(page.locator("table.waterfall tbody tr")).to_have_count(3)
    assert overflow(page) == []
    shot(page, f"store-sample-{width}")
    page.click("text=Back")
    expect(page.locator("#status")).to_have_text("4 of 25 samples.")
    expect(page.locator("#target")).to_have_value("1")
    page.fill("#where", "row > 12; id ~ 1")
    page.click("text=Show")
    expect(page.locator("#status")).to_have_text("1 of 25 samples.")
    page.click("text=All samples")
    expect(page.locator("#status")).to_have_text("25 of 25 samples.")
    assert overflow(page) == []


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("view", ["samples", "means", "clusters", "row"])
def test_views_can_be_read_by_all(
    opened: Callable[..., Any], shot: Callable[[Any, str], None], view: str, dark: bool
) -> None:
    page = opened(390, "#row=10" if view == "row" else f"#view={view}", dark)
    expect(page.locator("#error")).to_be_hidden()
    assert overflow(page) == []
    assert scan(page) == []
    shot(page, f"store-{view}-{'dark' if dark else 'light'}")


def test_a_mean_map_leads_to_its_samples(opened: Callable[..., Any]) -> None:
    page = opened(1440, "#view=means")
    count = page.locator(".samples a").first.inner_text().split()[-2]
    page.locator(".samples a").first.click()
    expect(page.locator("#status")).to_have_text(f"{count} of 25 samples.")


def test_a_mistake_is_told_and_can_be_mended(opened: Callable[..., Any], watched: Any) -> None:
    watched.accept("400 (Bad Request)")
    page = opened(1440, "#where=size+%3E+3")
    expect(page.locator("#error")).to_contain_text("there is no column 'size'")
    expect(page.locator("#where")).to_have_value("size > 3")
    page.fill("#where", "row > 20")
    page.click("text=Show")
    expect(page.locator("#error")).to_be_hidden()
    expect(page.locator("#status")).to_have_text("4 of 25 samples.")


def test_texts_are_read_token_by_token(
    tmp_path: Path, browser: Any, watched: Any, shot: Callable[[Any, str], None]
) -> None:
    stored_maps.write(tmp_path, stored_maps.plan(positions=(9,), dims=("token",)))
    with viewer(tmp_path) as address:
        page = browser.new_page(viewport={"width": 390, "height": 900})
        watched.watch(page)
        page.goto(f"{address}#where=row+%3C+3&sort=-logit")
        expect(page.locator("#status")).to_have_text("3 of 25 samples.")
        expect(page.locator("#view-means")).to_be_hidden()
        expect(page.locator(".token")).to_have_count(27)
        assert overflow(page) == []
        assert scan(page) == []
        page.locator(".samples a").first.click()
        expect(page.locator(".token")).to_have_count(9)
        expect(page.locator("#content")).to_contain_text("Each token stands above its part")
        assert overflow(page) == []
        shot(page, "store-text")
        page.close()
