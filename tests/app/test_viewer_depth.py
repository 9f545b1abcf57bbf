"""The stages of the command, of the viewer and of its report are the same ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("starlette")
from app_server import PHOTOGRAPH, ask, result, running, source_of
from fullgrad.cli.main import main


@pytest.mark.parametrize("depth", [None, 1])
def test_stages_are_equal_in_command_viewer_and_report(
    depth: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[Any] = []

    def keep(name: str, record: Any, files: Any) -> Any:
        kept.append(record)
        return report_of(name, record, files)

    from fullgrad.app.responses import report_of

    monkeypatch.setattr("fullgrad.app.responses.report_of", keep)
    photograph = tmp_path / "a.png"
    photograph.write_bytes(PHOTOGRAPH)
    stated = [] if depth is None else ["--depth", str(depth)]
    model = f"{source_of(tmp_path)}:make_net"
    command = ["explain", str(photograph), "--model", model, "--out", str(tmp_path / "out")]
    assert main([*command, *stated]) == 0
    record = json.loads((tmp_path / "out" / "a.json").read_text())
    of_command = [(s["of"], s["sum"]) for s in record["decomposition"]["shares"]]
    with running(tmp_path, workers=1, depth=depth) as viewer:
        shown = result(viewer)["waterfall"]
        html = ask(viewer, PHOTOGRAPH, "/api/download/report").content.decode()
    of_viewer = [("input", shown["input"]), *((s["name"], s["value"]) for s in shown["stages"])]
    of_report = [(s.of, s.sum) for s in kept[0].decomposition.shares]
    assert of_viewer == of_command == of_report
    assert len(of_command) == (6 if depth is None else 5)
    assert ("--depth 1" in html) is (depth == 1)
