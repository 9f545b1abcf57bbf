"""What a person does in the viewer, and what they read there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

PATIENT = 60_000  # milliseconds, for a computation


def give(page: Any, photograph: Path) -> None:
    """Choose a file and wait for its result."""
    expect(page.locator("#status")).to_have_text("Ready for a photograph.")
    page.set_input_files("#file", photograph)
    done(page)


def done(page: Any) -> None:
    """Wait until nothing is computed any more, and all went well."""
    expect(page.locator("#status")).to_contain_text("Done", timeout=PATIENT)
    expect(page.locator("#result")).to_have_attribute("aria-busy", "false")
    expect(page.locator("#error")).to_be_hidden()
    expect(page.locator("#stale")).to_be_hidden()


def read(text: str) -> float:
    """The first number in a text of the page."""
    found = re.search(r"[+−-]?\d+(\.\d+)?(e[−-]?\d+)?", text)
    assert found, text
    return float(found.group().replace("−", "-"))


def fact(page: Any, name: str) -> str:
    """What the page says beside a name."""
    row = page.locator("#facts > div").filter(has=page.get_by_text(name, exact=True))
    return str(row.locator("dd").first.inner_text())


def headline(page: Any) -> str:
    return str(page.locator("#headline").inner_text())


def slide(page: Any, selector: str, value: int) -> None:
    """Move a slider as its user does: the events come with the value."""
    page.locator(selector).fill(str(value))


def waterfall(page: Any) -> dict[str, float]:
    """The waterfall's rows: names and sums, in order."""
    found = {}
    for row in page.locator("table.waterfall tbody tr").all():
        found[row.locator("th").inner_text()] = read(row.locator("td.n").first.inner_text())
    return found


def overflow(page: Any) -> list[str]:
    """What reaches beyond the page's width, if it scrolls sideways."""
    return list(
        page.evaluate(
            """() => {
              const wide = document.documentElement.clientWidth;
              if (document.documentElement.scrollWidth <= wide) return [];
              return [...document.querySelectorAll("body *")]
                .filter((e) => e.getBoundingClientRect().right > wide + 1)
                .map((e) => `${e.tagName}#${e.id}.${e.className}`).slice(0, 10);
            }"""
        )
    )


def scan(page: Any) -> list[str]:
    """What axe finds wrong."""
    found = Axe().run(page).response["violations"]
    return [f"{v['impact']}: {v['id']}: {[n['html'][:120] for n in v['nodes'][:3]]}" for v in found]
