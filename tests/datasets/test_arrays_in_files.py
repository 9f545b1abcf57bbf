"""Files of arrays and of four channels are mapped as ``fullgrad explain`` explains them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from fullgrad import datasets
from fullgrad.evaluation.sources import DataError
from fullgrad.vision.images import Preprocessing, input_of, read_photograph
from fullgrad.vision.models import LoadedModel


def loaded(channels: int) -> LoadedModel:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(channels, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 3))
    values = (0.5,) * channels
    own = Preprocessing(8, (8, 8), "bilinear", values, values)
    device = torch.device("cpu")
    return LoadedModel(module.eval(), "net", "none", own, None, None, None, True, device)


@pytest.mark.parametrize(("kind", "channels"), [("npy", 3), ("npy", 5), ("png", 4)])
def test_the_model_sees_all_channels_as_they_are(tmp_path: Path, kind: str, channels: int) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    random = np.random.default_rng(0)
    for name in ("a", "b"):
        if kind == "npy":
            values = random.normal(2, 3, (channels, 8, 8)).astype(np.float32)
            np.save(folder / f"{name}.npy", values)
        else:
            pixels = random.integers(0, 256, (8, 8, channels), "uint8")
            Image.fromarray(pixels).save(folder / f"{name}.png")
    (folder / "list.csv").write_text(f"file\na.{kind}\nb.{kind}\n")
    model = loaded(channels)
    datasets.map(folder / "list.csv", model, tmp_path / "out", method="complete_fullgrad")
    files = [read_photograph(folder / f"{n}.{kind}") for n in ("a", "b")]
    x = torch.stack([input_of(f, model.preprocessing) for f in files])
    own = model.module(x).max(1).values.tolist()
    index = datasets.open(tmp_path / "out").index
    assert index["logit"].tolist() == pytest.approx(own, abs=1e-5)


def test_a_transform_of_pictures_takes_no_arrays(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.ones((3, 8, 8), np.float32))
    (tmp_path / "list.csv").write_text("file\na.npy\n")
    with pytest.raises(DataError, match=r"a.npy holds an array, and transform= takes pictures: "):
        datasets.map(
            tmp_path / "list.csv", loaded(3).module, tmp_path / "out", transform=np.asarray
        )
