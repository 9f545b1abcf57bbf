"""A report of many photographs in a browser: thumbnails that lead to folded photographs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

from browser_steps import overflow, scan
from fullgrad.cli.main import main


@pytest.fixture(scope="module")
def report(photographs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> str:
    """The address of a page of six photographs."""
    folder = tmp_path_factory.mktemp("report")
    for name, path in photographs.items():
        for copy in "ab":
            (folder / f"{name}-{copy}.jpg").write_bytes(path.read_bytes())
    made = folder / "out"
    assert main(["explain", str(folder), "--out", str(made), "--layers", "--quiet"]) == 0
    assert main(["report", str(made), "--out", str(folder / "report.html")]) == 0
    return (folder / "report.html").as_uri()


@pytest.mark.parametrize("width", [360, 768, 1440])
def test_a_thumbnail_opens_its_photograph(
    browser: Any, report: str, watched: Any, shot: Any, width: int
) -> None:
    context = browser.new_context(viewport={"width": width, "height": 900})
    page = context.new_page()
    watched.watch(page)
    page.goto(report)
    expect(page.locator("details.photograph")).to_have_count(6)
    expect(page.locator("details.photograph[open]")).to_have_count(0)
    assert overflow(page) == []
    assert page.evaluate("document.documentElement.scrollHeight") < 4000
    shot(page, f"report-{width}")

    def shown() -> list[str]:
        """The thumbnails' texts as they are seen: by rows, then from left to right."""
        cards = [
            (c.bounding_box(), c.inner_text().strip()) for c in page.locator(".cards li").all()
        ]
        return [text for _, text in sorted(cards, key=lambda c: (round(c[0]["y"]), c[0]["x"]))]

    given = shown()
    page.get_by_label("least probable first").check()
    percent = [float(text.split(", ")[-1].rstrip(" %")) for text in shown()]
    assert percent == sorted(percent)
    assert shown() != given
    page.get_by_label("by class").check()
    names = [text.partition(": ")[2] for text in shown()]
    assert names == sorted(names)
    page.keyboard.press("ArrowLeft")  # the choice before, by keyboard
    expect(page.get_by_label("as given")).to_be_checked()
    assert shown() == given
    link = page.locator(".cards a").nth(4)
    link.focus()
    page.keyboard.press("Enter")
    opened = page.locator("details.photograph[open]")
    expect(opened).to_have_count(1)
    name = (link.text_content() or "").partition(":")[0]
    heading = opened.locator("h3")
    expect(heading).to_contain_text(name)
    expect(heading).to_be_in_viewport()
    expect(opened.locator("img").first).to_be_visible()
    loaded = opened.locator("img").first.evaluate("async i => (await i.decode(), i.naturalWidth)")
    assert 300 < loaded <= 1408
    assert overflow(page) == []
    assert scan(page) == []
    shot(page, f"report-{width}-opened")
    context.close()
