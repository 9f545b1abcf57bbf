"""The scripts in examples/ run, and do what they say."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


def script(name: str) -> Any:
    description = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert description is not None and description.loader is not None
    module = importlib.util.module_from_spec(description)
    description.loader.exec_module(module)
    return module


def test_own_data_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert script("own_data_set").main(tmp_path) == 0
    out, err = capsys.readouterr()
    assert "class names are assumed to be those of the folders: left, right" in err
    assert out.endswith(f"4 of 4 done -> {tmp_path / 'maps'}\n")
    margins = {
        p.stem: json.loads(p.read_text())["target"]["rather_than"]["margin"]
        for p in (tmp_path / "maps").rglob("*.json")
    }
    assert margins["0"] < 0 < margins["1"]  # it has learned


def test_training_loop(tmp_path: Path) -> None:
    rows = script("training_loop").main(tmp_path)
    assert rows[-1]["logit"] > rows[0]["logit"] and rows[-1]["of the square"] > 0
    assert all(abs(row["residual"]) < 1e-4 for row in rows)
    assert len((tmp_path / "log.csv").read_text().splitlines()) == 1 + len(rows)


def test_compare_methods(tmp_path: Path) -> None:
    alike = script("compare_methods").main(tmp_path)
    assert alike.shape == (4, 4)
    assert float((alike.diagonal() - 1).abs().max()) < 1e-4
    assert (tmp_path / "methods.png").stat().st_size > 10_000


def test_any_target(tmp_path: Path) -> None:
    found = script("any_target").main(tmp_path)
    assert next(iter(found)) == "class 2 in 64 of 576 positions"
    assert found["age in years (output x 12 + 40)"] != 40
    assert len((tmp_path / "targets.txt").read_text().splitlines()) == 7


def test_own_method_and_test(tmp_path: Path) -> None:
    ranking = script("own_method_and_test").main(tmp_path)
    best = ranking.sort_values("rank").iloc[0]
    assert best["method"].endswith("mine.py:bright:power=2.0") and best["mean"] > 0.9
    assert set(ranking["test"]) == {"spot"}


def test_numbers_by_layer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = script("numbers_by_layer").main(tmp_path)
    assert sum(number for _, number in rows[:-1]) == pytest.approx(rows[-1][1], abs=1e-4)
    assert "stem" in capsys.readouterr().out
    assert (tmp_path / "layers.csv").read_text().startswith("layer,sum\ninput,")


def test_each_script_of_the_list_is_there() -> None:
    listed = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    names = {part for part in listed.split("`") if part.endswith(".py") and "/" not in part}
    assert names and all((EXAMPLES / name).is_file() for name in names)


def test_serve_map(tmp_path: Path) -> None:
    served = script("serve_map").main(tmp_path)
    assert served["right"] == 1
    assert served["difference"] < 1e-4
    assert (tmp_path / "served.png").stat().st_size > 10_000
