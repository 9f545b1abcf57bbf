"""The pixel-perturbation experiment as a command: resumed, reproducible, honest about bad input."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import nn

from fullgrad import methods
from fullgrad.cli.main import main
from fullgrad.errors import ImageError
from fullgrad.evaluation.perturbation import changes
from fullgrad.evaluation.plan import MethodChoice
from fullgrad.evaluation.sources import open_source
from fullgrad.evaluation.store import Content, Store, StoreError
from fullgrad.vision.images import preprocess, read_photograph
from fullgrad.vision.models import load_model

SOURCE = """
import torch
from torch import nn

PREPROCESSING = {"resize": 18, "crop": [16, 16], "interpolation": "bilinear",
    "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
CLASSES = ["a", "b", "c"]

def make_model():
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 8, 3, padding=1),
        nn.ReLU(), nn.Flatten(), nn.Linear(8 * 64, 3))
"""


FAST = ["fullgrad", "input_gradient", "random", "sobel"]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("net.py").write_text(SOURCE)
    Path("photos/sub").mkdir(parents=True)
    for i in range(6):
        pixels = np.random.default_rng(i).integers(0, 256, (24, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(f"photos/{'sub/' if i % 2 else ''}{i}.png")
    return tmp_path


def command(
    *more: str, out: str = "out", images: str = "photos", chosen: object = FAST
) -> list[str]:
    return [
        "bench",
        "pixel-perturbation",
        "--model",
        "net.py:make_model",
        "--images",
        images,
        "--out",
        out,
        "--methods",
        *list(chosen),
        "--fractions",
        "0.01",
        "0.1",
        "0.5",
        "--batch-size",
        "2",
        "--random-orders",
        "3",
        *more,
    ]


def test_the_table_is_what_the_definition_says(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command("--order", "both", "--fill", "black", "mean")) == 0
    text = capsys.readouterr().out
    assert "least salient first, filled black" in text
    assert "(higher is better)" in text
    rows = pd.read_csv("out/results.csv")
    unlabelled = ["label", "correct_before", "correct_after"]
    stored = pd.read_parquet("out/results.parquet")
    assert stored[unlabelled].isna().all(axis=None)
    pd.testing.assert_frame_equal(rows.drop(columns=unlabelled), stored.drop(columns=unlabelled))
    assert len(rows) == 6 * (3 + 3) * 2 * 2 * 3
    assert set(rows["run"]) == {0, 1, 2}
    model = load_model("net.py:make_model")
    for name in ("photos/0.png", "photos/sub/3.png"):
        x = preprocess(read_photograph(name).image, model.preprocessing)[None]
        maps = methods.attribute("fullgrad", model.module, x)
        for order in ("least", "most"):
            black = -torch.tensor(model.preprocessing.mean) / torch.tensor(model.preprocessing.std)
            expected = changes(model.module, x, maps, (0.01, 0.1, 0.5), order=order, fill=black)
            own = rows[
                (rows["image"] == name.removeprefix("photos/"))
                & (rows["method"] == "fullgrad")
                & (rows["order"] == order)
                & (rows["fill"] == "black")
            ]
            np.testing.assert_allclose(
                own["relative_change"], expected.relative[0], rtol=1e-3, atol=1e-6
            )
            assert own["pixels"].tolist() == [3, 26, 128]
            assert own["target"].tolist() == [int(expected.target[0])] * 3
            np.testing.assert_allclose(
                own["relative_change"],
                (own["output_after"] - own["output_before"]).abs() / own["output_before"].abs(),
            )
    record = json.loads(Path("out/record.json").read_text())
    assert record["plan"]["count"] == 6
    assert set(record["images_per_minute"]) == set(FAST)
    assert record["excluded"] == []
    assert "bench pixel-perturbation" in record["command"]
    ranking = pd.read_csv("out/ranking.csv")
    assert sorted(ranking.groupby(["order", "fill"])["rank"].apply(list).iloc[0]) == [1, 2, 3, 4]
    assert len(pd.read_csv("out/differences.csv")) == 4 * 6
    assert Path("out/curves.png").stat().st_size > 10_000


def test_two_runs_agree_and_a_finished_one_is_not_repeated(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(command(out="one")) == 0
    assert main(command(out="two")) == 0
    for name in ("results.csv", "results.parquet", "summary.csv", "ranking.csv", "differences.csv"):
        assert Path("one", name).read_bytes() == Path("two", name).read_bytes(), name
    other = command("--seed", "1", out="three")
    assert main(other) == 0
    a, b = (pd.read_csv(f"{d}/results.csv") for d in ("one", "three"))
    assert not a[a["method"] == "random"].equals(b[b["method"] == "random"])
    capsys.readouterr()
    monkeypatch.setattr("fullgrad.evaluation.tests.pixel_perturbation.PixelPerturbation.part", None)
    assert main(command(out="one")) == 0
    assert "finished before" in capsys.readouterr().out


def test_a_batch_does_not_change_the_rows(here: Path) -> None:
    assert main(command(out="one")) == 0
    assert main([*command(out="two"), "--batch-size", "5"]) == 0
    a, b = (pd.read_csv(f"{d}/results.csv") for d in ("one", "two"))
    keys = ["image", "method", "run", "fraction"]
    both = a.merge(b, on=keys)
    both = both[both["method"] != "random"]  # drawn batch by batch
    np.testing.assert_allclose(both["output_after_x"], both["output_after_y"], rtol=1e-4, atol=1e-5)


KILLED = """
import os, random, signal, sys, time
from pathlib import Path
import torch
from fullgrad.cli.main import main
torch.set_num_threads(1)

assert main([*sys.argv[1:], "--out", "whole"]) == 0  # and all is loaded, for the children too
draw, done = random.Random(0), 0
for _ in range(3):
    child = os.fork()
    if child == 0:
        os._exit(main([*sys.argv[1:], "--out", "killed"]))
    until = time.monotonic() + 60
    while time.monotonic() < until and len(list(Path("killed/stages").glob("*.stage"))) <= done:
        time.sleep(0.001)
    time.sleep(draw.random() * 0.01)
    os.kill(child, signal.SIGKILL)
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1]), "it was done already"
    done = len(list(Path("killed/stages").glob("*.stage")))
    assert done >= 1
assert main([*sys.argv[1:], "--out", "killed"]) == 0
"""


def test_a_killed_run_ends_in_the_same_table(here: Path) -> None:
    line = [sys.executable, "-c", KILLED, *command(out="killed"), "--batch-size", "1"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(line, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    for name in ("results.csv", "results.parquet", "summary.csv"):
        assert Path("whole", name).read_bytes() == Path("killed", name).read_bytes(), name


def part(number: int) -> Path:
    (found,) = Path("out/stages").glob(f"*-{number:06d}.stage")
    return found


def test_a_damaged_part_is_done_again(here: Path) -> None:
    assert main(command()) == 0
    whole = Path("out/results.csv").read_bytes()
    part(1).write_bytes(b"{")
    assert main(command()) == 0
    assert Path("out/results.csv").read_bytes() == whole


def test_unreadable_images_are_reported_and_left_out(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("photos/broken.png").write_bytes(b"no image")
    assert main(command()) == 1  # the others are done
    assert "excluded: broken.png: " in capsys.readouterr().out
    record = json.loads(Path("out/record.json").read_text())
    assert [e["image"] for e in record["excluded"]] == ["broken.png"]
    assert record["plan"]["count"] == 6
    assert "broken.png" not in set(pd.read_csv("out/results.csv")["image"])


def test_labels_from_a_table(here: Path) -> None:
    Path("list.csv").write_text("file,class_index\nphotos/0.png,2\nphotos/sub/1.png,0\n")
    assert main(command(images="list.csv", chosen=["sobel"])) == 0
    rows = pd.read_csv("out/results.csv")
    assert rows.groupby("image")["label"].first().tolist() == [2, 0]
    assert (rows["correct_before"] == (rows["target"] == rows["label"])).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (command(images="empty"), "the folder empty holds no image files"),
        (command(images="none"), "none is not a source of images: give a folder, a .csv file"),
        (command("--fractions", "0"), "fractions must lie in (0, 1], not 0.0"),
        (command("--fractions", "0.5", "1.5"), "fractions must lie in (0, 1], not 1.5"),
        (command("--fractions", "0.5", "0.5"), "fractions must be given once each"),
        (command(chosen=["magic"]), "unknown method 'magic'; known: fullgrad, simple_fullgrad"),
        (command(chosen=["sobel", "sobel"]), "asked for twice: sobel"),
        (command(chosen=["fullgrad:nn=1"]), "method 'fullgrad' has no option 'nn'"),
        (command(chosen=["fullgrad:psi"]), "'fullgrad:psi' is not METHOD, METHOD:OPTION=VALUE"),
        (command(chosen=["fullgrad:terms=stem"]), "or modules of the model"),
        (command("--limit", "0"), "at least one image is needed, not 0"),
        (command("--batch-size", "0"), "--batch-size must be at least 1, not 0"),
        (command("--random-orders", "0"), "at least one random order is needed, not 0"),
        (command("--fill", "gold"), "argument --fill: invalid choice: 'gold'"),
        (command(out="photos"), "photos holds other files and no results"),
        (command(out="net.py"), "net.py"),
        (["bench", "magic"], "argument EXPERIMENT: invalid choice: 'magic'"),
        (["bench"], "the following arguments are required: EXPERIMENT"),
    ],
)
def test_mistakes(
    here: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    Path("empty").mkdir()
    before = sorted(here.rglob("*"))
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert message in said
    assert "Traceback" not in said
    after = [p for p in sorted(here.rglob("*")) if p not in before and "__pycache__" not in str(p)]
    assert [
        p for p in after if p.name in ("results.csv", "record.json") or p.suffix == ".stage"
    ] == []


def test_a_folder_of_another_run_is_refused(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command()) == 0
    whole = Path("out/results.csv").read_bytes()
    assert main(command("--seed", "3")) == 2
    assert (
        "holds the results of another run (seed: 0 there, 3 asked for)" in capsys.readouterr().err
    )
    Image.new("RGB", (20, 20), "red").save("photos/0.png")
    assert main(command()) == 2
    assert "content: " in capsys.readouterr().err
    assert Path("out/results.csv").read_bytes() == whole


def test_a_method_that_does_not_apply_is_refused_first(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("net.py").write_text(SOURCE.replace("nn.ReLU()", "nn.GELU()"))
    assert main(command(chosen=["sobel", "guided_backprop"])) == 2
    assert "guided_backprop" in capsys.readouterr().err
    assert not Path("out").exists()


def test_methods_are_read_and_written_alike() -> None:
    for text in (
        "fullgrad",
        "fullgrad:psi=channel",
        "fullgrad:psi=channel,terms=input+layer4",
        "integrated_gradients:n_steps=20",
        "grad_cam:relu=False",
    ):
        assert MethodChoice.parse(text).label == text
    assert MethodChoice.parse("fullgrad:terms=input+layer4").options == {
        "terms": ("input", "layer4")
    }


def test_sources(here: Path) -> None:
    source = open_source("photos")
    assert [i.name for i in source.items] == [
        "0.png",
        "2.png",
        "4.png",
        "sub/1.png",
        "sub/3.png",
        "sub/5.png",
    ]
    assert [i.name for i in open_source("photos", 3).items] == ["0.png", "4.png", "sub/3.png"]
    assert open_source("photos").content == source.content
    for text, message in (
        ("a,b\n1,2\n", "has no column 'file'"),
        ("file\n", "names no images"),
        (
            "file,class_index\nphotos/0.png,x\n",
            "line 2 of list.csv: class_index 'x' is not a number",
        ),
        ("file\nnone.png\n", "none of the 1 images of list.csv can be read"),
    ):
        Path("list.csv").write_text(text)
        with pytest.raises(ImageError, match=message):
            open_source("list.csv")
    for spec, message in (
        ("torchvision:Nothing:x", "NAME one of torchvision.datasets' classes"),
        ("torchvision:CIFAR10", "give torchvision:NAME:ROOT"),
        ("torchvision:CIFAR10:none", "cannot be read from none: .* Download it first"),
        ("torchvision:CIFAR10:none:val", "the split is 'test' or 'train', not 'val'"),
    ):
        with pytest.raises(ImageError, match=message):
            open_source(spec)


def test_a_store_that_cannot_be_written(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(Path("out"))
    store.prepare()

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(StoreError, match="cannot write to out: No space left on device"):
        store.put("d", Content({}))
    assert [p.name for p in Path("out").rglob("*") if p.is_file()] == ["store.json"]


def test_quantus_draws_the_same_curve(here: Path) -> None:
    quantus = pytest.importorskip("quantus")
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 64, 3)
    )
    x = torch.rand(3, 1, 8, 8)
    maps = methods.attribute("fullgrad", net, x)
    target = net(x).argmax(1)
    step = 8
    metric = quantus.PixelFlipping(
        features_in_step=step,
        perturb_baseline=0.0,
        abs=False,
        normalise=False,
        return_auc_per_sample=False,
        disable_warnings=True,
        display_progressbar=False,
    )
    theirs = metric(
        model=net.eval(),
        x_batch=x.numpy(),
        y_batch=target.numpy(),
        a_batch=maps.numpy(),
        softmax=False,
        channel_first=True,
        device="cpu",
    )
    fractions = [n / 64 for n in range(step, 65, step)]
    ours = changes(net, x, maps, fractions, order="most", fill=0.0)
    np.testing.assert_allclose(
        np.array(theirs)[:, -len(fractions) :], ours.after.numpy(), rtol=1e-4, atol=1e-5
    )
