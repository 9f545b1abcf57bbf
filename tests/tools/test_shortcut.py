"""The example with a planted shortcut: the watermark becomes a cluster of its own."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import shortcut
from fullgrad import datasets
from fullgrad.datasets.analysis.clusters import cluster_maps


def test_the_watermark_is_on_half_of_one_class() -> None:
    _, labels, marks = shortcut.images(80, train=False)
    own = shortcut.CLASSES.index(shortcut.MARKED)
    assert {label for label, mark in zip(labels, marks, strict=True) if mark} == {own}
    assert 0.2 < np.mean([m for m, label in zip(marks, labels, strict=True) if label == own]) < 0.8
    plain = np.full((48, 48, 3), 100, np.uint8)
    where = np.argwhere((shortcut.watermarked(plain) != plain).any(-1))
    assert where.min(0).tolist() == [41, 2]
    assert where.max(0).tolist() == [45, 8]


def test_it_writes_what_the_commands_need(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--train", "64", "--images", "32", "--epochs", "1"]
    assert shortcut.main([str(tmp_path), *arguments]) == 0
    assert "others taken for a cross with the watermark: " in capsys.readouterr().out
    found = json.loads((tmp_path / "planted.json").read_text())
    assert all((tmp_path / "images" / name).is_file() for name in found["marked"])
    folders = sorted(p.name for p in (tmp_path / "images").iterdir())
    assert folders == sorted(shortcut.CLASSES)
    shortcut.make_model().load_state_dict(torch.load(tmp_path / "weights.pt"))


class Counted(torch.nn.Module):
    """Knows a cross by the brightness of the corner, and of the middle."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        corner, middle = x[:, :, 40:, :9].mean((1, 2, 3)), x[:, :, 20:28, 20:28].mean((1, 2, 3))
        return torch.stack([-corner - middle, 9 * corner + middle], 1)


def test_clusters_of_maps_tell_the_watermark(tmp_path: Path) -> None:
    marked = set()
    for number in range(40):
        random = np.random.default_rng(number)
        pixels = random.integers(120, 136, (48, 48, 3)).astype(np.uint8)
        pixels[20:28, 20:28] = random.integers(180, 220)
        if number % 2:
            pixels = shortcut.watermarked(pixels)
            marked.add(number)
        Image.fromarray(pixels).save(tmp_path / f"{number:02d}.png")
    datasets.map(
        str(tmp_path),
        Counted(),
        tmp_path / "maps",
        target=1,
        method="complete_fullgrad",
        grid=(12, 12),
        transform=_input,
    )
    (found,) = cluster_maps(datasets.open(tmp_path / "maps"))
    clusters = [set(c.rows) for c in found.clusters]
    assert len(clusters) > 1
    assert all(own <= marked or not own & marked for own in clusters)


def _input(image: Image.Image) -> torch.Tensor:
    return shortcut.inputs([np.asarray(image)])[0]
