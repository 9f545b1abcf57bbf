"""``fullgrad compare`` draws every map that there is, and says why there is not another."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import fullgrad
from fullgrad import methods
from fullgrad.cli.main import main
from fullgrad.errors import MethodError
from fullgrad.vision.image_result import ImageResult, MethodMap
from fullgrad.vision.images import Photograph, preprocess, read_image
from fullgrad.vision.models import load_model
from fullgrad.viz.compare import RULES
from fullgrad.viz.comparison import Comparison

SOURCE = """
import torch
from torch import nn

PREPROCESSING = {"resize": 24, "crop": [20, 20], "interpolation": "bilinear",
    "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
CLASSES = ["black cat", "dog", "bird"]

def make_model():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.GELU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(4, 3))

class Picky(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = make_model()
    def forward(self, x):
        bright = torch.where(x.amax((1, 2, 3)) > 2, float("inf"), 0.0)
        return self.net(x) + bright[:, None]

class Detached(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = make_model()
    def forward(self, x):
        return self.net(x.detach())

def make_dense():
    return nn.Conv2d(3, 4, 3)
"""
QUICK = ("fullgrad", "input_gradient", "sobel")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with a small model and a few photographs."""
    monkeypatch.chdir(tmp_path)
    Path("own.py").write_text(SOURCE)
    for name, seed in (("a.png", 0), ("b.png", 1)):
        pixels = np.random.default_rng(seed).integers(0, 128, (30, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(name)
    return tmp_path


def compare(*arguments: str, make: str = "make_model", quick: bool = True) -> int:
    given = ["--methods", *QUICK] if quick else []
    return main(["compare", *arguments, "--model", f"own.py:{make}", *given])


def record(name: str = "comparison.json") -> Any:
    return json.loads(Path(name).read_text(encoding="utf-8"))


def written() -> set[str]:
    return {p.name for p in Path().iterdir()} - {"own.py", "a.png", "b.png", "__pycache__"}


def test_a_sheet_and_its_record(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert compare("a.png", "b.png") == 0
    out, _ = capsys.readouterr()
    assert written() == {"comparison.png", "comparison.json"}
    assert "-> comparison.png\n-> comparison.json" in out
    with Image.open("comparison.png") as sheet:
        assert sheet.size[0] > 900
        assert sheet.size[1] > 600
    found = record()
    assert found["sheet"] == {
        "file": "comparison.png",
        "sha256": hashlib.sha256(Path("comparison.png").read_bytes()).hexdigest(),
    }
    assert found["rule"].startswith(RULES["map"])
    assert [m["label"] for m in found["methods"]] == list(QUICK)
    assert found["failed"] == []
    assert found["command"].startswith("fullgrad compare a.png b.png --model own.py:make_model")
    assert found["versions"]["torch"] == torch.__version__
    model = load_model("own.py:make_model")
    for row, name in zip(found["rows"], ("a.png", "b.png"), strict=True):
        x = preprocess(read_image(name), model.preprocessing)[None]
        with torch.no_grad():
            logits = model.module(x)[0]
        index = int(logits.argmax())
        assert row["image"]["sha256"] == hashlib.sha256(Path(name).read_bytes()).hexdigest()
        assert row["target"] == {
            "index": index,
            "name": ["black cat", "dog", "bird"][index],
            "chosen": "predicted",
            "logit": pytest.approx(float(logits[index])),
            "probability": pytest.approx(float(logits.softmax(0)[index])),
        }
        assert f"{name}: {row['target']['name']} [{index}], probability" in out
        for cell in row["maps"]:
            expected = methods.attribute(cell["method"], model.module, x, index)
            assert cell["applies"] is True
            assert cell["least"] == pytest.approx(float(expected.min()), rel=1e-4, abs=1e-7)
            assert cell["most"] == pytest.approx(float(expected.max()), rel=1e-4)
        full = fullgrad.saliency(model.module, x, index)
        assert row["maps"][0]["most"] == pytest.approx(float(full.max()), rel=1e-4)


@pytest.mark.parametrize(("kind", "start"), [("svg", b"<?xml"), ("PDF", b"%PDF")])
def test_other_formats_into_a_folder_that_is_made(here: Path, kind: str, start: bytes) -> None:
    assert compare("a.png", "--out", f"new/deep/sheet.{kind}") == 0
    assert Path(f"new/deep/sheet.{kind}").read_bytes().startswith(start)
    assert record("new/deep/sheet.json")["sheet"]["file"] == f"sheet.{kind}"


def test_the_default_methods(here: Path) -> None:
    pytest.importorskip("captum")
    assert compare("a.png", quick=False) == 0
    found = record()
    assert [m["label"] for m in found["methods"]] == [
        "input_gradient",
        "integrated_gradients",
        "smoothgrad",
        "grad_cam",
        "fullgrad",
        methods.RECOMMENDED,
    ]
    assert found["chosen"] == "default"
    assert [m["reason"] for m in found["methods"]] == [None] * 5 + [methods.REASON]


def test_options_of_methods_a_target_a_scale_and_a_title(here: Path) -> None:
    arguments = ["compare", "a.png", "--model", "own.py:make_model", "--target", "bird"]
    asked = ["fullgrad:psi=channel", "fullgrad:terms=input", "random:seed=3"]
    assert main([*arguments, "--methods", *asked, "--scale", "rank", "--title", "$x$"]) == 0
    found = record()
    assert [m["label"] for m in found["methods"]] == asked
    assert [m["options"] for m in found["methods"]] == [
        {"psi": "channel"},
        {"terms": "input"},
        {"seed": "3"},
    ]
    assert (found["chosen"], {m["reason"] for m in found["methods"]}) == ("given", {None})
    assert found["scale"] == "rank"
    assert found["rule"].startswith(RULES["rank"])
    assert "which was asked for" in found["rule"]
    target = found["rows"][0]["target"]
    assert (target["index"], target["name"], target["chosen"]) == (2, "bird", "given")
    model = load_model("own.py:make_model")
    x = preprocess(read_image("a.png"), model.preprocessing)[None]
    expected = fullgrad.saliency(model.module, x, 2, psi="channel")
    assert found["rows"][0]["maps"][0]["most"] == pytest.approx(float(expected.max()), rel=1e-4)


def test_sheets_are_the_same_every_time(here: Path) -> None:
    assert compare("a.png", "--out", "one.png") == compare("a.png", "--out", "two.png") == 0
    assert Path("one.png").read_bytes() == Path("two.png").read_bytes()


def test_a_method_that_does_not_apply_is_no_failure(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("captum")
    given = ["compare", "a.png", "--model", "own.py:make_model", "--methods"]
    assert main([*given, "fullgrad", "guided_backprop", "--out", "sheet.svg"]) == 0
    out, _ = capsys.readouterr()
    assert "  guided_backprop does not apply: it replaces the gradient of nn.ReLU modules" in out
    cell = record("sheet.json")["rows"][0]["maps"][1]
    assert cell["applies"] is False
    assert cell["reason"].startswith("it replaces the gradient of nn.ReLU modules")


def test_a_method_that_fails_on_one_photograph(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def brittle(model: Any, inputs: torch.Tensor, target: Any) -> torch.Tensor:
        if not calls:
            calls.append(1)
            raise RuntimeError("the disk\nis on fire")
        return inputs

    def unfit(model: Any, inputs: torch.Tensor, target: Any) -> torch.Tensor:
        raise MethodError("never")

    calls: list[int] = []
    methods.register("brittle", brittle)
    methods.register("unfit", unfit)
    try:
        given = ["compare", "a.png", "b.png", "--model", "own.py:make_model", "--methods"]
        assert main([*given, "brittle", "unfit"]) == 1
        out, _ = capsys.readouterr()
        assert "  brittle failed: RuntimeError: the disk is on fire" in out
        maps = [row["maps"] for row in record()["rows"]]
        assert [m[0]["applies"] for m in maps] == [True, True]
        assert "reason" in maps[0][0]
        assert "most" in maps[1][0]
        assert [m[1]["applies"] for m in maps] == [False, False]
        calls.clear()
        assert main([*given, "unfit", "--out", "other.png"]) == 2
        assert "no method gives a map; unfit: never" in capsys.readouterr().err
        assert not Path("other.png").exists()
    finally:
        methods.unregister("brittle")
        methods.unregister("unfit")


def test_each_method_has_one_line_of_reasons() -> None:
    sobel = methods.get("sobel")

    def row(name: str, *reasons: str) -> ImageResult:
        cells = tuple(
            MethodMap(f"m{i}", sobel, {}, None if text else np.ones((2, 2)), 0.0, text, i == 1)
            for i, text in enumerate(reasons)
        )
        photograph = Photograph(Image.new("RGB", (2, 2)), Path(name), "", (2, 2), "RGB", 1)
        return ImageResult(
            photograph, None, 0, "cat", "given", 1.0, 0.5, (), cells, None, None, {}, 0.0
        )

    rows = (
        row("a.png", "no", "", "x 1"),
        row("b.png", "no", "late", "x 2"),
        row("c.png", "no", "late", "x 3"),
    )
    assert Comparison("m", rows, ()).reasons() == [
        "m0 does not apply: no",
        "m2 does not apply: x 1 (a.png; 2 more in other words or numbers, which the record has)",
        "m1 failed: late (b.png, c.png)",
    ]


def test_a_photograph_that_fails_stops_no_other(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("bad.png").write_text("no image")
    Image.new("RGB", (30, 30), "white").save("bright.png")
    assert compare("bad.png", "missing.png", "bright.png", "b.png", make="Picky") == 1
    _, err = capsys.readouterr()
    lines = [line for line in err.splitlines() if line.startswith("fullgrad: error:")]
    assert len(lines) == 3
    assert "bad.png is not an image of a known format" in lines[0]
    assert "missing.png does not exist" in lines[1]
    assert "bright.png cannot be explained: the model's output holds NaN or infinite" in lines[2]
    found = record()
    assert [r["image"]["path"] for r in found["rows"]] == ["b.png"]
    assert [f["image"] for f in found["failed"]] == ["bad.png", "missing.png", "bright.png"]


def test_nothing_is_written_where_no_photograph_is_left(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("broken.png").write_bytes(b"no picture")
    assert compare("broken.png", "missing.png") == 1
    said = capsys.readouterr().err
    assert "missing.png does not exist" in said
    assert "nothing was written: no photograph is left to compare" in said
    Path("broken.png").unlink()
    assert compare("missing.png") == 2
    assert capsys.readouterr().err == "fullgrad: error: missing.png does not exist\n"
    assert written() == set()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no photograph given: name image files or folders"),
        (["a.png", "--methods", "nope"], "unknown method 'nope'"),
        (["a.png", "--methods", "fullgrad:psi=odd"], "psi must be one of"),
        (["a.png", "--methods", "fullgrad:x"], "is not METHOD, METHOD:OPTION=VALUE"),
        (["a.png", "--methods", "sobel", "sobel"], "asked for twice: sobel"),
        (["a.png", "--out", "sheet.gif"], "--out sheet.gif must end in one of .png, .svg, .pdf"),
        (["a.png", "--out", "sheet"], "must end in one of"),
        (["a.png", "--out", "folder.png"], "--out folder.png is a folder"),
        (["a.png", "--out", "own.py/x.png"], "own.py is not a folder"),
        (["a.png", "--out", "a.png"], "--out a.png is one of the photographs"),
        (["a.png", "--target", "fish"], "fish"),
        (["a.png", "--scale", "sum"], "invalid choice: 'sum'"),
        (["a.png", "--model", "own.py:make_dense"], "is not an image classifier"),
        (["a.png", "--model", "own.py:Detached", "--methods", "fullgrad"], "no method gives a map"),
        (["empty"], "holds no image files"),
        (["a.png"] * 1 + ["--labels", "short.txt"], "has 1 names, but the model has 3 classes"),
    ],
)
def test_mistakes_in_the_arguments(
    here: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    Path("folder.png").mkdir()
    Path("empty").mkdir()
    Path("short.txt").write_text("one\n")
    before = {p: p.stat().st_mtime_ns for p in Path().rglob("*.png")}
    model = [] if "--model" in arguments else ["--model", "own.py:make_model"]
    chosen = [] if "--methods" in arguments else ["--methods", "sobel"]
    assert main(["compare", *arguments, *model, *chosen]) == 2
    err = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
    assert len(err) == 1
    assert message in err[0]
    assert {p: p.stat().st_mtime_ns for p in Path().rglob("*.png")} == before
    assert not list(Path().rglob("*.json"))


def test_a_file_of_something_else_beside_the_sheet_is_kept(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("sheet.json").write_text('{"boxes": []}')
    assert compare("a.png", "--out", "sheet.png") == 2
    said = capsys.readouterr().err
    assert "sheet.json, where the record of --out sheet.png would be, is no comparison" in said
    assert Path("sheet.json").read_text() == '{"boxes": []}'
    assert not Path("sheet.png").exists()


def test_more_photographs_than_a_sheet_has_room_for(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert compare("a.png", *(f"{i}.png" for i in range(400))) == 2
    assert "a sheet has room for" in capsys.readouterr().err


def test_a_sheet_that_cannot_be_written(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert compare("a.png") == 0
    before = Path("comparison.png").read_bytes()
    write = Path.write_bytes

    def full(self: Path, content: bytes) -> int:
        if self.name.startswith(".comparison.json"):
            raise OSError(28, "No space left on device")
        return write(self, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    assert compare("a.png") == 2
    assert "comparison.png cannot be written: No space left on device" in capsys.readouterr().err
    assert Path("comparison.png").read_bytes() == before
    assert written() == {"comparison.png", "comparison.json"}


def test_a_method_whose_package_is_missing(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "captum", None)
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    assert main(["compare", "a.png", "--model", "own.py:make_model"]) == 2
    assert "pip install 'fullgrad[baselines]'" in capsys.readouterr().err
    assert written() == set()
