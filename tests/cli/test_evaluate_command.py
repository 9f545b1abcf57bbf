"""``fullgrad evaluate`` ends in a page, or says in one line what is wrong and writes nothing."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from fullgrad.cli.main import main
from fullgrad.evaluation.bench import bench
from fullgrad.evaluation.plan import MethodChoice
from fullgrad.evaluation.sources import open_source
from fullgrad.evaluation.tests.evaluate.subject import NUMBERS, Explained, Subject
from fullgrad.report.page import report
from fullgrad.vision.images import Photograph, read_photograph
from fullgrad.vision.models import load_model

NET = """
import torch
from torch import nn

PREPROCESSING = {"resize": 16, "crop": [16, 16], "interpolation": "bilinear",
    "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
CLASSES = ["black cat", "dog", "bird", "fish", "a <b>fox</b>"]

def net(seed=5):
    torch.manual_seed(seed)
    made = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.AvgPool2d(4), nn.Flatten(),
        nn.Linear(4 * 16, 5))
    with torch.no_grad():
        made[0].weight.mul_(4)
        made[-1].weight.mul_(4)
    return made

def other():
    return net(15)

def map_of_classes():
    return nn.Conv2d(3, 4, 3)
"""
METHODS = ("fullgrad", "input_x_gradient:signed=True", "attention_rollout", "random")
SMALL = ("--cell", "4", "--sure", "0", "--methods", *METHODS)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(NET)
    Path("photos").mkdir()
    for i in range(7):
        color = (i + 1) >> np.arange(3) & 1
        pixels = np.random.default_rng(i).integers(0, 256, (16, 16, 3)) * color
        Image.fromarray(pixels.astype(np.uint8)).save(f"photos/{i}.png")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield tmp_path
    torch.set_num_threads(threads)


def line(*more: str, out: str = "out") -> list[str]:
    given = ["evaluate", "--model", "mine.py:net", "--data", "photos", "--out", out]
    return [*given, *(more or SMALL)]


def test_ones_own_classifier(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(line()) == 0
    said = capsys.readouterr().out
    assert "attention_rollout does not apply to mine.py:net: attention_rollout found no" in said
    assert (
        "  A  relevance gain (mean, cells of 4): higher is better, chance gives 0; 7 images" in said
    )
    assert "  B  grid pointing (2 x 2): higher is better, chance gives 0.25; 7 images" in said
    assert re.search(r"\n  fullgrad +([+-]\d\.\d{3} [*=<?]  ?)+", said)
    assert "  * first   = tied   < behind   ? not shown\n" in said
    assert "note: Few images (" in said
    assert said.endswith("\n-> out/report.html\n")
    assert {p.name for p in Path("out").iterdir()} == {
        *("results.csv", "results.parquet", "ranking.csv", "agreement.csv", "record.json"),
        *("scores.png", "examples.png", "report.html", "stages"),
    }
    page = Path("out/report.html").read_text()
    assert "<h1>Which map to trust on mine.py:net</h1>" in page
    assert "<strong>First or tied: " in page
    assert len(page) < 1_000_000
    # again: nothing is computed, and the page is the same
    stages = {p: p.stat().st_mtime_ns for p in Path("out/stages").iterdir()}
    assert main(line()) == 0
    assert capsys.readouterr().out.count("finished before: out/record.json") == 1
    assert {p: p.stat().st_mtime_ns for p in Path("out/stages").iterdir()} == stages
    assert Path("out/report.html").read_text() == page


def test_bench_and_report_do_the_same(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(line()) == 0
    assert main(["bench", *line(out="benched")]) == 0
    same = ("results.csv", "ranking.csv", "agreement.csv", "scores.png", "examples.png")
    for name in same:
        assert Path("out", name).read_bytes() == Path("benched", name).read_bytes(), name
    assert main(["report", "out", "--out", "page.html"]) == 0
    parts = [
        re.search("<main.*</main>", Path(p).read_text(), re.S)[0]
        for p in ("page.html", "out/report.html")
    ]
    assert parts[0] == parts[1]
    assert main(["report", "out", "benched", "--out", "both.html"]) == 0
    assert Path("both.html").read_text().count("Evaluation of mine.py:net</a>") == 2
    with pytest.raises(SystemExit):
        raise SystemExit(main(["--help"]))
    assert re.search(r"evaluate +test which map to trust on your model", capsys.readouterr().out)


def test_from_python(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = {"model": ["mine.py:net"], "images": "photos", "cell": 4, "sure": 0.0}
    methods = ["fullgrad", "input_x_gradient:signed=True", "random"]
    result = bench("evaluate", "called", methods=methods, **options)
    ranking = result.tables["ranking"]
    assert isinstance(ranking, pd.DataFrame)
    assert set(ranking["method"]) == set(methods)
    assert set(ranking["verdict"]) <= {"first", "tied", "behind", "not shown"}
    assert set(result.figures) == {"scores", "examples"}
    assert str(result).startswith("mine.py:net\n")
    assert capsys.readouterr().out == ""
    assert not Path("called/report.html").exists()  # the command's; here it is another call
    page = report([Path("called")])
    assert "<h1>Which map to trust on mine.py:net</h1>" in page.html
    assert "Make it again" not in page.html  # there is no command
    assert page.problems == ()


def test_several_models(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line_ = [*line(), "--model", "mine.py:net", "mine.py:other", "--tests", "class-sensitivity"]
    line_ = [w for w in line_ if w not in {"--cell", "4", "--sure", "0"}]
    assert main(line_) == 0
    page = Path("out/report.html").read_text()
    assert "<h1>Which map to trust on mine.py:net, mine.py:other</h1>" in page
    headings = re.findall(r"<h3>(.*?)</h3>", page)
    assert headings[:2] == ["mine.py:net", "mine.py:other"]
    assert page.count("<img") == 4
    names = {p.name for p in Path("out").glob("*.png")}
    assert names == {"scores-1.png", "scores-2.png", "examples-1.png", "examples-2.png"}
    said = capsys.readouterr().out
    assert said.count("  A  class sensitivity (unlikely class): lower is better; 7 images") == 2


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--methods", "fullgrad", "magic"), "'magic'"),
        (("--methods", "fullgrad", "fullgrad"), "asked for twice: fullgrad"),
        (("--tests", "magic"), "unknown test 'magic'; known: relevance-gain"),
        (("--cell", "0"), "a cell has at least one pixel, not 0"),
        (("--cell", "x"), "argument --cell: invalid int value: 'x'"),
        (("--fractions", "0.5", "0.1"), "fractions must be given once each, in ascending order"),
        (("--fractions", "1"), "relevance gain needs fractions below 1"),
        (("--fills", "magic"), "argument --fills: invalid choice: 'magic'"),
        (("--sides", "1"), "a mosaic has at least 2 images along its side"),
        (("--sure", "1"), "a probability lies in [0, 1), not 1.0"),
        (
            ("--tests", "class-sensitivity", "--cell", "4"),
            "--cell belongs to the test relevance-gain",
        ),
        (("--noise", "0.1"), "--noise belongs to the test stability, which is not in --tests"),
        (("--weights", "none", "none"), "2 weights for 1 models: give one for each"),
        (("--ray-address", "auto"), "--ray-address needs --executor ray"),
        (("--batch-size", "0"), "--batch-size must be at least 1, not 0"),
        (("--random-orders", "0"), "at least one random order is needed, not 0"),
        (("--limit", "0"), "at least one image is needed, not 0"),
        (("--images", "nowhere"), "nowhere is not a source of images: give a folder"),
        (("--images", "empty"), "the folder empty holds no image files"),
        (("--model", "mine.py:absent"), "absent"),
        (("--model", "mine.py:net", "mine.py:net"), "asked for twice: mine.py:net"),
        (("--methods", "attention_rollout"), "no method applies to mine.py:net; the first: "),
        (("--out", "mine.py"), "the output folder mine.py cannot be made"),
        (("--magic",), "unrecognized arguments: --magic"),
    ],
)
def test_mistakes_end_in_one_line(
    here: Path, capsys: pytest.CaptureFixture[str], more: tuple[str, ...], message: str
) -> None:
    Path("empty").mkdir()
    before = sorted(here.rglob("*"))
    assert main([*line("--methods", "fullgrad"), *more]) == 2
    said = capsys.readouterr()
    assert said.err.startswith("fullgrad: error: ")
    assert said.err.count("\n") == 1
    assert message in said.err
    assert said.out == ""
    after = [p for p in sorted(here.rglob("*")) if "__pycache__" not in p.parts]
    assert after == before


def test_no_image_can_be_used(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each way out that the message names works."""
    given = line("--methods", "fullgrad", "--tests", "grid-pointing")
    assert main([*given, "--sure", "0.9999"]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith(
        "fullgrad: error: no image of mine.py:net can be used for grid-pointing: take other --tests, "
    )
    assert [p.name for p in Path("out").iterdir()] == ["stages"]
    assert main([*given, "--sure", "0"]) == 0
    assert main([*given, "class-sensitivity", "--sure", "0.9999", "--out", "two"]) == 0
    assert (
        "There are no numbers of mine.py:net for grid pointing: no image can be used, or no method"
        in Path("two/report.html").read_text()
    )


def test_what_a_message_advises_works(here: Path) -> None:
    assert main(line("--methods", "fullgrad", "--noise", "0.1", "--tests", "stability")) == 0
    record = json.loads(Path("out/record.json").read_text())
    assert record["plan"]["tests"] == [{"test": "stability", "noise": 0.1}]
    assert record["experiment"] == "evaluate"
    assert record["command"].startswith("fullgrad evaluate --model mine.py:net ")


def test_the_example_of_the_docs(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = (Path(__file__).parents[2] / "docs/evaluate.md").read_text(encoding="utf-8")
    model, call = re.findall(r"```python\n(.*?)```", text, re.S)
    Path("mine.py").write_text(model)
    names: dict[str, object] = {}
    exec(call, names)
    assert capsys.readouterr().out.startswith("mine.py:net\n")
    assert isinstance(names["result"].tables["ranking"], pd.DataFrame)  # type: ignore[attr-defined]
    assert Path("results/report.html").is_file()
    for option in ("relevance-gain", "grid-pointing", "class-sensitivity", "randomization"):
        assert f"| `{option}` |" in text


def test_each_image_is_decoded_once_for_all_methods(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Path] = []

    def counted(path: Path) -> Photograph:
        read.append(path)
        return read_photograph(path)

    monkeypatch.setattr("fullgrad.evaluation.sources.read_photograph", counted)
    assert main(line()) == 0
    # to find them, for the model, and six of them for their pictures
    assert sorted(map(read.count, set(read))) == [2, 3, 3, 3, 3, 3, 3]


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("method", ["complete_fullgrad", "random"])
def test_minibatches_change_nothing(
    here: Path, monkeypatch: pytest.MonkeyPatch, number: str, method: str
) -> None:
    subject = Subject("mine", load_model("mine.py:net"), open_source("photos"))
    found = []
    for size in (2, 50):
        monkeypatch.setattr("fullgrad.evaluation.tests.evaluate.subject._ON_CPU", size)
        explained = Explained(subject, MethodChoice(method), tuple(range(7)), number)
        found.append((explained.maps, subject.outputs(explained.x)))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    assert len(found[0][0].flatten(1).unique(dim=0)) == 7
