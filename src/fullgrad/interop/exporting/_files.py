"""A program as a file of each format, and the file run again."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor

from fullgrad import _compat
from fullgrad._optional import require
from fullgrad.errors import GraphError
from fullgrad.interop.exporting._program import Program, quiet
from fullgrad.interop.exporting.backward import TO_PYTORCH

# From a program to a file; and from a file to what runs it, with tensors in and out.
Write: TypeAlias = Callable[[Program, Path, dict[str, str]], None]
Run: TypeAlias = Callable[[Path], Callable[..., Sequence[Tensor]]]

_LARGEST = 1_900_000_000  # bytes of weights in one ONNX file, whose format ends at 2 GiB


def _write_torch(program: Program, path: Path, facts: dict[str, str]) -> None:
    with quiet():
        torch.export.save(program.exported, path, extra_files=dict(facts))


def _run_torch(path: Path) -> Callable[..., Sequence[Tensor]]:
    with quiet():
        return torch.export.load(path).module()


def _write_compiled(program: Program, path: Path, facts: dict[str, str]) -> None:
    try:
        with quiet():
            _compat.compiled_package(program.exported, path, facts)
    except Exception as error:  # Inductor and the C++ compiler raise what they like
        first = str(error).strip().splitlines() or [type(error).__name__]
        raise GraphError(
            f"PyTorch's compiler fails: {first[0].rstrip('.')}. Export with format='torch', which "
            "compiles nothing."
        ) from error


def _run_compiled(path: Path) -> Callable[..., Sequence[Tensor]]:
    with quiet():
        return _compat.load_package(path)


def _write_onnx(program: Program, path: Path, facts: dict[str, str]) -> None:
    require("onnxscript", "export")
    size = sum(t.nbytes for t in program.exported.state_dict.values())
    if size > _LARGEST:
        raise GraphError(
            f"the model holds {size / 1e9:.1f} GB, more than one ONNX file. {TO_PYTORCH}"
        )
    try:
        with quiet():
            made: Any = torch.onnx.export(
                program.exported,
                dynamo=True,
                verbose=False,
                input_names=program.inputs,
                output_names=program.outputs,
            )
    except torch.onnx.OnnxExporterError as error:
        raise GraphError(f"{_untranslated(error)} {TO_PYTORCH}") from error
    for node in made.model.graph.all_nodes():
        node.metadata_props.clear()  # where in which source file it was traced
    made.model.metadata_props.update(facts)
    made.save(path)


def _untranslated(error: BaseException) -> str:
    """Which operation PyTorch's exporter has no translation for, or else what it says."""
    reason: BaseException | None = error
    while reason is not None:
        named = re.search(r"OpOverload\(op='aten\.(\w+)'", str(reason))
        if named and "No ONNX function" in str(reason):
            return f"PyTorch translates {named.group(1)} to no ONNX operation."
        last, reason = reason, reason.__cause__
    lines = str(last).strip().splitlines() or [type(last).__name__]
    return f"PyTorch's ONNX exporter fails: {lines[0].rstrip('.')}."


def _run_onnx(path: Path) -> Callable[..., Sequence[Tensor]]:
    runtime = require("onnxruntime", "export")
    try:
        session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    except Exception as error:  # of classes that onnxruntime keeps to itself
        raise _refused("refuses the file", error) from error

    def run(*given: Tensor) -> list[Tensor]:
        names = [i.name for i in session.get_inputs()]
        try:
            arrays = {n: t.numpy(force=True) for n, t in zip(names, given, strict=True)}
            return [torch.from_numpy(a) for a in session.run(None, arrays)]
        except Exception as error:
            raise _refused("cannot run the file", error) from error

    return run


def _refused(what: str, error: Exception) -> GraphError:
    first = str(error).strip().splitlines()[0]
    return GraphError(f"ONNX Runtime {what}: {first.rstrip('.')}. {TO_PYTORCH}")


FORMATS: dict[str, tuple[str, Write, Run]] = {
    "torch": (".pt2", _write_torch, _run_torch),
    "aot_inductor": (".pt2", _write_compiled, _run_compiled),
    "onnx": (".onnx", _write_onnx, _run_onnx),
}
