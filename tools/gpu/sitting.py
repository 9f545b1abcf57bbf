"""What needs a GPU, in sittings of some minutes: tests, tests of maps, remove-and-retrain, times.

    python tools/gpu/sitting.py tests evaluate --out runs/gpu --minutes 8 --photographs halves/imagenet-held.csv
    python tools/gpu/sitting.py roar --out runs/gpu --minutes 8 --cifar100 FOLDER
    python tools/gpu/sitting.py bench --out runs/gpu --minutes 8

Commands of the steps run side by side, ``--at-once`` of them; `bench` should be asked for alone. What has ended
well is noted in OUT/NAME.json with its command, seconds and environment, and skipped the next time; what was cut
by the time resumes then. The exit code is 1 while something is left. ``--tiny`` is for a trial on the CPU.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from roar import environment

ROOT = Path(__file__).resolve().parents[2]
STEPS = ("tests", "evaluate", "roar", "bench")
LITES = ("efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2")
# Half of the maps in each process, for most of a call's time is Python.
METHODS = (
    (
        "path_fullgrad",
        "difference_fullgrad",
        "complete_fullgrad",
        "balanced_fullgrad",
        "balanced_input",
        "center",
        "contrast:cell=16",
        "sobel",
    ),
    (
        "fullgrad",
        "grad_cam",
        "layer_cam",
        "integrated_gradients:baseline=mean,n_steps=10,signed=True",
        "input_x_gradient:signed=True",
        "smoothgrad",
        "fullgrad_plus",
        "random",
        "random_phase:of=path_fullgrad",
    ),
)
RETRAINED = (
    "path_fullgrad",
    "integrated_gradients:baseline=mean,n_steps=10",
    "input_gradient",
    "grad_cam",
    "fullgrad",
    "random_blobs:grid=4",
    "random",
)
TESTS = {
    "gain": ("relevance-gain", "--cell", "16", "--fills", "mean", "blur"),
    "other": ("grid-pointing", "class-sensitivity", "randomization", "stability"),
}


@dataclass(frozen=True)
class Command:
    """One process: a name for its files, what is run, and the commands that must have ended before."""

    name: str
    words: tuple[str, ...]
    after: tuple[str, ...] = ()


def python(*words: str) -> tuple[str, ...]:
    return (sys.executable, *words)


def tests(args: argparse.Namespace) -> Iterable[Command]:
    """What only a GPU shows."""
    yield Command("tests", python("-m", "pytest", "-q", "tests/test_cuda.py"))


def evaluate(args: argparse.Namespace) -> Iterable[Command]:
    """Both halves of the methods into one store; then all of them from it, with the tables."""
    if not args.photographs:
        raise SystemExit("sitting: evaluate needs --photographs FOLDER_OR_CSV")
    for model in args.models:
        for test, words in TESTS.items():
            name = f"{test}-{model}"
            folder = args.out / name
            call = python("-m", "fullgrad", "evaluate", "--model", model, "--device", args.device)
            call = (*call, "--images", args.photographs, "--batch-size", "50", "--tests", *words)
            call = (*call, "--limit", "4") if args.tiny else call
            call = (*call, "--store", str(folder / "stages"), "--out")
            halves = [half[:1] if args.tiny else half for half in METHODS]
            parts = [f"{name}-{number}" for number in range(len(halves))]
            for part, half in zip(parts, halves, strict=True):
                yield Command(part, (*call, str(folder / part), "--methods", *half))
            everything = [method for half in halves for method in half]
            yield Command(
                name, (*call, str(folder / "all"), "--methods", *everything), tuple(parts)
            )


def roar(args: argparse.Namespace) -> Iterable[Command]:
    """The base networks, then each method by itself into the same store, then all from it.

    On an H100 eight at once trained 1.3 times as fast as one; most is gained while maps are computed.
    """
    if not args.cifar100:
        raise SystemExit("sitting: roar needs --cifar100 FOLDER, with train/CLASS and test/CLASS")
    folder = args.out / "roar"
    call = python("-m", "fullgrad", "bench", "roar", "--data", args.cifar100)
    call = (*call, "--device", args.device, "--precision", "bfloat16", "--map-batch", "500")
    call = (*call, "--store", str(folder / "stages"), "--minutes", str(args.minutes), *args.roar)
    methods = RETRAINED[-2:] if args.tiny else RETRAINED
    least = ("--methods", "random", "--fractions", "0.1", "--mask-runs", "0")
    yield Command("roar-base", (*call, "--out", str(folder / "base"), *least))
    names = [f"roar-{method.partition(':')[0]}" for method in methods]
    for name, method in zip(names, methods, strict=True):
        words = (*call, "--out", str(folder / name), "--methods", method)
        yield Command(name, words, ("roar-base",))
    yield Command(
        "roar", (*call, "--out", str(folder / "all"), "--methods", *methods), tuple(names)
    )


def bench(args: argparse.Namespace) -> Iterable[Command]:
    """Times, one process after the other."""
    before: tuple[str, ...] = ()
    for dtype in ("float32",) if args.tiny else ("float32", "bfloat16"):
        words = (
            "--only",
            "time",
            "compiled",
            "--device",
            args.device,
            "--dtype",
            dtype,
            *args.bench,
        )
        words = (*words, "--out", str(args.out / "bench"))
        yield Command(f"bench-{dtype}", python("-m", "benchmarks", *words), before)
        before = (f"bench-{dtype}",)


@dataclass(frozen=True)
class Running:
    """A command at work."""

    command: Command
    process: subprocess.Popen[bytes]
    began: float


def started(command: Command, out: Path) -> Running:
    """Start a command; what it prints is added to OUT/NAME.log."""
    folders = [str(ROOT / "src"), str(ROOT / "tools"), str(ROOT), os.environ.get("PYTHONPATH", "")]
    own = {"PYTHONPATH": os.pathsep.join(folders), "OMP_NUM_THREADS": "2"}
    with open(out / f"{command.name}.log", "ab") as log:
        process = subprocess.Popen(
            command.words, cwd=ROOT, env=os.environ | own, stdout=log, stderr=log
        )
    return Running(command, process, time.monotonic())


def run(commands: list[Command], out: Path, at_once: int, minutes: float, device: str) -> int:
    """Run them, and return how many are left."""
    end = time.monotonic() + 60 * minutes
    waiting = [c for c in commands if not (out / f"{c.name}.json").is_file()]
    running: list[Running] = []
    failed: list[str] = []
    try:
        while (waiting or running) and time.monotonic() < end:
            for one in [r for r in running if r.process.poll() is not None]:
                running.remove(one)
                name, good = one.command.name, one.process.returncode == 0
                seconds = round(time.monotonic() - one.began, 1)
                print(f"{name}: {'done' if good else 'FAILED'} in {seconds} s", flush=True)
                if not good:
                    failed.append(name)
                    continue
                found = {"command": one.command.words, "seconds": seconds, **environment(device)}
                (out / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n")
            missing = {*(c.name for c in waiting), *(r.command.name for r in running), *failed}
            ready = [c for c in waiting if not missing & set(c.after)]
            for command in ready[: at_once - len(running)]:
                waiting.remove(command)
                running.append(started(command, out))
            if not running:
                break  # what is left waits for what failed
            time.sleep(0.2)
    finally:
        for one in running:
            one.process.terminate()
        for one in running:
            one.process.wait()
            print(f"{one.command.name}: stopped; run the same command again")
    return len(waiting) + len(running) + len(failed)


def main(argv: list[str] | None = None) -> int:
    """Run it; see the module's text."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("steps", nargs="+", choices=STEPS, metavar="STEP", help=", ".join(STEPS))
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--minutes", type=float, default=8, help="for this sitting")
    parser.add_argument("--at-once", type=int, default=8, metavar="N", help="processes")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--models", nargs="+", default=LITES, help="of evaluate")
    parser.add_argument("--photographs", help="of evaluate: a folder or a CSV")
    parser.add_argument("--cifar100", help="of roar: an image folder")
    parser.add_argument(
        "--roar", nargs=argparse.REMAINDER, default=[], help="options of bench roar"
    )
    parser.add_argument("--bench", nargs=argparse.REMAINDER, default=[], help="for the benchmarks")
    parser.add_argument("--tiny", action="store_true", help="a trial, on the CPU if you like")
    args = parser.parse_args(argv)
    args.out = args.out.resolve()
    for name in ("photographs", "cifar100"):  # commands run elsewhere
        if getattr(args, name):
            setattr(args, name, str(Path(getattr(args, name)).resolve()))
    args.out.mkdir(parents=True, exist_ok=True)
    makers = {"tests": tests, "evaluate": evaluate, "roar": roar, "bench": bench}
    commands = [command for step in args.steps for command in makers[step](args)]
    left = run(commands, args.out, args.at_once, args.minutes, args.device)
    print(f"{len(commands) - left} of {len(commands)} done -> {args.out}")
    return int(left > 0)


if __name__ == "__main__":
    sys.exit(main())
