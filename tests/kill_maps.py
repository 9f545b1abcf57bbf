"""A program that kills runs of ``fullgrad.datasets.map`` and checks what they leave.

    python kill_maps.py FOLDER KILLS

It forks, so it must be the only thread of its process.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pandas
import torch

from fullgrad import datasets
from mapped import Data, Net, rows, shards

COUNT, UNIT = 60, 2


class Slow(Data):
    """Data that take a while to read."""

    def __getitem__(self, number: int) -> Any:
        time.sleep(0.004)
        return super().__getitem__(number)


def run(folder: Path) -> datasets.Summary:
    """One run."""
    data = Slow(COUNT, broken=(7,))
    return datasets.map(data, Net(), folder, unit=UNIT, batch_size=1, threads=1)


def started(folder: Path) -> int:
    """A run in a process of its own, which ends with the number of units that it wrote."""
    number = os.fork()
    if number == 0:
        os._exit(run(folder).units_written)
    return number


def equal(folder: Path, reference: Path) -> None:
    """Stop where two stores differ."""
    one, other = datasets.open(folder), datasets.open(reference)
    assert one.complete
    pandas.testing.assert_frame_equal(rows(one), rows(other))
    assert shards(folder) == shards(reference)


def main() -> None:
    """Kill runs, let one finish, run two at once."""
    home, kills = Path(sys.argv[1]), int(sys.argv[2])
    torch.set_num_threads(1)
    assert run(home / "reference").units_written == COUNT // UNIT
    draw = random.Random(0)
    for _ in range(kills):
        number = started(home / "killed")
        time.sleep(draw.random() * 0.2)
        os.kill(number, signal.SIGKILL)
        assert os.waitpid(number, 0)[1] == signal.SIGKILL, "it was done already"
    there = len(list((home / "killed/index").glob("*.parquet")))
    assert run(home / "killed").units_written == COUNT // UNIT - there
    equal(home / "killed", home / "reference")
    assert not list((home / "killed/.tmp").iterdir())
    both = [started(home / "both") for _ in range(2)]
    written = [os.waitstatus_to_exitcode(os.waitpid(number, 0)[1]) for number in both]
    assert sum(written) == COUNT // UNIT
    equal(home / "both", home / "reference")
    print(f"{kills} kills, {there} units done by then; two at once wrote {written}")


if __name__ == "__main__":
    main()
