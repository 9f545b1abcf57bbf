"""What all results can do: move to a device, be cut by sample, and be written to one file.

A file is safetensors: the tensors, and in its header one JSON text with all else. Nothing in it is
code. docs/results.md has the schema.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from fullgrad._files import AnyPath, printable, write_whole
from fullgrad._optional import require
from fullgrad._version import __version__
from fullgrad.errors import OptionError, StoredError

if TYPE_CHECKING:
    from typing import Self

SCHEMA = 1  # of the files that are written; another one is refused
_KEY = "fullgrad"
_STORED: dict[str, type] = {}  # dataclasses that files may hold, by name


class Result:
    """A frozen dataclass of tensors that can be moved, saved and loaded."""

    __slots__ = ()
    _numbers: ClassVar[tuple[str, ...]] = ()  # fields that to(dtype) changes

    def __init_subclass__(cls) -> None:
        """Let files hold it."""
        storable(cls)

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> Self:
        """The same result on another device, or in another precision.

        Args:
            device: of all tensors; None leaves them where they are.
            dtype: a type of real floats, for maps, scores, gradients, biases and inputs. Sums,
                residuals and the output keep theirs: they are the proof, and a map in half
                precision no longer sums to them exactly.

        Returns:
            A new result. Tensors that are as they should be are shared.

        Raises:
            OptionError: a type that is not of real floats.
        """
        if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
            raise OptionError(
                f"dtype must be a type of floats, such as torch.float32, not {dtype!r}"
            )

        def moved(t: Tensor, name: str) -> Tensor:
            changes = name in self._numbers and t.is_floating_point()
            return t.to(device=device, dtype=dtype if changes else None)

        def part(value: Any) -> Any:
            return value.to(device, dtype) if isinstance(value, Result) else value

        found: Self = mapped(self, moved, part)
        return found

    def cpu(self) -> Self:
        """The same result in the memory of the CPU."""
        return self.to("cpu")

    def save(self, path: AnyPath) -> None:
        """Write the result to one file, whole or not at all: safetensors, without pickle.

        Args:
            path: of the file, which is replaced; its folder must exist.

        Raises:
            StoredError: it cannot be written.
            MissingDependencyError: safetensors is not installed.
        """
        safetensors = require("safetensors.torch", "results")
        tensors: dict[str, Tensor] = {}
        objects: list[Any] = []
        header = {
            "schema": SCHEMA,
            "kind": type(self).__name__,
            "version": __version__,
            "result": _encoded(self, tensors, objects, {}),
            "objects": objects,
        }
        content = safetensors.save(tensors, {_KEY: json.dumps(header)})
        try:
            write_whole(Path(path), content)
        except OSError as error:
            raise StoredError(f"cannot write {printable(path)}: {error.strerror}") from error

    @classmethod
    def load(cls, path: AnyPath) -> Self:
        """Read a result that :meth:`save` has written, exactly as it was, on the CPU.

        Args:
            path: of the file.

        Raises:
            StoredError: no such file, no result of this kind, another schema, or damaged.
            MissingDependencyError: safetensors is not installed.
        """
        header, tensors = _read(Path(path))
        name = printable(path)
        if header.get("schema") != SCHEMA:
            raise StoredError(
                f"{name} has schema {header.get('schema')!r}, of fullgrad "
                f"{header.get('version')}; this one, {__version__}, reads schema {SCHEMA}: read it "
                "with that version"
            )
        kind = header.get("kind")
        if kind != cls.__name__:
            raise StoredError(f"{name} holds a {kind}, not a {cls.__name__}: use {kind}.load(...)")
        try:
            objects: list[Any] = []
            for text in header["objects"]:
                objects.append(_made(text, tensors, objects))
            found = _decoded(header["result"], tensors, objects)
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            raise StoredError(f"{name} is damaged: {type(error).__name__}: {error}") from error
        if not isinstance(found, cls):
            raise StoredError(f"{name} is damaged: it says {kind}, and holds something else")
        return found


def storable(*classes: type) -> None:
    """Let files hold instances of these dataclasses; of no others are any made."""
    _STORED.update({c.__name__: c for c in classes})


def mapped(
    result: Any,
    change: Callable[[Tensor, str], Tensor],
    part: Callable[[Any], Any] = lambda value: value,
) -> Any:
    """A frozen dataclass with changed tensors.

    Args:
        result: the dataclass.
        change: from a tensor and the name of its field to another tensor.
        part: of what else its fields, or tuples and dicts in them, hold.
    """

    def changed(value: Any, name: str) -> Any:
        if isinstance(value, Tensor):
            return change(value, name)
        if isinstance(value, tuple):
            return tuple(changed(v, name) for v in value)
        if isinstance(value, dict):
            return {k: changed(v, name) for k, v in value.items()}
        return part(value)

    names = [f.name for f in dataclasses.fields(result)]
    return dataclasses.replace(result, **{n: changed(getattr(result, n), n) for n in names})


def sample_numbers(index: int | slice | Sequence[int] | Tensor, count: int) -> Tensor:
    """Which samples an index means, as integers of shape (chosen,).

    Args:
        index: a number, a slice, numbers, or a mask with a bool for each sample.
        count: how many samples there are.

    Raises:
        OptionError: no sample at all, or one that there is not.
    """
    there = torch.arange(count)
    try:
        if isinstance(index, slice):
            found = there[index]
        else:
            asked = torch.as_tensor(index).cpu()
            if asked.dtype == torch.bool and not asked.dim():
                raise TypeError("not a number")
            if asked.is_floating_point() or asked.dim() > 1:
                raise TypeError("not integers")
            found = there[asked if asked.dim() else asked.long()[None]]
    except (IndexError, TypeError, ValueError, RuntimeError) as error:
        raise OptionError(
            f"samples must be a number from 0 to {count - 1}, a slice, a list of numbers or a mask "
            f"of {count}, not {index!r:.60}"
        ) from error
    if not len(found):
        raise OptionError(f"{index!r:.60} chooses none of the {count} samples")
    return found


# -- the file ---------------------------------------------------------------------------------


def _encoded(value: Any, tensors: dict[str, Tensor], objects: list[Any], known: Any) -> Any:
    """A value as JSON; tensors go to ``tensors``, small dataclasses once each to ``objects``."""

    def inner(v: Any) -> Any:
        return _encoded(v, tensors, objects, known)

    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    if isinstance(value, tuple):
        return [inner(v) for v in value]
    if isinstance(value, dict):
        return {"dict": [[k, inner(v)] for k, v in value.items()]}
    if isinstance(value, (Tensor, np.ndarray)):
        name = f"t{len(tensors)}"
        as_tensor = torch.as_tensor(value).detach().resolve_conj().resolve_neg()
        parts = torch.view_as_real(as_tensor) if as_tensor.is_complex() else as_tensor
        tensors[name] = parts.to("cpu").clone(memory_format=torch.contiguous_format)
        kind = "array" if isinstance(value, np.ndarray) else "tensor"
        return {"complex" if as_tensor.is_complex() else kind: name}
    if id(value) not in known:
        fields = {f.name: inner(getattr(value, f.name)) for f in dataclasses.fields(value)}
        known[id(value)] = len(objects)
        objects.append({"class": type(value).__name__, "fields": fields})
    return {"object": known[id(value)]}


def _decoded(value: Any, tensors: dict[str, Tensor], objects: list[Any]) -> Any:
    if isinstance(value, list):
        return tuple(_decoded(v, tensors, objects) for v in value)
    if not isinstance(value, dict):
        return value
    ((kind, held),) = value.items()
    if kind == "dict":
        return {k: _decoded(v, tensors, objects) for k, v in held}
    if kind == "object":
        return objects[held]
    if kind == "complex":
        return torch.view_as_complex(tensors[held])
    return {"tensor": lambda t: t, "array": Tensor.numpy}[kind](tensors[held])


def _made(text: Any, tensors: dict[str, Tensor], objects: list[Any]) -> Any:
    fields = {k: _decoded(v, tensors, objects) for k, v in text["fields"].items()}
    return _STORED[text["class"]](**fields)


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The JSON and the tensors of a file.

    Raises:
        StoredError: it is not there, or was not written by :meth:`Result.save`.
    """
    safetensors = require("safetensors", "results")
    name = printable(path)
    if not path.is_file():
        raise StoredError(f"there is no file {name}")
    try:
        with safetensors.safe_open(path, "pt") as file:
            text = (file.metadata() or {}).get(_KEY)
            if text is None:
                raise StoredError(
                    f"{name} was not written by fullgrad: it is safetensors of something else, "
                    "such as a model's weights"
                )
            return json.loads(text), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (OSError, ValueError, safetensors.SafetensorError) as error:
        if isinstance(error, StoredError):
            raise
        raise StoredError(f"{name} is not a stored result, or is damaged: {error}") from error


def as_numpy(values: Tensor) -> np.ndarray[Any, np.dtype[Any]]:
    """A tensor's numbers as an array; bfloat16, which numpy does not have, as float32."""
    values = values.detach().cpu()
    return values.float().numpy() if values.dtype == torch.bfloat16 else values.numpy()
