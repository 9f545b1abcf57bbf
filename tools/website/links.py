"""Check a built site: each link inside it leads to a file and an anchor, and nothing is loaded from outside.

    python tools/website/links.py build/site

Links to other sites are counted, not followed.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

LOADED = {"img": "src", "script": "src", "link": "href", "source": "src", "iframe": "src"}


@dataclass
class Page(HTMLParser):
    """The links of a page, what it loads, and its anchors."""

    links: list[str] = field(default_factory=list)
    loaded: list[str] = field(default_factory=list)
    anchors: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.anchors |= {values[name] for name in ("id", "name") if name in values}
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        elif values.get(LOADED.get(tag, "")) and values.get("rel") not in (
            "canonical",
            "next",
            "prev",
        ):
            self.loaded.append(values[LOADED[tag]])


def read(path: Path) -> Page:
    page = Page()
    page.feed(path.read_text(encoding="utf-8"))
    return page


def check(site: Path) -> tuple[list[str], int, int]:
    """What is wrong, and the numbers of links inside the site and to other sites."""
    pages = {path.resolve(): read(path) for path in sorted(site.rglob("*.html"))}
    wrong, inside, outside = [], 0, 0
    for path, page in pages.items():
        for link in [*page.links, *page.loaded]:
            parts = urlsplit(link)
            if parts.scheme in ("mailto", "data"):
                continue
            if parts.scheme or parts.netloc:
                outside += 1
                if link in page.loaded:
                    wrong.append(f"{path.relative_to(site.resolve())}: loads {link}")
                continue
            inside += 1
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            anchor = unquote(parts.fragment)
            if not target.is_file():
                wrong.append(f"{path.relative_to(site.resolve())}: no file {link}")
            elif anchor and target in pages and anchor not in pages[target].anchors:
                wrong.append(f"{path.relative_to(site.resolve())}: no anchor {link}")
    if not pages:
        wrong.append(f"{site} has no pages: build it with make docs")
    return wrong, inside, outside


def main() -> int:
    wrong, inside, outside = check(Path(sys.argv[1]))
    print(
        "\n".join(wrong) or f"{inside} links inside the site lead somewhere; {outside} lead outside"
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
