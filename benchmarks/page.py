"""docs/benchmarks.md: tables, plots, how they were made, and the command beside each."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks import plots, tables
from benchmarks.methods import IG_STEPS, METHODS, SMOOTHGRAD_SAMPLES
from benchmarks.results import Record, ResultsError, read
from benchmarks.subjects import COMPARED, SIZE, SUBJECTS

STEM = "benchmarks-"
PATTERN = f"{STEM}*.jsonl"

_INTRODUCTION = f"""# What an explanation costs

Written by `make bench`. The unit is **one forward pass and one gradient with respect to the
input** of the same model and batch: a plain explanation by gradients. Every method runs once per
round, the rounds' order rotates, and the ratio is taken within each round; the tables show the
median of these ratios and, in brackets, the quartiles. Without brackets there were fewer than
three rounds. Each model and batch has a process of its own, warmed up first. Models have seeded
random weights, batch-norm statistics of their own activations, and are in evaluation mode; the
class to explain is chosen beforehand for every method.

- *forward*: without gradients (`torch.no_grad`).
- *Captum*: `Saliency`; `LayerGradCam` on the last convolution; `IntegratedGradients` with
  {IG_STEPS} steps, one step of the whole batch at a time; `NoiseTunnel` over `Saliency` with
  {SMOOTHGRAD_SAMPLES} samples, one noisy copy of the batch at a time.
- *grad-cam's FullGrad*: the class `FullGrad` of the PyPI package `grad-cam`, with its hooks set and
  removed in each call because they slow down whatever else runs the model. It returns a map for
  token models too; what is compared here is cost alone.

A dash, and a missing point in a plot, is a method that could not be measured; the dash's footnote
says why.
"""


def render(out: Path) -> list[Path]:
    """Write the page and its plots from all results files.

    Args:
        out: the folder with ``data``; ``images`` and ``benchmarks.md`` are written beside it.

    Returns:
        What was written.

    Raises:
        ResultsError: there are no results.
    """
    files = sorted((out / "data").glob(PATTERN))
    if not files:
        raise ResultsError(f"there are no results in {out / 'data'} ({PATTERN})")
    notes = tables.Footnotes("b")
    lines = [_INTRODUCTION]
    written: list[Path] = []
    for file in files:
        environment, records = read(file)
        lines += _device(environment, records, out, file.stem.removeprefix(STEM), notes, written)
    lines += notes.lines()
    page = out / "benchmarks.md"
    page.write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")
    return [page, *written]


def _device(
    environment: dict[str, Any],
    records: Sequence[Record],
    out: Path,
    name: str,
    notes: tables.Footnotes,
    written: list[Path],
) -> list[str]:
    kind = "GPU" if environment["device"] == "cuda" else "CPU"
    commit = f", commit {environment['commit'][:7]}" if environment["commit"] else ""
    title = f"## {kind}: {environment['device_name']}, {environment['date']}{commit}"
    lines = [title, "", _environment(environment), ""]
    if any(r.get("clock") == "processor" for r in records):
        lines += [
            "The machine did other work meanwhile, so the time is the one that the process itself "
            "got from the processor. What shares the cache still counts.",
            "",
        ]
    for dtype in sorted({r["dtype"] for r in records}, reverse=True):
        stem = f"{name}-{dtype}"
        for kind, section in _SECTIONS.items():
            chosen = [r for r in records if r["dtype"] == dtype and r["kind"] == kind]
            if chosen:
                image = out / "images" / f"benchmark-{kind}-{stem}.png"
                image.parent.mkdir(parents=True, exist_ok=True)
                where = f"{environment['device_name']}, {dtype}"
                lines += section(chosen, notes, dtype, image, where)
                written.append(image)
    return lines


def _time(
    records: list[Record], notes: tables.Footnotes, dtype: str, image: Path, where: str
) -> list[str]:
    plots.ratios(records, image, f"Time as a multiple of forward + input-gradient\n{where}")
    return [
        f"### Time, {dtype}: multiples of forward + input-gradient",
        "",
        *tables.ratios(records, notes),
        "",
        _made_by(records),
        "",
        _image(image, "time"),
        "",
        f"### Time, {dtype}: milliseconds",
        "",
        *tables.times(records, notes),
        "",
        _made_by(records),
        "",
    ]


def _memory(
    records: list[Record], notes: tables.Footnotes, dtype: str, image: Path, where: str
) -> list[str]:
    plots.memory(
        records,
        image,
        f"Peak memory of tensors as a multiple of forward + input-gradient's\n{where}",
    )
    return [
        f"### Peak memory, {dtype}: multiples of forward + input-gradient",
        "",
        "Tensors' bytes above those alive before the call, exactly as allocated (on the CPU every "
        "allocation and release is replayed from PyTorch's profiler, on a GPU its allocator "
        "counts). Each method has its own process.",
        "",
        *tables.memory(records, notes, "tensors"),
        "",
        _made_by(records),
        "",
        _image(image, "memory"),
        "",
        "Growth of the process's resident memory over the call, which includes NumPy's arrays "
        "and kernels' scratch space (glibc told to return freed blocks at once).",
        "",
        *tables.memory(records, notes, "resident"),
        "",
        _made_by(records),
        "",
    ]


def _growth(
    records: list[Record], notes: tables.Footnotes, dtype: str, image: Path, where: str
) -> list[str]:
    plots.growth(records, image, where)
    return [
        f"### Growth with batch, resolution and depth, {dtype}",
        "",
        _image(image, "growth"),
        "",
        *tables.growth(records, notes),
        "",
        _made_by(records),
        "",
    ]


def _compiled(
    records: list[Record], notes: tables.Footnotes, dtype: str, image: Path, where: str
) -> list[str]:
    plots.ratios(records, image, f"Compiled: a multiple of forward + input-gradient\n{where}")
    return [
        f"### Compiled, {dtype}: multiples of an eager forward + input-gradient",
        "",
        "`fullgrad.compile` beside `fullgrad.saliency`, interleaved in one process. A call holds "
        "all that a user's does: the model watched, the target, the checks.",
        "",
        *tables.ratios(records, notes),
        "",
        _made_by(records),
        "",
        *tables.against(records, "compiled_inductor", "compiled_gradient"),
        "",
        _image(image, "compiled"),
        "",
        "Before that, once, to explain eagerly, trace, compile and compare:",
        "",
        *tables.making(records, notes),
        "",
    ]


_SECTIONS: dict[str, Callable[..., list[str]]] = {
    "time": _time,
    "memory": _memory,
    "growth": _growth,
    "compiled": _compiled,
}


def _environment(e: dict[str, Any]) -> str:
    packages = [
        f"{label} {e[key]}"
        for key, label in (
            ("python", "Python"),
            ("torch", "torch"),
            ("torchvision", "torchvision"),
            ("captum", "captum"),
            ("grad_cam", "grad-cam"),
            ("fullgrad", "fullgrad"),
        )
        if e[key]
    ]
    commit = f" at commit {e['commit']}" if e["commit"] else ""
    return (
        f"{', '.join(packages)}{commit} (source {e['source']}); {e['cpu']}, "
        f"{e['threads']} thread{'s' * (e['threads'] != 1)}; begun on {e['date']}."
    )


def command(records: Sequence[Record]) -> str:
    """The command that measures these cells.

    Args:
        records: of one kind, dtype and device.

    Returns:
        A line for the shell.
    """
    first = records[0]
    words = ["python", "-m", "benchmarks", "--only", first["kind"]]
    words += ["--device", first["device"], "--dtype", first["dtype"]]
    if first["kind"] != "growth":
        models = [name for name in SUBJECTS if any(r["model"] == name for r in records)]
        if models != list(COMPARED):
            words += ["--models", *models]
        words += ["--batches", *map(str, sorted({r["batch"] for r in records}))]
        if first["kind"] == "compiled":
            named = {n for r in records for n in r["methods"]}
            words += ["--methods", *(n for n in METHODS if n in named)]
        if first["size"] != SIZE:
            words += ["--size", str(first["size"])]
    elif max(r["size"] for r in records) < SIZE:
        words.append("--quick")
    if any(r.get("clock") == "processor" for r in records):
        words.append("--processor-time")
    if first["rounds"] is not None:
        words += ["--rounds", str(first["rounds"])]
    return shlex.join(words)


def _made_by(records: Sequence[Record]) -> str:
    rounds = sorted(
        {
            len(outcome["seconds_of_rounds"])
            for r in records
            for name, outcome in r["methods"].items()
            if "seconds_of_rounds" in outcome and METHODS[name].group == "core"
        }
    )
    count = ""
    if rounds:
        span = str(rounds[0]) if rounds[0] == rounds[-1] else f"{rounds[0]} to {rounds[-1]}"
        span += " round" if span == "1" else " rounds"
        count = f"; {span} of forward, gradient and fullgrad"
    return f"(`{command(records)}`{count}.)"


def _image(image: Path, what: str) -> str:
    return f"![{what}](images/{image.name})"
