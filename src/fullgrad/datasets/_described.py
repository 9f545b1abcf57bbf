"""Settings in words that a plan can hold: equal ones are described alike, others are not."""

from __future__ import annotations

import hashlib
import inspect
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from functools import partial
from pathlib import Path
from types import CodeType
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from fullgrad._files import printable
from fullgrad._user_code import file_content

_PLACE = re.compile(r" at 0x[0-9a-f]+")  # in memory, which a repr tells
_Describe: TypeAlias = Callable[[Any], Any]


def plain(value: Any, _inside: tuple[int, ...] = ()) -> Any:
    """A setting as JSON can hold it; arrays by the digest of their bytes, code by its source."""
    if value is None or isinstance(value, (str, int, float)):
        return value
    if id(value) in _inside:
        return "itself"
    inner: _Describe = partial(plain, _inside=(*_inside, id(value)))
    if isinstance(value, Tensor):
        numbers = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        return f"{short(numbers.tobytes())} {tuple(value.shape)} {value.dtype}"
    if isinstance(value, np.ndarray):
        return f"{short(value.tobytes())} {value.shape} {value.dtype}"
    if isinstance(value, (list, tuple)):
        return [inner(v) for v in value]
    if isinstance(value, (set, frozenset)):
        return sorted(str(inner(v)) for v in value)
    if isinstance(value, Mapping):
        if len(value) > 50:  # a class for each id
            items = sorted((str(k), repr(inner(v))) for k, v in value.items())
            return f"{len(value)} items, {short(repr(items).encode())}"
        return {str(k): inner(v) for k, v in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        name = f"{type(value).__name__} {source_digest(type(value))}"
        return inner({"": name, **{f.name: getattr(value, f.name) for f in fields(value)}})
    if isinstance(value, partial):
        return {"partial": [inner(value.func), inner(value.args), inner(value.keywords)]}
    if callable(value):
        return _callable(value, inner)
    return printable(_PLACE.sub("", str(value))) + _digest(_state(value, inner))


def _callable(value: Any, inner: _Describe) -> str:
    """A function or an object that is called, by its source and what it holds."""
    name = getattr(value, "__qualname__", type(value).__qualname__)
    held: Any = None
    if hasattr(value, "get_vocab"):  # a tokenizer
        held = sorted(value.get_vocab().items()), _PLACE.sub("", repr(value))
    elif inspect.isroutine(value):
        own = getattr(value, "__self__", None)  # of a bound method
        held = [
            *(inner(c.cell_contents) for c in getattr(value, "__closure__", None) or ()),
            *(inner(getattr(value, n, None)) for n in ("__defaults__", "__kwdefaults__")),
            *([] if own is None or inspect.ismodule(own) else [inner(own)]),
        ]
        held = None if held == [None, None] else held
    elif not isinstance(value, type):  # as torchvision's Compose
        held = source_digest(type(value)), _PLACE.sub("", repr(value)), _state(value, inner)
    return f"{name} {source_digest(value) or getattr(value, '__module__', '')}" + _digest(held)


def _state(value: Any, inner: _Describe) -> Any:
    """What an object holds that a repr may leave out; of Python's own objects nothing."""
    if type(value).__module__.partition(".")[0] in sys.stdlib_module_names:
        return None
    return inner(getattr(value, "__dict__", None))


def _digest(held: Any) -> str:
    return "" if held is None else f" {short(repr(held).encode())}"


def source_digest(function: Any) -> str:
    """The digest of a function's or class's source; of its code where no source can be read.

    Of what FILE.py:NAME names the whole file counts, with the helpers in it. Empty for what is not
    written in Python.
    """
    made = inspect.unwrap(function)
    whole = file_content(str(getattr(made, "__module__", "")))
    try:
        if whole:
            return short(whole + str(getattr(made, "__qualname__", "")).encode())
        return short(inspect.getsource(made).encode())
    except (OSError, TypeError):
        parts = vars(made).values() if isinstance(made, type) else [made]
        codes = [getattr(part, "__code__", None) for part in parts]
        found = [_of_code(code) for code in codes if code is not None]
        return short(repr(found).encode()) if found else ""


def file_digest(function: Any) -> str:
    """The digest of the file that a function stands in; empty where there is none to read."""
    made = inspect.unwrap(function.func if isinstance(function, partial) else function)
    made = made if inspect.isroutine(made) or inspect.isclass(made) else type(made)
    try:
        content = (
            file_content(made.__module__) or Path(str(inspect.getsourcefile(made))).read_bytes()
        )
    except (OSError, TypeError):
        return ""
    return short(content)


def model_digest(module: nn.Module, source: str = "") -> str:
    """Return sixteen hexadecimal digits of a model's structure, code and state.

    Args:
        module: the model.
        source: digest of the Python file that makes it, on whose functions it depends.
    """
    found = hashlib.sha256(f"{module!r}{source}".encode())
    own = {type(m) for m in module.modules() if not type(m).__module__.startswith("torch.nn.")}
    for kind in sorted(own, key=lambda k: f"{k.__module__}.{k.__qualname__}"):
        found.update(f"{kind.__module__}.{kind.__qualname__} {source_digest(kind)}".encode())
    for name, tensor in sorted(
        {**dict(module.named_parameters()), **dict(module.named_buffers())}.items()
    ):
        found.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        content = tensor.detach().cpu().contiguous().reshape(-1)
        found.update(content.view(torch.uint8).numpy().tobytes())
    return found.hexdigest()[:16]


def _of_code(code: CodeType) -> Any:
    """What a code object does, without where it stands."""
    constants = [_of_code(c) if isinstance(c, CodeType) else repr(c) for c in code.co_consts]
    return code.co_code, code.co_names, code.co_varnames, code.co_freevars, constants


def short(content: bytes) -> str:
    """Sixteen hexadecimal digits that stand for some bytes."""
    return hashlib.sha256(content).hexdigest()[:16]
