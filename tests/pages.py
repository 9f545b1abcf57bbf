"""Reports under test: what holds for every page, and records that are read and changed."""

from __future__ import annotations

import itertools
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from fullgrad.cli.main import main

SOURCE = """
import torch
from torch import nn

PREPROCESSING = {"resize": 24, "crop": [20, 20], "interpolation": "bilinear",
    "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
CLASSES = ["black <b>cat</b>", "dog & 'co'", 'bird" onload="x']

def make_model():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.GELU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(4, 3))
"""
HOSTILE = "<script>alert(1)</script>&'\"\u202e $x ${title}.png"
VOID = {"img", "input", "meta", "br"}


class Page(HTMLParser):
    """What a page is made of; a tag that is not closed, or that nobody asked for, fails."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.headings: list[tuple[int, str]] = []
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), (tag, names)
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)
        if re.fullmatch("h[1-6]", tag):
            self.headings.append((int(tag[1]), ""))

    def handle_endtag(self, tag: str) -> None:
        assert self._open, tag
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" in self._open:
            return
        self.text += data
        if self._open and re.fullmatch("h[1-6]", self._open[-1]):
            level, before = self.headings[-1]
            self.headings[-1] = (level, before + data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]


def check(html: str) -> Page:
    """The page, after what holds for every page has been looked at."""
    page = Page(html)
    names = {name for name, _ in page.tags}
    assert not names & {"script", "iframe", "object", "embed", "link", "form", "base", "b"}
    for _, attrs in page.tags:
        assert not [a for a in attrs if a.startswith("on")]
        for name in ("src", "href", "srcset", "action", "data", "poster"):
            value = attrs.get(name)
            assert value is None or value.startswith(("data:image/", "#")), value
    assert "url(" not in html
    assert "@import" not in html
    for image in page.all("img"):
        assert len(image["alt"] or "") > 20
    assert page.all("html") == [{"lang": "en"}]
    assert any(m.get("name") == "viewport" for m in page.all("meta"))
    assert any("default-src 'none'" in (m.get("content") or "") for m in page.all("meta"))
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    for _, attrs in page.tags:
        href = attrs.get("href")
        assert href is None or href[1:] in ids
        label = attrs.get("aria-labelledby")
        assert label is None or label in ids
    levels = [level for level, _ in page.headings]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(b - a <= 1 for a, b in itertools.pairwise(levels))
    assert all(text.strip() for _, text in page.headings)
    for box in page.all("div"):
        if box.get("class") == "scroll":
            assert box["tabindex"] == "0"
            assert box["role"] == "group"
            assert box.get("aria-label") or box.get("aria-labelledby")
    assert len(page.all("table")) == len(page.all("caption"))
    assert all(th.get("scope") in {"row", "col"} for th in page.all("th"))
    assert len(page.all("main")) == len(page.all("header")) == len(page.all("title")) == 1
    return page


def squeezed(text: str) -> str:
    return " ".join(text.split())


def made(*arguments: str) -> Page:
    assert main(["report", *arguments, "--out", "r.html"]) == 0
    return check(Path("r.html").read_text(encoding="utf-8"))


def record_of(path: str) -> Any:
    return json.loads(Path(path).read_text(encoding="utf-8"))


def changed(path: str, change: Any) -> None:
    values = record_of(path)
    change(values)
    Path(path).write_text(json.dumps(values))
