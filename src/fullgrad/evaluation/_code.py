"""A digest of the library's code on which stored numbers depend."""

from __future__ import annotations

import ast
import hashlib
import inspect
import sys
from collections.abc import Iterable, Iterator
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import Any

from fullgrad._user_code import names_file
from fullgrad.errors import MethodError
from fullgrad.methods import get, names

PACKAGE = Path(__file__).parents[1]
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


def own_sources(choices: Iterable[Any]) -> list[str]:
    """Return digests of the sources of methods that are not fullgrad's own.

    Args:
        choices: methods as a plan has them.

    Returns:
        One text for each such method, options that are methods included. The whole file that a
        function stands in counts, without what it imports; of a function without a file its own
        source.

    Raises:
        MethodError: a source cannot be read, so that it is not known when stored numbers are out
            of date.
    """
    found: dict[str, str] = {}
    for choice in choices:
        choice = getattr(choice, "method", choice)
        options = getattr(choice, "options", {}).values()
        for text in (choice.name, *(v for v in options if isinstance(v, str))):
            name = text if names_file(text) else text.partition(":")[0]
            if name in names() or names_file(name):
                function = get(name).function
                if not str(getattr(function, "__module__", "")).startswith("fullgrad."):
                    found[name] = source_digest(name, function)
    return [f"{name} {digest}" for name, digest in sorted(found.items())]


def source_digest(name: str, function: Any) -> str:
    """Return a digest of the file that a function or class stands in.

    Args:
        name: for messages.
        function: the function, class, or instance that is called.

    Raises:
        MethodError: it cannot be read.
    """
    given = ""
    if isinstance(function, partial):
        function, given = function.func, f"{function.args} {function.keywords}"
    plain = inspect.unwrap(function)
    plain = plain if inspect.isroutine(plain) or inspect.isclass(plain) else type(plain)
    try:
        file = inspect.getsourcefile(plain)
        whole = file is not None and Path(file).is_file()
        text = Path(str(file)).read_text("utf-8") if whole else inspect.getsource(plain)
    except (OSError, TypeError) as error:
        raise MethodError(
            f"the source of {name!r} cannot be read, so it is not known when its stored "
            "numbers are out of date: define it in a file, as in --methods own.py:FUNCTION"
        ) from error
    return hashlib.sha256(f"{text}\n{given}".encode()).hexdigest()[:16]


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
        seen[name], imported = _module(path)
        if name.startswith("fullgrad."):
            waiting += [name.rpartition(".")[0], *imported]
    text = "\n".join(f"{name} {code}" for name, code in sorted(seen.items()))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@cache
def _module(path: Path) -> tuple[str, tuple[str, ...]]:
    """Return a file's code as text without docstrings, and what it imports of fullgrad."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    imported = tuple(_imported(tree))
    return ast.dump(_without_docstrings(tree)), imported


def _file_of(name: str, package: Path) -> Path | None:
    first, *rest = name.split(".")
    if first != "fullgrad":
        file = getattr(sys.modules.get(name), "__file__", None)
        return Path(file) if file else None
    place = package.joinpath(*rest)
    files = (place.with_suffix(".py"), place / "__init__.py")
    return next((file for file in files if file.is_file()), None)


def _imported(tree: ast.Module) -> Iterator[str]:
    """Yield the modules of fullgrad that a module imports, inside functions too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        yield from (name for name in names if name.startswith("fullgrad."))


def _without_docstrings(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            if ast.get_docstring(node, clean=False) is not None:
                node.body = node.body[1:]
    return tree
