"""A report holds what the files hold, escaped, in one page that needs nothing else."""

from __future__ import annotations

import base64
import csv
import itertools
import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import fullgrad
from fullgrad.cli.main import main
from fullgrad.report import ReportError, report
from fullgrad.report.layout import DARK, LIGHT
from fullgrad.vision.images import preprocess, read_image
from fullgrad.vision.models import load_model
from fullgrad.viz import picture
from fullgrad.vision.layers import Layer, layers_of, packed

SOURCE = """
import torch
from torch import nn

PREPROCESSING = {"resize": 24, "crop": [20, 20]}
CLASSES = ["black <b>cat</b>", "dog & 'co'", 'bird" onload="x']

def make_model():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.GELU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(4, 3))
"""
HOSTILE = "<script>alert(1)</script>&'\"\u202e $x ${title}.png"
VOID = {"img", "meta", "br"}


class Page(HTMLParser):
    """What a page is made of; a tag that is not closed, or that nobody asked for, fails."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.headings: list[tuple[int, str]] = []
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), (tag, names)
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)
        if re.fullmatch("h[1-6]", tag):
            self.headings.append((int(tag[1]), ""))

    def handle_endtag(self, tag: str) -> None:
        assert self._open, tag
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" in self._open:
            return
        self.text += data
        if self._open and re.fullmatch("h[1-6]", self._open[-1]):
            level, before = self.headings[-1]
            self.headings[-1] = (level, before + data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]


def check(html: str) -> Page:
    """The page, after what holds for every page has been looked at."""
    page = Page(html)
    names = {name for name, _ in page.tags}
    assert not names & {"script", "iframe", "object", "embed", "link", "form", "base", "b"}
    for _, attrs in page.tags:
        assert not [a for a in attrs if a.startswith("on")]
        for name in ("src", "href", "srcset", "action", "data", "poster"):
            value = attrs.get(name)
            assert value is None or value.startswith(("data:image/", "#")), value
    assert "url(" not in html
    assert "@import" not in html
    for image in page.all("img"):
        assert len(image["alt"] or "") > 20
    assert page.all("html") == [{"lang": "en"}]
    assert any(m.get("name") == "viewport" for m in page.all("meta"))
    assert any("default-src 'none'" in (m.get("content") or "") for m in page.all("meta"))
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    for _, attrs in page.tags:
        href = attrs.get("href")
        assert href is None or href[1:] in ids
        label = attrs.get("aria-labelledby")
        assert label is None or label in ids
    levels = [level for level, _ in page.headings]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(b - a <= 1 for a, b in itertools.pairwise(levels))
    assert all(text.strip() for _, text in page.headings)
    for box in page.all("div"):
        if box.get("class") == "scroll":
            assert box["tabindex"] == "0"
            assert box["role"] == "group"
            assert box.get("aria-label") or box.get("aria-labelledby")
    assert len(page.all("table")) == len(page.all("caption"))
    assert all(th.get("scope") in {"row", "col"} for th in page.all("th"))
    assert len(page.all("main")) == len(page.all("header")) == len(page.all("title")) == 1
    return page


def squeezed(text: str) -> str:
    return " ".join(text.split())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything that reports are made of."""
    here = tmp_path_factory.mktemp("reports")
    patch = pytest.MonkeyPatch()
    patch.chdir(here)
    Path("own.py").write_text(SOURCE)
    for name, seed in (("a.png", 0), ("b.png", 1)):
        pixels = np.random.default_rng(seed).integers(0, 128, (30, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(name)
    model = ["--model", "own.py:make_model"]
    assert main(["explain", "a.png", "b.png", "--out", "maps", *model]) == 0
    sheet = ["compare", "a.png", "b.png", *model, "--methods", "fullgrad", "sobel", "--out"]
    assert main([*sheet, "sheets/sheet.png"]) == 0
    assert main([*sheet, "sheets/drawn.svg"]) == 0
    assert main([*sheet, "sheets/paper.pdf"]) == 0
    bench = here / "bench"
    bench.mkdir()
    record = {
        "plan": {"model": "own.py", "fills": ["black"], "weights": None, "content": "<i>x</i>"},
        "excluded": [{"image": HOSTILE, "why": "no <b>image</b>"}],
        "seconds": {"maps fullgrad": 0.25},
        "versions": {"torch": "2.0", "timm": None},
        "threads": 2,
        "command": "fullgrad bench pixel-perturbation --images photos --out bench",
    }
    (bench / "plan.json").write_text(json.dumps(record["plan"]))
    (bench / "record.json").write_text(json.dumps(record))
    rows = {
        "ranking": [
            ["method", "area", "rank"],
            ["fullgrad<br>", "0.123456789", "1"],
            ["sobel", "7e-5", "2"],
        ],
        "summary": [["method", "fraction"], *([f"row {i};", "0.5"] for i in range(450))],
        "differences": [["first", "differ"], ["fullgrad", "True"]],
        "results": [["image"], ["never shown"]],
    }
    for name, table in rows.items():
        with (bench / f"{name}.csv").open("w", newline="") as file:
            csv.writer(file).writerows(table)
    Image.new("RGB", (20, 10), "red").save(bench / "curves.png")
    patch.undo()
    return here


@pytest.fixture
def here(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it to work in."""
    import shutil

    shutil.copytree(folder, tmp_path / "w")
    monkeypatch.chdir(tmp_path / "w")
    return tmp_path / "w"


def made(*arguments: str) -> Page:
    assert main(["report", *arguments, "--out", "r.html"]) == 0
    return check(Path("r.html").read_text(encoding="utf-8"))


def test_signed_maps_are_told_as_such(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[bool] = []

    def kept(*args: Any, sign: bool = False, **options: Any) -> Any:
        drawn.append(sign)
        return picture(*args, sign=sign, **options)

    monkeypatch.setattr("fullgrad.viz.images.picture", kept)
    model = ["--model", "own.py:make_model"]
    assert main(["explain", "a.png", "--out", "signed", *model, "--option", "psi=signed"]) == 0
    assert main(["explain", "a.png", "--out", "plain", *model]) == 0
    assert drawn == [True, False]
    found = squeezed(made("signed").text)
    assert "over it: red pixels raise the output, blue ones lower it" in found
    assert "those above 0 raise the output, those below lower it" in found
    assert "brighter" not in found
    found = squeezed(made("plain").text)
    assert "over it: the brighter, the larger the map's number." in found
    assert "do not sum to the logit" in found
    assert "red pixels" not in found


def record_of(path: str) -> Any:
    return json.loads(Path(path).read_text(encoding="utf-8"))


def changed(path: str, change: Any) -> None:
    values = record_of(path)
    change(values)
    Path(path).write_text(json.dumps(values))


# What it holds


def test_explained_photographs(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = made("maps")
    assert capsys.readouterr().out.endswith("2 explained photographs\n-> r.html\n")
    text = squeezed(page.text)
    for name in ("a", "b"):
        found = record_of(f"maps/{name}.json")
        target = found["target"]
        assert (3, f"{name}.png: {target['name']} (class {target['index']})") in page.headings
        assert f"is {target['probability']:.1%}." in text
        assert found["image"]["sha256"] in text
        for top in found["top"]:
            assert f"{top['name']}{top['index']}{top['probability']:.2%}" in text
        assert f"is {found['decomposition']['residual']:.1e}, which is" in text
    assert text.count("So the split is complete: nothing is missing.") == 2
    assert found["command"] in text
    assert text.count("Make it again") == 1  # both of one run
    for name, version in found["versions"].items():
        assert f"{name} {version or 'not installed'}" in text
    assert "Not all is here" not in text
    images = page.all("img")
    assert len(images) == 4  # overlay and map of each
    overlay = Path("maps/a.overlay.png").read_bytes()
    assert images[0]["src"] == f"data:image/png;base64,{base64.b64encode(overlay).decode()}"


def test_the_waterfall_is_to_scale_and_adds_up(here: Path) -> None:
    made("maps/a.json")
    html = Path("r.html").read_text(encoding="utf-8")
    found = record_of("maps/a.json")
    shares = found["decomposition"]["shares"]
    logit = found["target"]["logit"]
    table = html.split('class="waterfall"')[1].split("</table>")[0]
    bars = re.findall(
        r'class="(raises|lowers|none|total)" style="left:([\d.-]+)%;width:([\d.]+)%', table
    )
    assert len(bars) == len(shares) + 2
    sums = [s["sum"] for s in shares]
    ends = np.cumsum([0.0, *sums])
    low, high = min(*ends, logit), max(*ends, logit)
    for (kind, left, width), value, start in zip(bars, sums, ends, strict=False):
        assert kind == ("raises" if value > 0 else "lowers")
        assert float(width) == pytest.approx(100 * abs(value) / (high - low), abs=1e-3)
        begin = min(start, start + value)
        assert float(left) == pytest.approx(100 * (begin - low) / (high - low), abs=1e-3)
    assert bars[-1][0] == "total"
    assert float(bars[-1][2]) == pytest.approx(100 * abs(logit) / (high - low), abs=1e-3)
    assert sum(sums) + found["decomposition"]["residual"] == pytest.approx(logit, rel=1e-9)


def test_layers_where_there_are_any(here: Path) -> None:
    model = load_model("own.py:make_model")
    x = preprocess(read_image("a.png"), model.preprocessing)[None]
    d = fullgrad.decompose(model.module, x)
    Path("maps/a.layers.npz").write_bytes(packed(layers_of(d)))
    page = made("maps")
    assert [text for _, text in page.headings].count("Layer by layer") == 1
    (strip,) = [i for i in page.all("img") if "A map for each of" in (i["alt"] or "")]
    assert strip["class"] == "wide"
    names = [name or "(model)" for name in d.by_module()]
    assert (
        strip["alt"]
        == f"A map for each of {len(names)} stages, from early to late: {', '.join(names)}"
    )


def test_runs_that_differ_have_sections_of_their_own(here: Path) -> None:
    arguments = ["--out", "other", "--model", "own.py:make_model", "--method", "sobel"]
    assert main(["explain", "a.png", *arguments]) == 0
    page = made("maps", "other", "maps/a.json")
    heads = [text for level, text in page.headings if level == 2]
    assert heads == [
        "2 photographs explained: fullgrad on own.py:make_model",
        "One photograph explained: sobel on own.py:make_model",
    ]
    assert len(page.all("nav")) == 1
    assert [a["href"] for a in page.all("a")][1:] == [f"#{s['id']}" for s in page.all("h2")]


def test_comparisons(here: Path) -> None:
    page = made("sheets")
    text = squeezed(page.text)
    found = record_of("sheets/sheet.json")
    assert text.count("2 photographs by 2 methods on own.py:make_model") == 6  # in the contents too
    kinds = [(i["src"] or "")[:14] for i in page.all("img")]
    assert kinds == ["data:image/svg", "data:image/png"]
    assert "The sheet itself is in paper.pdf, of a kind that a page cannot hold" in text
    assert found["rule"] in text
    for row in found["rows"]:
        assert row["image"]["sha256"] in text
    for method in found["methods"]:
        assert method["about"] in text


def test_what_a_comparison_lacks_is_said(here: Path) -> None:
    def change(values: Any) -> None:
        reason = "there is <i>nothing</i> to replace"
        values["rows"][0]["maps"][1] = {"method": "sobel", "applies": False, "reason": reason}
        values["failed"] = [{"image": HOSTILE, "reason": "broken"}]

    changed("sheets/sheet.json", change)
    text = squeezed(made("sheets/sheet.json").text)
    assert "sobel does not apply: there is <i>nothing</i> to replace (a.png)" in text
    assert "<script>alert(1)</script>&'\"\ufffd $x ${title}.png: broken" in text


def test_an_experiment(here: Path) -> None:
    page = made("bench")
    text = squeezed(page.text)
    assert (2, "Experiment: pixel perturbation") in page.headings
    assert "fullgrad<br>0.1231" in text
    assert "sobel7e-052" in text
    assert "area: relative change, averaged along the logarithmic axis of fractions" in text
    assert "The first 400 of 450 rows." in text
    assert "row 399;" in text
    assert "row 400;" not in text
    assert "Table differences.csv" in text
    assert "never shown" not in text
    assert "content<i>x</i>" in text
    assert "weightsnone" in text
    assert "no <b>image</b>" in text
    assert "timm not installed" in text
    assert "fullgrad bench pixel-perturbation --images photos --out bench" in text
    assert len(page.all("img")) == 1


def test_another_experiment_is_not_given_these_meanings(here: Path) -> None:
    changed(
        "bench/record.json", lambda v: v.update(command="fullgrad bench digit-flipping --out x")
    )
    page = made("bench")
    assert (2, "Experiment: digit flipping") in page.headings
    assert "averaged along the logarithmic axis" not in page.text
    assert "What the experiment measures: fullgrad bench digit-flipping --help" in page.text


def test_everything_together(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = made("maps", "sheets/sheet.json", "bench", "--title", HOSTILE)
    assert "2 explained photographs, 1 comparison, 1 experiment" in capsys.readouterr().out
    assert page.headings[0][1] == HOSTILE.replace("\u202e", "\ufffd")
    assert len(page.all("nav")) == 1


def test_equal_files_give_an_equal_page(here: Path) -> None:
    pages = [report([Path("maps"), Path("bench")]).html for _ in range(2)]
    assert pages[0] == pages[1]


# Hostile and damaged files


def test_names_are_text_and_nothing_else(here: Path) -> None:
    def change(values: Any) -> None:
        values["image"]["path"] = f"folder/{HOSTILE}"
        values["target"]["name"] = HOSTILE
        values["top"][0]["name"] = HOSTILE
        values["decomposition"]["shares"][1]["of"] = HOSTILE
        values["model"]["spec"] = values["model"]["checkpoint"] = f"/secret/{HOSTILE}"
        values["model"][HOSTILE] = {HOSTILE: [HOSTILE, True]}
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
        (lose("maps/a.saliency.npy"), ["maps"], "No map: maps/a.saliency.npy does not exist"),
        (put("maps/a.saliency.npy", b"x"), ["maps"], "maps/a.saliency.npy holds none"),
        (
            lambda: np.save("maps/a.saliency.npy", np.ones((20, 20))),
            ["maps"],
            "maps/a.saliency.npy is not the map that the record of a.png tells of",
        ),
        (lambda: np.save("maps/a.saliency.npy", np.array([{}], object)), ["maps"], "holds none"),
        (put("maps/a.layers.npz", b"x"), ["maps"], "No layers of a.png: no file of layers"),
        (
            lambda: Path("maps/a.layers.npz").write_bytes(packed([Layer("a", 99.0)])),
            ["maps"],
            "maps/a.layers.npz holds the layers of something else",
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
            "'index' is not a whole number",
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
        (put("maps/c.json", b"{"), ["maps"], "maps/c.json is no JSON"),
        (put("maps/c.json", b"\xff"), ["maps"], "maps/c.json is no JSON"),
        (put("maps/c.json", b"[" * 100_000), ["maps"], "maps/c.json is no JSON"),
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
            "sheets/sheet.json: 'rows' is not a list",
        ),
        (put("bench/curves.png", b"x"), ["bench"], "bench/curves.png is no PNG file"),
        (put("bench/ranking.csv", b'a,b\n"c\n'), ["bench"], "bench/ranking.csv is no table"),
        (put("bench/ranking.csv", b"a,b\nc\n"), ["bench"], "its rows differ in length"),
        (put("bench/ranking.csv", b""), ["bench"], "or there are none"),
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
        (None, ["own.py"], "own.py is no JSON"),
        (None, ["bench/plan.json"], "bench/plan.json is no record of fullgrad explain or compare"),
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
            "'logit' is not a number",
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


# How it looks


@pytest.mark.parametrize("colours", [LIGHT, DARK])
def test_contrast(colours: dict[str, str]) -> None:
    def luminance(name: str) -> float:
        parts = [int(colours[name][i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))

    def contrast(a: str, b: str) -> float:
        high, low = sorted((luminance(a), luminance(b)), reverse=True)
        return (high + 0.05) / (low + 0.05)

    for text in ("ink", "faint", "link", "warn"):
        for ground in ("paper", "box"):
            assert contrast(text, ground) >= 4.5
    for bar in ("raises", "lowers", "total"):
        assert contrast(bar, "box") >= 3


def test_light_and_dark_have_the_same_colours_named(here: Path) -> None:
    assert LIGHT.keys() == DARK.keys()
    made("bench")
    style = Path("r.html").read_text(encoding="utf-8").split("<style>")[1].split("</style>")[0]
    assert "prefers-color-scheme: dark" in style
    used = set(re.findall(r"var\(--([a-z]+)\)", style))
    assert used == LIGHT.keys()
    assert style.count("{") == style.count("}")
