"""torchvision's data sets as images of an experiment, read by torchvision's own classes."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import torchvision
from PIL import Image

from fullgrad.errors import ImageError
from fullgrad.evaluation.datasets import open_dataset
from fullgrad.evaluation.sources import open_source

RNG = np.random.default_rng(0)
TRAIN, TEST = (
    RNG.integers(0, 256, (20, 28, 28), np.uint8),
    RNG.integers(0, 256, (10, 28, 28), np.uint8),
)
TRAIN_LABELS, TEST_LABELS = [*range(10)] * 2, [1, 0, 3, 2, 5, 4, 7, 6, 9, 8]


@pytest.fixture
def mnist(tmp_path: Path) -> str:
    """MNIST's files as they lie on the disk of somebody who downloaded it."""
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for split, pixels, labels in (("train", TRAIN, TRAIN_LABELS), ("t10k", TEST, TEST_LABELS)):
        header = struct.pack(">IIII", 0x803, *pixels.shape)
        (raw / f"{split}-images-idx3-ubyte").write_bytes(header + pixels.tobytes())
        header = struct.pack(">II", 0x801, len(labels))
        (raw / f"{split}-labels-idx1-ubyte").write_bytes(header + bytes(labels))
    return str(tmp_path)


def test_a_data_set_with_train_and_test(mnist: str) -> None:
    for split, pixels, labels in (
        ("", TEST, TEST_LABELS),
        (":test", TEST, TEST_LABELS),
        (":train", TRAIN, TRAIN_LABELS),
    ):
        source = open_source(f"torchvision:MNIST:{mnist}{split}")
        assert [i.label for i in source.items] == labels
        for item, expected in zip(source.items, pixels, strict=True):
            image, _ = item.read()
            assert np.array_equal(np.asarray(image), np.repeat(expected[..., None], 3, 2))
    fewer = open_source(f"torchvision:MNIST:{mnist}", 3)
    assert [i.name for i in fewer.items] == ["MNIST/0", "MNIST/3", "MNIST/6"]
    assert [i.label for i in fewer.items] == [1, 2, 7]
    with pytest.raises(ImageError, match="the split is 'test' or 'train', not 'val'"):
        open_source(f"torchvision:MNIST:{mnist}:val")


def test_remove_and_retrain_reads_it_too(mnist: str) -> None:
    data = open_dataset(f"torchvision:MNIST:{mnist}")
    assert np.array_equal(data.train[:, 0], TRAIN)
    assert np.array_equal(data.test[:, 0], TEST)
    assert data.train_labels.tolist() == TRAIN_LABELS
    assert data.test_labels.tolist() == TEST_LABELS


def folder_of(root: Path, *parts: str, count: int = 2) -> None:
    folder = root.joinpath(*parts)
    folder.mkdir(parents=True)
    for i in range(count):
        Image.fromarray(RNG.integers(0, 256, (9, 8, 3), np.uint8)).save(folder / f"{i}.JPEG")


def test_a_data_set_with_named_splits(tmp_path: Path) -> None:
    for split, count in (("train", 2), ("val", 1)):
        for name in torchvision.datasets.Imagenette._WNID_TO_CLASS:
            folder_of(tmp_path, "imagenette2", split, name, count=count)
    root = f"torchvision:Imagenette:{tmp_path}"
    validation = open_source(root)  # it has no split named test
    assert [i.label for i in validation.items] == list(range(10))
    assert open_source(f"{root}:val").content == validation.content
    assert len(open_source(f"{root}:train").items) == 20
    with pytest.raises(ImageError, match="Unknown value 'other' for argument split"):
        open_source(f"{root}:other")


def test_a_data_set_without_splits(tmp_path: Path) -> None:
    for name in ("ant", "bee"):
        folder_of(tmp_path, name)
    source = open_source(f"torchvision:ImageFolder:{tmp_path}")
    assert [i.label for i in source.items] == [0, 0, 1, 1]
    with pytest.raises(ImageError, match="torchvision's ImageFolder has no splits"):
        open_source(f"torchvision:ImageFolder:{tmp_path}:test")


def test_data_sets_that_cannot_be_read(tmp_path: Path) -> None:
    for spec, message in (
        ("FakeData", "torchvision's FakeData does not lie in a folder"),
        ("CocoCaptions", "torchvision's CocoCaptions cannot be read here: .*annFile"),
        ("Omniglot", "torchvision's Omniglot cannot be read from .* Download it first"),
    ):
        with pytest.raises(ImageError, match=message):
            open_source(f"torchvision:{spec}:{tmp_path}")


def test_images_without_a_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Pairs(torchvision.datasets.VisionDataset):
        def __init__(self, root: str) -> None:
            super().__init__(root)

        def __len__(self) -> int:
            return 1

        def __getitem__(self, index: int) -> tuple[Image.Image, str]:
            return Image.new("RGB", (4, 4)), "no class"

    monkeypatch.setattr(torchvision.datasets, "Pairs", Pairs, raising=False)
    with pytest.raises(ImageError, match="Pairs gives no class for an image but str"):
        open_source(f"torchvision:Pairs:{tmp_path}")
