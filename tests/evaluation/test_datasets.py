"""Data sets in memory, networks, and settings of their training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from fullgrad.errors import ModelLoadError
from fullgrad.evaluation.datasets import Colors, DataError, open_dataset
from fullgrad.evaluation.removal import as_images, fill_color, ranks_of, removed, without
from fullgrad.evaluation.training.loop import Settings
from fullgrad.evaluation.training.networks import NetworkChoice, check


def test_removal() -> None:
    ranks = ranks_of(torch.tensor([[[[3.0, 1.0], [2.0, 0.0]]]]), 0)
    assert removed(ranks, 0.5, "most").tolist() == [[True, False, True, False]]
    assert removed(ranks, 0.5, "least").tolist() == [[False, True, False, True]]
    assert removed(ranks, 0.01, "most").sum() == 1  # at least one
    assert not removed(ranks, 0.0, "most").any()
    assert not removed(ranks, 0.0, "least").any()
    assert removed(ranks, 1.0, "least").all()
    images = torch.arange(12, dtype=torch.uint8).view(1, 3, 2, 2)
    out = without(images, removed(ranks, 0.5, "most"), (90, 91, 92))
    assert out.tolist() == [[[[90, 1], [90, 3]], [[91, 5], [91, 7]], [[92, 9], [92, 11]]]]
    mask = as_images(removed(ranks, 0.5, "most"), images)
    assert mask[0, 2].tolist() == [[255, 0], [255, 0]]
    x = torch.randint(0, 256, (40, 3, 5, 5), generator=torch.Generator().manual_seed(1)).byte()
    colors = Colors.of(x)
    naive = x.double().transpose(0, 1).flatten(1)
    torch.testing.assert_close(torch.tensor(colors.mean).double(), naive.mean(1))
    torch.testing.assert_close(torch.tensor(colors.std).double(), naive.std(1, correction=0))
    assert fill_color("mean", colors) == tuple(round(float(m)) for m in naive.mean(1))
    assert fill_color("black", colors) == (0, 0, 0)
    filled = colors.standardized(without(x, torch.ones(40, 25).bool(), fill_color("mean", colors)))
    assert float(filled.abs().max()) < 0.5 / min(colors.std) + 1e-6


def test_networks(tmp_path: Path) -> None:
    vgg = NetworkChoice.for_images("auto", None, torch.zeros(1, 3, 32, 32), 100)
    assert (vgg.spec, vgg.width) == ("vgg9", 64)
    module = NetworkChoice("vgg9", 8, 100, 3).build(0)
    weighted = [m for m in module.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    assert len(weighted) == 9
    assert [m.weight.shape[0] for m in weighted] == [8, 8, 16, 16, 32, 32, 64, 64, 100]
    assert module(torch.zeros(2, 3, 32, 32)).shape == (2, 100)
    small = NetworkChoice.for_images("auto", None, torch.zeros(1, 1, 8, 8), 10)
    assert (small.spec, small.width) == ("small", 24)
    file = tmp_path / "own.py"
    file.write_text(
        "from torch import nn\n"
        "def net():\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\n"
        "class Odd(nn.Module):\n"
        "    def __init__(self):\n        super().__init__()\n        self.w = nn.Parameter(nn.Linear(2, 2).weight.detach())\n"
        "def odd():\n    return Odd()\n"
    )
    own = NetworkChoice(f"{file}:net", None, 10, 1)
    first, same, other = (own.build(s).state_dict()["1.weight"] for s in (1, 1, 2))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)
    check(own, torch.zeros(2, 1, 8, 8))
    with pytest.raises(ModelLoadError, match="has weights and no reset_parameters"):
        NetworkChoice(f"{file}:odd", None, 10, 1).build(0)
    with pytest.raises(ModelLoadError, match=r"does not take images of \(1, 9, 9\)"):
        check(own, torch.zeros(2, 1, 9, 9))
    with pytest.raises(
        ModelLoadError,
        match=r"must return \(B, at least 12\) numbers, in training too, not \(2, 10\)",
    ):
        check(replace(own, classes=12), torch.zeros(2, 1, 8, 8))
    resnet = NetworkChoice("torchvision:resnet18", None, 7, 3).build(0)
    assert resnet.fc.out_features == 7
    with pytest.raises(ModelLoadError, match="torchvision:resnet9999 cannot be made"):
        NetworkChoice("torchvision:resnet9999", None, 7, 3).build(0)
    with pytest.raises(ValueError, match="timm:x has no width to choose; vgg9 and small have"):
        NetworkChoice("timm:x", 3, 7, 3)
    with pytest.raises(ValueError, match="the width must be at least 1, not 0"):
        NetworkChoice("small", 0, 7, 3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 0}, "epochs must be at least 1, not 0"),
        ({"batch": 0}, "batch must be at least 1, not 0"),
        ({"rate": 0.0}, "the learning rate must be positive, not 0.0"),
        ({"shift": -1}, "the shift must not be negative, not -1"),
        ({"precision": "float8"}, "the precision is float32 or bfloat16, not 'float8'"),
    ],
)
def test_settings_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Settings(**changes)


def test_datasets(tmp_path: Path) -> None:
    data = open_dataset("sklearn:digits")
    assert data.train.shape[1:] == (1, 8, 8)
    assert len(data.train) + len(data.test) == 1797
    assert int(data.train.max()) == 255
    small = data.limited(25, 14)
    assert torch.bincount(small.train_labels).tolist() == [2] * 10
    assert torch.bincount(small.test_labels).tolist() == [1] * 10
    assert small.digest() != data.digest() == open_dataset("sklearn:digits").digest()
    for bad in (9, 0, -5):
        with pytest.raises(
            DataError, match="the data set is too small: class 0 of sklearn:digits has 0 training"
        ):
            data.limited(bad, None)
    rng = np.random.default_rng(0)
    expected = {}
    for split, count in (("train", 2), ("test", 1)):
        for name in ("cat", "ant"):
            folder = tmp_path / "images" / split / name
            folder.mkdir(parents=True)
            for k in range(count):
                pixels = rng.integers(0, 256, (5, 6, 3), np.uint8)
                Image.fromarray(pixels).save(folder / f"{k}.png")
                expected[split, name, k] = pixels
    found = open_dataset(str(tmp_path / "images"))
    assert found.classes == ("ant", "cat")
    assert found.train_labels.tolist() == [0, 0, 1, 1]
    assert np.array_equal(found.train[3].permute(1, 2, 0), expected["train", "cat", 1])
    fewer = open_dataset(str(tmp_path / "images"), 2 * 2, 2)
    assert fewer.digest() == found.limited(4, 2).digest() == found.digest()
    assert np.array_equal(found.test[0].permute(1, 2, 0), expected["test", "ant", 0])
    (tmp_path / "images" / "test" / "dog").mkdir()
    with pytest.raises(DataError, match="class dog has test images only"):
        open_dataset(str(tmp_path / "images"))
    (tmp_path / "images" / "test" / "dog").rmdir()
    (tmp_path / "images" / "train" / "cat" / "0.png").unlink()
    with pytest.raises(
        DataError, match=r"class cat of .* has 1 training images, at least 2 are needed"
    ):
        open_dataset(str(tmp_path / "images"))
    Image.fromarray(rng.integers(0, 256, (4, 4, 3), np.uint8)).save(
        tmp_path / "images/train/cat/0.png"
    )
    with pytest.raises(DataError, match="differ in size"):
        open_dataset(str(tmp_path / "images"))
    with pytest.raises(DataError, match="has no folder 'train'"):
        open_dataset(str(tmp_path))
    with pytest.raises(DataError, match="is not a data set: give sklearn:digits"):
        open_dataset("nowhere")
    with pytest.raises(DataError, match="give torchvision:NAME:ROOT"):
        open_dataset("torchvision:CIFAR100")
    with pytest.raises(DataError, match="torchvision's CIFAR100 cannot be read from"):
        open_dataset(f"torchvision:CIFAR100:{tmp_path}")
    idx = tmp_path / "idx"
    idx.mkdir()
    labels = np.repeat(np.arange(10, dtype=np.uint8), 8)
    images = rng.integers(0, 256, (80, 28, 28), np.uint8)
    head = np.array([2051, 80, 28, 28], ">i4").tobytes()
    (idx / "train-images-idx3-ubyte").write_bytes(head + images.tobytes())
    (idx / "train-labels-idx1-ubyte").write_bytes(
        np.array([2049, 80], ">i4").tobytes() + labels.tobytes()
    )
    raw = tmp_path / "torchvision" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for file in idx.iterdir():
        (raw / file.name).write_bytes(file.read_bytes())
        (raw / file.name.replace("train", "t10k")).write_bytes(file.read_bytes())
    mnist = open_dataset(f"torchvision:MNIST:{tmp_path / 'torchvision'}", 20, 10)
    assert (len(mnist.train), len(mnist.test)) == (20, 10)
    assert mnist.classes[3] == "3 - three"
    assert torch.equal(mnist.train[0, 0], torch.from_numpy(images[0]))
    digits = open_dataset(str(idx))
    assert (len(digits.train), len(digits.test)) == (60, 20)
    assert torch.equal(digits.test[0, 0], torch.from_numpy(images[0]))
    (idx / "train-labels-idx1-ubyte").write_bytes(b"")
    with pytest.raises(DataError, match="is not an idx file"):
        open_dataset(str(idx))
