"""The load tool's own checks: they find what is wrong with an answer."""

from __future__ import annotations

import base64
import copy
import io
import sys
from collections.abc import Callable, Iterator
from importlib import util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import fullgrad

TOOL = Path(__file__).parents[2] / "tools" / "load_app.py"


@pytest.fixture(scope="module")
def tool() -> Iterator[Any]:
    spec = util.spec_from_file_location("load_app", TOOL)
    assert spec is not None
    assert spec.loader is not None
    module = util.module_from_spec(spec)
    sys.modules["load_app"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["load_app"]


def answer(tool: Any, query: dict[str, str], split: bool) -> tuple[dict[str, Any], Any]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))
    sums = tool.sums_of(fullgrad.decompose(model, torch.randn(1, 4), 1)) if split else {}
    pixels = np.zeros((4, 4, 3), np.uint8)
    case = tool.Case(b"", query, tool.digest(pixels), 1, b"", **sums)
    with io.BytesIO() as file:
        Image.fromarray(pixels).save(file, "PNG")
        url = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
    found: dict[str, Any] = {
        "map": {"png": url},
        "name": "a",
        "target": {"index": 1},
        "waterfall": None,
    }
    if split:
        stages = sums["stages"][0]
        output = sums["input"] + sum(stages.values())
        found["waterfall"] = {
            "input": sums["input"],
            "residual": 0.0,
            "output": output,
            "stages": [{"name": k, "value": v} for k, v in stages.items()],
        }
    return {"result": found}, case


def wrong(tool: Any, given: dict[str, Any], case: Any) -> list[str]:
    seen = tool.Seen()
    tool.check(given, case, "it", seen)
    return list(seen.errors)


def lost(shown: dict[str, Any]) -> None:
    shown["waterfall"] = None


def other_stage(shown: dict[str, Any]) -> None:  # the residual takes what is missing, as it would
    shown["waterfall"]["stages"][0]["value"] += 0.5
    shown["waterfall"]["residual"] -= 0.5


def other_input(shown: dict[str, Any]) -> None:
    shown["waterfall"]["input"] += 0.5
    shown["waterfall"]["output"] += 0.5


def other_names(shown: dict[str, Any]) -> None:
    shown["waterfall"]["stages"][0]["name"] = "x"


def other_output(shown: dict[str, Any]) -> None:
    shown["waterfall"]["output"] += 0.5


def other_residual(shown: dict[str, Any]) -> None:
    shown["waterfall"]["residual"] = 0.5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lost, "it: no waterfall"),
        *(
            (change, "it: the waterfall is not that of this session")
            for change in (other_stage, other_input, other_names, other_output, other_residual)
        ),
    ],
)
def test_a_wrong_waterfall_is_found(
    tool: Any, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    given, case = answer(tool, {"name": "a", "method": "fullgrad"}, split=True)
    assert wrong(tool, given, case) == []
    changed = copy.deepcopy(given)
    change(changed["result"])
    assert wrong(tool, changed, case) == [message]


def test_maps_and_answers_of_others_are_found(tool: Any) -> None:
    given, case = answer(tool, {"name": "a", "method": "sobel", "parts": "map"}, split=False)
    assert wrong(tool, given, case) == []
    given["result"]["name"] = "b"
    assert wrong(tool, given, case) == ["it: the answer is not that of this session (map True)"]
    assert wrong(tool, {"error": "no"}, case) == ["it: {'error': 'no'}"]
