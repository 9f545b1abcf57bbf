"""Models of one's own: what is stated counts, what is not is said, and channels are any number."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fullgrad.errors import ImageError, ModelLoadError
from fullgrad.vision.images import (
    Preprocessing,
    class_folders,
    find_images,
    input_of,
    preprocess,
    read_photograph,
)
from fullgrad.vision.models import ModelSettings, load_model

torchvision = pytest.importorskip("torchvision")
SOURCE = """
from torch import nn

def make_model(num_classes=3, channels=3):
    return nn.Sequential(nn.Conv2d(channels, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                         nn.Linear(2, num_classes))

def gray():
    return make_model(channels=1)
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("own.py").write_text(SOURCE)
    return tmp_path


def test_nothing_is_assumed_of_a_model_in_silence(here: Path) -> None:
    (said,) = load_model("own.py:make_model").assumed
    assert said == (
        "assumed for own.py ImageNet's preprocessing, as far as it states no other: resize 256; "
        "crop 224 224; interpolation bilinear; mean 0.485 0.456 0.406; std 0.229 0.224 0.225. "
        "State them with --resize, --crop, --interpolation, --mean, --std, or in PREPROCESSING in "
        "own.py"
    )
    Path("own.py").write_text(SOURCE + "PREPROCESSING = {'mean': [0.5], 'std': [0.25]}\n")
    model = load_model("own.py:gray")
    (said,) = model.assumed
    assert "states no other: resize 256; crop 224 224; interpolation bilinear. State" in said
    assert model.preprocessing.channels == 1


def test_what_the_message_names_silences_it(here: Path) -> None:
    settings = ModelSettings(
        mean=(0.5,) * 3, std=(0.2,) * 3, resize=40, crop=(32, 30), interpolation="bicubic"
    )
    model = load_model("own.py:make_model", settings=settings)
    assert model.assumed == ()
    assert model.preprocessing == Preprocessing(
        40, (32, 30), "bicubic", (0.5, 0.5, 0.5), (0.2, 0.2, 0.2)
    )
    assert model.settings == settings
    stated = load_model("own.py:make_model", settings=ModelSettings(resize=64)).preprocessing
    assert (stated.resize, stated.crop) == (64, (64, 64))  # the input's size, if nothing is cut
    stated = load_model("own.py:make_model", settings=ModelSettings(resize=(20, 30))).preprocessing
    assert (stated.resize, stated.crop) == ((20, 30), (20, 30))
    stated = load_model("own.py:make_model", settings=ModelSettings(crop=(300, 280))).preprocessing
    assert (stated.resize, stated.crop) == (300, (300, 280))


def test_a_last_layer_of_ones_own_needs_no_python_file(here: Path) -> None:
    own = torchvision.models.resnet18(num_classes=3)
    torch.save({"state_dict": {f"model.{k}": v for k, v in own.state_dict().items()}}, "mine.ckpt")
    model = load_model("torchvision:resnet18", "mine.ckpt", settings=ModelSettings(num_classes=3))
    assert torch.equal(model.module.fc.weight, own.fc.weight)
    assert model.class_names is None
    (said,) = model.assumed
    assert said.startswith(
        "assumed the preprocessing of the checkpoint mine.ckpt to be that of torchvision's "
        "ResNet18_Weights.IMAGENET1K_V1: resize 256; crop 224 224;"
    )
    with pytest.raises(
        ModelLoadError, match=r"has 3 classes, the model's 1000: give --num-classes"
    ):
        load_model("torchvision:resnet18", "mine.ckpt")


@pytest.mark.parametrize(
    ("spec", "weights", "settings", "message"),
    [
        ("torchvision:resnet18", None, {"num_classes": 3}, "layer without training means nothing"),
        ("timm:resnet18", None, {"num_classes": 3}, "timm's pre-trained weights, and a last layer"),
        ("efficientnet_lite0", None, {"num_classes": 3}, "than that of the ImageNet weights"),
        ("own.py:gray", None, {"num_classes": 3}, "gray in own.py has no argument num_classes"),
        ("own.py:gray", None, {"mean": (0.5,)}, "--mean has 1 number, and std 3: give --std as"),
        ("own.py:gray", None, {"std": (0.5,)}, "--std has 1 number, and mean 3: give --mean as"),
        ("own.py:gray", None, {"std": (0.0,) * 3}, "the preprocessing that is asked for: mean and"),
        ("own.py:gray", None, {"resize": 8, "crop": (9, 9)}, "crop .* is larger than the image"),
    ],
)
def test_settings_that_do_not_fit(
    here: Path, spec: str, weights: str | None, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ModelLoadError, match=message):
        load_model(spec, weights, settings=ModelSettings(**settings))


def test_the_number_of_classes_is_passed_on(here: Path) -> None:
    model = load_model("own.py:make_model", settings=ModelSettings(num_classes=7))
    assert model.module[-1].out_features == 7


# Channels


def views(channels: int) -> Preprocessing:
    return Preprocessing(12, (10, 8), "bilinear", (0.5,) * channels, (0.25,) * channels)


def test_channels_of_files(here: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (20, 30, 4), dtype=np.uint8)
    Image.fromarray(pixels[..., :3]).save("rgb.png")
    Image.fromarray(pixels).save("rgba.png")
    Image.fromarray(pixels[..., 0]).save("gray.png")
    np.save("five.npy", pixels.transpose(2, 0, 1)[[0, 1, 2, 3, 0]])
    np.save("one.npy", pixels[..., 0].astype(np.float32) / 255)
    np.save("deep.npy", (pixels[..., :2].transpose(2, 0, 1).astype(np.uint16) * 257))
    read = {name: read_photograph(name) for name in ("rgb.png", "rgba.png", "gray.png")}
    read |= {name: read_photograph(name) for name in ("five.npy", "one.npy", "deep.npy")}
    gray = input_of(read["gray.png"], views(1))
    assert gray.shape == (1, 10, 8)
    torch.testing.assert_close(gray, input_of(read["one.npy"], views(1)), atol=0.02, rtol=0)
    four, five = input_of(read["rgba.png"], views(4)), input_of(read["five.npy"], views(5))
    torch.testing.assert_close(four, five[:4])
    torch.testing.assert_close(five[4], five[0])
    torch.testing.assert_close(input_of(read["deep.npy"], views(2)), five[:2])
    color = input_of(read["rgb.png"], views(3))
    torch.testing.assert_close(color, preprocess(read["rgb.png"].image, views(3)))
    torch.testing.assert_close(color, four[:3], atol=0.02, rtol=0)  # whole numbers in between
    assert read["five.npy"].mode == "5 channels of uint8"
    for name, channels in (("rgb.png", 4), ("gray.png", 5), ("five.npy", 3), ("rgba.png", 2)):
        message = rf"{name} has \d channels .*, and the model takes {channels}: give a file that"
        with pytest.raises(ImageError, match=message):
            input_of(read[name], views(channels))
    with pytest.raises(
        ImageError, match="the model takes 4 channels, and a photograph has 3 of col"
    ):
        preprocess(read["rgb.png"].image, views(4))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            np.zeros((3, 4, 5), np.uint32),
            r"uint32 of .*: give float or unsigned numbers of 8 or 16",
        ),
        (np.zeros((2, 3, 4, 5)), r"holds float64 of shape \(2, 3, 4, 5\): give float or unsigned"),
        (np.zeros((3, 4), dtype=np.int64), "holds int64"),
        (np.array([[np.nan]]), "holds NaN or infinite values"),
        (np.array([object()]), "is not an array that can be read"),
    ],
)
def test_arrays_that_are_no_images(here: Path, values: Any, message: str) -> None:
    np.save("x.npy", values, allow_pickle=True)
    with pytest.raises(ImageError, match=message):
        read_photograph("x.npy")


# Class folders


def test_a_tree_of_class_folders_is_read(here: Path) -> None:
    for name in ("data/dog/b.png", "data/cat/a.png", "data/cat/c.png", "data/.hidden/x.png"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(name)
    Path("data/notes").mkdir()
    found = [p.as_posix() for p in find_images(["data"])]
    assert found == ["data/cat/a.png", "data/cat/c.png", "data/dog/b.png"]
    assert class_folders(["data"]) == ("cat", "dog")
    assert class_folders(["data/cat"]) is None
    assert class_folders(["data", "data/cat"]) is None
    with pytest.raises(ImageError, match=r"holds no image files"):
        find_images(["data/notes"])
