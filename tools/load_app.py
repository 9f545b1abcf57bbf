"""Many people at once at ``fullgrad app``: errors, mixed-up results, memory, latencies.

Starts the viewer as a process of its own and drives it with sessions, each a thread with its own
photographs, classes and methods. What every answer must be is computed beforehand, here, with the
library; a map's picture that differs in one pixel, an array that differs in one number, a
waterfall of other parts is an error.

    python tools/load_app.py --sessions 20 --seconds 120 --out load.json
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import http.client
import io
import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import numpy as np
import torch
from PIL import Image

import fullgrad
from fullgrad import methods
from fullgrad.vision.areas import CELL, drawn_in_cells
from fullgrad.vision.images import preprocess, read_image
from fullgrad.vision.models import DEFAULT_MODEL, LoadedModel, load_model
from fullgrad.viz.mixture import drawn

COMPARED: tuple[tuple[str, dict[str, Any]], ...] = (
    ("input_x_gradient", {}),
    ("grad_cam", {}),
    ("integrated_gradients", {"n_steps": 5}),
    ("smoothgrad", {"samples": 5}),
    ("smooth_fullgrad", {"samples": 3}),
)
CLOSE = 1e-4  # of the parts' sizes: what rounding may leave
# How often what is asked for, in parts of the whole.
KINDS = {
    "fullgrad": 40,
    "recommended": 20,
    "comparison": 20,
    "array": 5,
    "picture": 5,
    "abandoned": 7,
    "refused": 3,
}


@dataclass(frozen=True)
class Case:
    """One request and what its answer must be.

    ``input`` and ``stages`` are the parts of the logit, the stages by modules of 1 to 4 components
    of a path; of FullGrad alone.
    """

    content: bytes
    query: dict[str, str]
    map: str
    target: int
    array: bytes
    input: float | None = None
    stages: tuple[dict[str, float], ...] = ()


@dataclass
class Seen:
    """What happened, over all sessions."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    first: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    errors: list[str] = field(default_factory=list)

    def add(self, kind: str, seconds: float, first: float | None) -> None:
        with self.lock:
            self.seconds[kind].append(seconds)
            if first is not None:
                self.first[kind].append(first)

    def wrong(self, text: str) -> None:
        with self.lock:
            self.errors.append(text)


def photograph(rng: np.random.Generator) -> bytes:
    """A JPEG of 800 x 600 with shapes of several sizes."""
    whole = np.zeros((600, 800, 3))
    for cells in (4, 12, 40):
        coarse = rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8)
        whole += np.asarray(Image.fromarray(coarse).resize((800, 600), Image.Resampling.BICUBIC))
    with io.BytesIO() as file:
        Image.fromarray((whole / 3).astype(np.uint8)).save(file, "JPEG", quality=90)
        return file.getvalue()


def digest(pixels: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).hexdigest()


def cases_of(session: int, model: LoadedModel, folder: Path) -> dict[str, list[Case]]:
    """The requests of one session, with the answers that the library gives."""
    rng = np.random.default_rng(session)
    found: dict[str, list[Case]] = {"fullgrad": [], "recommended": [], "comparison": []}
    for place in range(2):
        content = photograph(rng)
        path = folder / "load-photograph.jpg"
        path.write_bytes(content)
        x = preprocess(read_image(path), model.preprocessing)[None]
        path.unlink()
        with torch.no_grad():
            logits = model.module(x)[0]
        name = f"session-{session}-{place}.jpg"
        target = None if place == 0 else int(rng.integers(len(logits)))
        wanted: list[tuple[str, dict[str, Any]]] = [("fullgrad", {}), (methods.RECOMMENDED, {})]
        wanted += [COMPARED[int(i)] for i in rng.choice(len(COMPARED), 2, replace=False)]
        for method, options in wanted:
            chosen = int(logits.argmax()) if target is None else target
            maps = methods.attribute(method, model.module, x, torch.tensor([chosen]), **options)
            heat = maps[0, 0].numpy()
            query = {"method": method, "name": name, "options": json.dumps(options)}
            query |= {} if target is None else {"target": str(target)}
            query |= {} if method == "fullgrad" else {"parts": "map"}
            with io.BytesIO() as file:
                np.save(file, heat)
                signed = method == methods.RECOMMENDED
                pixels = drawn(drawn_in_cells(heat, CELL) if signed else heat, signed)
                shown = digest(pixels)
                case = Case(content, query, shown, chosen, file.getvalue())
            if method == "fullgrad":
                case = replace(case, **sums_of(fullgrad.decompose(model.module, x, chosen)))
            kind = "recommended" if signed else "fullgrad" if method == "fullgrad" else "comparison"
            found[kind].append(case)
    return found


def sums_of(decomposition: fullgrad.Decomposition) -> dict[str, Any]:
    """What the waterfall of an answer must hold."""
    stages = (decomposition.by_module(depth) for depth in range(1, 5))
    return {
        "input": float(decomposition.input_sums[0]),
        "stages": tuple({k: float(v[0]) for k, v in found.items()} for found in stages),
    }


class Server:
    """The viewer, in a process of its own."""

    def __init__(self, arguments: list[str]) -> None:
        command = [sys.executable, "-m", "fullgrad", "app", "--port", "0", *arguments]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        found = re.search(r"http://[^:]+:(\d+)/", line)
        if not found:
            raise SystemExit(f"the viewer did not start: {line!r}")
        self.port = int(found[1])

    def memory(self) -> float:
        """Resident memory, MB."""
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+) kB", text)
        assert found
        return int(found[1]) / 1000

    def processor(self) -> float:
        """Seconds of processor time so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def stop(self) -> int:
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(30)


def connected(port: int) -> http.client.HTTPConnection:
    return http.client.HTTPConnection("127.0.0.1", port, timeout=300)


def once(port: int, kind: str, case: Case, rng: random.Random, seen: Seen) -> None:
    """One request, its answer looked at."""
    label = case.query["name"] + " " + case.query["method"]
    path = "/api/explain"
    query, content = dict(case.query), case.content
    if kind in {"array", "picture"}:
        path = f"/api/download/{kind}"
    if kind == "refused":
        content = content[: len(content) // 2]
    connection = connected(port)
    began = time.perf_counter()
    try:
        connection.request("POST", f"{path}?{urlencode(query)}", content)
        answer = connection.getresponse()
        first = None
        if path == "/api/explain":
            line = answer.readline()
            first = time.perf_counter() - began
            if kind == "abandoned":
                if rng.random() < 0.5:
                    answer.readline()
                return
            while line.startswith(b'{"progress"'):
                line = answer.readline()
            body = line
        else:
            body = answer.read()
        seconds = time.perf_counter() - began
        named = kind if kind not in {"comparison", "recommended"} else case.query["method"]
        seen.add(named, seconds, first)
        if answer.status != 200:
            seen.wrong(f"{kind} {label}: status {answer.status}: {body[:200]!r}")
        elif kind == "refused":
            found = json.loads(body)
            if "truncated" not in found.get("error", ""):
                seen.wrong(f"{label}: a truncated photograph was answered by {body[:200]!r}")
        elif kind == "array":
            if body != case.array:
                seen.wrong(f"{label}: the array is not that of this session")
        elif kind == "picture":
            with Image.open(io.BytesIO(body)) as picture:
                picture.load()
        else:
            check(json.loads(body), case, label, seen)
    except Exception as error:  # whatever breaks is what this is looking for
        seen.wrong(f"{kind} {label}: {type(error).__name__}: {error}")
    finally:
        connection.close()
        if kind == "abandoned":
            seen.add(kind, time.perf_counter() - began, None)


def check(answer: dict[str, Any], case: Case, label: str, seen: Seen) -> None:
    if "result" not in answer:
        seen.wrong(f"{label}: {answer}")
        return
    found = answer["result"]
    with Image.open(io.BytesIO(base64.b64decode(found["map"]["png"].partition(",")[2]))) as picture:
        same = digest(np.asarray(picture)) == case.map
    if not same or found["name"] != case.query["name"] or found["target"]["index"] != case.target:
        seen.wrong(f"{label}: the answer is not that of this session (map {same})")
    shown = found["waterfall"]
    if case.input is None:
        if shown is not None:
            seen.wrong(f"{label}: a waterfall that was not asked for")
    elif shown is None:
        seen.wrong(f"{label}: no waterfall")
    elif not adds_up(shown, case):
        seen.wrong(f"{label}: the waterfall is not that of this session")


def adds_up(shown: dict[str, Any], case: Case) -> bool:
    """Whether a waterfall has the parts that the library found, and no more is left."""
    parts = {s["name"]: s["value"] for s in shown["stages"]}
    wanted = next((stages for stages in case.stages if list(stages) == list(parts)), None)
    if wanted is None or case.input is None:
        return False
    most = CLOSE * (abs(case.input) + sum(map(abs, wanted.values())) + abs(shown["output"]))
    left = shown["output"] - shown["input"] - sum(parts.values())
    pairs = [(shown["input"], case.input), *((parts[k], wanted[k]) for k in wanted)]
    pairs += [(left, 0.0), (shown["residual"], 0.0)]
    return all(abs(a - b) <= most for a, b in pairs)


def session(
    number: int, port: int, cases: dict[str, list[Case]], end: float, pause: float, seen: Seen
) -> None:
    rng = random.Random(number)
    time.sleep(rng.uniform(0, pause))
    while time.monotonic() < end:
        (kind,) = rng.choices(list(KINDS), list(KINDS.values()))
        case = rng.choice(cases.get(kind, cases["fullgrad"]))
        once(port, kind, case, rng, seen)
        time.sleep(rng.uniform(0, 2 * pause))


def row(name: str, seconds: list[float]) -> dict[str, float | int | str]:
    values = np.array(seconds)
    return {
        "kind": name,
        "requests": len(values),
        "median": float(np.median(values)),
        "95 %": float(np.percentile(values, 95)),
        "most": float(values.max()),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--sessions", type=int, default=20)
    add("--seconds", type=float, default=120)
    add("--pause", type=float, default=2.0, help="mean seconds between a session's requests")
    add("--model", default=DEFAULT_MODEL)
    add("--workers", type=int, default=2)
    add("--settle", type=float, default=10.0, help="seconds before memory is read the last time")
    add("--out", type=Path, help="JSON")
    args = parser.parse_args()
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // args.workers))  # rounding as there
    model = load_model(args.model)
    folder = Path(os.environ.get("TMPDIR", "/tmp"))
    cases = [cases_of(n, model, folder) for n in range(args.sessions)]
    del model
    server = Server(["--model", args.model, "--workers", str(args.workers)])
    try:
        found = drive(server, cases, args)
    finally:
        code = server.stop()
    found |= {
        "exit code": code,
        "sessions": args.sessions,
        "seconds": args.seconds,
        "pause": args.pause,
        "model": args.model,
        "workers": args.workers,
        "cores": os.cpu_count(),
        "load average": os.getloadavg(),
    }
    show(found)
    if args.out:
        args.out.write_text(json.dumps(found, indent=2) + "\n")
    return 1 if found["errors"] or code else 0


def drive(
    server: Server, cases: list[dict[str, list[Case]]], args: argparse.Namespace
) -> dict[str, Any]:
    warm = Seen()
    started = server.memory()
    rng = random.Random(0)
    for one in cases[:4]:  # what every worker loads or allocates once
        for kind in ("fullgrad", "recommended", "comparison", "array", "picture"):
            for case in one.get(kind, one["fullgrad"]):
                once(server.port, kind, case, rng, warm)
    time.sleep(2)
    before = server.memory()
    worked, busy = server.processor(), time.monotonic()
    seen, end = Seen(), time.monotonic() + args.seconds
    threads = [
        threading.Thread(target=session, args=(n, server.port, c, end, args.pause, seen))
        for n, c in enumerate(cases)
    ]
    for thread in threads:
        thread.start()
    memory = []
    while any(thread.is_alive() for thread in threads):
        memory.append(server.memory())
        time.sleep(0.25)
    worked, busy = server.processor() - worked, time.monotonic() - busy
    time.sleep(args.settle)
    half = memory[len(memory) // 2 :]
    return {
        "errors": warm.errors + seen.errors,
        "latency": [row(k, v) for k, v in sorted(seen.seconds.items())],
        "first line": row("all", [s for v in seen.first.values() for s in v]),
        "requests": sum(map(len, seen.seconds.values())),
        "cores used by the viewer": worked / busy,
        "processor seconds for each request": worked / sum(map(len, seen.seconds.values())),
        "memory": {
            "started": started,
            "before": before,
            "most": max(memory),
            "mean of the second half": float(np.mean(half)),
            "after": server.memory(),
        },
    }


def show(found: dict[str, Any]) -> None:
    print(f"{'':22}{'requests':>9}{'median':>9}{'95 %':>9}{'most':>9}   seconds")
    for r in [*found["latency"], {**found["first line"], "kind": "(first line of any)"}]:
        print(
            f"{r['kind']:22}{r['requests']:>9}{r['median']:>9.2f}{r['95 %']:>9.2f}{r['most']:>9.2f}"
        )
    print(
        f"the viewer had {found['cores used by the viewer']:.2f} cores, and took "
        f"{found['processor seconds for each request']:.2f} processor seconds for a request"
    )
    print("memory, MB: " + ", ".join(f"{k} {v:.0f}" for k, v in found["memory"].items()))
    print(
        f"{found['requests']} requests of {found['sessions']} sessions, "
        f"{len(found['errors'])} errors, exit code {found['exit code']}"
    )
    for text, count in Counter(found["errors"]).most_common(10):
        print(f"  {count} x {text}")


if __name__ == "__main__":
    raise SystemExit(main())
