"""The smaller measurements behind docs/design/performance.md.

    python -m benchmarks.experiments

Each prints medians of interleaved rounds in this process; nothing is stored.
"""

from __future__ import annotations

import argparse
import cProfile
import math
import pstats
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import fullgrad
from benchmarks.methods import input_gradient
from benchmarks.subjects import SUBJECTS, build
from benchmarks.timing import interleave
from fullgrad.engine import terms
from fullgrad.engine.inputs import prepare
from fullgrad.engine.module_path import ModulePath
from fullgrad.engine.recorder import Recorder, recording

Calls = dict[str, Callable[[], Any]]


def medians(
    calls: Calls, rounds: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, float]:
    """Milliseconds of each call, interleaved, after one that is not counted."""
    times = interleave(calls, rounds + 1, clock=clock)
    if times.failures:
        raise RuntimeError(f"cannot be measured: {times.failures}")
    return {name: 1e3 * statistics.median(s[1:]) for name, s in times.seconds.items()}


class _Empty(TorchDispatchMode):
    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        return func(*args, **(kwargs or {}))


def _reduce(gradient: Tensor, bias: Tensor) -> tuple[Tensor, ...]:
    value, over = gradient * bias, [1, 2, 3]
    total, size = value.sum(over), value.abs()
    return total, size.amin(over), size.amax(over), size.sum(1)


def copying(rounds: int) -> None:
    """Writing a fresh tensor against reducing it sample by sample."""
    g, b = torch.randn(8, 96, 112, 112), torch.randn(1, 96, 1, 1)
    print("A term of shape (8, 96, 112, 112), 38 MB:")
    calls: Calls = {
        "copy": g.clone,
        "reduce whole": lambda: _reduce(g, b),
        "reduce by sample": lambda: [_reduce(g[i : i + 1], b) for i in range(8)],
    }
    print("  ", {k: f"{v:.1f} ms" for k, v in medians(calls, rounds).items()})


def compiling(rounds: int) -> None:
    """The reductions compiled."""
    print("torch.compile of the reductions:")
    compiled = torch.compile(_reduce, dynamic=True)
    for shape in ((2, 64, 112, 112), (8, 256, 56, 56), (8, 512, 7, 7)):
        g, b = torch.randn(shape), torch.randn(1, shape[1], 1, 1)
        start = time.perf_counter()
        compiled(g, b)
        first = time.perf_counter() - start
        calls: Calls = {"eager": lambda: _reduce(g, b), "compiled": lambda: compiled(g, b)}  # noqa: B023
        found = medians(calls, 10 * rounds)
        print("  ", shape, {k: f"{v:.2f} ms" for k, v in found.items()}, f"first {first:.1f} s")


def intercepting(model: str, batch: int, rounds: int) -> None:
    """The forward alone: plain, under an empty dispatch mode, and recorded."""
    work = build(model, batch, 224, torch.float32, "cpu")

    def under(mode: str) -> None:
        call = prepare(work.x)
        if mode == "plain":
            work.model(*call.args)
        elif mode == "empty mode":
            with _Empty():  # type: ignore[no-untyped-call]
                work.model(*call.args)
        else:
            recorder = Recorder(call.roots, ModulePath(work.model), lambda t: None)
            with recording(recorder):
                work.model(*call.args)

    modes = ("plain", "empty mode", "recorded")
    found = medians({m: partial(under, m) for m in modes}, rounds)
    print(f"Forward of {model}, batch {batch}:", {k: f"{v:.1f} ms" for k, v in found.items()})


def parts(model: str, batch: int, rounds: int) -> None:
    """Sizes of the parts in which a term is read."""
    work, kept = build(model, batch, 224, torch.float32, "cpu"), terms.AT_ONCE["cpu"]

    def at(power: int) -> None:
        terms.AT_ONCE["cpu"] = 1 << power
        fullgrad.saliency(work.model, work.x, work.target)

    try:
        powers = (17, 18, 19, 20, 21, 22, 30)
        calls: Calls = {f"2^{p}": partial(at, p) for p in powers}
        found = medians(
            {"gradient": lambda: input_gradient(work.model, work.x, work.target), **calls}, rounds
        )
    finally:
        terms.AT_ONCE["cpu"] = kept
    ratios = {k: round(v / found["gradient"], 2) for k, v in found.items() if k != "gradient"}
    print(f"Numbers read at once, {model}, batch {batch}, ratio to a gradient:", ratios)


def formats(model: str, batch: int, rounds: int) -> None:
    """Channels-last memory and autocast."""
    work = build(model, batch, 224, torch.float32, "cpu")
    last = build(model, batch, 224, torch.float32, "cpu")
    net = last.model.to(memory_format=torch.channels_last)
    x = last.x.to(memory_format=torch.channels_last)

    def autocast(call: Callable[[], Any]) -> None:
        with torch.autocast("cpu", torch.bfloat16):
            call()

    pairs: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
        "float32": (
            lambda: input_gradient(work.model, work.x, work.target),
            lambda: fullgrad.saliency(work.model, work.x, work.target),
        ),
        "channels-last": (
            lambda: input_gradient(net, x, work.target),
            lambda: fullgrad.saliency(net, x, work.target),
        ),
        "autocast": (
            lambda: autocast(lambda: input_gradient(work.model, work.x, work.target)),
            lambda: autocast(lambda: fullgrad.saliency(work.model, work.x, work.target)),
        ),
    }
    calls = {f"{k}{i}": pair[i] for k, pair in pairs.items() for i in (0, 1)}
    found = medians(calls, rounds)
    ratios = {k: round(found[f"{k}1"] / found[f"{k}0"], 2) for k in pairs}
    print(f"Formats, {model}, batch {batch}, ratio to a gradient in the same format:", ratios)


def profiled(model: str, batch: int, rounds: int) -> None:
    """Where one map's time goes, how many Python functions it calls, and what memory is new."""
    work = build(model, batch, 224, torch.float32, "cpu")

    def saliency() -> None:
        fullgrad.saliency(work.model, work.x, work.target)

    gradient = partial(input_gradient, work.model, work.x, work.target)
    found = medians({"gradient": gradient, "map": saliency}, rounds)
    profile = cProfile.Profile()
    profile.runcall(saliency)
    stats: Any = pstats.Stats(profile)
    spent: dict[str, float] = defaultdict(float)
    for (file, _, function), (_, _, own, _, _) in stats.stats.items():
        spent[_part_of(file, function)] += own
    print(
        f"{model}, batch {batch}: map {found['map']:.1f} ms, gradient {found['gradient']:.1f} ms, "
        f"{stats.total_calls} function calls"
    )
    for part, seconds in sorted(spent.items(), key=lambda item: -item[1])[:8]:
        print(f"  {seconds / stats.total_tt:5.1%}  {part}")
    used = {"map": _used(saliency, rounds), "gradient": _used(gradient, rounds)}
    for name, (faults, own, system) in used.items():
        print(f"  {name}: {faults:.0f} page faults; {own:.0f} ms, the system {system:.0f} ms more")


def _used(call: Callable[[], Any], rounds: int) -> tuple[float, float, float]:
    """Page faults, and milliseconds of the processor in the program and in the system: medians."""
    import resource

    found = []
    for _ in range(rounds):
        before = resource.getrusage(resource.RUSAGE_SELF)
        call()
        after = resource.getrusage(resource.RUSAGE_SELF)
        times = (after.ru_utime - before.ru_utime, after.ru_stime - before.ru_stime)
        found.append((after.ru_minflt - before.ru_minflt, 1e3 * times[0], 1e3 * times[1]))
    faults, own, system = (statistics.median(column) for column in zip(*found, strict=True))
    return faults, own, system


def _part_of(file: str, function: str) -> str:
    """The package of the library that a function is of, or what else it is."""
    if file == "~":
        return "back-propagation" if "run_backward" in function else "PyTorch's kernels, builtins"
    parts = Path(file).parts
    if "fullgrad" not in parts:
        return "other Python"
    below = parts[len(parts) - parts[::-1].index("fullgrad") :]
    return f"fullgrad.{below[0].removesuffix('.py')}"


def forms(rounds: int) -> None:
    """Other forms of what a term costs, in time of the processor: set OMP_NUM_THREADS=1."""
    timed = partial(medians, clock=time.process_time)
    print("A term with one bias for each channel: as it is, channels summed by a matrix product,")
    print("and never multiplied (extremes and sums of each channel's gradient):")
    for shape in ((2, 64, 112, 112), (8, 512, 14, 14), (8, 960, 7, 7)):
        g, b = torch.randn(shape), torch.randn(1, shape[1], 1, 1)
        calls: Calls = {
            "as it is": partial(_reduce, g, b),
            "product": partial(_by_product, g, b),
            "by channel": partial(_by_channel, g, b),
        }
        print("  ", shape, {k: f"{v:.2f} ms" for k, v in timed(calls, 10 * rounds).items()})
    print("GELU's bias and the product, 1.2 million numbers, read from memory, by size of a block:")
    pairs = [(torch.randn(56 * 56 * 384), torch.randn(56 * 56 * 384)) for _ in range(12)]

    def blocks(size: int) -> None:
        for u, g in pairs:
            value = torch.empty_like(u)
            for at in range(0, len(u), size):
                value[at : at + size] = _gelu_bias(u[at : at + size])
            value.mul_(g)

    sizes = (len(pairs[0][0]), 1 << 17, 1 << 16, 1 << 14)
    found = timed({str(n): partial(blocks, n) for n in sizes}, rounds)
    print("  ", {k: f"{v / len(pairs):.2f} ms" for k, v in found.items()})
    print("Eight maps to 224 places, by interpolation and by two matrix products:")
    for n in (112, 56, 7):
        small = torch.rand(8, 1, n, n)
        weights = F.interpolate(torch.eye(n)[:, None], 224, mode="linear", align_corners=True)
        along = weights[:, 0].T.contiguous()
        calls = {
            "interpolated": lambda m=small: F.interpolate(  # type: ignore[misc]
                m, (224, 224), mode="bilinear", align_corners=True
            ),
            "products": lambda m=small, w=along: w @ (m @ w.T),  # type: ignore[misc]
        }
        print("  ", n, {k: f"{v:.2f} ms" for k, v in timed(calls, 10 * rounds).items()})


def _gelu_bias(u: Tensor) -> Tensor:
    square = torch.addcmul(u.new_zeros(()), u, u, value=-1)
    constant = u.new_full((), -0.5 * math.log(2 * math.pi))
    return torch.add(constant, square, alpha=0.5).exp_().mul_(square)


def _by_product(gradient: Tensor, bias: Tensor) -> tuple[Tensor, ...]:
    value, over = gradient * bias, [1, 2, 3]
    total, size = value.sum(over), value.abs_()
    channels = torch.ones(1, size.shape[1]) @ size.flatten(2)
    return total, size.amin(over), size.amax(over), channels


def _by_channel(gradient: Tensor, bias: Tensor) -> tuple[Tensor, ...]:
    flat, own = gradient.flatten(2), bias.view(1, -1)
    total, size, scale = (flat.sum(2) * own).sum(1), flat.abs(), own.abs()
    low, high = (size.amin(2) * scale).amin(1), (size.amax(2) * scale).amax(1)
    return total, low, high, scale @ size


def main(argv: Sequence[str] | None = None) -> int:
    """Run them all.

    Args:
        argv: arguments; by default those of the process.

    Returns:
        0.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks.experiments", description=__doc__)
    parser.add_argument("--rounds", type=int, default=9, help="of each measurement (%(default)s)")
    parser.add_argument("--batch", type=int, default=8, help="samples (%(default)s)")
    parser.add_argument(
        "--models",
        nargs="+",
        choices=sorted(SUBJECTS),
        default=["resnet18", "mobilenet_v3_large"],
        metavar="NAME",
    )
    parser.add_argument("--profile", action="store_true", help="only where one map's time goes")
    parser.add_argument("--forms", action="store_true", help="only other forms of a term's kernels")
    options = parser.parse_args(argv)
    if min(options.rounds, options.batch) < 1:
        parser.error("--rounds and --batch must be at least 1")
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    if options.profile:
        for model in options.models:
            profiled(model, options.batch, options.rounds)
        return 0
    if options.forms:
        forms(options.rounds)
        return 0
    copying(options.rounds)
    compiling(options.rounds)
    for model in options.models:
        for batch in sorted({1, options.batch}):
            intercepting(model, batch, options.rounds)
        parts(model, options.batch, options.rounds)
        formats(model, options.batch, options.rounds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
