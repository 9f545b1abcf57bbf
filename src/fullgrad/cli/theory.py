"""``fullgrad theory``: the two properties of full-gradients, on a network small enough to see."""

from __future__ import annotations

import argparse
import json
import shlex
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from fullgrad._files import check_folder, make_folder, printable, write_together
from fullgrad._optional import require
from fullgrad.cli import UsageError
from fullgrad.cli.main import DONE
from fullgrad.evaluation.theory.figure import figure
from fullgrad.evaluation.theory.linear_regions import EXTENT
from fullgrad.evaluation.theory.properties import Measured, Represented, Theory, theory
from fullgrad.vision.image_result import versions
from fullgrad.viz.overlay import png

_DESCRIPTION = """\
Trains a small ReLU network on points of the plane (seconds, on the CPU), finds its linear regions
exactly, and measures two properties of three representations:
  complete          its numbers, with the input, give the output
  weakly dependent  they are constant within a linear region

It prints the table and writes into the output folder
  theory.png   the regions, the sums, and what changes along a path
  theory.json  every number behind it
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``fullgrad theory``."""
    parser.description = _DESCRIPTION
    text = "output folder, made if need be (default: %(default)s)"
    parser.add_argument("--out", type=Path, default=Path("theory-output"), metavar="DIR", help=text)
    text = "of the points and of the network's first weights (default: %(default)s)"
    parser.add_argument("--seed", type=_seed, default=0, metavar="N", help=text)


def _seed(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and int(text) < 2**63):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 to 2^63 - 1")
    return int(text)


def run(args: argparse.Namespace) -> int:
    """Do what the arguments say.

    Returns:
        The exit code.

    Raises:
        FullGradError: nothing was done.
    """
    require("matplotlib", "cli")
    check_folder(args.out)
    result = theory(args.seed)
    text = json.dumps(record(result, args.command_line), indent=2, allow_nan=False) + "\n"
    contents = {"theory.png": png(figure(result)), "theory.json": text.encode()}
    make_folder(args.out)
    try:
        files = write_together(args.out, contents)
    except OSError as error:
        raise UsageError(f"the results cannot be written: {error.strerror}") from error
    print(table(result))
    print("\n".join(f"-> {printable(file)}" for file in files))
    return DONE


def table(result: Theory) -> str:
    """The measurements, for people: a few lines."""
    heads = ("representation", "complete?", "gap of its sum", "weakly dependent?", "change inside")
    rows = [heads] + [
        (
            m.name,
            _answer(m.complete),
            f"{m.gap:.1e}",
            _answer(m.weakly_dependent),
            f"{m.change:.1e}",
        )
        for m in result.measured
    ]
    widths = [max(len(row[i]) for row in rows) for i in range(len(heads))]
    lines = [
        "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
    lines.insert(1, "-" * max(map(len, lines)))
    trained, first = result.trained, result.measured[0]
    return "\n".join(
        [
            f"{len(result.regions)} linear regions; accuracy {trained.accuracy:.1%} on "
            f"{len(trained.points)} points; seed {result.seed}",
            "",
            *lines,
            "",
            f"gap: largest |sum - what it should be| at {result.samples} points; change inside: "
            "largest range",
            f"of any number within one of the {result.shared} regions that hold several of them; "
            f"up to {first.limit:.0e} is rounding.",
            "",
            *_sums(result),
        ]
    )


def _sums(result: Theory) -> list[str]:
    seen, lines = result.marked, []
    for i, (name, home) in enumerate(zip(result.names, result.homes, strict=True)):
        parts = [f"input {seen.input_term[i]:.4g}"]
        parts += [
            f"{layer} {float(t[i].sum()):.4g}"
            for layer, t in zip(seen.layers, seen.bias_terms, strict=True)
        ]
        lines.append(
            f"{name} (region {home}): f = {seen.output[i]:.4g} = "
            f"{' + '.join(parts).replace('+ -', '- ')}, residual {seen.residual[i]:.1e}"
        )
    return lines


def _answer(holds: bool) -> str:
    return "yes" if holds else "no"


def record(result: Theory, command: Sequence[str]) -> dict[str, Any]:
    """Every number, as JSON-ready values.

    Args:
        result: of :func:`fullgrad.evaluation.theory.properties.theory`.
        command: the command line.
    """
    walk = result.walk
    return {
        "seed": result.seed,
        "extent": list(EXTENT),
        "network": {
            "parameters": {
                name: p.tolist() for name, p in result.trained.model.state_dict().items()
            },
            "accuracy": result.trained.accuracy,
            "points": result.trained.points.tolist(),
            "labels": result.trained.labels.tolist(),
            "output_at_origin": result.origin_output,
        },
        "regions": [
            {
                "vertices": r.vertices.tolist(),
                "pattern": [int(on) for on in r.pattern],
                "slope": r.slope.tolist(),
                "offset": r.offset,
            }
            for r in result.regions
        ],
        "marked": [
            {"name": name, "region": home, **values}
            for name, home, values in zip(
                result.names, result.homes, _represented(result.marked), strict=True
            )
        ],
        "path": {
            "borders": list(walk.borders),
            "points": [
                {"at": at, "piece": piece, **values}
                for at, piece, values in zip(
                    walk.at.tolist(), walk.pieces.tolist(), _represented(walk.seen), strict=True
                )
            ],
        },
        "measured": {
            "points": result.samples,
            "regions_with_several": result.shared,
            "representations": [_measured(m) for m in result.measured],
        },
        "versions": {**versions(), "captum": metadata.version("captum")},
        "command": shlex.join(map(printable, command)),
    }


def _represented(seen: Represented) -> list[dict[str, Any]]:
    return [
        {
            "x": seen.points[i].tolist(),
            "output": float(seen.output[i]),
            "gradient": seen.gradient[i].tolist(),
            "input_term": float(seen.input_term[i]),
            "bias_gradients": {
                layer: g[i].tolist()
                for layer, g in zip(seen.layers, seen.bias_gradients, strict=True)
            },
            "bias_terms": {
                layer: t[i].tolist() for layer, t in zip(seen.layers, seen.bias_terms, strict=True)
            },
            "residual": float(seen.residual[i]),
            "integrated_gradients": seen.integrated[i].tolist(),
        }
        for i in range(len(seen.points))
    ]


def _measured(m: Measured) -> dict[str, Any]:
    return {
        "name": m.name,
        "sums_to": m.sums_to,
        "gap": m.gap,
        "complete": m.complete,
        "change": m.change,
        "weakly_dependent": m.weakly_dependent,
        "limit": m.limit,
    }
