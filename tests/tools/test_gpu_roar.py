"""The script for the whole run, at its smallest: within time budgets, against a plain loop."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import roar
from fullgrad.evaluation.datasets import Colors, open_dataset
from fullgrad.evaluation.training.loop import Settings
from fullgrad.evaluation.training.networks import NetworkChoice

SMALL = [
    "--data",
    "sklearn:digits",
    "--train-limit",
    "80",
    "--test-limit",
    "40",
    "--width",
    "4",
    "--epochs",
    "1",
    "--batch",
    "20",
    "--methods",
    "input_gradient",
    "random",
    "--fractions",
    "0.5",
    "--runs",
    "2",
    "--device",
    "cpu",
    "--precision",
    "float32",
    "--plain-steps",
    "3",
    "--plain-workers",
    "0",
]


def test_within_time_budgets(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call = [*SMALL, "--out", str(tmp_path)]
    assert roar.main([*call, "--minutes", "1e-9"]) == 1
    assert not (tmp_path / "report.json").exists()
    assert roar.main(call) == 0
    found = json.loads((tmp_path / "report.json").read_text())
    record = json.loads((tmp_path / "roar" / "record.json").read_text())
    assert found["networks"] == 2 + 2 * 2 + 2
    assert found["seconds_a_network"] == pytest.approx(record["seconds"]["networks"] / 8)
    plain = found["plain"]
    assert plain["network"] == pytest.approx(4 * plain["step"] + plain["test"])
    assert found["factor"] == pytest.approx(plain["network"] / found["seconds_a_network"])
    assert found["environment"]["torch"] == torch.__version__
    page = (tmp_path / "report.md").read_text()
    assert "| input_gradient |" in page
    assert f"**{found['factor']:.1f} times as long**" in page
    before = (tmp_path / "plain.json").read_bytes()
    assert found["group_sizes"] == record["group_sizes"]
    assert sum(found["group_sizes"].values()) == 8
    assert f"s a network; trained at once: {roar.sizes_text(found['group_sizes'])}" in page
    capsys.readouterr()
    assert roar.main(call) == 0
    said = capsys.readouterr().out
    assert "finished before" in said
    assert "timing" not in said
    assert (tmp_path / "plain.json").read_bytes() == before


def test_a_dry_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert roar.main([*SMALL, "--out", str(tmp_path / "new"), "--dry-run"]) == 0
    assert capsys.readouterr().out.endswith("nothing was written\n")
    assert not (tmp_path / "new").exists()


def test_the_plain_loop_trains(tmp_path: Path) -> None:
    """It is no straw man: its images are varied as the others are, and its loss falls."""
    data = open_dataset("sklearn:digits", 80, 40)
    settings = Settings(epochs=1, batch=20, shift=1, mirror=False)
    images = roar.OneByOne(data, settings, Colors.of(data.train))
    standardized = Colors.of(data.train).standardized(data.train)
    torch.manual_seed(0)
    seen = torch.stack([images[7][0] for _ in range(40)])
    padded = torch.nn.functional.pad(standardized[7], (1, 1, 1, 1))
    shifted = [padded[:, y : y + 8, x : x + 8] for y in range(3) for x in range(3)]
    assert all(any(torch.equal(image, s) for s in shifted) for image in seen)
    assert len({tuple(image.flatten().tolist()) for image in seen}) == 9
    with pytest.raises(SystemExit, match="loss is no number"):
        roar.plain_loop(
            data, NetworkChoice("small", 4, 10, 1), Settings(rate=1e30, batch=20), "cpu", 8, 0
        )
