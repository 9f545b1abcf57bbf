"""A report holds what the files hold, escaped, in one page that needs nothing else."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import fullgrad
from fullgrad.cli.main import main
from fullgrad.report import report
from fullgrad.report.layout import DARK, LIGHT
from fullgrad.vision.images import preprocess, read_image
from fullgrad.vision.layers import Layer, layers_of, packed
from fullgrad.vision.models import load_model
from fullgrad.viz import picture
from pages import HOSTILE, SOURCE, changed, made, record_of, squeezed


def test_signed_maps_are_told_as_such(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[bool] = []

    def kept(*args: Any, sign: bool = False, **options: Any) -> Any:
        drawn.append(sign)
        return picture(*args, sign=sign, **options)

    monkeypatch.setattr("fullgrad.viz.images.picture", kept)
    model = ["--model", "own.py:make_model", "--method", "fullgrad"]
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


def test_a_complete_map_is_told_to_have_signs(here: Path) -> None:
    model = ["--model", "own.py:make_model", "--method", "complete_fullgrad"]
    assert main(["explain", "a.png", "--out", "complete", *model]) == 0
    found = squeezed(made("complete").text)
    assert "over it: red pixels raise the output, blue ones lower it" in found
    assert "those above 0 raise the output, those below lower it" in found
    assert "brighter" not in found
    assert "do not sum to the logit" not in found


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
    kind, _, content = (images[0]["src"] or "").partition(";base64,")
    assert kind == "data:image/webp"
    assert {i["loading"] for i in images} == {"lazy"}
    with Image.open(io.BytesIO(base64.b64decode(content))) as shown:
        with Image.open("maps/a.overlay.png") as overlay:
            width = min(1408, overlay.width)
            size = width, shown.height
            assert abs(shown.height - overlay.height * width / overlay.width) <= 1
            expected = np.asarray(overlay.convert("RGB").resize(size), int)
        assert shown.width == width
        gaps = np.abs(np.asarray(shown, int) - expected)
    assert gaps.mean() < 3
    assert len(base64.b64decode(content)) < Path("maps/a.overlay.png").stat().st_size


def test_many_photographs_are_folded_below_thumbnails(here: Path) -> None:
    pixels = np.random.default_rng(2).integers(0, 128, (30, 40, 3), dtype=np.uint8)
    for name in "cd":
        Image.fromarray(pixels).save(f"{name}.png")
    files = [f"{name}.png" for name in "abcd"]
    assert main(["explain", *files, "--out", "four", "--model", "own.py:make_model"]) == 0
    page = made("four")
    links = [str(a["href"]) for a in page.all("a") if str(a["href"]).startswith("#photograph-")]
    inner = [f"#{d['id']}" for d in page.all("div") if str(d.get("id")).startswith("photograph-")]
    assert links == inner
    assert len(links) == 4
    folded = [d for d in page.all("details") if d.get("class") == "photograph"]
    assert [d.get("open") for d in folded] == [None] * 4
    assert [text[:5] for level, text in page.headings if level == 3][:4] == files
    assert len(page.all("img")) == 3 * 4  # thumbnail, overlay, map
    Path("four/a.overlay.png").unlink()  # its thumbnail is its text alone
    assert main(["report", "four", "--out", "r.html"]) == 1
    html = Path("r.html").read_text(encoding="utf-8")
    assert html.count("<img") == 3 * 4 - 2
    assert re.search(r'<li style="[^"]*"><a href="#photograph-\d+"><span>a.png: ', html)
    likely = {d: record_of(f"four/{d}.json")["target"]["probability"] for d in "abcd"}
    places = [int(p) for p in re.findall(r"--by-probability:(\d)", html.split("<ul")[-1])]
    assert sorted("abcd", key=lambda d: places["abcd".index(d)]) == sorted("abcd", key=likely.get)


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
    # Those of another run are refused, and each way out that the message names works.
    other = packed([Layer("a", 99.0)])
    for way_out in (
        lambda: Path("maps/a.layers.npz").unlink(),
        lambda: main(["explain", "a.png", "--out", "maps", "--model", "own.py:make_model", *again]),
    ):
        again = ["--layers", "--replace"]
        Path("maps/a.layers.npz").write_bytes(other)
        assert main(["report", "maps", "--out", "r.html"]) == 1
        way_out()
        assert main(["report", "maps", "--out", "r.html"]) == 0


def test_runs_that_differ_have_sections_of_their_own(here: Path) -> None:
    arguments = ["--out", "other", "--model", "own.py:make_model", "--method", "sobel"]
    assert main(["explain", "a.png", *arguments]) == 0
    page = made("maps", "other", "maps/a.json")
    heads = [text for level, text in page.headings if level == 2]
    assert heads == [
        "2 photographs explained: combined_fullgrad on own.py:make_model",
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


def test_records_of_before_they_had_a_version(here: Path) -> None:
    pages = made("maps", "sheets/sheet.json").text

    def old(values: Any) -> None:
        del values["schema_version"]
        if "rows" in values:
            del values["options"]
            for row in values["rows"]:
                for key in ("mode", "frames", "frame_used"):
                    del row["image"][key]
        else:
            del values["kind"], values["notes"]

    for path in ("maps/a.json", "maps/b.json", "sheets/sheet.json"):
        changed(path, old)
    assert made("maps", "sheets/sheet.json").text == pages


def test_a_map_without_a_split_says_so(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("cut.py").write_text(
        SOURCE + "\n\nclass Cut(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        "        self.net = make_model()\n    def forward(self, x):\n        return self.net(x.detach())\n"
    )
    model = ["--model", "cut.py:Cut", "--method", "sobel"]
    assert main(["explain", "a.png", "--out", "cut", *model]) == 0
    out, err = capsys.readouterr()
    assert err.startswith("fullgrad: note: There is no split of the logit: ")
    assert "residual" not in out
    assert record_of("cut/a.json")["decomposition"] is None
    assert f"{record_of('cut/a.json')['notes'][0]}" in made("cut").text
    assert main(["explain", "a.png", "--out", "none", *model, "--layers"]) == 2
    assert "--layers: There is no split of the logit: " in capsys.readouterr().err


# How it looks


@pytest.mark.parametrize("colors", [LIGHT, DARK])
def test_contrast(colors: dict[str, str]) -> None:
    def luminance(name: str) -> float:
        parts = [int(colors[name][i : i + 2], 16) / 255 for i in (1, 3, 5)]
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
