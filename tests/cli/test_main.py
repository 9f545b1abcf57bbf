"""The command line does all or says in one line what it did not do."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import fullgrad
from fullgrad import methods
from fullgrad._files import sha256_of, unique_names
from fullgrad.cli.main import main
from fullgrad.vision.images import preprocess, read_image
from fullgrad.vision.layers import unpacked
from fullgrad.vision.models import load_model

data = pytest.importorskip("skimage.data")

SOURCE = """
import torch
from torch import nn

PREPROCESSING = {"resize": 24, "crop": [20, 20], "interpolation": "bilinear",
    "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
CLASSES = ["black cat", "dog", "bird"]

def make_model():
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.GELU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(4, 3))

class Loud(nn.Module):
    def forward(self, x):
        return torch.stack([x.mean((1, 2, 3)), x.std((1, 2, 3)) * float("nan")], 1)

class Detached(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = make_model()
    def forward(self, x):
        return self.net(x.detach())

class PickyAboutBrightness(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = make_model()
    def forward(self, x):
        bright = torch.where(x.amax((1, 2, 3)) > 2, float("inf"), 0.0)
        return self.net(x) + bright[:, None]

def make_dense():
    return nn.Conv2d(3, 4, 3)

class Scrambled(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Linear(75, 4), nn.Linear(4, 3)
    def forward(self, x):
        return self.head(self.embed(x.transpose(1, 3).reshape(-1, 16, 75)).mean(1))

def make_broken():
    return nn.Linear(7, 3)
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with a small model and a few photographs."""
    monkeypatch.chdir(tmp_path)
    Path("own.py").write_text(SOURCE)
    for name, seed in (("a.png", 0), ("b.png", 1)):
        pixels = np.random.default_rng(seed).integers(0, 128, (30, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(name)
    return tmp_path


PAPER = ("--method", "fullgrad")


def own(*arguments: str, make: str = "make_model") -> list[str]:
    return ["explain", *arguments, "--model", f"own.py:{make}", "--out", "out", "--replace"]


def refused(capsys: pytest.CaptureFixture[str], code: int = 2) -> str:
    """The error message, after looking at its form."""
    out, err = capsys.readouterr()
    lines = [line for line in err.splitlines() if "note:" not in line]
    assert len(lines) == 1, err
    assert lines[0].startswith("fullgrad: error: ")
    assert "Traceback" not in out + err
    return lines[0].removeprefix("fullgrad: error: ")


# What it does


def test_explain_with_the_default_model(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.fromarray(data.chelsea()).save("cat.png")
    assert main(["explain", "cat.png", "--out", "out"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "1. tiger cat       39." in out
    assert "-> out/cat.overlay.png" in out
    assert sorted(p.name for p in Path("out").iterdir()) == [
        "cat.json",
        "cat.overlay.png",
        "cat.saliency.npy",
    ]
    record = json.loads(Path("out/cat.json").read_text())
    model = load_model()
    x = preprocess(read_image("cat.png"), model.preprocessing)[None]
    saved = np.load("out/cat.saliency.npy")
    assert saved.shape == (224, 224)
    assert saved.dtype == np.float32
    expected = methods.attribute(methods.RECOMMENDED, model.module, x, 282)[0, 0]
    torch.testing.assert_close(torch.from_numpy(saved), expected, rtol=1e-3, atol=1e-4)
    assert record["saliency"]["method"] == methods.RECOMMENDED
    assert record["saliency"]["chosen"] == "default"
    assert record["saliency"]["reason"] == methods.REASON
    with Image.open("out/cat.overlay.png") as picture:
        assert picture.size[0] > 800
    with torch.no_grad():
        logits = model.module(x)[0]
    assert record["target"] == {
        "index": 282,
        "name": "tiger cat",
        "chosen": "predicted",
        "logit": pytest.approx(float(logits[282]), rel=1e-4),
        "probability": pytest.approx(float(logits.softmax(0)[282]), rel=1e-4),
    }
    assert [t["index"] for t in record["top"]] == logits.topk(5).indices.tolist()
    assert record["image"]["sha256"] == sha256_of("cat.png")
    assert (record["image"]["width"], record["image"]["height"]) == (451, 300)
    assert record["model"]["sha256"] == model.sha256
    assert record["model"]["preprocessing"]["interpolation"] == "bicubic"
    assert record["versions"]["torch"] == torch.__version__
    assert record["versions"]["timm"] is not None
    assert record["command"] == "fullgrad explain cat.png --out out"
    assert record["options"]["images"] == ["cat.png"]
    assert record["options"]["device"] == "cpu"


def test_shares_add_up_to_the_logit(here: Path) -> None:
    assert main(own("a.png", "--target", "1")) == 0
    record = json.loads(Path("out/a.json").read_text())
    decomposition = record["decomposition"]
    assert [s["of"] for s in decomposition["shares"]] == ["input", "0", "1", "2", "5"]
    total = sum(s["sum"] for s in decomposition["shares"]) + decomposition["residual"]
    assert total == pytest.approx(record["target"]["logit"], rel=1e-12)
    assert sum(s["share"] for s in decomposition["shares"]) == pytest.approx(1, abs=1e-4)
    assert abs(decomposition["relative_residual"]) < decomposition["tolerance"]


def test_folder_in_batches_equals_one_by_one(here: Path) -> None:
    assert main(own(".", "--batch-size", "2")) == 0
    together = {p.name: np.load(p) for p in Path("out").glob("*.npy")}
    assert sorted(together) == ["a.saliency.npy", "b.saliency.npy"]
    assert main(own("b.png", "a.png")) == 0
    for name, saliency in together.items():
        np.testing.assert_allclose(np.load(Path("out", name)), saliency, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("target", ["1", "dog", "DOG"])
def test_target(here: Path, target: str) -> None:
    assert main(own("a.png", "--target", target)) == 0
    record = json.loads(Path("out/a.json").read_text())["target"]
    assert (record["index"], record["name"], record["chosen"]) == (1, "dog", "given")


def test_labels_file(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("names.txt").write_text("uno\ndos\ntres\n")
    assert main(own("a.png", "--labels", "names.txt", "--target", "dos")) == 0
    assert "explained: dos [1]" in capsys.readouterr().out


def test_images_of_one_name_do_not_overwrite_each_other(here: Path) -> None:
    Path("more").mkdir()
    Image.new("RGB", (9, 9)).save("more/a.png")
    Image.new("RGB", (9, 9)).save("a.jpg")
    assert main(own("a.png", "more", "a.jpg", "a.png")) == 0
    images = {
        p.stem: json.loads(p.read_text())["image"]["path"] for p in Path("out").glob("*.json")
    }
    assert images == {"a": "a.png", "a-2": "more/a.png", "a-3": "a.jpg"}


def test_names_are_unique_in_any_case() -> None:
    names = ["a", "A", "a-2", "a", "x/a", "x" * 300, "x/" + "y" * 300]
    unique = ["a", "A-3", "a-2", "a-4", "x/a", "x" * 150, "x/" + "y" * 150]
    assert unique_names(names) == unique


def test_of_a_folder_fullgrads_own_pictures_are_left_out(here: Path) -> None:
    arguments = ["explain", ".", "--model", "own.py:make_model", "--out", "."]
    assert main(arguments) == 0
    assert main(arguments) == 0
    assert len(list(Path().glob("*.json"))) == 2


def test_psi_and_terms(here: Path) -> None:
    maps = []
    for options in ((), ("--psi", "channel"), ("--terms", "input"), ("--terms", "bias")):
        assert main(own("a.png", *PAPER, *options)) == 0
        maps.append(np.load("out/a.saliency.npy"))
    assert not np.allclose(maps[0], maps[1])
    np.testing.assert_allclose(maps[0], maps[2] + maps[3], rtol=1e-4)


def test_any_method_by_name(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    maps = {}
    for method, *options in (
        ("fullgrad",),
        ("simple_fullgrad", "--psi", "channel"),
        ("smooth_fullgrad", "--option", "samples=2", "--option", "scale=0"),
        ("sobel",),
        ("random", "--option", "seed=3"),
    ):
        assert main(own("a.png", "--method", method, *options)) == 0
        maps[method] = np.load("out/a.saliency.npy")
        saliency = json.loads(Path("out/a.json").read_text())["saliency"]
        assert saliency["method"] == method
    assert saliency["options"] == {"seed": 3}
    np.testing.assert_allclose(maps["smooth_fullgrad"], maps["fullgrad"], rtol=1e-4)
    assert not np.allclose(maps["simple_fullgrad"], maps["fullgrad"])
    assert main(own("a.png", "--terms", "input, 0")) == 2
    way_out = "fullgrad takes this: add --method fullgrad"
    assert way_out in refused(capsys)
    assert main(own("a.png", "--psi", "layer")) == 2
    assert way_out in refused(capsys)
    assert main(own("a.png", *PAPER, "--terms", "input, 0")) == 0
    options = json.loads(Path("out/a.json").read_text())["saliency"]["options"]
    assert options == {
        "psi": None,
        "terms": ["input", "0"],
        "activation_layouts": None,
        "linearization": "jacobian",
    }


def test_the_stages_maps_can_be_kept(here: Path) -> None:
    assert main(own("a.png", *PAPER)) == 0
    assert not Path("out/a.layers.npz").exists()
    assert main(own("a.png", *PAPER, "--layers")) == 0
    stages = unpacked(Path("out/a.layers.npz").read_bytes())
    shares = json.loads(Path("out/a.json").read_text())["decomposition"]["shares"]
    assert {s.name: s.sum for s in stages} == {s["of"]: s["sum"] for s in shares[1:]}
    whole, stem = np.load("out/a.saliency.npy"), sum(s.map for s in stages if s.map is not None)
    assert main(own("a.png", *PAPER, "--terms", "input")) == 0
    np.testing.assert_allclose(whole, stem + np.load("out/a.saliency.npy"), rtol=1e-4, atol=1e-5)


def test_methods_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["methods"]) == 0
    text = capsys.readouterr().out
    assert main(["methods", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [m["name"] for m in listed] == list(methods.names())
    for method in listed:
        assert method["name"] in text
        assert method["about"] in text
        assert method["reference"] in text
    assert next(m for m in listed if m["name"] == "random")["options"] == {"seed": 0}


def test_random_weights_are_said_out_loud(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--model", "torchvision:squeezenet1_1", "--weights", "none", "--out", "out"]
    assert main(["explain", "a.png", *arguments]) == 0
    out, err = capsys.readouterr()
    assert err == (
        "fullgrad: note: torchvision:squeezenet1_1 has random weights: its classes and maps mean "
        "nothing\n"
    )
    assert "1. class " in out
    assert json.loads(Path("out/a.json").read_text())["model"]["trained"] is False


def test_demo(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--out", "shown"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert out.splitlines()[-1] == "all together: shown/contact-sheet.png"
    for name, label in (("cat", "tiger cat"), ("coffee", "espresso"), ("motorcycle", "moped")):
        record = json.loads(Path("shown", f"{name}.json").read_text())
        assert record["target"]["name"] == label
    with Image.open("shown/contact-sheet.png") as picture:
        assert min(picture.size) > 500


def test_progress_on_a_terminal(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert main(own("a.png", "b.png")) == 0
    assert "photographs 0/2" in capsys.readouterr().err


def test_names_that_cannot_be_encoded(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("a.png").rename("$猫\n\udcff{.png")
    assert main(own("$猫\n\udcff{.png")) == 0
    assert json.loads(next(Path("out").glob("*.json")).read_text())["image"]["path"][:2] == "$猫"
    assert capsys.readouterr().err == ""


# What it refuses


def test_no_photograph(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain"]) == 2
    assert refused(capsys) == (
        "no photograph given: name image files or folders, as in 'fullgrad explain cat.jpg'"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: COMMAND (see fullgrad --help)"),
        (["nonsense"], "unknown command 'nonsense' (see fullgrad --help)"),
        (["explian", "a.png"], "unknown command 'explian'; did you mean explain? (see"),
        (own("a.png", "--batch-size", "0"), "'0' is not a whole number of at least 1"),
        (own("a.png", "--psi", "other"), "argument --psi: invalid choice: 'other'"),
        (own("a.png", "--nonsense"), "unrecognized arguments: --nonsense (see"),
        (own("a.png", "--metod=x"), "unrecognized arguments: --metod=x; did you mean --method?"),
        (own("a.png", "--target", "3"), "target 3 is out of range: the classes are 0 to 2"),
        (own("a.png", "--target", "-1"), "target -1 is out of range"),
        (own("a.png", "--target", "cat"), "no class is named 'cat'; did you mean 'black cat'?"),
        (own("a.png", "--device", "nonsense"), "the device 'nonsense' cannot be used"),
        (own("a.png", "--weights", "none.pth"), "the checkpoint none.pth does not exist"),
        (own("a.png", "--labels", "none.txt"), "the labels file none.txt cannot be read"),
        (own("a.png", "--labels", "imagenet"), "--labels has 1000 names, but the model has 3 clas"),
        (own("a.png", make="none"), "own.py has no function 'none'"),
        (
            own("a.png", make="make_dense"),
            "is not an image classifier: its output has shape (1, 4,",
        ),
        (own("a.png", make="make_broken"), "fails on an input of shape 1x3x20x20: RuntimeError"),
        (own("a.png", make="Detached"), "leave the autograd graph in the model itself"),
        (own("a.png", *PAPER, make="Scrambled"), "lie in the input"),
        (own("a.png", *PAPER, make="Scrambled"), "On the command line: --terms input"),
        (own("a.png", "--method", "no"), "unknown method 'no'; known: fullgrad, simple_fullgrad"),
        (
            own("a.png", "--method", "sobel", "--psi", "layer"),
            "'sobel' has no option 'psi'; it has",
        ),
        (own("a.png", "--option", "n"), "--option 'n' is not of the form NAME=VALUE"),
        (
            own("a.png", *PAPER, "--terms", "stem"),
            "or modules of the model (with 'input' for the input",
        ),
        (own("a.png", "--method", "guided_backprop", make="make_model"), "guided_backprop"),
        (own("empty"), "the folder empty holds no image files"),
        (["explain", "a.png", "--out", "a.png"], "cannot be made: a.png is not a folder"),
        (["explain", "a.png", "--out", "a.png/b"], "the output folder a.png/b cannot be made"),
        (["explain", "a.png", "--model", "resnet"], "unknown model 'resnet'"),
    ],
)
def test_mistakes(
    here: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    Path("empty").mkdir()
    assert main(arguments) == 2
    assert message in refused(capsys)
    assert list(Path().glob("out/*")) == []


def test_output_folder_that_cannot_be_written(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "touch", full)
    assert main(own("a.png")) == 2
    assert refused(capsys) == "cannot write to the output folder out: No space left on device"


def test_some_images_fail_and_the_others_are_done(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("broken.png").write_bytes(Path("a.png").read_bytes()[:500])
    for size in ("1", "4"):
        options = ("--batch-size", size)
        assert main(own("a.png", "broken.png", "missing.png", "b.png", *options)) == 1
        out, err = capsys.readouterr()
        lines = err.splitlines()
        assert len(lines) == 2
        assert lines[0].startswith("fullgrad: error: broken.png is truncated or damaged")
        assert lines[1] == "fullgrad: error: missing.png does not exist"
        assert out.splitlines()[-1] == "2 of 4 done, 2 failed -> out"
        assert {p.stem for p in Path("out").glob("*.json")} == {"a", "b"}
        Path("out/a.json").unlink()
        Path("out/b.json").unlink()


def test_one_photograph_of_a_batch_cannot_be_explained(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (30, 30), "white").save("white.png")
    options = ("--batch-size", "3")
    assert main(own("a.png", "white.png", "b.png", *options, make="PickyAboutBrightness")) == 1
    message = refused(capsys, 1)
    assert message.startswith("white.png cannot be explained: the model's output holds NaN or inf")
    assert {p.stem for p in Path("out").glob("*.json")} == {"a", "b"}


def test_a_full_disk_leaves_nothing_half_written(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Path.write_bytes

    def full(self: Path, content: bytes) -> int:
        if self.name.startswith(".a.json"):
            write(self, content[:10])
            raise OSError(28, "No space left on device")
        return write(self, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    assert main(own("a.png", "b.png")) == 1
    message = refused(capsys, 1)
    assert message == "the results of a.png cannot be written: No space left on device"
    assert {p.name.split(".")[0] for p in Path("out").iterdir()} == {"b"}


def test_interruption(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: Any, **__: Any) -> Tensor:
        raise KeyboardInterrupt

    monkeypatch.setattr("fullgrad.cli.explain.explain_images", interrupt)
    assert main(own("a.png")) == 130
    assert refused(capsys, 130) == "interrupted"
    assert list(Path("out").iterdir()) == []


def test_unexpected_errors_are_one_line(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> Tensor:
        raise KeyError("what\nis this")

    monkeypatch.setattr("fullgrad.cli.explain.explain_images", fail)
    assert main(own("a.png")) == 2
    assert "unexpected KeyError: " in refused(capsys)
    monkeypatch.setenv("FULLGRAD_TRACEBACK", "1")
    with pytest.raises(KeyError, match="is this"):
        main(own("a.png"))


def test_without_matplotlib(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(own("a.png")) == 2
    assert "pip install 'fullgrad[cli]'" in refused(capsys)


# Help, and the command itself


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert "explain" in text
    assert "demo" in text
    assert main(["explain", "--help"]) == 0
    text = capsys.readouterr().out
    for part in ("--target", "--batch-size", "examples:", "fullgrad explain cat.jpg", "exit code"):
        assert part in text
    assert main(["demo", "--help"]) == 0
    assert {"--out", "hf:FOLDER"} <= {*capsys.readouterr().out.split()}


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"fullgrad {fullgrad.__version__}\n"


def test_as_a_process(here: Path) -> None:
    command = [sys.executable, "-W", "error", "-m", "fullgrad"]
    done = subprocess.run([*command, *own("a.png")], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "-> out/a.overlay.png" in done.stdout


def test_help_loads_no_heavy_package(here: Path) -> None:
    code = (
        "import sys; from fullgrad.cli.main import main; main(['--help']);"
        "print([m for m in ('torchvision', 'timm', 'matplotlib', 'PIL') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
