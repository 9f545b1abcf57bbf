"""The measured properties as text and as JSON-ready values."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from importlib import metadata
from typing import Any

from fullgrad._files import printable
from fullgrad.evaluation.theory.linear_regions import EXTENT
from fullgrad.evaluation.theory.properties import Measured, Represented, Theory
from fullgrad.vision.image_result import versions


def table(result: Theory) -> str:
    """Return the measurements for people, a few lines."""
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
    """Return every number, as JSON-ready values.

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
