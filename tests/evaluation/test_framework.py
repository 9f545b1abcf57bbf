"""What every test of maps gets from the framework, shown on the smallest one."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from torch import Tensor

import fullgrad
from fullgrad import _code
from fullgrad.cli.main import main
from fullgrad.evaluation import bench
from fullgrad.evaluation.agreement import agreement
from fullgrad.evaluation.images_test import Batch, ImagesTest
from fullgrad.evaluation.store import Content, Store, StoreError
from fullgrad.report.page import report

NET = """
from torch import nn

PREPROCESSING = {"resize": 16, "crop": [16, 16], "interpolation": "bilinear",
    "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}

def make_model():
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 256, 3))
"""
METHODS = ("fullgrad", "input_gradient", "random")
ROAR = ["bench", "roar", "--data", "sklearn:digits", "--train-limit", "60", "--test-limit", "30"]
ROAR += ["--width", "3", "--epochs", "1", "--batch", "20", "--runs", "2", "--mask-runs", "0"]
ROAR += ["--fractions", "0.5", "--methods", *METHODS, "--out", "roar"]


class Concentration(ImagesTest):
    """Measures which share of a map lies on a tenth of the pixels."""

    name = "concentration"
    title = "which share of a map lies on a tenth of the pixels"

    def measure(self, batch: Batch, maps: Tensor) -> Tensor:
        sizes = maps.abs().flatten(1).sort(descending=True)[0]
        return sizes[:, : sizes.shape[1] // 10].sum(1) / sizes.sum(1)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    Path("net.py").write_text(NET)
    Path("photos").mkdir()
    for i in range(4):
        pixels = np.random.default_rng(i).integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(f"photos/{i}.png")
    bench.register(Concentration)
    yield tmp_path
    bench.unregister("concentration")


def command(*more: str, out: str = "out") -> list[str]:
    given = ["bench", "concentration", "--model", "net.py:make_model", "--images", "photos"]
    return [*given, "--methods", *METHODS, "--batch-size", "2", "--out", out, *more]


def test_a_test_of_maps_is_one_class(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = bench.bench(
        "concentration", "called", images="photos", model="net.py:make_model", methods=METHODS
    )
    assert found.done == 1
    assert found.finished
    assert len(found.rows) == 4 * (1 + 1 + 5)  # five orders of noise
    assert set(found.tables) == {"ranking", "differences"}
    assert sorted(found.tables["ranking"]["method"]) == sorted(METHODS)
    assert len(found.tables["differences"]) == 3
    assert found.record["plan"]["count"] == 4
    assert str(found).startswith("which share of a map lies on a tenth of the pixels (higher")
    assert len(found.figures["curves"].axes[0].get_yticklabels()) == 3
    assert main(command()) == 0
    assert str(found.tables["ranking"]["method"][0]) in capsys.readouterr().out
    a, b = (pd.read_csv(f"{out}/results.csv") for out in ("called", "out"))
    np.testing.assert_allclose(
        a.groupby("method")["score"].mean()["fullgrad"],
        b.groupby("method")["score"].mean()["fullgrad"],
        rtol=1e-5,
    )
    whole = Path("out/results.csv").read_bytes()
    part = next(Path("out/stages").glob("*-000001.stage"))
    part.write_bytes(part.read_bytes()[:-1])
    assert main(command()) == 0
    assert f"damaged, to be done again: {part}" in capsys.readouterr().out
    assert Path("out/results.csv").read_bytes() == whole
    assert main(command()) == 0
    assert "finished before" in capsys.readouterr().out
    assert main(command("--seed", "1")) == 2
    assert "another run (seed: 0 there, 1 asked for)" in capsys.readouterr().err
    assert main(["report", "out"]) == 0


def test_tests_and_options_that_are_not_there(here: Path) -> None:
    with pytest.raises(ValueError, match="there is a test named 'concentration' already"):
        bench.register(Concentration)
    with pytest.raises(ValueError, match="unknown test 'magic'; known: pixel-perturbation"):
        bench.bench("magic", "out")
    with pytest.raises(TypeError, match="color"):
        bench.bench("concentration", "out", images="photos", model="net.py:make_model", color=1)
    with pytest.raises(ValueError, match="concentration has no dry run; roar has one"):
        bench.outlook("concentration", "out", images="photos", model="net.py:make_model")
    assert not Path("out").exists()


def test_agreement_and_report_take_remove_and_retrain(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(ROAR) == 0
    assert main(command()) == 0
    found = agreement([Path("roar"), Path("out")])
    assert list(found.ranks.columns) == ["roar: retrained, most first, mean", "out: concentration"]
    assert found.correlations["methods"].tolist() == [3]
    areas = pd.read_csv("roar/ranking.csv").set_index("method")["area"]
    assert found.ranks.iloc[:, 0].to_dict() == areas.rank(method="min").to_dict()
    capsys.readouterr()
    assert main(["bench", "agreement", "roar", "out"]) == 0
    assert "- **A**: roar: retrained, most first, mean" in capsys.readouterr().out
    page = report([Path("roar")]).html
    assert "Experiment: roar" in page
    assert "share of the test images that are classified right" in page
    assert page.count("<img") == 2
    Path("roar/record.json").unlink()
    assert main(["report", "roar"]) == 2
    assert "the run in roar is not finished" in capsys.readouterr().err


def test_the_old_name_of_the_group_size(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*ROAR, "--company", "2", "--minutes", "1e-9"]) == 1
    said = capsys.readouterr()
    assert "fullgrad: warning: --company is now --group-size" in said.err
    assert main([*ROAR, "--group-size", "2"]) == 0
    assert json.loads(Path("roar/record.json").read_text())["group_sizes"] == {"1": 2, "2": 6}


def test_folders_of_older_versions_are_refused(here: Path) -> None:
    options = {"images": "photos", "model": "net.py:make_model", "methods": METHODS}
    Path("old/parts").mkdir(parents=True)
    Path("old/plan.json").write_text("{}")
    with pytest.raises(StoreError, match="old holds other files and no results"):
        bench.bench("concentration", "old", **options)
    Path("old/record.json").write_text('{"plan": {}}')
    with pytest.raises(StoreError, match="of another experiment, or of an older version"):
        bench.bench("concentration", "old", **options)
    Path("stages").mkdir()
    Path("stages/roar-store.json").write_text('{"format": 1}')
    with pytest.raises(StoreError, match="stages holds stages of an older version of fullgrad"):
        Store(Path("stages"))


def test_a_stage_that_is_gone(here: Path) -> None:
    store = Store(Path("s"))
    store.put("a", Content({"n": 1}))
    assert store.done("a").values == {"n": 1}
    with pytest.raises(StoreError, match=r"s/b\.stage is gone; start the run again"):
        store.done("b")


ROOTS = ("fullgrad.evaluation.tests.pixel_perturbation", "fullgrad.methods")


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    place = tmp_path / "copy" / "fullgrad"
    ignored = shutil.ignore_patterns("__pycache__", "static")
    return Path(shutil.copytree(Path(fullgrad.__file__).parent, place, ignore=ignored))


def edit(package: Path, name: str, before: str, after: str) -> None:
    path = package / name
    text = path.read_text()
    assert before in text, name
    path.write_text(text.replace(before, after, 1))


def digest(package: Path, apart: tuple[str, ...] = ()) -> str:
    _code._digest.cache_clear()
    return _code._digest(ROOTS, apart, package)


def test_the_digest_of_code(copied: Path) -> None:
    """It changes with code that can change a number, and with nothing else."""
    before = digest(copied)
    assert before == digest(Path(fullgrad.__file__).parent)
    # a docstring, a comment, and code that draws or prints
    edit(copied, "methods/controls.py", '"""', '"""In other words. ')
    edit(copied, "engine/recorder.py", "\nimport ", "\n# a remark\nimport ")
    for name in ("viz/overlay.py", "cli/main.py", "report/page.py", "evaluation/store.py"):
        (copied / name).write_text((copied / name).read_text() + "\nOTHER = 1\n")
    assert digest(copied) == before
    seen = {before}
    for name in (
        "engine/recorder.py",
        "operations/affine.py",
        "maps/saliency.py",
        "methods/gradients.py",
        "vision/images.py",
        "evaluation/removal.py",
        "evaluation/images_test.py",
        "evaluation/tests/pixel_perturbation.py",
    ):
        (copied / name).write_text((copied / name).read_text() + "\nOTHER = 1\n")
        seen.add(digest(copied))
    assert len(seen) == 9
    assert digest(copied, ("fullgrad.methods",)) not in seen


AGAIN = """
import os, sys
import matplotlib.backends.backend_agg, pandas, pyarrow.parquet, timm, torch, torchvision
torch.set_num_threads(1)
for place in sys.argv[1:4]:  # a process for each, which has what is slow to import already
    if os.fork() == 0:
        sys.path.insert(0, place)
        from fullgrad.cli.main import main
        status = main(sys.argv[4:])
        sys.stdout.flush()
        os._exit(status)
    assert os.wait()[1] == 0
    stages = [name for name in os.listdir("out/stages") if name.endswith(".stage")]
    print(len(stages), "stages", flush=True)
"""


def test_edited_code_never_reuses_stale_maps(here: Path, copied: Path) -> None:
    places = [copied.parent]
    for before, after in (('"""', '"""In other words. '), ("\ndef ", "\nOTHER = 1\n\n\ndef ")):
        places.append(here / str(len(places)))
        package = Path(shutil.copytree(places[-2] / "fullgrad", places[-1] / "fullgrad"))
        edit(package, "methods/controls.py", before, after)
    line = ["bench", "pixel-perturbation", "--model", "net.py:make_model", "--images", "photos"]
    line += ["--methods", "sobel", "--fractions", "0.5", "--batch-size", "4", "--out", "out"]
    done = subprocess.run(
        [sys.executable, "-c", AGAIN, *map(str, places), *line],
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    first, second, third = done.stdout.split("stages\n")[:3]
    assert first.endswith("\n1 ")
    assert second.startswith("finished before") and second.endswith("\n1 ")
    assert "out holds results of other code of fullgrad; they are made again" in third
    assert third.endswith("\n2 ")
