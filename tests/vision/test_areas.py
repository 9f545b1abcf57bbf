"""Complete maps in cells, as numbers, words, records and pictures."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from fullgrad.cli.main import main
from fullgrad.errors import InputError
from fullgrad.evaluation.perturbation import area_effect
from fullgrad.vision.areas import Areas, drawn_in_cells, in_cells
from fullgrad.vision.image_result import explain_images
from fullgrad.vision.models import load_model
from fullgrad.vision.schema import read_record


def test_cells_sum_to_the_map_and_are_drawn_where_they_lie() -> None:
    values = np.random.default_rng(0).normal(size=(30, 45)).astype(np.float32)
    cells = in_cells(values, 16)
    assert cells.shape == (2, 3)
    np.testing.assert_allclose(cells[0, 1], values[:15, 15:30].sum(), rtol=1e-5)
    drawn = drawn_in_cells(values, 16)
    assert drawn.shape == values.shape
    assert (drawn[:15, 15:30] == cells[0, 1]).all()
    assert in_cells(values, 100).shape == (1, 1)
    uneven = in_cells(values[:, :44], 16)
    np.testing.assert_allclose(uneven.sum(), values[:, :44].sum(), rtol=1e-4)


def test_areas_add_up_and_say_so() -> None:
    values = np.array([[2.0, 2.0, -1.0, -1.0]] * 2, np.float32)
    found = Areas.of(values, 5.0, 2)
    assert (found.positive, found.negative, found.elsewhere) == (8.0, -4.0, 1.0)
    assert found.text("logit", 5.0) == (
        "8 of the logit 5 is attributed to areas that raise it, -4 to areas that lower it, "
        "1 has no place (cells of 2 pixels)"
    )
    assert "belongs to terms that were left out" in found.text("logit", 5.0, whole=False)
    both = "has no place or belongs to the baseline or to terms that were left out"
    assert both in found.text("logit", 5.0, whole=False, baseline=True)


@pytest.fixture(scope="module")
def photograph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("photographs") / "noise.png"
    Image.effect_noise((80, 80), 60).convert("RGB").save(path)
    return path


def test_results_records_and_commands_have_them(
    photograph: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = load_model("torchvision:squeezenet1_1", weights="none")
    options = {"method": "balanced_fullgrad", "cell": 32, "target": 3}
    (found,) = explain_images(model, [photograph], **options)
    areas = found.areas
    assert areas is not None and areas.cell == 32
    whole = areas.positive + areas.negative + areas.elsewhere
    assert whole == pytest.approx(found.logit, rel=1e-4, abs=1e-4)
    assert found.map.signed
    assert len(np.unique(found.map.shown)) <= 49
    (plain,) = explain_images(model, [photograph], target=3, method="fullgrad")
    assert plain.areas is None
    assert plain.areas_text == ""
    assert plain.map.shown is plain.map.values
    call = ["explain", str(photograph), "--model", "torchvision:squeezenet1_1", "--weights", "none"]
    call += ["--method", "complete_fullgrad", "--cell", "56", "--check", "--target", "3"]
    assert main([*call, "--out", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "is attributed to areas that raise it" in said
    assert "(cells of 56 pixels)" in said
    assert "checked: without the 2 cells (12%) that the map says raise it most the logit" in said
    content = (tmp_path / "noise.json").read_bytes()
    record = read_record(content, "noise.json")
    assert record is not None and record.saliency.areas.cell == 56
    old = json.loads(content)
    del old["saliency"]["areas"]  # as records were before there were areas
    assert read_record(json.dumps(old).encode(), "noise.json").saliency.areas is None


def linear() -> nn.Module:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 2, bias=False)).double()
    with torch.no_grad():
        model[1].weight[0] = torch.linspace(-1, 1, 64, dtype=torch.float64)
    return model


def test_the_effect_of_areas_on_a_linear_model() -> None:
    torch.manual_seed(0)
    model, x = linear(), torch.randn(1, 1, 8, 8, dtype=torch.float64)
    weight = model[1].weight[0].detach().view(8, 8)
    found = area_effect(model, x, (weight * x)[0, 0], lambda f: f[:, 0], cell=4, share=0.25)
    assert (found.cells, found.share, len(found.random)) == (1, 0.25, 20)
    drops = [
        float(((x - x.mean())[0, 0] * weight)[rows, columns].sum())
        for rows in (slice(4), slice(4, 8))
        for columns in (slice(4), slice(4, 8))
    ]
    sums = in_cells((weight * x)[0, 0].numpy(), 4).ravel()
    assert found.drop == pytest.approx(drops[int(sums.argmax())])
    assert all(any(r == pytest.approx(d) for d in drops) for r in found.random)
    with pytest.raises(InputError, match="one image and its map are needed"):
        area_effect(model, x.repeat(2, 1, 1, 1), weight, lambda f: f[:, 0])
