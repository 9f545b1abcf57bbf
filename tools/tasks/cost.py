"""Peak memory and time of explaining a token of a language model, by its size and the text's length.

    make task-cost        # docs/cookbook/transformers.md's table

Each row runs in a process of its own, on the CPU, in float32, with random weights; times are those of second
calls. The last line is a fit by least squares over the sizes, at the shortest length.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from task import library

SIZES: dict[str, dict[str, int]] = {
    "0.05 B": {"hidden_size": 512, "num_hidden_layers": 10, "num_attention_heads": 8},
    "0.1 B": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12},
    "0.2 B": {"hidden_size": 896, "num_hidden_layers": 16, "num_attention_heads": 14},
    "0.3 B": {"hidden_size": 1024, "num_hidden_layers": 20, "num_attention_heads": 16},
}
LENGTH, LONGER = 128, 512  # tokens; the longer text for one size
ROWS = [*((size, LENGTH) for size in SIZES), ("0.1 B", LONGER)]


def made(size: str) -> Any:
    tf = library("transformers")
    wide = SIZES[size]["hidden_size"]
    config = tf.LlamaConfig(vocab_size=16_000, intermediate_size=3 * wide, **SIZES[size])
    torch.manual_seed(0)
    return tf.LlamaForCausalLM(config).eval()


def memory() -> float:
    """The process's peak, in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def measured(size: str, length: int, explains: bool) -> dict[str, float]:
    from fullgrad.interop import hugging_face

    model = made(size)
    ids = torch.randint(0, 16_000, (1, length))
    for _ in range(2):
        start = time.perf_counter()
        with torch.no_grad():
            model(input_ids=ids)
        forward = time.perf_counter() - start
    for _ in range(2 * explains):
        start = time.perf_counter()
        hugging_face.explain(model, {"input_ids": ids}, (length - 1, 7))
    return {
        "parameters": sum(p.numel() for p in model.parameters()) / 1e9,
        "memory": memory(),
        "times": (time.perf_counter() - start) / forward,
    }


def fit(rows: Sequence[tuple[float, float]]) -> str:
    """Memory against parameters, as a line."""
    parameters, peaks = np.array(rows).T
    slope, start = np.polyfit(parameters, peaks, 1)
    off = np.abs(start + slope * parameters - peaks).max()
    return (
        f"peak of the explanation at {LENGTH} tokens: {start:.2f} GB + {slope:.2f} GB for each 1e9 "
        f"parameters, off by at most {off:.2f} GB in {len(rows)} sizes"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--one", nargs=3, help="size, length, and 'forward' or 'explained'")
    given = parser.parse_args()
    if given.one:
        size, length, what = given.one
        print(json.dumps(measured(size, int(length), what == "explained")))
        return 0
    print(
        "| parameters | tokens | peak of a forward pass | of the explanation | time, in forward passes |"
    )
    print("|---:|---:|---:|---:|---:|")
    peaks = []
    for size, length in ROWS:
        command = [sys.executable, "-W", "ignore", __file__, "--one", size, str(length)]
        plain, found = (
            json.loads(
                subprocess.run(
                    [*command, what], capture_output=True, text=True, check=True
                ).stdout.splitlines()[-1]
            )
            for what in ("forward", "explained")
        )
        if length == LENGTH:
            peaks.append((found["parameters"], found["memory"]))
        print(
            f"| {found['parameters']:.2f} B | {length} | {plain['memory']:.2f} GB "
            f"| {found['memory']:.2f} GB | {found['times']:.1f} |",
            flush=True,
        )
    print(f"\n{fit(peaks)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
