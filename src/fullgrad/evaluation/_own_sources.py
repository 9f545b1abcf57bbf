"""Digests of the sources of users' methods and tests, on which stored numbers depend."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

from fullgrad._user_code import names_file
from fullgrad.errors import MethodError
from fullgrad.methods import get, names


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
                made = function.func if isinstance(function, partial) else function
                if not str(getattr(made, "__module__", "")).startswith("fullgrad."):
                    found[name] = source_digest(name, function)
    return [f"{name} {digest}" for name, digest in sorted(found.items())]


def source_digest(name: str, function: Any) -> str:
    """Return a digest of the file that a function or class stands in, and of its place there.

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
    code = getattr(plain, "__code__", None)
    place = f"{getattr(plain, '__qualname__', '')} {getattr(code, 'co_firstlineno', '')}"
    return hashlib.sha256(f"{text}\n{place}\n{given}".encode()).hexdigest()[:16]
