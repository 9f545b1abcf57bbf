"""Own methods in the viewer: named on the command line, never by a request."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("starlette")
from app_server import CAPTUM, PHOTOGRAPH, SOURCE, Running, ask, error, result, strict
from fullgrad import methods
from fullgrad.cli.main import main

pytestmark = CAPTUM
MINE = """
from pathlib import Path

Path(__file__).with_suffix(".ran").touch()

def size(model, inputs, target, power: float = 1.0):
    "The size of the input's numbers."
    return inputs.abs() ** power
"""


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """A file with a method, which leaves a mark where it is run."""
    path = tmp_path / "mine.py"
    path.write_text(MINE)
    return path


def test_a_request_runs_no_file(small: Running, mine: Path) -> None:
    status, kind, message = error(small, PHOTOGRAPH, method=f"{mine}:size"[-90:])
    assert (status, kind) == (400, "request") and message.startswith("unknown method")
    assert ask(small, PHOTOGRAPH, method=f"{mine}:size").status == 400
    assert not mine.with_suffix(".ran").exists()


def test_methods_of_the_command_line_are_offered(
    mine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "net.py").write_text(SOURCE)
    told: list[Any] = []

    def serve(app: Any, *_: Any) -> None:
        server = Running(app, None, [])  # type: ignore[arg-type]
        about = strict(ask(server, b"", "/api/about", "GET").content)
        told.append(next(m for m in about["methods"] if m["name"] == "mine.py:size"))
        asked = {"method": "mine.py:size", "options": '{"power": 2.0}'}
        told.append(result(server, PHOTOGRAPH, **asked))

    monkeypatch.setattr("fullgrad.cli.app._serve", serve)
    monkeypatch.setattr("torch.set_num_threads", lambda count: None)
    arguments = ["--model", f"{tmp_path}/net.py:make_net", "--port", "0", "--workers", "1"]
    assert main(["app", *arguments, "--methods", f"{mine}:size"]) == 0
    offered, found = told
    assert offered["applies"] == [True] and offered["about"] == "The size of the input's numbers."
    assert [o["name"] for o in offered["options"]] == ["power"]
    assert found["method"] == "mine.py:size"
    assert "mine.py:size" not in methods.names()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            ["fullgrad"],
            "--methods takes own ones, FILE.py:FUNCTION, not 'fullgrad': the viewer off",
        ),
        (["mine.py:siz"], "mine.py has no function 'siz'; did you mean 'size'?"),
        (["mine.py:size", "./mine.py:size"], "method 'mine.py:size' is registered already"),
    ],
    ids=["library", "unknown", "twice"],
)
def test_methods_that_cannot_be_offered(
    mine: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    given: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(mine.parent)
    assert main(["app", "--port", "0", "--methods", *given]) == 2
    assert message in capsys.readouterr().err
    assert "mine.py:size" not in methods.names()
