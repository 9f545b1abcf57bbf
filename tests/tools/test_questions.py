"""The page of five questions holds the numbers, the commands and the counts of the stored runs."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

pytest.importorskip("pandas")
questions = pytest.importorskip("questions")

TEXT = questions.PAGE.read_text(encoding="utf-8")


def test_tables_are_those_of_the_stored_runs() -> None:
    assert questions.written(TEXT) == TEXT
    with pytest.raises(ValueError, match="the page has no marks for biases"):
        questions.written("# Another page")


@pytest.mark.parametrize("run", ["q-small", "q-random"])
def test_the_commands_are_those_of_the_runs(run: str) -> None:
    record = json.loads(Path(questions.DATA / f"{run}-record.json").read_text(encoding="utf-8"))
    plain = re.sub(r"\\\n", " ", TEXT)
    plain = re.sub(r"(\S*)\{(\S*)\}", lambda m: " ".join(m[1] + n for n in m[2].split(",")), plain)
    assert record["command"] in " ".join(plain.split())


def test_what_the_text_counts() -> None:
    found = questions.differences([*questions.BIASES, *questions.COMPLETE, *questions.SIGNS])
    found["up"], found["down"] = found["low"] > 0, found["high"] < 0
    counts = found.groupby("pair")[["up", "down"]].sum()
    counts = {pair: (int(row["up"]), int(row["down"])) for pair, row in counts.iterrows()}
    assert counts["complete_fullgrad", "input_x_gradient:signed=True"] == (9, 3)
    assert counts["fullgrad", "fullgrad:terms=input"] == (4, 1)
    assert counts["fullgrad", "simple_fullgrad"] == (1, 0)
    assert counts["complete_fullgrad", "fullgrad:psi=signed"] == (10, 0)
    assert counts["complete_fullgrad", "fullgrad"] == (9, 2)
    assert counts["input_x_gradient:signed=True", "input_x_gradient"] == (12, 0)
    assert counts["fullgrad:psi=signed", "fullgrad"] == (7, 2)
    signs = found[found["pair"] == ("input_x_gradient:signed=True", "input_x_gradient")]["mean"]
    assert f"by {signs.min():.2f} to {signs.max():.2f}" in TEXT
