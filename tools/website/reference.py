"""The site's reference: which names are public, and a page of autodoc directives for each package.

    python tools/website/reference.py     # prints the public names, one a line

Public is each name of ``__all__``, and in a module without one each function and class whose name has
no leading underscore. An object that has several public names is documented once, under the shortest.
docs/conf.py writes the pages when the site is built; they are not stored.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

PACKAGE = "fullgrad"
SOURCE = Path(__file__).resolve().parents[2] / "src" / PACKAGE
_LINES = {"autoclass": ("   :members:", "   :show-inheritance:"), "autodata": ("   :no-value:",)}


@dataclass(frozen=True, slots=True)
class Section:
    """The names that a module documents.

    Args:
        module: dotted.
        names: documented here, in the order of ``__all__`` or of the file.
        elsewhere: public here too, and documented under the shorter name that is the value.
    """

    module: str
    names: tuple[str, ...]
    elsewhere: dict[str, str]


def modules() -> list[str]:
    """Every public module and package, the shorter names first."""
    found = []
    for path in SOURCE.rglob("*.py"):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        parts = parts[:-1] if parts[-1] == "__init__" else parts
        if not any(part.startswith("_") for part in parts):
            found.append(".".join((PACKAGE, *parts)))
    return sorted(found, key=lambda name: (name.count("."), name))


def file_of(module: str) -> Path:
    path = SOURCE.joinpath(*module.split(".")[1:])
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def public_names(module: str) -> list[str]:
    """The names of ``__all__``, or else the functions and classes that a module defines or passes on."""
    body = ast.parse(file_of(module).read_text(encoding="utf-8")).body
    for node in body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
            return [name for name in ast.literal_eval(node.value) if name != "__version__"]
    defined = [
        node.name
        for node in body
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_")
    ]
    passed_on = [
        alias.name
        for node in body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.name == alias.asname
    ]
    return [*passed_on, *defined]


def sections() -> list[Section]:
    """Every module with a public name, each object under the first of its names."""
    first: dict[int, str] = {}
    found = []
    for module in modules():
        loaded = importlib.import_module(module)
        here, elsewhere = [], {}
        for name in dict.fromkeys(public_names(module)):
            thing = getattr(loaded, name)
            if isinstance(thing, ModuleType) or not _own(thing):
                continue
            known = first.setdefault(id(thing), f"{module}.{name}")
            if known == f"{module}.{name}":
                here.append(name)
            else:
                elsewhere[name] = known
        if here or elsewhere:
            found.append(Section(module, tuple(here), elsewhere))
    return found


def documented() -> set[str]:
    """The full names that the reference documents."""
    return {f"{section.module}.{name}" for section in sections() for name in section.names}


def pages() -> dict[str, str]:
    """The reference's pages by file name, in reStructuredText."""
    by_page: dict[str, list[Section]] = {}
    for section in sections():
        is_package = file_of(section.module).name == "__init__.py"
        package = section.module if is_package else section.module.rpartition(".")[0]
        if section.module == f"{PACKAGE}.errors":
            package = section.module
        by_page.setdefault(package, []).append(section)
    known = documented()
    texts = {f"{page}.rst": "\n".join(_page(page, ps, known)) for page, ps in by_page.items()}
    rest = sorted(by_page.keys() - {PACKAGE})
    listed = "\n".join(f"   {page}" for page in (PACKAGE, *rest))
    rows = "\n".join(f"* :doc:`{page}`: {_about(page)}" for page in (PACKAGE, *rest))
    texts["index.rst"] = _INDEX.format(rows=rows, listed=listed)
    return texts


_INDEX = """Reference
=========

Made from the docstrings of the code. Begin with :doc:`fullgrad`; subpackages are loaded when they are
first used, so ``fullgrad.targets.margin`` works after ``import fullgrad`` alone. Names with a leading
underscore are private.

{rows}

.. toctree::
   :hidden:

{listed}
"""


def _about(module: str) -> str:
    said = inspect.getdoc(importlib.import_module(module)) or ""
    return said.split("\n\n", 1)[0].replace("\n", " ")


def _own(thing: Any) -> bool:
    """Whether it is the library's; a name for another library's class is not documented here."""
    return getattr(thing, "__module__", PACKAGE).split(".")[0] in (PACKAGE, "builtins")


def _page(page: str, parts: list[Section], known: set[str]) -> Iterator[str]:
    yield from (page, "=" * len(page), "")
    for part in parts:
        if part.module != page:
            yield from (part.module, "-" * len(part.module), "")
        named = ("   :no-index:",) if part.module in known else ()  # a function of that name
        yield from (f".. automodule:: {part.module}", "   :no-members:", *named, "")
        yield from (f".. py:currentmodule:: {part.module}", "")
        if part.elsewhere:
            listed = ", ".join(f":py:obj:`{name}`" for name in part.elsewhere.values())
            yield from (f"Documented under a shorter name: {listed}.", "")
        if len(part.names) > 1:
            yield from (".. autosummary::", "   :nosignatures:", "")
            yield from (f"   {name}" for name in part.names)
            yield ""
        loaded = importlib.import_module(part.module)
        for name in part.names:
            kind = _directive(getattr(loaded, name))
            yield f".. {kind}:: {name}"
            yield from (*_LINES.get(kind, ()), "")


def _directive(thing: Any) -> str:
    if inspect.isclass(thing):
        return "autoexception" if issubclass(thing, BaseException) else "autoclass"
    return "autofunction" if callable(thing) and hasattr(thing, "__name__") else "autodata"


_STAR = re.compile(r"(?<![\w*\\])\*(?=\w)(?!.*?[^\s*]\*(?![\w*]))")  # that no other closes
_BAR = re.compile(r"(?<!\\)\|")


def escaped(line: str) -> str:
    """A docstring's line for reStructuredText: ``(B, 1, *positions)`` and ``|x|`` stay as they are."""
    parts = re.split(r"(``.*?``)", line)
    parts[::2] = [_BAR.sub(r"\\|", _STAR.sub(r"\\*", part)) for part in parts[::2]]
    return "".join(parts)


def write(folder: Path) -> None:
    """Write the pages that changed, and remove those of packages that are gone."""
    folder.mkdir(exist_ok=True)
    texts = pages()
    for path in folder.glob("*.rst"):
        if path.name not in texts:
            path.unlink()
    for name, text in texts.items():
        path = folder / name
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    sys.stdout.writelines(f"{name}\n" for name in sorted(documented()))
