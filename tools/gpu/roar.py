"""The whole remove-and-retrain on CIFAR-100, within time budgets, and what it gains over a plain loop.

Runs ``fullgrad bench roar`` with the paper's network, methods and fractions; a run that was
stopped, killed or out of time resumes when the same command is given again. Then a plain training
loop, one network at a time, is timed in the same process: images shifted, mirrored and standardized
one by one on the CPU by a DataLoader, float32, the memory layout as it comes.

    python tools/gpu/roar.py --data torchvision:CIFAR100:data --out runs/roar --minutes 25

Other options of ``fullgrad bench roar`` are passed on. Writes roar/ (its results), plain.json
(the plain loop) and report.json with report.md. The exit code is 1 while something is left.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader

from fullgrad.cli.main import main as fullgrad
from fullgrad.evaluation.datasets import Colors, Dataset, open_dataset
from fullgrad.evaluation.training.loop import Settings
from fullgrad.evaluation.training.networks import NetworkChoice

METHODS = (
    "fullgrad",
    "simple_fullgrad",
    "input_gradient",
    "integrated_gradients",
    "smoothgrad",
    "grad_cam",
    "random",
)
WARM = 20  # steps of the plain loop before the clock starts, at most


class OneByOne(torch.utils.data.Dataset[tuple[Tensor, int]]):
    """Training images, each shifted, mirrored and standardized by itself when it is asked for."""

    def __init__(self, data: Dataset, settings: Settings, colors: Colors) -> None:
        self._images, self._labels = data.train, data.train_labels.tolist()
        self._shift, self._mirror = settings.shift, settings.mirror
        self._mean = torch.tensor(colors.mean).view(-1, 1, 1)
        self._std = torch.tensor(colors.std).view(-1, 1, 1)

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, number: int) -> tuple[Tensor, int]:
        image = (self._images[number].float() - self._mean) / self._std
        height, width = image.shape[1:]
        y, x = torch.randint(0, 2 * self._shift + 1, (2,)).tolist()
        image = F.pad(image, (self._shift,) * 4)[:, y : y + height, x : x + width]
        if self._mirror and torch.rand(()) < 0.5:
            image = image.flip(2)
        return image, self._labels[number]


def plain_loop(
    data: Dataset, network: NetworkChoice, settings: Settings, device: str, steps: int, workers: int
) -> dict[str, float]:
    """Time a plain training loop.

    Args:
        data: to train with.
        network: that is trained, in float32.
        settings: of the optimizer; ``precision`` is not used.
        device: where the network is.
        steps: that are timed.
        workers: processes of the DataLoader.

    Returns:
        ``step``: seconds for a step; ``test``: for all test images; ``network``: for a whole
        network by these two; ``steps``, ``workers``: as measured.
    """
    torch.manual_seed(0)
    colors = Colors.of(data.train)
    model = network.build(0).to(device)
    optimizer = torch.optim.SGD(
        model.parameters(),
        settings.rate,
        settings.momentum,
        weight_decay=settings.decay,
        nesterov=True,
    )
    each = len(data.train) // min(settings.batch, len(data.train))
    loader = DataLoader(
        OneByOne(data, settings, colors),
        min(settings.batch, len(data.train)),
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        pin_memory=device.startswith("cuda"),
    )

    def endless() -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            yield from loader

    warm, began, running = min(WARM, steps), 0.0, 0.0
    for step, (x, y) in enumerate(endless()):
        if step == warm:
            began = time.perf_counter()
        if step == warm + steps:
            break
        for group in optimizer.param_groups:
            group["lr"] = settings.rate_at(min(step, each - 1), settings.epochs * each)
        loss = F.cross_entropy(
            model(x.to(device)), y.to(device), label_smoothing=settings.smoothing
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        running += loss.item()  # which waits for the device
    a_step = (time.perf_counter() - began) / steps
    if not math.isfinite(running):
        raise SystemExit("roar: the plain loop's loss is no number; lower --rate")
    model.eval()
    began, right = time.perf_counter(), 0
    with torch.no_grad():
        for images, labels in zip(data.test.split(500), data.test_labels.split(500), strict=True):
            logits = model(colors.standardized(images).to(device))
            right += int((logits.argmax(1).cpu() == labels).sum())
    test = time.perf_counter() - began
    whole = settings.epochs * each * a_step + test
    return {"step": a_step, "test": test, "network": whole, "steps": steps, "workers": workers}


def environment(device: str) -> dict[str, Any]:
    """With what it was measured."""
    found: dict[str, Any] = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "processors": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": device,
    }
    if device.startswith("cuda"):
        found |= {
            "gpu": torch.cuda.get_device_name(device),
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
        }
    return found


def sizes_text(counts: dict[str, int]) -> str:
    """How many networks were trained alone, two at once, and so on."""
    return ", ".join(f"{n}: {number} networks" for n, number in counts.items())


def report(out: Path, plain: dict[str, float], device: str) -> dict[str, Any]:
    """What came out, in numbers and as a page."""
    record = json.loads((out / "roar" / "record.json").read_text(encoding="utf-8"))
    table = pandas.read_csv(out / "roar" / "results.csv")
    ranking = pandas.read_csv(out / "roar" / "ranking.csv")
    intact = table[table["method"] == "none"]["accuracy"]
    maps = {k: v for k, v in record["seconds"].items() if k != "networks"}
    each = record["seconds"]["networks"] / len(table)
    sizes = record["group_sizes"]
    found = {
        "networks": len(table),
        "base_accuracy": float(intact.iloc[0]),
        "accuracy_without_removal": [float(a) for a in intact],
        "seconds_a_network": each,
        "seconds_networks": record["seconds"]["networks"],
        "seconds_maps": maps,
        "minutes_in_all": (record["seconds"]["networks"] + sum(maps.values())) / 60,
        "group_sizes": sizes,
        "group_size_trial": record["group_size_trial"],
        "plain": plain,
        "factor": plain["network"] / each,
        "environment": environment(device),
        "command": record["command"],
    }
    lines = [
        f"`{record['command']}`",
        "",
        ", ".join(f"{k} {v}" for k, v in found["environment"].items()),
        "",
        f"- {found['networks']} networks and all maps: {found['minutes_in_all']:.1f} minutes of "
        f"work, {each:.3g} s a network; trained at once: {sizes_text(sizes)}",
        f"- plain loop, {plain['workers']} loader processes: {1000 * plain['step']:.1f} ms a step, "
        f"{plain['network']:.3g} s a network; **{found['factor']:.1f} times as long**",
        f"- accuracy of the base network: {found['base_accuracy']:.4f}",
        "",
        "| rank | method | mean accuracy over the fractions |",
        "|---:|---|---:|",
        *(
            f"| {r['rank']} | {r['method']} | {r['area']:.4f}"
            + (f" [{r['low']:.4f}, {r['high']:.4f}] |" if r["runs"] > 1 else " |")
            for _, r in ranking.iterrows()
        ),
    ]
    (out / "report.md").write_bytes(("\n".join(lines) + "\n").encode())
    (out / "report.json").write_bytes((json.dumps(found, indent=1) + "\n").encode())
    return found


def main(argv: list[str] | None = None) -> int:
    """Run it; see the module's text."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--train-limit", type=int)
    parser.add_argument("--test-limit", type=int)
    parser.add_argument("--plain-steps", type=int, default=300, help="of the plain loop, timed")
    parser.add_argument("--plain-workers", type=int, default=min(4, os.cpu_count() or 1))
    args, rest = parser.parse_known_args(argv)
    if args.plain_steps < 1 or args.plain_workers < 0:
        parser.error("--plain-steps must be at least 1 and --plain-workers at least 0")
    call = ["bench", "roar", "--data", args.data, "--out", str(args.out / "roar")]
    call += ["--device", args.device, "--precision", "bfloat16", "--group-size", "auto"]
    call += ["--map-batch", "500", "--methods", *METHODS]
    for name in ("train_limit", "test_limit"):
        if getattr(args, name) is not None:
            call += [f"--{name.replace('_', '-')}", str(getattr(args, name))]
    code = fullgrad([*call, *rest])
    if code or "--dry-run" in rest:
        return code
    record = json.loads((args.out / "roar" / "record.json").read_text(encoding="utf-8"))
    asked = {
        "content": record["plan"]["content"],
        "network": record["plan"]["network"],
        "training": record["plan"]["training"],
        "environment": environment(args.device),
        "steps": args.plain_steps,
        "workers": args.plain_workers,
    }
    kept = args.out / "plain.json"
    known = json.loads(kept.read_text(encoding="utf-8")) if kept.is_file() else {}
    if known.get("asked") != asked:
        print("timing a plain loop", flush=True)
        data = open_dataset(args.data, args.train_limit, args.test_limit)
        network = NetworkChoice(**record["plan"]["network"])
        settings = Settings(**record["plan"]["training"])
        found = plain_loop(
            data, network, settings, args.device, args.plain_steps, args.plain_workers
        )
        known = {"asked": asked, "found": found}
        kept.write_bytes((json.dumps(known, indent=1) + "\n").encode())
    found = report(args.out, known["found"], args.device)
    print(
        f"{found['seconds_a_network']:.3g} s a network; a plain loop takes {found['factor']:.2f} "
        f"times as long -> {args.out / 'report.md'}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
