"""The README says what is so: its tests exist, its table is measured, its lines run; and a site's links hold."""

from __future__ import annotations

import json
import re
from pathlib import Path

import torch

import links
import peers

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_readme_is_short_and_the_tests_it_names_exist() -> None:
    assert len(README.splitlines()) <= 130
    named = re.findall(r"tests/[\w/]+\.py", README)
    assert len(named) >= 4 and all((ROOT / name).is_file() for name in named)


def test_its_links_lead_to_files() -> None:
    targets = [t for t in re.findall(r"\]\(([^)]+)\)", README) if not t.startswith("http")]
    assert len(targets) > 20
    assert [t for t in targets if not (ROOT / t).is_file()] == []


def test_its_python_runs() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", README, re.S)
    names: dict[str, object] = {}
    exec(code, names)
    heat = names["heat"]
    assert isinstance(heat, torch.Tensor) and heat.shape == (1, 1, 224, 224)


def test_its_table_of_packages_is_the_stored_one() -> None:
    stored = json.loads(peers.STORED.read_text(encoding="utf-8"))
    assert f"{peers.START}\n{peers.table(stored)}\n{peers.END}" in README
    own = peers.cells("fullgrad", stored["peers"]["fullgrad"])
    assert own[0] == "6 of 6" and float(own[1]) < 1e-5


def test_a_map_of_one_number_is_not_a_map() -> None:
    x = torch.rand(1, 3, 8, 8)
    assert peers.is_map(peers.Found(torch.rand(1, 4, 4)), x)
    assert not peers.is_map(peers.Found(torch.ones(1, 4, 4)), x)
    assert not peers.is_map(peers.Found(torch.rand(1, 1, 1)), x)
    assert not peers.is_map(peers.Found(torch.full((1, 4, 4), torch.nan)), x)


def test_dead_links_and_foreign_files_of_a_site_are_found(tmp_path: Path) -> None:
    (tmp_path / "b.html").write_text('<h1 id="there">b</h1>')
    (tmp_path / "a.html").write_text('<a href="b.html#there">b</a><a href="https://x.org/">x</a>')
    assert links.check(tmp_path) == ([], 1, 1)
    (tmp_path / "a.html").write_text(
        '<a href="c.html">c</a><a href="b.html#gone">b</a><a href="#no">a</a>'
        '<script src="https://x.org/s.js"></script>'
    )
    assert links.check(tmp_path)[0] == [
        "a.html: no file c.html",
        "a.html: no anchor b.html#gone",
        "a.html: no anchor #no",
        "a.html: loads https://x.org/s.js",
    ]


def test_a_folder_without_pages_is_told(tmp_path: Path) -> None:
    assert "make docs" in links.check(tmp_path)[0][0]
