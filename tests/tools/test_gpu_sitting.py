"""A sitting on a GPU, with commands that need none."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import sitting
from sitting import Command, python


def code(text: str) -> tuple[str, ...]:
    return python("-c", text)


def test_commands_wait_for_others_and_are_done_once(tmp_path: Path, capsys: Any) -> None:
    add = "open({!r}, 'a').write({!r})"
    log = str(tmp_path / "order")
    commands = [
        Command("last", code(add.format(log, "c")), ("first", "second")),
        Command("first", code(add.format(log, "a"))),
        Command("second", code(add.format(log, "b")), ("first",)),
    ]
    assert sitting.run(commands, tmp_path, 2, 1, "cpu") == 0
    assert Path(log).read_text() == "abc"
    found = json.loads((tmp_path / "last.json").read_text())
    assert found["command"] == list(commands[0].words) and found["device"] == "cpu"
    assert sitting.run(commands, tmp_path, 2, 1, "cpu") == 0
    assert Path(log).read_text() == "abc"
    assert capsys.readouterr().out.count("done in") == 3


def test_what_failed_and_what_waits_for_it_is_left(tmp_path: Path, capsys: Any) -> None:
    commands = [
        Command("bad", code("print('why'); raise SystemExit(3)")),
        Command("after", code(""), ("bad",)),
        Command("good", code("")),
    ]
    assert sitting.run(commands, tmp_path, 1, 1, "cpu") == 2
    assert "bad: FAILED in" in capsys.readouterr().out
    assert (tmp_path / "bad.log").read_text() == "why\n"
    assert not (tmp_path / "after.log").exists() and (tmp_path / "good.json").is_file()


def test_the_time_ends_what_is_running(tmp_path: Path, capsys: Any) -> None:
    commands = [Command("long", code("import time; time.sleep(60)"))]
    assert sitting.run(commands, tmp_path, 1, 0.01, "cpu") == 1
    assert "long: stopped; run the same command again" in capsys.readouterr().out
    assert not (tmp_path / "long.json").exists()


def test_an_interruption_ends_it_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[sitting.Running] = []
    real = sitting.started
    monkeypatch.setattr(sitting, "started", lambda *a: begun.append(real(*a)) or begun[-1])
    monkeypatch.setattr(sitting.time, "sleep", lambda s: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        sitting.run([Command("long", code("import time; time.sleep(60)"))], tmp_path, 1, 1, "cpu")
    assert begun[0].process.poll() is not None


@pytest.mark.parametrize("step", ["evaluate", "roar"])
def test_data_must_be_named(tmp_path: Path, step: str) -> None:
    with pytest.raises(SystemExit, match=r"sitting: .* needs --(photographs|cifar100)"):
        sitting.main([step, "--out", str(tmp_path)])


def test_every_command_is_understood(tmp_path: Path) -> None:
    """The words of each step are those that the commands take."""
    steps = {"evaluate": sitting.evaluate, "roar": sitting.roar, "bench": sitting.bench}
    given = sitting.argparse.Namespace(
        photographs="photos",
        cifar100="cifar",
        out=tmp_path,
        device="cpu",
        tiny=True,
        minutes=1,
        models=sitting.LITES[:1],
        roar=[],
        bench=[],
    )
    commands = [c for make in steps.values() for c in make(given)]
    names = {c.name for c in commands}
    assert len(names) == len(commands)
    assert all(set(c.after) <= names for c in commands)
    text = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--help"], capture_output=True, text=True, check=True
    ).stdout
    (bench,) = (c for c in commands if c.name.startswith("bench"))
    assert all(word in text for word in bench.words if word.startswith("--"))
