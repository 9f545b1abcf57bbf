"""Artifacts of the benchmark's models: run without fullgrad, compared, measured.

    python tools/export_sweep.py            # resumes docs/data/exporting.jsonl, rewrites the table
    python tools/export_sweep.py resnet18   # these models only
    python tools/export_sweep.py --compiled resnet18

A process of its own exports a model with a method, as torch.export program and as ONNX file, at batch
1 and the benchmark's size, and measures. Another process, in which importing fullgrad fails, runs the
files on another input than the one that they were exported with. Its numbers are compared with fullgrad's.
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

ROOT = Path(__file__).parents[1]
RESULTS, PAGE = ROOT / "docs/data/exporting.jsonl", ROOT / "docs/exporting.md"
START, END = "<!-- sweep: start -->", "<!-- sweep: end -->"
METHODS = "fullgrad", "complete_fullgrad", "balanced_fullgrad"
ROUNDS = 7

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
        found = file.run(["logits", "map", "residual"], {"input": x, "target": target})
    else:
        import torch
        path = folder + f"/{name}.pt2"
        if name == "torch":
            run = torch.export.load(path).module()
        else:
            run = torch._inductor.aoti_load_package(path)
        found = [t.detach().numpy() for t in run(torch.from_numpy(x), torch.from_numpy(target))]
    np.savez(folder + f"/{name}.npz", logits=found[0], map=found[1], residual=found[2])
"""


def exported(model_name: str, method: str, formats: list[str], folder: Path) -> dict[str, Any]:
    """Export, measure, and have the files run by a process without fullgrad."""
    import numpy as np
    import onnxruntime
    import torch

    import fullgrad
    from benchmarks.subjects import SIZE, build
    from fullgrad.interop.compiling._call import Arguments, Explaining

    torch.set_num_threads(1)
    work = build(model_name, 1, SIZE, torch.float32, "cpu")
    row: dict[str, Any] = {"model": model_name, "method": method, "batch": 1, "size": SIZE}
    row["versions"] = {"torch": torch.__version__, "onnxruntime": onnxruntime.__version__}
    x, target = torch.randn(1, 3, SIZE, SIZE), torch.tensor([7])
    explaining = Explaining(method)
    arguments, tensors = Arguments.of(x)
    wanted = explaining.eager(work.model, arguments, tensors, [7])
    runs: dict[str, Callable[[], Any]] = {
        "eager": lambda: explaining.eager(work.model, arguments, tensors, [7]),
        "gradient": lambda: _gradient(work.model, x),
    }
    for name in formats:
        path = folder / (name + (".onnx" if name == "onnx" else ".pt2"))
        start = time.perf_counter()
        made = fullgrad.export(work.model, work.x, path, method=method, format=name)  # type: ignore[arg-type]
        row[name] = {
            "seconds_to_export": time.perf_counter() - start,
            "bytes": made.size,
            "difference_when_exported": made.difference,
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
    np.savez(folder / "given.npz", x=x.numpy(), target=target.numpy())
    command = [sys.executable, "-I", "-W", "ignore", "-c", _ALONE, str(folder), *formats]
    subprocess.run(command, check=True)
    logits = work.model(x).detach()
    for name in formats:
        found = np.load(folder / f"{name}.npz")
        pairs = ("map", wanted.maps[0].detach()), ("logits", logits)
        for part, own in pairs:
            apart = np.abs(found[part] - own.numpy()).max() / own.abs().max().item()
            row[name][f"{part}_difference"] = float(apart)
        row[name]["residual"] = float(np.abs(found["residual"]).max())
    row["logit"] = float(wanted.output[0])
    times: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(ROUNDS + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            if turn:  # the first round warms up
                times[name].append(time.perf_counter() - start)
    row["seconds"] = {name: statistics.median(values) for name, values in times.items()}
    return row


def _gradient(model: Any, x: Any) -> Any:
    import torch

    x = x.clone().requires_grad_()
    return torch.autograd.grad(model(x)[:, 7].sum(), x)


def table(rows: list[dict[str, Any]]) -> str:
    """The page's table."""
    from benchmarks.subjects import SUBJECTS

    head = (
        "| model | method | `.pt2`, MB | `.onnx`, MB | ONNX map, largest difference | "
        "ONNX residual ÷ logit | eager, ms | `.pt2` ÷ eager | ONNX ÷ eager | ONNX ÷ gradient |"
    )
    lines = [head, "|---|---|" + "---:|" * 8]
    for row in rows:
        times = row["seconds"]
        cells = [
            SUBJECTS[row["model"]].label,
            f"`{row['method']}`",
            f"{row['torch']['bytes'] / 1e6:.0f}",
            f"{row['onnx']['bytes'] / 1e6:.0f}",
            f"{row['onnx']['map_difference']:.0e}",
            f"{row['onnx']['residual'] / abs(row['logit']):.0e}",
            f"{1000 * times['eager']:.0f}",
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
            print(json.dumps(exported(*args.one, formats, Path(folder))))
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
