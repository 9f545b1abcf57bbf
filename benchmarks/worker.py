"""The child process: one task in, one line of JSON per outcome out.

python -m benchmarks.worker TASK FOLDER

FOLDER/outcomes.jsonl receives the outcomes and FOLDER/current the method at work, so that the
parent knows which method it was if this process dies.
"""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path

OUTCOMES, CURRENT = "outcomes.jsonl", "current"


def main(argv: list[str]) -> int:
    """Measure one task.

    Args:
        argv: the task in JSON, and the folder.

    Returns:
        0: every method has an outcome, if only that it failed.
    """
    warnings.simplefilter("ignore")  # other packages' deprecations
    import torch

    from benchmarks import memory
    from benchmarks.measure import measure
    from benchmarks.subjects import build
    from benchmarks.tasks import Task
    from benchmarks.timing import describe

    task, folder = Task.from_dict(json.loads(argv[0])), Path(argv[1])
    if task.device == "cpu":
        memory.limit_data(task.memory_limit)
    with (folder / OUTCOMES).open("a") as outcomes, (folder / CURRENT).open("w") as current:

        def announce(name: str) -> None:
            current.seek(0)
            current.write(name)
            current.truncate()
            current.flush()

        try:
            workload = build(
                task.model, task.batch, task.size, getattr(torch, task.dtype), task.device
            )
        except (MemoryError, RuntimeError) as error:
            found = iter([(n, {"failed": f"model: {describe(error)}"}) for n in task.methods])
        else:
            found = measure(task, workload, announce)
        for name, outcome in found:
            outcomes.write(json.dumps({"method": name, "outcome": outcome}) + "\n")
            outcomes.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
