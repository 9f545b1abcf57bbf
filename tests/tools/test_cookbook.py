"""The cookbook's commands print what its pages quote."""

from __future__ import annotations

from pathlib import Path

import pytest

import cookbook

PAGES = Path(__file__).parents[2] / "docs" / "cookbook"


@pytest.mark.parametrize("name", ["messages", "regression"])
def test_a_page_is_what_its_commands_print(name: str) -> None:
    assert cookbook.run(PAGES / f"{name}.md") == []


def test_a_page_that_is_wrong_is_told_and_mended(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("```console\n$ fullgrad explain \\\n  no.jpg\nall is well\n```\n")
    (said,) = cookbook.run(page)
    assert said.startswith(
        "page.md: $ fullgrad explain no.jpg\n    fullgrad: error: no.jpg does not"
    )
    assert cookbook.run(page, write=True) and cookbook.run(page) == []
    assert page.read_text().endswith("no.jpg does not exist\n(exit code 2)\n```\n")
    page.write_text("```console\n$ rm x\n```\n")
    with pytest.raises(ValueError, match="a page runs fullgrad and python alone, not rm"):
        cookbook.run(page)


@pytest.mark.parametrize(
    ("quoted", "found", "same"),
    [
        (["a 1.00 b"], ["a 1.01 b"], True),
        (["a 1.00 b"], ["a 1.10 b"], False),
        (["a 1.00 b"], ["a 1.00 c"], False),
        (["x", "...", "z"], ["x", "y", "y", "z"], True),
        (["..."], [], True),
        (["x"], ["x", "y"], False),
    ],
)
def test_what_agrees(quoted: list[str], found: list[str], same: bool) -> None:
    assert cookbook.agree(quoted, found) is same


def test_every_page_is_listed() -> None:
    listed = (PAGES / "README.md").read_text(encoding="utf-8")
    assert all(f"({p.name})" in listed for p in PAGES.glob("*.md") if p.name != "README.md")
