"""Artifacts of the benchmark's models: run without fullgrad, compared, measured.

    python tools/architectures/export_sweep.py             # resumes docs/data/exporting.jsonl
    python tools/architectures/export_sweep.py resnet18    # these models only
    python tools/architectures/export_sweep.py --compiled resnet18

It rewrites the table in docs/exporting.md.

A process of its own exports a model with a method, as torch.export program and as ONNX file, at batch
1 and the benchmark's size, and measures. Another process, in which importing fullgrad fails, runs the
files on other inputs than the one that they were exported with. Its numbers are compared with
fullgrad's.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
RESULTS, PAGE = ROOT / "docs/data/exporting.jsonl", ROOT / "docs/exporting.md"
START, END = "<!-- sweep: start -->", "<!-- sweep: end -->"
METHODS = "fullgrad", "complete_fullgrad", "balanced_fullgrad"
ROUNDS, INPUTS, LARGEST = 7, 5, 1e-4

_ALONE = """\
import sys
sys.modules["fullgrad"] = None  # importing it fails
import numpy as np
folder = sys.argv[1]
given = np.load(folder + "/given.npz")
x, target = given["x"], given["target"]
for name in sys.argv[2:]:
    if name == "onnx":
        import onnxruntime
        file = onnxruntime.InferenceSession(folder + "/onnx.onnx", providers=["CPUExecutionProvider"])
        found = [file.run(None, {"input": one[None], "target": target}) for one in x]
    else:
        import torch
        path = folder + f"/{name}.pt2"
        if name == "torch":
            run = torch.export.load(path).module()
        else:
            run = torch._inductor.aoti_load_package(path)
        given = [(torch.from_numpy(one[None]), torch.from_numpy(target)) for one in x]
        found = [[t.detach().numpy() for t in run(*one)] for one in given]
    logits, maps, residuals = map(np.concatenate, zip(*found))
    np.savez(folder + f"/{name}.npz", logits=logits, map=maps, residual=residuals)
"""


def exported(model_name: str, method: str, formats: list[str], folder: Path) -> dict[str, Any]:
    """Export, measure, and have the files run by a process without fullgrad."""
    import numpy as np
    import onnxruntime
    import torch
    from benchmarks.subjects import SIZE, build

    import fullgrad
    from fullgrad.interop.compiling.call import Arguments, Explaining

    torch.set_num_threads(1)
    work = build(model_name, 1, SIZE, torch.float32, "cpu")
    row: dict[str, Any] = {"model": model_name, "method": method, "batch": 1, "size": SIZE}
    row["versions"] = {"torch": torch.__version__, "onnxruntime": onnxruntime.__version__}
    several, target = torch.randn(INPUTS, 3, SIZE, SIZE), torch.tensor([7])
    explaining, x = Explaining(method), several[:1]
    arguments, _ = Arguments.of(x)

    def eager(x: torch.Tensor) -> Any:
        return explaining.eager(work.model, arguments, [x], [7])

    def maps() -> Any:
        return np.concatenate([eager(one[None]).maps[0].detach().numpy() for one in several])

    own = maps()
    with torch.backends.mkldnn.flags(enabled=False):
        other_kernels = _apart(maps(), own)
    row["equal_with_other_kernels"] = int((other_kernels <= LARGEST).sum())
    row["largest_with_other_kernels"] = float(other_kernels.max())
    runs: dict[str, Callable[[], Any]] = {
        "eager": lambda: eager(x),
        "gradient": lambda: _gradient(work.model, x),
    }
    for name in formats:
        path = folder / (name + (".onnx" if name == "onnx" else ".pt2"))
        start = time.perf_counter()
        made = fullgrad.export(work.model, work.x, path, method=method, format=name)  # type: ignore[arg-type]
        row[name] = {
            "seconds_to_export": time.perf_counter() - start,
            "bytes": made.size,
            "compared_when_exported": made.compared._asdict(),
            "graph_in_pytorch": made.in_pytorch._asdict(),
        }
        if name == "onnx":
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = 1
            session = onnxruntime.InferenceSession(path, options)
            given = {"input": x.numpy(), "target": target.numpy()}
            runs[name] = lambda s=session, g=given: s.run(None, g)  # type: ignore[misc]
        else:
            load = torch.export.load if name == "torch" else torch._inductor.aoti_load_package
            run: Any = load(str(path))
            run = run.module() if name == "torch" else run
            runs[name] = lambda r=run: r(x, target)  # type: ignore[misc]
    np.savez(folder / "given.npz", x=several.numpy(), target=target.numpy())
    command = [sys.executable, "-I", "-W", "ignore", "-c", _ALONE, str(folder), *formats]
    subprocess.run(command, check=True)
    with torch.no_grad():
        logits = torch.cat([work.model(one[None]) for one in several]).numpy()
    row["inputs"] = INPUTS
    for name in formats:
        found = np.load(folder / f"{name}.npz")
        apart = _apart(found["map"], own)
        equal = apart <= LARGEST
        row[name]["equal"] = int(equal.sum())
        row[name]["difference"] = float(apart[equal].max()) if equal.any() else None
        row[name]["largest"] = float(apart.max())
        row[name]["logits_difference"] = float(_apart(found["logits"], logits).max())
        row[name]["residual"] = float(np.abs(found["residual"] / logits[:, 7]).max())
    times: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(ROUNDS + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            if turn:  # the first round warms up
                times[name].append(time.perf_counter() - start)
    row["seconds"] = {name: statistics.median(values) for name, values in times.items()}
    return row


def _apart(given: Any, own: Any) -> Any:
    """The largest difference of each sample, relative to its largest number."""
    import numpy as np

    axes = tuple(range(1, own.ndim))
    return np.abs(given - own).max(axes) / np.abs(own).max(axes)


def _gradient(model: Any, x: Any) -> Any:
    import torch

    x = x.clone().requires_grad_()
    return torch.autograd.grad(model(x)[:, 7].sum(), x)


def _short(value: float | None) -> str:
    return "–" if value is None else f"{value:.0e}"


def table(rows: list[dict[str, Any]]) -> str:
    """The page's table."""
    from benchmarks.subjects import SUBJECTS

    head = (
        "| model | method | `.pt2`, MB | `.onnx`, MB | ONNX: equal, largest of these, of all | "
        "other kernels: equal, largest of all | ONNX residual ÷ logit | `.pt2` ÷ eager | "
        "ONNX ÷ eager | ONNX ÷ gradient |"
    )
    lines = [head, "|---|---|" + "---:|" * 8]
    for row in rows:
        times = row["seconds"]
        cells = [
            SUBJECTS[row["model"]].label,
            f"`{row['method']}`",
            f"{row['torch']['bytes'] / 1e6:.0f}",
            f"{row['onnx']['bytes'] / 1e6:.0f}",
            f"{row['onnx']['equal']} of {row['inputs']}, {_short(row['onnx']['difference'])}, "
            f"{_short(row['onnx']['largest'])}",
            f"{row['equal_with_other_kernels']} of {row['inputs']}, "
            f"{row['largest_with_other_kernels']:.0e}",
            f"{row['onnx']['residual']:.0e}",
            f"{times['torch'] / times['eager']:.2f}",
            f"{times['onnx'] / times['eager']:.2f}",
            f"{times['onnx'] / times['gradient']:.2f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    from benchmarks.subjects import COMPARED

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", default=COMPARED)
    parser.add_argument("--methods", nargs="+", default=METHODS)
    parser.add_argument("--compiled", action="store_true", help="an AOTInductor package as well")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)  # in a process of its own
    args = parser.parse_args()
    formats = ["torch", "onnx", *(["aot_inductor"] if args.compiled else [])]
    if args.one:
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(exported(args.one[0], args.one[1], formats, Path(folder))))
        return
    lines = RESULTS.read_text().splitlines() if RESULTS.exists() else []
    rows = {(r["model"], r["method"]): r for r in map(json.loads, lines)}
    for model in args.models:
        for method in args.methods:
            if (model, method) in rows and all(f in rows[model, method] for f in formats):
                continue
            flags = ["--compiled"] if args.compiled else []
            command = [sys.executable, "-W", "ignore", __file__, "--one", model, method, *flags]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
            if done.returncode:
                print(f"{model} {method}: failed")
                continue
            rows[model, method] = json.loads(done.stdout.splitlines()[-1])
            print(rows[model, method], flush=True)
            ordered = [rows[m, k] for m in COMPARED for k in METHODS if (m, k) in rows]
            RESULTS.write_text("".join(json.dumps(row) + "\n" for row in ordered))
    if PAGE.exists() and rows:
        ordered = [rows[m, k] for m in COMPARED for k in METHODS if (m, k) in rows]
        before, rest = PAGE.read_text().split(START)
        _, after = rest.split(END)
        PAGE.write_text(f"{before}{START}\n{table(ordered)}\n{END}{after}")


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
