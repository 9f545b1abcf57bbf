"""Python files of the user's: run as they stand, and whatever they raise is their own fault."""

from __future__ import annotations

import difflib
import hashlib
import importlib.util
import os
import pickle
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import Any

from fullgrad._files import printable
from fullgrad.errors import FullGradError

FILE_MODULE = "fullgrad_user_"  # what the names of modules begin with that files became

_RUN: dict[str, bytes] = {}  # the source of each file that was run, by its module's name


def first_line(error: BaseException) -> str:
    """The first line of an error's text, or the error's name."""
    return next(iter(str(error).strip().splitlines()), "") or type(error).__name__


def names_file(spec: str) -> bool:
    """Whether a text names something in a Python file: ``path/to/file.py:NAME``."""
    file, colon, name = spec.rpartition(":")
    return bool(colon) and file.endswith(".py") and name.isidentifier()


def file_content(module: str) -> bytes:
    """What the Python file held that was run as a module; empty for modules of other kinds."""
    return _RUN.get(module, b"")


def loaded(spec: str, failure: type[FullGradError], *, again: bool = True) -> tuple[Any, Any]:
    """Run the file of ``path/to/file.py:NAME``.

    Args:
        spec: what is named.
        failure: the type of errors.
        again: whether a file that was run already is run once more; if not, the classes in it stay
            those of objects that it has made, which can then be pickled.

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
        known = None if again else sys.modules.get(_module_name(path))
        same = known is not None and _RUN.get(known.__name__) == path.read_bytes()
        namespace = known if same else execute(path, failure)
    if not hasattr(namespace, name):
        close = difflib.get_close_matches(
            name, [n for n, v in vars(namespace).items() if callable(v)], n=1
        )
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise failure(f"{printable(path)} has no function {name!r}{hint}")
    return namespace, getattr(namespace, name)


def execute(path: Path, failure: type[FullGradError]) -> Any:
    """Run a Python file as a module of a name that its place gives, the same in every process.

    Raises:
        FullGradError: of the type ``failure``: it is not a Python file.
    """
    name = _module_name(path)
    description = importlib.util.spec_from_file_location(name, path)
    if description is None or not isinstance(description.loader, SourceFileLoader):
        raise failure(f"{printable(path)} is not a Python file")
    # Compiled again: Python's cache takes a file edited within a second for the one it knows.
    source = path.read_bytes()
    code = description.loader.source_to_code(source, str(path))
    namespace = importlib.util.module_from_spec(description)
    sys.modules[name] = namespace
    exec(code, namespace.__dict__)
    _RUN[name] = source
    return namespace


def _module_name(path: Path) -> str:
    place = hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:8]
    return f"{FILE_MODULE}{path.stem}_{place}"


def pickled(value: Any) -> tuple[dict[str, str], bytes]:
    """A value as bytes, and by module the Python files that its classes and functions come from."""
    content = pickle.dumps(value)
    files = {
        name: str(module.__file__)
        for name, module in list(sys.modules.items())
        if name.startswith(FILE_MODULE) and name.encode() in content
    }
    return files, content


def unpickled(files: dict[str, str], content: bytes, failure: type[FullGradError]) -> Any:
    """What :func:`pickled` was given, in another process, which runs the files first."""
    for name, path in files.items():
        if name not in sys.modules:
            execute(Path(path), failure)
    return pickle.loads(content)


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
