"""Python files of the user's: run as they stand, and whatever they raise is their own fault."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import Any

from fullgrad._files import printable
from fullgrad.errors import FullGradError

FILE_MODULE = "fullgrad_user_"  # what the names of modules begin with that files became


def first_line(error: BaseException) -> str:
    """The first line of an error's text, or the error's name."""
    return next(iter(str(error).strip().splitlines()), "") or type(error).__name__


def names_file(spec: str) -> bool:
    """Whether a text names something in a Python file: ``path/to/file.py:NAME``."""
    file, colon, name = spec.rpartition(":")
    return bool(colon) and file.endswith(".py") and name.isidentifier()


def loaded(spec: str, failure: type[FullGradError]) -> tuple[Any, Any]:
    """Run the file of ``path/to/file.py:NAME``.

    Returns:
        The file's namespace, and what bears the name in it.

    Raises:
        FullGradError: of the type ``failure``: no such file or name, or what the file raises.
    """
    file, colon, name = spec.rpartition(":")
    if not colon or not name.isidentifier():
        raise failure(f"{spec!r} names no function: give path/to/file.py:FUNCTION")
    path = Path(file)
    if not path.is_file():
        raise failure(f"the Python file {printable(path)} does not exist")
    with running(path, failure):
        namespace = execute(path, failure)
    if not hasattr(namespace, name):
        raise failure(f"{printable(path)} has no function {name!r}")
    return namespace, getattr(namespace, name)


def execute(path: Path, failure: type[FullGradError]) -> Any:
    """Run a Python file as a module of a name that its place gives, the same in every process.

    Raises:
        FullGradError: of the type ``failure``: it is not a Python file.
    """
    place = hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:8]
    name = f"{FILE_MODULE}{path.stem}_{place}"
    description = importlib.util.spec_from_file_location(name, path)
    if description is None or not isinstance(description.loader, SourceFileLoader):
        raise failure(f"{printable(path)} is not a Python file")
    # Compiled again: Python's cache takes a file edited within a second for the one it knows.
    code = description.loader.source_to_code(path.read_bytes(), str(path))
    namespace = importlib.util.module_from_spec(description)
    sys.modules[name] = namespace
    exec(code, namespace.__dict__)
    return namespace


@contextmanager
def running(path: Path, failure: type[FullGradError]) -> Iterator[None]:
    """Let imports beside a file work as when it is run, and say whose fault an error is."""
    folder = str(path.resolve().parent)
    sys.path.insert(0, folder)
    try:
        yield
    except FullGradError:
        raise
    except (Exception, SystemExit) as error:
        raise failure(
            f"{printable(path)} failed: {type(error).__name__}: {first_line(error)}"
        ) from error
    finally:
        sys.path.remove(folder)
