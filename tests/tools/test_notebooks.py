"""The tutorials are stored with the outputs of their own cells, and the check that says so works."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest

import notebooks

STORED = sorted(notebooks.FOLDER.glob("*.ipynb"))


def test_there_are_three() -> None:
    assert [p.stem for p in STORED] == ["both-tests", "photographs", "transformer"]


@pytest.mark.parametrize("path", STORED, ids=lambda p: p.stem)
def test_outputs_are_those_of_the_stored_cells(path: Path) -> None:
    stored = notebooks.read(path)
    assert notebooks.faults(stored, path.stat().st_size) == []
    assert [c.execution_count for c in notebooks.code_cells(stored)] == list(
        range(1, len(notebooks.code_cells(stored)) + 1)
    )
    text = path.read_text(encoding="utf-8")
    assert not any(place in text for place in ("/tmp/", "/home/", "/root/", "site-packages"))
    assert "_TEXT" not in text


@pytest.mark.parametrize("path", STORED, ids=lambda p: p.stem)
def test_a_changed_cell_is_found(path: Path) -> None:
    changed = notebooks.read(path)
    notebooks.code_cells(changed)[0].source += "\npass"
    assert any("run it with --write" in f for f in notebooks.faults(changed, 1))


def test_other_faults_are_found() -> None:
    stored = notebooks.read(STORED[0])
    assert notebooks.faults(stored, notebooks.LARGEST + 1) == ["600001 bytes, more than 600000"]
    stored.metadata["kernelspec"]["name"] = "mine"
    for cell in notebooks.code_cells(stored):
        cell.outputs = []
    assert notebooks.faults(stored, 1) == ["the kernel is not python3", "no outputs are stored"]


@pytest.mark.parametrize(
    ("stored", "fresh", "same"),
    [
        ("a 1.234 b", "a 1.235  b", True),
        ("a 1.234", "a 1.244", False),
        ("12 pixels", "13 pixels", False),
        ("residual +3.1e-16", "residual −2e-17", True),
        ("logit 5.0", "class 5.0", False),
        ("one two", "one", False),
        ("−4.50", "-4.51", True),
        ("4.50", "-4.50", False),
    ],
)
def test_texts_agree_up_to_rounding(stored: str, fresh: str, same: bool) -> None:
    said = notebooks.text_difference(stored, fresh, notebooks.ROUNDED)
    assert (said == "") == same, said


def test_training_has_a_wide_tolerance() -> None:
    assert notebooks.text_difference("accuracy 0.90", "accuracy 0.83", notebooks.RETRAINED) == ""
    assert notebooks.text_difference("accuracy 0.90", "accuracy 0.30", notebooks.RETRAINED)


def test_changed_outputs_are_found() -> None:
    stored = notebooks.read(next(p for p in STORED if p.stem == "transformer"))
    assert notebooks.differences(stored, copy.deepcopy(stored)) == []
    fresh = copy.deepcopy(stored)
    cells = [c for c in notebooks.code_cells(fresh) if c.outputs]
    cells[0].outputs[0].text = cells[0].outputs[0].text.replace("8.60", "9.60")
    cells[1].outputs = []
    pictured = [c for c in cells if any("image/jpeg" in o.get("data", {}) for o in c.outputs)]
    data = [c.outputs[0].data for c in pictured[:2]]
    data[0]["image/jpeg"], data[1]["image/jpeg"] = data[1]["image/jpeg"], data[0]["image/jpeg"]
    said = notebooks.differences(stored, fresh)
    assert any("9.6005 instead of the stored 8.6005" in s for s in said)
    assert any("0 outputs, not the stored 1" in s for s in said)
    assert sum("a picture" in s for s in said) == 2


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("1 / 0", "ZeroDivisionError"),
        ("import warnings\nwarnings.warn('old')", "UserWarning: old"),
        ("import sys\nprint('oh', file=sys.stderr)", "cell 1 complains: oh"),
        ("import os\nprint(os.getcwd())", "cell 1 tells where it ran"),
    ],
)
def test_what_fails_or_warns_or_tells_its_place_is_refused(
    tmp_path: Path, source: str, message: str
) -> None:
    from nbformat import v4

    path = tmp_path / "one.ipynb"
    path.write_bytes(notebooks.written(v4.new_notebook(cells=[v4.new_code_cell(source)])))
    with pytest.raises(notebooks.NotebookError, match=message):
        notebooks.executed(path)


def test_an_unknown_name_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert notebooks.main(["nosuch"]) == 1
    assert "no such notebook in docs/notebooks: nosuch.ipynb" in capsys.readouterr().err
