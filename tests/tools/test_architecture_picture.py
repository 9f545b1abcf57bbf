"""The picture of the architecture is what the code gives, and shows an import against the path."""

from __future__ import annotations

from collections import Counter
from xml.etree import ElementTree

import architecture


def test_the_stored_picture_is_that_of_the_code() -> None:
    drawn = architecture.drawn(architecture.path(), *architecture.imports())
    assert architecture.PICTURE.read_text(encoding="utf-8") == drawn, "run make architecture"
    page = (architecture.ROOT / "docs/design/architecture.md").read_text(encoding="utf-8")
    assert "](../images/architecture.svg)" in page


def test_every_package_has_its_box_and_no_arrow_leads_against_the_path() -> None:
    sizes, arrows = architecture.imports()
    order = architecture.path()
    packages = {p.parent.name for p in (architecture.ROOT / "src/fullgrad").glob("*/__init__.py")}
    assert set(sizes) - {""} == set(order) == packages | {"errors", "targets", architecture.PRIVATE}
    assert [pair for pair in arrows if order.index(pair[0]) > order.index(pair[1])] == []


def test_arrows_run_from_what_is_imported_to_what_imports() -> None:
    sizes = Counter({"a": 2, "b": 1, "c": 1})
    picture = architecture.drawn(["a", "b", "c"], sizes, Counter({("a", "b"): 3, ("c", "b"): 1}))
    root = ElementTree.fromstring(picture)
    paths = [e for e in root.iter() if e.tag.endswith("path") and e.get("class")]
    assert [p.get("class") for p in paths] == ["arrow", "arrow against"]
    assert [e.text for e in root.iter() if e.get("class") == "name"] == ["a", "b", "c"]
    assert picture.count(">3</text>") == 1
