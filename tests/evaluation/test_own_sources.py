"""Methods and tests of the user's in ``evaluate``: an edited source is computed again."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from evaluating import NET, write_images
from fullgrad import methods
from fullgrad.cli.main import main
from fullgrad.errors import MethodError, ModelLoadError, UsageError
from fullgrad.evaluation import bench
from fullgrad.methods.choice import MethodChoice

METHOD = """
from fullgrad import methods

def size(model, inputs, target, power: float = 1.0):
    return inputs.abs() ** power * FACTOR

FACTOR = 1.0
"""
TEST = """
from fullgrad.evaluation.tests.evaluate.measure import Measure, Score

class Corner(Measure):
    name = "corner"
    title = "how much of the map lies in the upper left corner"

    def scores(self, explained):
        maps = explained.maps
        share = maps[:, :, :4, :4].sum((1, 2, 3)) / maps.sum((1, 2, 3))
        return [Score(n, float(v)) for n, v in zip(explained.numbers, share)]

other = 3
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("net.py").write_text(NET)
    Path("mine.py").write_text(METHOD)
    Path("corner.py").write_text(TEST)
    write_images(Path("photos"), 3)
    return tmp_path


def run(chosen: tuple[str, ...], **options: Any) -> Any:
    given = {"model": ("net.py:make_model",), "images": "photos", "tests": ("class-sensitivity",)}
    return bench.bench(
        "evaluate", "out", methods=chosen, say=lambda line: None, **{**given, **options}
    )


def test_an_edited_method_is_computed_again(here: Path) -> None:
    chosen = ("mine.py:size:power=2.0", "sobel")
    first = run(chosen)
    codes = [first.record["code"]]
    assert set(first.rows["method"]) == set(chosen)
    assert run(chosen).known
    Path("mine.py").write_text(METHOD.replace("FACTOR = 1.0", "FACTOR = -1.0"))
    again = run(chosen)
    assert not again.known and again.done == 1  # the other method is as it was
    codes += [again.record["code"], run(("sobel",)).record["code"]]
    assert len(set(codes)) == 3  # the last one is that of fullgrad's own alone


def test_a_registered_method_counts_with_its_source(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It did not: stored numbers of the old function were taken for those of the new one."""
    folder = here / "lib"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    codes = []
    for factor in (1, 2):
        name = f"registered_{factor}"
        (folder / f"{name}.py").write_text(METHOD.replace("FACTOR = 1.0", f"FACTOR = {factor}"))
        function = __import__(name).size
        methods.register("size", function, replace=True)
        try:
            codes.append(run(("size",)).record["code"])
        finally:
            methods.unregister("size")
    assert codes[0] != codes[1]
    for power in (1, 2):
        methods.register("powered", partial(function, power=float(power)))
        try:
            codes.append(run(("powered",)).record["code"])
            assert run(("random_phase:of=powered",)).record["code"] == codes[-1]
        finally:
            methods.unregister("powered")
    assert len(set(codes)) == 4


def test_a_method_without_a_source_is_refused(here: Path) -> None:
    space: dict[str, Any] = {}
    exec("def made(model, inputs, target):\n    return inputs", space)
    methods.register("made", space["made"])
    try:
        with pytest.raises(
            MethodError, match=r"source of 'made' cannot be read, so it is not known"
        ):
            run(("made",))
    finally:
        methods.unregister("made")


def test_a_test_by_file(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["evaluate", "--model", "net.py:make_model", "--images", "photos", "--out", "cli"]
    options += ["--methods", "sobel", "center", "--tests", "corner.py:Corner"]
    assert main(options) == 0
    assert "corner" in Path("cli/ranking.csv").read_text()
    first = run(("sobel",), tests=("corner.py:Corner",))
    assert run(("sobel",), tests=("corner.py:Corner",)).known
    Path("corner.py").write_text(TEST.replace(":4, :4", ":8, :8"))
    again = run(("sobel",), tests=("corner.py:Corner",))
    assert not again.known
    assert again.rows["value"].tolist() != first.rows["value"].tolist()
    with pytest.raises(
        UsageError, match=r"corner\.py:other is not a test of images: give a subclass"
    ):
        run(("sobel",), tests=("corner.py:other",))
    with pytest.raises(
        ValueError, match=r"unknown test 'class_sensitivity'; did you mean 'class-s"
    ):
        run(("sobel",), tests=("class_sensitivity",))


def test_what_is_stated_of_the_models_is_in_the_plan(here: Path) -> None:
    said: list[str] = []
    Path("net.py").write_text(NET.replace('"resize": 16, "crop": [16, 16], ', ""))
    given: dict[str, Any] = {"model": ("net.py:make_model",), "images": "photos"}
    given |= {"methods": ("sobel", "center"), "tests": ("class-sensitivity",)}
    found = bench.bench("evaluate", "out", say=said.append, resize=16, **given)
    (model,) = found.record["plan"]["models"]
    assert model["stated"] == '{"resize": 16}'
    assert not any("assumed" in line for line in said)
    pixels = {"images": "photos", "methods": ("sobel", "center"), "resize": 16}
    test = bench.prepared("pixel-perturbation", model="net.py:make_model", **pixels)
    assert test.plan.stated == '{"resize": 16}'
    assert test.model.preprocessing.crop == (16, 16)
    with pytest.raises(ModelLoadError, match="and preprocessing of its own: leave out --resize"):
        bench.prepared("evaluate", **{**given, "model": ("generated:shapes",)}, resize=8)


def test_methods_by_file_in_python(here: Path) -> None:
    choice = MethodChoice.parse("mine.py:size:power=3.0")
    assert (choice.name, choice.options) == ("mine.py:size", {"power": 3.0})
    assert choice.label == "mine.py:size:power=3.0"
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 2))
    x = torch.rand(1, 3, 4, 4)
    found = methods.attribute("mine.py:size", model, x, 0, power=2.0)
    torch.testing.assert_close(found, (x**2).sum(1, keepdim=True))
    assert "mine.py:size" not in methods.names()


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("gradcam", "did you mean 'grad_cam'?"),
        ("Grad-CAM", "did you mean 'grad_cam'?"),
        ("fullgrads", "did you mean 'fullgrad'"),
        ("integrated", "did you mean 'integrated_gradients'?"),
        ("smooth_grad", "did you mean 'smoothgrad'?"),
        ("guided", "did you mean 'guided_backprop'?"),
        ("xyz", "unknown method 'xyz'; known: fullgrad,"),
    ],
)
def test_close_names_make_sense(name: str, meant: str) -> None:
    with pytest.raises(ValueError, match="unknown method") as found:
        methods.get(name)
    assert meant in str(found.value)
    assert "mean 'random" not in str(found.value)
