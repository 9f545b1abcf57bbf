"""The options of ``fullgrad evaluate``, those of its tests among them."""

from __future__ import annotations

from collections.abc import Sequence

from fullgrad.evaluation.options import Option
from fullgrad.evaluation.tests.evaluate.measures import measures
from fullgrad.evaluation.tests.evaluate.subject import NUMBERS
from fullgrad.evaluation.tests.remove_and_retrain.executors import EXECUTORS
from fullgrad.methods import REASON, RECOMMENDED
from fullgrad.vision.models import DEFAULT_MODEL

METHODS = (
    RECOMMENDED,
    "fullgrad",
    "complete_fullgrad",
    "balanced_input",
    "grad_cam",
    "integrated_gradients:n_steps=20,signed=True",
    "random",
)
TESTS = ("relevance-gain", "grid-pointing", "class-sensitivity")


def declared() -> list[Option]:
    """Return the options."""
    known = measures("images")
    own = [option for kind in known.values() for option in kind.options]
    return [
        Option(
            "--model",
            "as for fullgrad explain, or generated:KIND; several are possible",
            (DEFAULT_MODEL,),
        ),
        Option(
            "--weights",
            "as for fullgrad explain, one for each model, '-' for the usual; else the usual",
            (),
        ),
        Option("--device", "cpu, cuda, cuda:1, ...", "cpu"),
        Option(
            "--images",
            "folder, CSV with a column 'file', torchvision:NAME:ROOT[:SPLIT], generated:KIND",
            required=True,
            also="--data",
        ),
        Option("--limit", "up to N of them, spread evenly; else all", kind=int),
        Option("--methods", "METHOD, METHOD:OPTION=VALUE,... or own.py:FUNCTION", METHODS),
        Option("--tests", f"any of {', '.join(known)}, or own.py:CLASS", TESTS),
        Option("--explain", "what is explained and measured", "logit", choices=NUMBERS),
        Option("--random-orders", "maps of noise tried where cells are removed", 1, int),
        Option("--seed", "seed of ties, noise and all else that is drawn", 0, int),
        Option("--batch-size", "images at a time; changes rounding, and noise's draw", 20, int),
        Option("--executor", "in this process or on Ray's", "here", choices=EXECUTORS),
        Option("--workers", "Ray's tasks at a time", 2, int),
        Option("--ray-address", "address of a cluster; else one is started here"),
        *own,
    ]


def chosen_by(labels: Sequence[str]) -> dict[str, str]:
    """Return whether methods are those by default, and why the recommended one is among them.

    Args:
        labels: of the methods, in their order.
    """
    if tuple(labels) == METHODS:
        return {"by": "default", "reason": REASON}
    return {"by": "given"}
