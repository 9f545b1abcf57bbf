"""Draws docs/images/architecture.svg from the imports of the code: the packages along the data's path.

    python tools/architecture.py

Packages and their order are those of the import contract in pyproject.toml. The number at a bend is
how many pairs of modules import each other there; the number in a box counts its modules.
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from xml.sax.saxutils import escape

import grimp
from importlinter import api

ROOT = Path(__file__).resolve().parents[1]
PICTURE = ROOT / "docs" / "images" / "architecture.svg"
PRIVATE = "_*.py"
CELL, LEFT, TOP, NAME = 27, 84, 10, 14  # pixels; the last one is a letter's size
_STYLE = """
text { font: 12px system-ui, sans-serif; text-anchor: middle; dominant-baseline: central }
.name { font: 600 14px ui-monospace, monospace; text-anchor: end }
.note { text-anchor: start; fill: #555 }
.arrow { fill: none; stroke: #9aa4b2; stroke-width: 1.2; marker-end: url(#tip) }
.count { fill: #fff; stroke: #9aa4b2 }
.against { stroke: #b00020 }
rect.box { fill: #1f4e79 } .in { fill: #fff }
"""


def path() -> list[str]:
    """The packages in the order in which data passes them, the private modules as one."""
    (contract,) = api.read_configuration(str(ROOT / "pyproject.toml"))["contracts_options"]
    layers = [str(layer) for layer in reversed(contract["layers"])]
    return list(dict.fromkeys(PRIVATE if layer.startswith("_") else layer for layer in layers))


def package_of(module: str) -> str:
    """The row of a module; empty for the package itself, its command and its version."""
    parts = module.split(".")[1:]
    if not parts or parts[0] in {"__main__", "_scm_version"}:  # a build writes the latter
        return ""
    return PRIVATE if parts[0].startswith("_") else parts[0]


def imports() -> tuple[Counter[str], Counter[tuple[str, str]]]:
    """How many modules each package has, and how many pairs of modules import across each border.

    Returns:
        Counts by package, and by pairs of the package that is imported and the one that imports.
    """
    graph = grimp.build_graph("fullgrad", cache_dir=None)
    sizes = Counter(map(package_of, graph.modules))
    arrows: Counter[tuple[str, str]] = Counter()
    for module in graph.modules:
        for used in graph.find_modules_directly_imported_by(module):
            arrows[package_of(used), package_of(module)] += 1
    return sizes, Counter({(a, b): n for (a, b), n in arrows.items() if a and b and a != b})


def drawn(order: list[str], sizes: Counter[str], arrows: Counter[tuple[str, str]]) -> str:
    """The picture: boxes on a diagonal, and an arrow from each package to those that import it."""

    def at(place: int) -> int:
        return place * CELL + CELL // 2

    width, height = LEFT + len(order) * CELL + 10, TOP + len(order) * CELL + 10
    lines, counts, boxes = [], [], []
    for (used, user), number in sorted(arrows.items()):
        i, j = order.index(used), order.index(user)
        x, y = LEFT + at(j), TOP + at(i)
        against = " against" if j < i else ""
        end = TOP + at(j) + (-1 if j > i else 1) * (CELL // 2 - 1)
        lines.append(f'<path class="arrow{against}" d="M{LEFT + at(i)} {y}H{x}V{end}"/>')
        counts.append(f'<circle class="count" cx="{x}" cy="{y}" r="10"/>')
        counts.append(f'<text x="{x}" y="{y}">{number}</text>')
    for place, name in enumerate(order):
        x, y, side = LEFT + at(place), TOP + at(place), CELL - 5
        corner = f'x="{x - side / 2:g}" y="{y - side / 2:g}" width="{side}" height="{side}"'
        boxes.append(f'<rect class="box" {corner} rx="4"/>')
        boxes.append(f'<text class="in" x="{x}" y="{y}">{sizes[name]}</text>')
        boxes.append(f'<text class="name" x="{x - CELL / 2 - 3:g}" y="{y}">{escape(name)}</text>')
    notes = [
        "Data flows down the stairs;",
        "arrows lead from a package",
        "to those that import it.",
    ]
    words = [
        f'<text class="note" x="12" y="{height - 64 + 18 * i}">{note}</text>'
        for i, note in enumerate(notes)
    ]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
            f'width="{width}" height="{height}" role="img">',
            "<title>fullgrad's packages along the data's path, and their imports</title>",
            f"<style>{_STYLE}</style>",
            '<marker id="tip" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" markerHeight="7" '
            'orient="auto"><path d="M0 0L8 4L0 8z" fill="#9aa4b2"/></marker>',
            f'<rect width="{width}" height="{height}" fill="#fff" rx="6"/>',
            *lines,
            *counts,
            *boxes,
            *words,
            "</svg>\n",
        ]
    )


def main() -> int:
    PICTURE.write_text(drawn(path(), *imports()), encoding="utf-8")
    print(PICTURE)
    return 0


if __name__ == "__main__":
    sys.exit(main())
