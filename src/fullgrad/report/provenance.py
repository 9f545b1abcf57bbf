"""How something was made, and how to make it again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fullgrad._html import Html, joined, tag
from fullgrad.report.markup import facts
from fullgrad.report.values import shown
from fullgrad.vision.schema import ModelInfo

_MEANING = {
    "spec": "what the model was asked for as",
    "weights": "where its parameters come from",
    "trained": "random weights make classes and maps that mean nothing",
    "checkpoint": "the name of the weights' file",
    "sha256": "of the weights' file: equal digests, equal weights",
    "device": "where it was computed; other devices round otherwise",
    "preprocessing": "from the photograph to the model's input",
    "assumed": "what nobody stated of the model, and was taken",
}


def model_facts(model: ModelInfo) -> list[tuple[Any, Any, Any]]:
    """Model and weights, for :func:`fullgrad.report.markup.facts`."""
    found: list[tuple[Any, Any, Any]] = []
    for key, value in model:
        if key == "assumed" and not value:
            continue
        text = "; ".join(value) if key == "assumed" else shown(value)
        if key == "checkpoint":  # where it lies is nobody's business
            text = text.replace("\\", "/").rpartition("/")[2]
        label = "model" if key == "spec" else f"model: {key}"
        found.append((label, text, _MEANING.get(key, "")))
    return found


def version_facts(versions: Mapping[str, Any]) -> list[tuple[Any, Any, Any]]:
    """Versions of the packages that have a part in the result."""
    said = [
        f"{name} {shown(v) if v is not None else 'not installed'}" for name, v in versions.items()
    ]
    return [("versions", ", ".join(said), "other versions may give slightly other numbers")]


def made(rows: list[tuple[Any, Any, Any]], level: str) -> Html:
    """The section about how something was made.

    Args:
        rows: names, values, meanings.
        level: of the heading.
    """
    return joined([tag(level, "How it was made"), facts(rows)])


def again(command: str, level: str, more: str) -> Html:
    """The section about how to make it again.

    Args:
        command: the command line.
        level: of the heading.
        more: what has to be available.
    """
    return joined(
        [tag(level, "Make it again"), tag("pre", tag("code", command), tabindex=0), tag("p", more)]
    )
