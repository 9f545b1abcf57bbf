"""``export``: an explanation as a file that runs without fullgrad."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from fullgrad._files import AnyPath, printable
from fullgrad._version import __version__
from fullgrad.engine.wrappers import unwrap
from fullgrad.errors import OptionError, StoredError
from fullgrad.interop.compiling.call import Arguments, Explaining, Found, rows_for
from fullgrad.interop.compiling.trace import state_of, traced
from fullgrad.interop.exporting._checking import Compared, compared
from fullgrad.interop.exporting._files import FORMATS
from fullgrad.interop.exporting._program import program

Format: TypeAlias = Literal["torch", "aot_inductor", "onnx"]


@dataclass(frozen=True, slots=True)
class Port:
    """An input or an output of an artifact.

    Args:
        name: as ONNX Runtime takes it; torch's formats take and give tensors in this order.
        shape: fixed, batch included.
        dtype: as PyTorch names it, ``float32``.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True, slots=True)
class Artifact:
    """An explanation in a file.

    Args:
        path: of the file.
        format: ``torch``, ``aot_inductor`` or ``onnx``.
        method: that it explains with.
        inputs: the model's, and ``target`` if the output has classes.
        outputs: ``logits``, ``map`` (or one for each input, ``map_NAME``), ``residual``.
        size: of the file, in bytes.
        compared: how far its maps are from fullgrad's own, on the example and on mirror images.
        in_pytorch: the same of the graph that was written, run by PyTorch.
    """

    path: Path
    format: Format
    method: str
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    size: int
    compared: Compared
    in_pytorch: Compared


def export(
    model: nn.Module,
    inputs: Any,
    path: AnyPath,
    *,
    target: Any = None,
    method: str = "fullgrad",
    format: Format | None = None,
    additional_forward_args: Any = None,
    forward_kwargs: Mapping[str, Any] | None = None,
    **options: Any,
) -> Artifact:
    """Write an explanation to a file that runs without fullgrad.

    The file holds the forward pass, the backward pass and the map as one graph of tensor
    operations. It takes the model's inputs and ``target``, and gives ``logits``, ``map`` and
    ``residual``. It runs in PyTorch alone (``"torch"``), compiled (``"aot_inductor"``), or in ONNX
    Runtime (``"onnx"``). See docs/exporting.md.

    The model's weights are constants in it, and its shapes are those of ``inputs``, batch size
    included: another batch size, or trained weights, need another file.

    After it is written the file is loaded, run and compared with fullgrad: on ``inputs``, and
    with other classes on their mirror images, or on ``inputs`` again where they are not all
    floats. A file that differs is not kept.

    Args:
        model: as for :func:`fullgrad.saliency`.
        inputs: an example, of the shapes, types and device that the artifact will have.
        path: of the file: ``.onnx``, or ``.pt2`` for PyTorch's formats. A file there is replaced.
        target: an example, for the comparison: a class for each sample, or one for all; None for
            the predicted ones. The artifact's input ``target`` has shape (B,), -1 for the predicted
            class; for outputs with n axes beside the batch (B, n).
        method: ``fullgrad``, ``simple_fullgrad``, ``complete_fullgrad``, ``balanced_fullgrad`` or
            ``balanced_input``.
        format: ``torch``, ``aot_inductor`` or ``onnx``. None: ``onnx`` for a file that ends so,
            else ``torch``.
        additional_forward_args: see :func:`fullgrad.decompose`; its tensors are inputs too.
        forward_kwargs: see :func:`fullgrad.decompose`; its tensors are inputs too.
        **options: of the method, as :func:`fullgrad.saliency` or :func:`fullgrad.complete_map` has
            them: ``psi``, ``placement``, ``terms``, ``linearization``, ...

    Returns:
        What was written, and how far it is from fullgrad's own numbers.

    Raises:
        OptionError: a method, an option or a format that there is not, or a path that does not
            fit the format.
        GraphError: a graph cannot hold the call; an operation has no translation; the file's
            numbers differ. Nothing is written.
        StoredError: the file cannot be written.
        MissingDependencyError: onnx, onnxscript or onnxruntime is not installed.
        FullGradError: as :func:`fullgrad.saliency`.

    Example:
        >>> import tempfile, torch, fullgrad
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 2, 3), torch.nn.Flatten())
        >>> x = torch.rand(2, 3, 8, 8)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     made = fullgrad.export(model, x, f"{folder}/map.pt2")
        ...     run = torch.export.load(made.path).module()
        >>> logits, heat, residual = run(x, torch.tensor([5, -1]))
        >>> torch.equal(heat[:1], fullgrad.saliency(model, x[:1], 5)), heat.shape
        (True, torch.Size([2, 1, 8, 8]))
    """
    chosen, kind = file_of(path, format)
    explaining = Explaining(method, options)
    arguments, tensors = Arguments.of(inputs, additional_forward_args, forward_kwargs)
    found = explaining.eager(model, arguments, tensors, target)
    rows = rows_for(target, found, explaining)
    graph = traced(model, arguments, tensors, rows, found, explaining, with_logits=True)
    state = [*state_of(unwrap(model)).values()]
    made = program(graph, state, tensors, rows, kind == "onnx")

    def explain(given: Sequence[Tensor], own: Tensor) -> Found:
        predicted = not graph.rest or (len(graph.rest) == 1 and bool((own < 0).any()))
        at = None if predicted else [tuple(r) if len(r) > 1 else r[0] for r in own.tolist()]
        return explaining.eager(model, arguments, given, at)

    with torch.no_grad():
        in_pytorch = compared(made.exported.module(), explain, tensors, rows, same_kernels=True)
    scratch = chosen.with_name(f".{chosen.stem}.{os.getpid()}{chosen.suffix}")
    facts = {"fullgrad_version": __version__, "fullgrad_method": method}
    _, write, load = FORMATS[kind]
    try:
        write(made, scratch, facts)
        run = load(scratch)
        result = compared(run, explain, tensors, rows, same_kernels=kind == "torch")
        outputs = run(*made.example)
        size = scratch.stat().st_size
        scratch.replace(chosen)
    except OSError as error:
        raise StoredError(
            f"{printable(chosen)} cannot be written: {error.strerror or error}"
        ) from error
    finally:
        scratch.unlink(missing_ok=True)
    return Artifact(
        path=chosen,
        format=kind,
        method=method,
        inputs=_ports(made.inputs, made.example),
        outputs=_ports(made.outputs, outputs),
        size=size,
        compared=result,
        in_pytorch=in_pytorch,
    )


def file_of(path: AnyPath, format: Format | None = None) -> tuple[Path, Format]:
    """The file that an artifact is written to, and its format.

    Args:
        path: of the file.
        format: None for the one that the file's name ends with.

    Raises:
        OptionError: an unknown format, or one that does not fit the path.
        StoredError: a file cannot be there.
    """
    chosen = Path(path)
    kind: Any = format or ("onnx" if chosen.suffix == ".onnx" else "torch")
    if kind not in FORMATS:
        raise OptionError(f"format must be one of {', '.join(FORMATS)}, not {kind!r}")
    suffix = FORMATS[kind][0]
    if chosen.suffix != suffix:
        raise OptionError(f"a file of format {kind!r} ends with {suffix}, not {chosen.name!r}")
    if not chosen.parent.is_dir():
        raise StoredError(f"the folder of {printable(chosen)} does not exist")
    if chosen.is_dir():
        raise StoredError(f"{printable(chosen)} is a folder: name a file")
    return chosen, kind


def _ports(names: Sequence[str], tensors: Sequence[Tensor]) -> tuple[Port, ...]:
    return tuple(
        Port(name, tuple(t.shape), str(t.dtype).removeprefix("torch."))
        for name, t in zip(names, tensors, strict=True)
    )
