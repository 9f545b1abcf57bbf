"""The site's reference has a page entry for every public name."""

from __future__ import annotations

import fullgrad
import reference


def test_every_public_name_is_documented() -> None:
    expected = {f"fullgrad.{name}" for name in fullgrad.__all__ if name != "__version__"}
    loaded = {name for name in expected if isinstance(getattr(fullgrad, name[9:]), type(fullgrad))}
    pages = reference.pages()
    assert expected - loaded <= reference.documented()
    assert {f"{name}.rst" for name in loaded} <= pages.keys()


def test_each_documented_name_stands_on_a_page() -> None:
    text = "\n".join(reference.pages().values())
    names = [name for section in reference.sections() for name in section.names]
    assert all(f":: {name}\n" in text for name in names)
    assert len(names) > len(fullgrad.__all__)


def test_stars_and_bars_of_a_docstring_stay() -> None:
    assert reference.escaped("(B, *positions) of |x|") == r"(B, \*positions) of \|x\|"
    assert reference.escaped("``(B, *n)`` and *this*") == "``(B, *n)`` and *this*"
