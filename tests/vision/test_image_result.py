"""One function explains images: what it gives, what it says of parts that cannot be had."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import fullgrad
from fullgrad import methods, targets
from fullgrad.errors import BlockedGradientError, OutputError, UsageError
from fullgrad.methods.choice import MethodChoice
from fullgrad.vision.check import check
from fullgrad.vision.image_result import ImageResult, explain_images
from fullgrad.vision.images import Photograph, Preprocessing, preprocess
from fullgrad.vision.layers import fitting_depth
from fullgrad.vision.models import LoadedModel
from fullgrad.vision.provenance import provenance
from fullgrad.vision.schema import RecordError, read_record
from fullgrad.viz.comparison import compare
from fullgrad.viz.images import write_files

NAMES = ("black cat", "dog", "bird")


class Cut(nn.Sequential):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.detach())


def loaded(kind: type[nn.Sequential] = nn.Sequential, names: Any = NAMES) -> LoadedModel:
    torch.manual_seed(0)
    module = kind(
        nn.Conv2d(3, 4, 3), nn.GELU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
    ).eval()
    device = torch.device("cpu")
    shape = Preprocessing(24, (20, 20))
    return LoadedModel(module, "small", "random", shape, names, None, None, True, device)


def photographs(count: int = 2) -> list[Photograph]:
    found = []
    for seed in range(count):
        pixels = np.random.default_rng(seed).integers(0, 255, (30, 40, 3), dtype=np.uint8)
        path = Path(f"{seed}.png")
        found.append(Photograph(Image.fromarray(pixels), path, "", (40, 30), "RGB", 1))
    return found


def test_all_parts_are_those_of_the_library() -> None:
    model, images, stages = loaded(), photographs(), []
    found = explain_images(
        model,
        images,
        parts=("map", "split", "layers"),
        method="fullgrad",
        options={"psi": "channel"},
        depth=None,
        top=2,
        on_stage=lambda stage, text: stages.append(stage),
    )
    assert stages == ["classes", "split", "map", "layers"]
    x = torch.stack([preprocess(p.image, model.preprocessing) for p in images])
    d = fullgrad.decompose(model.module, x)
    maps = fullgrad.saliency(model.module, x, psi="channel")
    assert fitting_depth(d) == 1
    for i, result in enumerate(found):
        assert result.photograph is images[i]
        assert (result.target, result.chosen) == (int(d.target[i]), "predicted")
        assert result.label == NAMES[result.target]
        assert [score.name for score in result.top] == [NAMES[s.index] for s in result.top]
        assert len(result.top) == 2
        assert result.logit == float(d.output[i])
        np.testing.assert_allclose(result.saliency, maps[i, 0], rtol=1e-4, atol=1e-6)
        assert result.split is not None
        assert result.layers is not None
        assert sum(v for _, v in result.split.shares) == pytest.approx(result.logit, rel=1e-5)
        assert [layer.name for layer in result.layers] == list(result.split.stages)
        assert result.notes == {}


def test_several_methods_are_texts_or_choices() -> None:
    given = ["sobel", MethodChoice("random", {"seed": 1}), "fullgrad:psi=channel"]
    (result,) = explain_images(loaded(), photographs(1), method=given)
    assert [m.label for m in result.maps] == ["sobel", "random:seed=1", "fullgrad:psi=channel"]
    with pytest.raises(TypeError, match="several methods are names or MethodChoice"):
        explain_images(loaded(), photographs(1), method=["sobel", 3])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="unknown method ''"):
        explain_images(loaded(), photographs(1), method="")


@pytest.mark.parametrize("method", [n for n in methods.names() if methods.get(n).complete])
def test_complete_methods_have_a_map_a_split_and_layers(method: str) -> None:
    (result,) = explain_images(
        loaded(), photographs(1), method=method, parts=("map", "split", "layers")
    )
    assert result.split is not None
    assert result.layers
    apart = method in ("difference_fullgrad", "path_fullgrad", "combined_fullgrad")
    record = result.record(provenance(loaded()))
    assert record.decomposition.linearization == result.split.linearization
    assert result.split.linearization == ("balanced" if "balanced" in method else "jacobian")
    assert (record.saliency.chosen, record.saliency.reason) == ("given", None)
    assert result.notes == {}
    assert ("belongs to the baseline or to terms" in result.areas_text) == apart


def test_only_what_is_asked_for_is_computed() -> None:
    (result,) = explain_images(loaded(), photographs(1), parts=(), target=1)
    assert (result.maps, result.split, result.layers) == ((), None, None)
    assert (result.label, result.chosen) == ("dog", "given")
    with pytest.raises(
        ValueError, match='no map was asked for: explain with "map" among the parts'
    ):
        _ = result.saliency
    (plain,) = explain_images(loaded(), photographs(1), parts=("map",), target=1)
    assert plain.split is None
    (split,) = explain_images(loaded(), photographs(1), target=1)
    np.testing.assert_allclose(plain.saliency, split.saliency, rtol=1e-4, atol=1e-6)


def test_a_model_that_cannot_be_decomposed_still_has_maps_of_other_methods() -> None:
    parts = ("map", "split", "layers")
    (result,) = explain_images(loaded(Cut), photographs(1), method="sobel", parts=parts)
    assert result.split is None
    assert result.layers is None
    assert result.notes["split"].startswith("There is no split of the logit: ")
    record = result.record(provenance(loaded(Cut)))
    assert record.decomposition is None
    assert record.notes == (result.notes["split"],)
    with pytest.raises(BlockedGradientError):
        explain_images(loaded(Cut), photographs(1), parts=parts)


def test_several_methods_have_a_cell_each() -> None:
    choices = [MethodChoice("fullgrad", {"psi": "signed"}), MethodChoice("sobel")]
    results = explain_images(loaded(Cut), photographs(), method=choices, parts=("map",))
    for result in results:
        blocked, sobel = result.maps
        assert (blocked.values, blocked.applies, blocked.signed) == (None, False, True)
        assert "leave the autograd graph" in blocked.reason
        assert sobel.values is not None
        with pytest.raises(ValueError, match="fullgrad:psi=signed has no map: "):
            _ = result.saliency


def test_a_comparison_is_one_call(tmp_path: Path) -> None:
    rows: list[ImageResult] = []
    found = compare(
        loaded(),
        [*photographs(1), tmp_path / "none.png"],
        ["sobel", "fullgrad"],
        on_row=rows.append,
    )
    assert list(found.rows) == rows
    assert not found.complete
    assert "does not exist" in found.failed[0][1]
    assert found.figure().get_size_inches()[0] > 5
    record = found.record(provenance(loaded()), "sheet.png", b"sheet")
    assert read_record(record.text().encode(), "sheet.json") == record
    with pytest.raises(ValueError, match="at least one method is needed"):
        compare(loaded(), photographs(1), [])
    with pytest.raises(ValueError, match="scale must be one of map, rank, method, not 'sum'"):
        compare(loaded(), photographs(1), ["sobel"], scale="sum")  # type: ignore[arg-type]


def test_a_check_is_one_call() -> None:
    found = check(loaded(), size=(3, 9, 11), batch=2, target="dog")
    assert [s.target for s in found.statistics.samples] == [1, 1]
    assert "explained  f = output[1] dog, of the first sample" in found.text()
    record = found.record(provenance(loaded()))
    assert read_record(record.text().encode(), "check.json") == record


def test_a_check_refuses_what_it_would_ignore(tmp_path: Path) -> None:
    Image.new("RGB", (9, 9)).save(tmp_path / "a.png")
    for option in ({"size": (3, 9, 9)}, {"batch": 2}, {"seed": 1}):
        with pytest.raises(UsageError, match="size, batch and seed belong to random inputs"):
            check(loaded(), tmp_path / "a.png", **option)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="dtype must be 'float32' or 'float64', not 'foo'"):
        check(loaded(), dtype="foo")  # type: ignore[arg-type]


def test_files_are_read_back_as_what_was_written(tmp_path: Path) -> None:
    (result,) = explain_images(loaded(), photographs(1), parts=("map", "split", "layers"))
    made = provenance(loaded(), ["fullgrad", "explain"], {"images": (Path("a.png"),)})
    files = write_files(result, tmp_path, "a", made)
    assert [f.name for f in files] == ["a.overlay.png", "a.saliency.npy", "a.layers.npz", "a.json"]
    record = read_record((tmp_path / "a.json").read_bytes(), "a.json")
    assert record == result.record(made)
    assert record is not None
    assert record.options == {"images": ["a.png"]}
    np.testing.assert_array_equal(np.load(tmp_path / "a.saliency.npy"), result.saliency)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"parts": ("map", "sheet")}, "parts are map, split, layers, not 'sheet'"),
        (
            {"method": [MethodChoice("sobel")], "options": {}},
            r"of several, give each its own: MethodChoice\(name, options\)",
        ),
        ({"options": {"nope": 1}}, "has no option 'nope'"),
        ({"method": "nope"}, "unknown method 'nope'"),
        ({"cell": 0}, "cell must be at least 1, not 0"),
        ({"names": ["cat"]}, "1 names, but the model has"),
        (
            {"target": targets.log_probability(0), "rather_than": 1},
            r"rather_than compares one class with another: .*targets.margin\(target, 1\)",
        ),
        ({"target": torch.tensor([0]), "rather_than": 1}, "rather_than compares one class"),
    ],
)
def test_mistakes(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        explain_images(loaded(), photographs(1), **options)


def test_no_image_and_no_finite_output() -> None:
    with pytest.raises(ValueError, match="at least one image is needed"):
        explain_images(loaded(), [])
    model = loaded()
    with torch.no_grad():
        model.module[-1].bias.fill_(float("inf"))  # type: ignore[index]
    with pytest.raises(OutputError, match="the model's output holds NaN or infinite values"):
        explain_images(model, photographs(1), method=[MethodChoice("sobel")])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "x is not JSON: Invalid JSON"),
        (b"[1]", "x is not a JSON object"),
        (b'{"kind": "fullgrad check", "schema_version": 7}', "x has the schema version 7"),
        (b'{"kind": "fullgrad check"}', "x has the schema version None"),
        (b'{"kind": "fullgrad check", "schema_version": 1}', "x: 'model' is missing"),
    ],
)
def test_what_is_not_a_record(content: bytes, message: str) -> None:
    with pytest.raises(RecordError, match=message):
        read_record(content, "x")


def test_json_of_another_kind_is_not_a_record() -> None:
    assert read_record(b'{"kind": ["a"], "plan": 1}', "plan.json") is None


def test_a_method_that_fails_for_one_method_is_raised() -> None:
    def fails(model: nn.Module, inputs: torch.Tensor, target: Any) -> torch.Tensor:
        raise RuntimeError("no")

    method = methods.register("fails here", fails)
    try:
        with pytest.raises(RuntimeError, match="no"):
            explain_images(loaded(), photographs(1), method=method)
    finally:
        methods.unregister("fails here")
