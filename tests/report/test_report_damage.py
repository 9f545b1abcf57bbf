"""A report of hostile, damaged or missing files says so, and shows the rest."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fullgrad.cli.main import main
from fullgrad.report import ReportError, report
from fullgrad.vision.layers import Layer, packed
from pages import HOSTILE, changed, check, made, record_of, squeezed

# Hostile and damaged files


def test_names_are_text_and_nothing_else(here: Path) -> None:
    def change(values: Any) -> None:
        values["image"]["path"] = f"folder/{HOSTILE}"
        values["target"]["name"] = HOSTILE
        values["top"][0]["name"] = HOSTILE
        values["decomposition"]["shares"][1]["of"] = HOSTILE
        values["model"]["spec"] = values["model"]["checkpoint"] = f"/secret/{HOSTILE}"
        values["model"]["preprocessing"][HOSTILE] = {HOSTILE: [HOSTILE, True]}
        values["versions"][HOSTILE] = HOSTILE
        values["command"] = f"fullgrad explain '{HOSTILE}'"
        values["saliency"]["options"][HOSTILE] = HOSTILE

    changed("maps/a.json", change)
    page = made("maps/a.json")
    shown = HOSTILE.replace("\u202e", "\ufffd")
    assert squeezed(page.text).count(shown) >= 12
    assert any(shown in (i["alt"] or "") for i in page.all("img"))
    assert (
        3,
        f"{shown.rpartition('/')[2]}: {shown} (class {record_of('maps/a.json')['target']['index']})",
    ) in page.headings


def test_a_folder_of_weights_is_not_told(here: Path) -> None:
    changed("maps/a.json", lambda v: v["model"].update(checkpoint="/home/me/secret/best.pth"))
    text = made("maps/a.json").text
    assert "best.pth" in text
    assert "secret" not in text


def lose(path: str) -> Any:
    return lambda: Path(path).unlink()


def put(path: str, content: bytes) -> Any:
    return lambda: Path(path).write_bytes(content)


def edit(path: str, change: Any) -> Any:
    return lambda: changed(path, change)


@pytest.mark.parametrize(
    ("damage", "paths", "message"),
    [
        (lose("maps/a.overlay.png"), ["maps"], "No overlay: maps/a.overlay.png does not exist"),
        (
            put("maps/a.overlay.png", b"<svg onload=x>"),
            ["maps"],
            "maps/a.overlay.png is no PNG file",
        ),
        (
            put("maps/a.overlay.png", b"\x89PNG\r\n\x1a\nx"),
            ["maps"],
            "No overlay: maps/a.overlay.png is damaged: cannot identify image file",
        ),
        (lose("maps/a.saliency.npy"), ["maps"], "No map: maps/a.saliency.npy does not exist"),
        (put("maps/a.saliency.npy", b"x"), ["maps"], "maps/a.saliency.npy holds none"),
        (
            lambda: np.save("maps/a.saliency.npy", np.ones((20, 20))),
            ["maps"],
            "maps/a.saliency.npy is not the map that the record of a.png tells of",
        ),
        (lambda: np.save("maps/a.saliency.npy", np.array([{}], object)), ["maps"], "holds none"),
        (put("maps/a.layers.npz", b"x"), ["maps"], "No layers of a.png: not a file of layers"),
        (
            lambda: Path("maps/a.layers.npz").write_bytes(packed([Layer("a", 99.0)])),
            ["maps"],
            "maps/a.layers.npz holds the layers of something else, such as an earlier run: delete it",
        ),
        (
            edit("maps/a.json", lambda v: v["decomposition"]["shares"].pop()),
            ["maps"],
            "The record of a.png does not add up: the parts and the residual add up to",
        ),
        (
            edit("maps/a.json", lambda v: v["decomposition"].update(relative_residual=0.5)),
            ["maps"],
            "The split of a.png is not complete",
        ),
        (
            edit("maps/a.json", lambda v: v["target"].update(logit="9")),
            ["maps"],
            "maps/a.json: 'target': 'logit' is not a number",
        ),
        (
            edit("maps/a.json", lambda v: v["target"].update(logit=10**400)),
            ["maps"],
            "'logit' is not a finite number",
        ),
        (
            edit("maps/a.json", lambda v: v["target"].pop("index")),
            ["maps"],
            "maps/a.json: 'target': 'index' is missing",
        ),
        (
            edit("maps/a.json", lambda v: v.update(top=[1])),
            ["maps"],
            "maps/a.json: 'top'[0] is not a JSON object",
        ),
        (
            edit("maps/a.json", lambda v: v.update(image=None)),
            ["maps"],
            "maps/a.json: 'image' is not a JSON object",
        ),
        (
            edit("maps/a.json", lambda v: v.update(more=1)),
            ["maps"],
            "maps/a.json: 'more' is not known",
        ),
        (
            edit("maps/a.json", lambda v: v.update(schema_version=2)),
            ["maps"],
            "maps/a.json has the schema version 2, and this fullgrad reads version 1: make it again",
        ),
        (
            edit("sheets/sheet.json", lambda v: v["rows"][0]["maps"][0].update(least=None)),
            ["sheets"],
            "a map has its extreme numbers and seconds, or there is a reason",
        ),
        (put("maps/c.json", b"{"), ["maps"], "maps/c.json is not JSON"),
        (put("maps/c.json", b"\xff"), ["maps"], "maps/c.json is not JSON"),
        (put("maps/c.json", b"[" * 100_000), ["maps"], "maps/c.json is not JSON"),
        (
            put("sheets/sheet.png", b"x"),
            ["sheets/sheet.json", "maps"],
            "sheet.png is not the one that its record tells of",
        ),
        (
            lose("sheets/sheet.png"),
            ["sheets/sheet.json"],
            "No sheet: sheets/sheet.png does not exist",
        ),
        (
            edit("sheets/sheet.json", lambda v: v["sheet"].update(file="../own.py")),
            ["sheets/sheet.json"],
            "the sheet ../own.py is not beside its record",
        ),
        (
            edit("sheets/sheet.json", lambda v: v.pop("rows")),
            ["sheets"],
            "sheets/sheet.json: 'rows' is missing",
        ),
        (put("bench/curves.png", b"x"), ["bench"], "bench/curves.png is no PNG file"),
        (put("bench/ranking.csv", b'a,b\n"c\n'), ["bench"], "bench/ranking.csv is not a table"),
        (put("bench/ranking.csv", b"a,b\nc\n"), ["bench"], "its rows differ in length"),
        (put("bench/ranking.csv", b""), ["bench"], "or it has no rows"),
    ],
)
def test_what_is_missing_is_said_and_the_rest_is_shown(
    here: Path, capsys: pytest.CaptureFixture[str], damage: Any, paths: list[str], message: str
) -> None:
    damage()
    assert main(["report", *paths, "--out", "r.html"]) == 1
    out, err = capsys.readouterr()
    assert out.endswith("-> r.html\n")
    assert err.startswith("fullgrad: note: ")
    assert message in err
    page = check(Path("r.html").read_text(encoding="utf-8"))
    assert "Not all is here:" in page.text
    assert message in page.text
    if "maps" in paths:
        assert (
            3,
            f"b.png: {record_of('maps/b.json')['target']['name']} (class {record_of('maps/b.json')['target']['index']})",
        ) in page.headings


@pytest.mark.parametrize(
    ("prepare", "arguments", "message"),
    [
        (None, [], "the following arguments are required: PATH"),
        (None, ["nowhere"], "nowhere does not exist"),
        (None, ["own.py"], "own.py is not JSON"),
        (
            None,
            ["bench/plan.json"],
            "bench/plan.json is not a record of fullgrad explain or compare",
        ),
        (lambda: Path("empty").mkdir(), ["empty"], "empty holds no results of fullgrad explain"),
        (
            lose("bench/record.json"),
            ["bench"],
            "the run in bench is not finished (it has no record.json)",
        ),
        (
            edit("bench/record.json", lambda v: v.pop("versions")),
            ["bench"],
            "'versions' is not a JSON object",
        ),
        (
            edit("maps/a.json", lambda v: v["target"].pop("logit")),
            ["maps/a.json"],
            "'target': 'logit' is missing",
        ),
        (None, ["maps", "--out", "r.txt"], "--out r.txt must end in .html"),
        (lambda: Path("d.html").mkdir(), ["maps", "--out", "d.html"], "--out d.html is a folder"),
        (None, ["maps", "--out", "own.py/r.html"], "own.py is not a folder"),
    ],
)
def test_mistakes(
    here: Path, capsys: pytest.CaptureFixture[str], prepare: Any, arguments: list[str], message: str
) -> None:
    if prepare:
        prepare()
    assert main(["report", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("fullgrad: error: ")
    assert message in line
    assert not [p for p in Path().rglob("*.html") if p.is_file()]


def test_a_page_that_cannot_be_written(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Path, content: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    assert main(["report", "bench"]) == 2
    assert "report.html cannot be written: No space left" in capsys.readouterr().err
    assert not Path("report.html").exists()


def test_nothing_and_no_matplotlib(monkeypatch: pytest.MonkeyPatch, here: Path) -> None:
    with pytest.raises(ReportError, match="nothing to report: name a folder"):
        report([])
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(["report", "maps"]) == 2
