"""A digest of the library's code on which stored numbers depend."""

from __future__ import annotations

import ast
import hashlib
import sys
from collections.abc import Iterator
from functools import cache, lru_cache
from pathlib import Path

PACKAGE = Path(__file__).parent
# What keeps, counts or shows numbers, and does not make them.
_APART = (
    "fullgrad.app",
    "fullgrad.cli",
    "fullgrad.report",
    "fullgrad.viz",
    "fullgrad._deprecated",
    "fullgrad._files",
    "fullgrad.evaluation.tests.evaluate.pictures",
    "fullgrad.evaluation.tests.evaluate.verdicts",
    "fullgrad.evaluation.tests.evaluate.words",
    "fullgrad.evaluation.tests.remove_and_retrain.executors",
    "fullgrad.evaluation.experiment",
    "fullgrad.evaluation.statistics",
    "fullgrad.evaluation.store",
)


def code_digest(*modules: str, apart: tuple[str, ...] = ()) -> str:
    """Return a digest of modules and of all of fullgrad that they import, in the end.

    Comments, docstrings and layout are not part of it.

    Args:
        *modules: full names; a module outside fullgrad counts alone, without its imports.
        apart: modules and packages that are left out, with what they import.

    Returns:
        Sixteen hexadecimal digits.

    Example:
        >>> len(code_digest("fullgrad.methods"))
        16
    """
    return _digest(modules, apart, PACKAGE)


@lru_cache
def _digest(modules: tuple[str, ...], apart: tuple[str, ...], package: Path) -> str:
    waiting, seen = list(modules), dict[str, str]()
    skipped = tuple(f"{name}." for name in (*_APART, *apart))
    while waiting:
        name = waiting.pop()
        if name in seen or name == "fullgrad" or f"{name}.".startswith(skipped):
            continue
        path = _file_of(name, package)
        if path is None:  # a name within a module, or another library
            continue
        seen[name], imported = _module(path.read_text(encoding="utf-8"))
        if name.startswith("fullgrad."):
            waiting += [name.rpartition(".")[0], *imported]
    text = "\n".join(f"{name} {code}" for name, code in sorted(seen.items()))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@cache
def _module(source: str) -> tuple[str, tuple[str, ...]]:
    """Return a module's code as text without docstrings, and what it imports of fullgrad."""
    tree = ast.parse(source)
    statements = [tree, *_statements(tree)]
    return ast.dump(_without_docstrings(tree, statements)), tuple(_imported(statements))


def _file_of(name: str, package: Path) -> Path | None:
    first, *rest = name.split(".")
    if first != "fullgrad":
        file = getattr(sys.modules.get(name), "__file__", None)
        return Path(file) if file else None
    place = package.joinpath(*rest)
    files = (place.with_suffix(".py"), place / "__init__.py")
    return next((file for file in files if file.is_file()), None)


def _statements(within: ast.AST) -> Iterator[ast.AST]:
    """Yield the statements in a node, in functions and branches too, without expressions."""
    for name in ("body", "handlers", "orelse", "finalbody", "cases"):
        for node in getattr(within, name, ()):
            yield node
            yield from _statements(node)


def _imported(statements: list[ast.AST]) -> Iterator[str]:
    """Yield the modules of fullgrad that a module imports, inside functions too."""
    for node in statements:
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        yield from (name for name in names if name.startswith("fullgrad."))


def _without_docstrings(tree: ast.Module, statements: list[ast.AST]) -> ast.Module:
    for node in statements:
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            if ast.get_docstring(node, clean=False) is not None:
                node.body = node.body[1:]
    return tree
