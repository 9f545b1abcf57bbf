"""The page of a store of maps."""

from __future__ import annotations

import base64
import io
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import stored_images
import stored_maps
from fullgrad import datasets
from fullgrad.cli.main import main
from fullgrad.datasets.analysis.pictures import Pictures
from fullgrad.datasets.store import part_name
from fullgrad.errors import InputError, UsageError
from fullgrad.report import report
from fullgrad.report.stored import Look


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a store ``maps`` of the images in ``data``."""
    monkeypatch.chdir(tmp_path)
    stored_images.write(tmp_path)
    return tmp_path


def pictures(html: str) -> list[Image.Image]:
    found = re.findall(r'src="data:image/\w+;base64,([^"]+)"', html)
    return [Image.open(io.BytesIO(base64.b64decode(text))) for text in found]


def cards(html: str) -> list[str]:
    _, _, sheet = html.partition("Contact sheet</h3>")
    return re.findall(r"<li>(.*?)</li>", sheet.partition("How it was made")[0], re.DOTALL)


def test_a_page_of_a_store(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "maps", "--out", "page.html"]) == 0
    assert capsys.readouterr().out == "1 store of maps\n-> page.html\n"
    html = Path("page.html").read_text()
    assert "<h1>complete_fullgrad maps of data</h1>" in html
    assert str(here) not in html.partition("fullgrad report")[0]
    assert "weights checkpoint w.pt" in html and f"{here}/net.py" not in html
    assert "54.2% of 24" in html  # are right
    assert "photos/003.png is empty (0 bytes)" in html
    assert "25 of 25 samples (all), ordered by their place in the data" in html
    found = cards(html)
    assert len(found) == 25
    assert "no map" in found[3]
    assert "wrong: is cat" in found[4]
    assert "wrong" not in found[6]
    assert len(pictures(html)) >= 24 + 4
    assert "Mean map of dog, wrong" in html


def test_samples_are_chosen_and_ordered(here: Path) -> None:
    where = ["--where", "prediction != label", "--where", "target = dog"]
    order = ["--sort", "logit", "--largest-first", "--most", "3"]
    assert main(["report", "maps", *where, *order, "--out", "page.html"]) == 0
    html = Path("page.html").read_text()
    rows = [int(m) for card in cards(html) for m in re.findall(r"row (\d+)", card)]
    index = datasets.open("maps").index
    wanted = index[(index["prediction"] != index["label"]) & (index["target"] == 1)]
    assert rows == wanted.sort_values("logit", ascending=False).index[:3].tolist()
    assert f"3 of {len(wanted)} samples (prediction != label and target = dog)" in html
    assert "ordered by logit, largest first" in html


def test_images_that_were_moved(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("data").rename("elsewhere")
    assert main(["report", "maps", "--out", "page.html"]) == 1
    assert "note: Maps are shown without their images: " in capsys.readouterr().err
    assert main(["report", "maps", "--out", "page.html", "--data", "elsewhere"]) == 0
    Path("elsewhere/photos/000.png").unlink()
    capsys.readouterr()
    assert main(["report", "maps", "--out", "other.html", "--data", "elsewhere"]) == 2
    assert "the data are not those of the maps: 25 samples with the digest" in (
        capsys.readouterr().err
    )
    assert not Path("other.html").exists()


def test_pictures_lie_over_what_the_model_saw(here: Path) -> None:
    found = Pictures.of(datasets.open("maps"))
    assert found.signed
    image = found.small(10, "image", 48)
    assert image is not None
    assert image.size == (32, 48)
    assert image.getpixel((5, 5)) == (250, 90, 0)
    over, alone = found.small(10), found.small(10, "map")
    assert over is not None
    assert alone is not None
    assert over.size == alone.size == (75, 112)
    assert over.tobytes() != alone.tobytes()
    assert found.small(3) is None  # no map
    Path("data/photos/010.png").write_bytes(b"damaged")
    assert found.small(10, "image") is None
    fallen = found.small(10)
    assert fallen is not None
    assert fallen.tobytes() == alone.tobytes()


def test_data_without_a_known_preparation_are_not_shown(here: Path) -> None:
    store = datasets.open("maps")
    data = {**store.plan.data, "transform": None}
    stored_maps.write(Path("other"), stored_maps.replace(store.plan, data=data))
    found = Pictures.of(datasets.open("other"))
    assert found.samples is None
    assert found.why == (
        "Maps are shown without their images: how these were prepared is not stored."
    )


def test_an_unfinished_store_says_so(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("maps", part_name(1)).unlink()
    assert main(["report", "maps", "--out", "page.html"]) == 1
    assert "maps is not complete: 2 of 3 units are there" in capsys.readouterr().err
    assert len(cards(Path("page.html").read_text())) == 15


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--where", "size > 3"], "there is no column 'size' to filter or sort by"),
        (["--where", "big"], "'big' is not a condition: write COLUMN OPERATOR VALUE"),
        (["--largest-first"], "--largest-first needs a column to order by: --sort COLUMN"),
        (["--most", "0"], "'0' is not a whole number of at least 1"),
        (["--data", "nowhere"], "nowhere does not exist"),
    ],
    ids=["column", "condition", "order", "most", "data"],
)
def test_what_cannot_be_shown(
    here: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main(["report", "maps", *arguments, "--out", "page.html"]) == 2
    assert message in capsys.readouterr().err
    assert not Path("page.html").exists()


def test_choices_need_a_store(here: Path) -> None:
    shutil.rmtree("maps")
    Path("maps").mkdir()
    Path("maps/a.json").write_text('{"kind": "fullgrad explanation"}')
    with pytest.raises(Exception, match="holds no results"):
        report([Path("maps")], look=Look())
    stored_images.write(Path("again"))
    Path("again/maps/plan.json").write_text("{}")
    with pytest.raises(Exception, match=r"plan\.json is damaged"):
        report([Path("again/maps")])


def test_texts_are_tokens_in_colors(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stored_maps.write(Path("texts"), stored_maps.plan(positions=(4,), dims=("token",)))
    order = ["--where", "target = dog", "--sort", "logit", "--largest-first", "--most", "3"]
    assert main(["report", "texts", *order, "--out", "page.html"]) == 0
    html = Path("page.html").read_text()
    index = datasets.open("texts").index
    wanted = index[index["target"] == 1].sort_values("logit", ascending=False).index[:3]
    assert re.findall(r"</strong> · row (\d+)", html) == [str(row) for row in wanted]
    tokens = re.findall(r'style="background: (#\w{6}); color: #\w{6}">(w\d+)<small>([^<]+)</', html)
    assert [t for _, t, _ in tokens] == [f"w{row}" for row in wanted for _ in range(4)]
    numbers = np.concatenate([stored_maps.values(row, (4,)) for row in wanted])
    assert np.allclose([float(n) for *_, n in tokens], numbers, atol=0.01)
    colors = np.array([list(bytes.fromhex(color[1:])) for color, *_ in tokens]).astype(int)
    far = np.abs(numbers) > 0.3
    assert ((colors[:, 0] > colors[:, 2]) == (numbers > 0))[far].all()
    assert "Each token stands above its part of the logit" in html
    assert "Mean map" not in html and "form clusters" not in html
    assert main(["report", "texts", "--where", "row = 3", "--out", "page.html"]) == 0
    assert "photos/003.png is empty" in Path("page.html").read_text()


def test_maps_that_cannot_be_drawn(tmp_path: Path) -> None:
    positions = {"positions": (2, 2, 2, 2), "dims": ("t", "z", "y", "x")}
    stored_maps.write(tmp_path, stored_maps.plan(samples=4, **positions))
    with pytest.raises(
        InputError, match=r"positions t, z, y, x cannot be drawn; their numbers are "
    ):
        report([tmp_path])
    assert datasets.open(tmp_path).maps.shape == (4, 2, 2, 2, 2)  # the way out


def test_conditions_without_a_store_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    pixels = Image.new("RGB", (30, 30), "red")
    pixels.save("a.png")
    Path("net.py").write_text(
        "from torch import nn\n"
        "PREPROCESSING = {'resize': 8, 'crop': [8, 8]}\n"
        "def make():\n"
        "    return nn.Sequential(nn.Conv2d(3, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())\n"
    )
    model = ["--model", "net.py:make"]
    assert main(["explain", "a.png", "--out", "out", *model]) == 0
    assert main(["report", "out", "--sort", "logit"]) == 2
    assert "there is no store among the paths: leave them out" in capsys.readouterr().err
    with pytest.raises(UsageError):
        report([Path("out")], look=Look())
    assert main(["report", "out"]) == 0
