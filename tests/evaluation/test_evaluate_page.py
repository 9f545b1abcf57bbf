"""What an evaluation says in words, in pictures and on its page."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from fullgrad.errors import InputError
from fullgrad.evaluation.tests.evaluate import pictures, verdicts, words
from fullgrad.report.page import report, write_page
from fullgrad.report.values import ReportError
from fullgrad.viz.scores import Example, Panel, example_sheet, score_panels
from fullgrad.viz.style import png

LONG = "integrated_gradients:n_steps=20,signed=True"
BASE = {"net": {"images": 40.0, "classes": 10.0, "probability": 0.7}}


def ranking(
    values: dict[str, list[float]], test: str = "relevance-gain", model: str = "net"
) -> list[dict[str, Any]]:
    """The ranking of methods that score so in the images 0, 1, 2, ..."""
    rows = [
        {"model": model, "test": test, "setting": "how", "method": m, "case": str(i), "run": 0}
        | {"value": v, "scale": 1.0}
        for m, own in values.items()
        for i, v in enumerate(own)
    ]
    return verdicts.ranking(pd.DataFrame(rows)).to_dict("records")


def noisy(mean: float, spread: float = 0.01, count: int = 40, seed: int = 0) -> list[float]:
    return list(mean + spread * np.random.default_rng(seed).standard_normal(count))


FOUR = {
    "fullgrad": noisy(0.5),
    "grad_cam": noisy(0.49, seed=1),
    "random": noisy(0.0, seed=2),
    "sobel": noisy(0.4, 2.0, seed=3),
}


# Words


def test_each_verdict_has_its_words() -> None:
    (test,) = words.contests(ranking(FOUR))
    assert {r["method"]: r["verdict"] for r in test.rows} == {
        "fullgrad": "first",
        "grad_cam": "tied",
        "random": "behind",
        "sobel": "not shown",
    }
    first, tied, behind, undecided, control = words.sentences(test)
    assert re.fullmatch(
        r"fullgrad is first with 0\.499 \(95 % interval 0\.49\d to 0\.50\d\)\.", first
    )
    assert tied.startswith("Tied with it: grad_cam, worse by 0.0")
    assert re.fullmatch(
        r"Behind it: random, worse by 0\.[45]\d\d \(0\.4\d\d to 0\.5\d\d\)\.", behind
    )
    assert undecided.startswith("Not shown either way: sobel, worse by ")
    assert control == "It is not shown to be ahead of these controls: sobel."
    (without,) = words.contests(ranking({k: v for k, v in FOUR.items() if k != "sobel"}))
    assert list(words.sentences(without))[-1] == "It is ahead of every control: random."


def test_many_methods_are_named_together() -> None:
    many = {f"m{i}": noisy(-0.1 * i) for i in range(8)}
    (test,) = words.contests(ranking(many))
    said = list(words.sentences(test))
    assert said[1] == "Behind it, by 0.100 to 0.700: m1, m2, m3, m4, m5, m6, m7."


def test_the_table_has_a_mark_for_each_verdict() -> None:
    rows = ranking(FOUR) + ranking(
        {k: FOUR[k] for k in ("grad_cam", "random")}, "class-sensitivity"
    )
    (said,) = words.paragraphs(rows)
    lines = said.splitlines()
    assert lines[0] == "net"
    assert lines[2:4] == [
        "  A  relevance gain (how): higher is better, chance gives 0; 40 images",
        "  B  class sensitivity (how): lower is better; 40 images",
    ]
    marks = {line.split()[0]: re.findall("[*=<?]", line) for line in lines[6:10]}
    assert marks == {
        "fullgrad": ["*"],
        "grad_cam": ["=", "<"],
        "random": ["<", "*"],
        "sobel": ["?"],
    }
    assert lines[-2] == "  * first   = tied   < behind   ? not shown"
    assert lines[-1] == "  First or tied: fullgrad in 1 of 2 tests, grad_cam in 1."
    assert max(map(len, lines)) < 100
    only = words.contests(ranking({"random": FOUR["random"]}))
    assert words.standing(only) == "No method is first or tied in any test: controls are."


def test_chance_of_a_mosaic_follows_its_size() -> None:
    row = {"model": "m", "test": "grid-pointing", "setting": "3 x 3", "method": "a", "images": 1}
    (test,) = words.contests([row])
    assert test.chance == pytest.approx(1 / 9)
    (test,) = words.contests([row | {"setting": ""}])
    assert test.chance is None
    (test,) = words.contests([row | {"test": "unheard-of"}])
    assert (test.chance, test.better, test.title) == (None, "higher", "unheard-of")


def test_cautions_are_few_and_say_what_matters() -> None:
    assert words.cautions(ranking({k: FOUR[k] for k in ("fullgrad", "random")}), BASE) == []
    few = {k: v[:9] for k, v in FOUR.items()}
    both = ranking(few) + ranking(few, "stability") + ranking(few, "stability", "two")
    base = BASE | {"two": {"classes": 2.0, "probability": 0.6, "accuracy": 0.4}}
    said = words.cautions(both, base, ("relevance-gain", "stability", "grid-pointing"))
    assert said[0] == (
        "two is right on 40.0% of the images, and guessing on 50.0%: a map of such a model explains "
        "noise."
    )
    assert said[1].startswith("two gives its predicted class a probability of 60.0% on average")
    assert said[2:4] == [
        "There are no numbers of net for grid pointing: no image can be used, or no method applies.",
        "There are no numbers of two for relevance gain, grid pointing: no image can be used, or no "
        "method applies.",
    ]
    assert said[4] == "Few images (9 a test): intervals say little below about 30."
    assert said[5].startswith("Not all is decided in 3 of 3 tests (verdict: not shown)")
    assert len(said) <= 7


def test_means_that_differ_by_rounding_decide_nothing() -> None:
    same = {"fullgrad": [0.3] * 40, "grad_cam": [0.3 + 1e-9] * 40}
    (test,) = words.contests(ranking(same))
    assert list(words.sentences(test)) == ["All methods have the same mean, so it decides nothing."]
    assert words.cautions(ranking(same), BASE) == [
        "All methods have the same mean in relevance gain (how): that decides nothing."
    ]


def test_a_control_that_wins_is_pointed_out() -> None:
    rows = ranking({"sobel": noisy(0.5), "fullgrad": noisy(0.2)})
    assert words.cautions(rows, BASE) == [
        "Controls, which know nothing of the model, are first or tied in some tests (relevance gain "
        "(how): sobel): there a good score says little."
    ]
    (test,) = words.contests(rows)
    assert next(words.sentences(test)).startswith("sobel, a control, is first with 0.499 ")
    assert pictures.chosen_method(test) == "fullgrad"
    (test,) = words.contests(ranking({"sobel": noisy(0.5), "random": noisy(0.2)}))
    assert pictures.chosen_method(test) == "sobel"


# Images


@pytest.mark.parametrize(
    ("count", "best", "worst"), [(1, "0", ""), (3, "21", "0"), (8, "765", "012")]
)
@pytest.mark.parametrize("test", ["relevance-gain", "class-sensitivity"])
def test_no_image_is_among_the_best_and_the_worst(
    count: int, best: str, worst: str, test: str
) -> None:
    sign = -1 if test == "class-sensitivity" else 1
    values = {"fullgrad": [sign * float(i) for i in range(count)]}
    (contest,) = words.contests(ranking(values, test))
    rows = pd.DataFrame(
        {"case": list(map(str, range(count))), "value": values["fullgrad"], "scale": 1.0}
    ).assign(model="net", test=test, setting="how", method="fullgrad")
    found = pictures.extremes(contest, "fullgrad", rows)
    assert ["".join(case for case, _ in part) for part in found] == [best, worst]


# Pictures


def test_panels_of_six_tests_and_twenty_methods() -> None:
    names = [LONG, "random", *(f"method_{i}:with_an_option=True" for i in range(18))]
    rows = [
        {
            "method": m,
            "mean": 0.1 * i,
            "low": 0.1 * i - 0.2,
            "high": 0.1 * i + 0.2,
            "verdict": "tied",
        }
        for i, m in enumerate(names)
    ]
    tests = [Panel(f"test {i}", "so", "higher", 0.0, rows[i:]) for i in range(6)]
    figure = score_panels(tests, "a model", ["random"])
    assert len(figure.axes) == 6
    width, height = figure.get_size_inches()
    assert width < 9.5
    assert height < 20
    figure.canvas.draw()
    labels = figure.axes[0].get_yticklabels()
    assert labels[0].get_text() == "integrated_gradients\nn_steps=20, signed=True"
    assert [t.get_text() for t in figure.axes[1].get_yticklabels()] == [""] * 20
    boxes = [label.get_window_extent() for label in labels]
    assert min(box.x0 for box in boxes) >= 0
    assert all(above.y0 > below.y1 for above, below in pairwise(boxes))
    assert labels[1].get_color() != labels[0].get_color()
    assert len({axes.get_ylim() for axes in figure.axes}) == 1
    with pytest.raises(InputError, match="there are no results to draw"):
        score_panels([], "a model")


def test_signed_maps_are_drawn_in_red_and_blue() -> None:
    image = Image.new("RGB", (8, 8), "gray")
    signed = np.linspace(-1, 1, 64).reshape(8, 8)
    plain = example_sheet([("best", [Example(image, abs(signed), "a.png")])], "maps")
    both = example_sheet([("best", [Example(image, signed, "a.png", "score 1")])], "maps")
    words_of = [" ".join(t.get_text() for t in f.texts) for f in (plain, both)]
    assert "The brighter" in words_of[0]
    assert "Red speaks" not in words_of[0]
    assert "Red speaks for the class, blue against it" in words_of[1]
    drawn = np.asarray(both.axes[1].images[0].get_array())
    assert drawn[0, 0, 2] > drawn[0, 0, 0]  # blue
    assert drawn[7, 7, 0] > drawn[7, 7, 2]  # red
    assert png(both) == png(
        example_sheet([("best", [Example(image, signed, "a.png", "score 1")])], "maps")
    )
    with pytest.raises(InputError, match="there are no images to draw"):
        example_sheet([], "maps")


# The page


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rows = ranking(FOUR | {LONG: noisy(0.3, seed=5)})
    pd.DataFrame(rows).to_csv(tmp_path / "ranking.csv", index=False)
    record = {
        "experiment": "evaluate",
        "plan": {"tests": [{"test": "relevance-gain"}, {"test": "grid-pointing"}], "count": 40},
        "models": BASE,
        "excluded": [{"image": "broken.png", "why": "it is empty"}],
        "does_not_apply": [
            {"model": "net", "method": "attention_rollout", "why": "no <attention>"},
            {"model": "net", "test": "logit-shift", "method": "grad_cam", "why": "no layer"},
        ],
        "versions": {},
        "command": "fullgrad evaluate --images 'my photos' --out out",
    }
    (tmp_path / "record.json").write_text(json.dumps(record))
    for name in ("scores.png", "examples.png"):
        Image.new("RGB", (20, 10), "red").save(tmp_path / name)
    return tmp_path


def test_the_page_begins_with_what_it_says(folder: Path) -> None:
    made = report([folder])
    assert made.problems == ()
    page = made.html
    places = [
        page.index(part)
        for part in (
            "<h1>Which map to trust on net</h1>",
            "First or tied: fullgrad in 1 of 1 test, grad_cam in 1.",
            "integrated_gradients<br>n_steps=20, signed=True</th>",
            "<h4>Relevance gain (how)</h4>",
            "fullgrad is first with 0.499",
            "<h3>What the verdicts mean</h3>",
            "<h3>Methods that do not apply</h3>",
            "<strong>attention_rollout (net)</strong>: no &lt;attention&gt;",
            "<strong>grad_cam (net, logit-shift)</strong>: no layer",
            "<h3>Read with care</h3>",
            "There are no numbers of net for grid pointing: no image can be used, or no method applies.",
            "1 image could not be used; see below which.",
            'alt="Means of each method under each test',
            'alt="Images with the best and the worst scores',
            "Table ranking.csv",
            "What was asked for",
            "fullgrad evaluate --images",
        )
    ]
    assert places == sorted(places)
    assert page.count("no &lt;attention&gt;") == 1  # not again among the facts
    path = write_page(folder, command="fullgrad evaluate")
    assert path == folder / "report.html"
    assert "<code>fullgrad evaluate</code>" in path.read_text()
    (folder / "taken").mkdir()
    with pytest.raises(ReportError, match="taken cannot be written: "):
        write_page(folder, "taken")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("ranking.csv", "model,test\nnet,a\n", "its ranking.csv is not that of an evaluation"),
        ("ranking.csv", "model,test\n", "its ranking.csv is empty"),
        ("record.json", {"models": {"net": {}}}, "not the record of an evaluation"),
        ("record.json", {"plan": {}}, "not the record of an evaluation"),
        ("record.json", {"models": None}, "'models' is not a JSON object"),
        ("record.json", {"does_not_apply": [1]}, "'does_not_apply' is not a list of methods"),
    ],
)
def test_damaged_results_are_refused(
    folder: Path, name: str, content: str | dict[str, Any], message: str
) -> None:
    path = folder / name
    if isinstance(content, dict):
        content = json.dumps(json.loads(path.read_text()) | content)
    path.write_text(content)
    with pytest.raises(ReportError, match=re.escape(message)):
        report([folder])
