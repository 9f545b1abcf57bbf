"""What the viewer responds with: right numbers, maps and files."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import fullgrad
from fullgrad import methods
from fullgrad.app.names import method_title
from fullgrad.errors import LayoutError
from fullgrad.vision.image_result import explain_images
from fullgrad.vision.images import display_image
from fullgrad.vision.provenance import provenance
from fullgrad.viz.overlay import colors, normalize
from fullgrad.viz.style import limit_of, signed_colors

pytest.importorskip("starlette")
from app_server import (
    CAPTUM,
    PHOTOGRAPH,
    Running,
    ask,
    expected,
    image_of,
    lines,
    numbers_of,
    result,
    strict,
)
from fullgrad.report import report, report_of

pytestmark = CAPTUM


def test_a_result_is_what_the_library_says(small: Running, tmp_path: Path) -> None:
    default = result(small, name="holiday/cat.png", parts="map")
    assert (default["method"], default["chosen"]) == (methods.RECOMMENDED, "default")
    assert default["reason"] == methods.REASON
    found = result(small, name="holiday/cat.png", method="fullgrad")
    assert (found["chosen"], found["reason"]) == ("given", None)
    image, x = expected(small, PHOTOGRAPH, tmp_path)
    model = small.models[0]
    with torch.no_grad():
        logits = model.module(x)[0]
    target = int(logits.argmax())
    probabilities = logits.double().softmax(0)
    assert found["target"] == {
        "index": target,
        "name": model.class_names[target],
        "chosen": "predicted",
        "probability": pytest.approx(float(probabilities[target])),
        "logit": pytest.approx(float(logits[target]), rel=1e-5),
    }
    assert [t["index"] for t in found["top"]] == probabilities.topk(5).indices.tolist()
    assert found["name"] == "cat.png"
    assert (found["model"], found["method"], found["notes"]) == (0, "fullgrad", [])
    assert found["options"] == {"psi": None, "terms": "all", "linearization": "jacobian"}
    view = display_image(image, model.preprocessing)
    np.testing.assert_array_equal(image_of(found["photograph"]), np.asarray(view))
    heat = fullgrad.saliency(model.module, x, target)[0, 0]
    np.testing.assert_array_equal(image_of(found["map"]["png"]), colors(normalize(heat)))
    np.testing.assert_array_equal(numbers_of(found["map"]), heat.numpy())
    assert found["map"]["least"] == float(heat.min())
    assert found["map"]["most"] == float(heat.max())
    assert found["map"]["cell"] is None
    # In shares of the photograph's sides: the crop of 32 pixels out of the resized one.
    left, top, wide, high = found["frame"]
    assert wide * image.width == pytest.approx(high * image.height, rel=0.03)
    assert (left, top) == (
        pytest.approx((1 - wide) / 2, abs=0.02),
        pytest.approx((1 - high) / 2, abs=0.02),
    )
    assert found["map"]["signed"] is False
    assert (found["width"], found["height"]) == (32, 32)
    assert found["seconds"] > 0


def test_the_waterfall_closes_and_stages_are_layers_of_the_decomposition(
    small: Running, tmp_path: Path
) -> None:
    found = result(small, method="fullgrad", target=2)
    _, x = expected(small, PHOTOGRAPH, tmp_path)
    d = fullgrad.decompose(small.models[0].module, x, 2)
    shown = found["waterfall"]
    parts = [shown["input"], *(s["value"] for s in shown["stages"])]
    assert math.fsum(parts) + shown["residual"] == pytest.approx(shown["output"], rel=1e-12)
    assert shown["output"] == found["target"]["logit"] == float(d.output[0])
    depth = 2  # of one component there are only four stages
    sums = {k: float(v[0]) for k, v in d.by_module(depth).items()}
    assert {s["name"]: s["value"] for s in shown["stages"]} == sums
    maps = fullgrad.layer_maps(d, depth=depth)
    assert [s["name"] for s in found["stages"]] == list(sums)
    assert any(s["png"] is None for s in found["stages"])
    for s in found["stages"]:
        assert s["sum"] == sums[s["name"]]
        assert s["share"] == pytest.approx(s["sum"] / shown["output"])
        if s["name"] in maps:
            drawn = colors(normalize(maps[s["name"]]))
            np.testing.assert_array_equal(image_of(s["png"]), drawn)
        else:
            assert s["png"] is None


def test_signed_maps_have_one_scale(small: Running, tmp_path: Path) -> None:
    found = result(small, method="fullgrad", target=1, options='{"psi":"signed"}')
    _, x = expected(small, PHOTOGRAPH, tmp_path)
    heat = fullgrad.saliency(small.models[0].module, x, 1, psi="signed")[0, 0].double().numpy()
    assert found["map"]["signed"] is True
    drawn = signed_colors(heat, limit_of(heat))
    np.testing.assert_array_equal(image_of(found["map"]["png"]), drawn)
    d = fullgrad.decompose(small.models[0].module, x, 1)
    maps = {
        k: v[0, 0].double().numpy()
        for k, v in fullgrad.layer_maps(d, depth=2, psi="signed").items()
    }
    limit = max(map(limit_of, maps.values()))
    for s in found["stages"]:
        if s["png"] is not None:
            drawn = signed_colors(maps[s["name"]], limit)
            np.testing.assert_array_equal(image_of(s["png"]), drawn)
    assert "Red areas raise" in found["map"]["says"]


OPTIONS = {
    "smooth_fullgrad": '{"samples":3,"seed":5}',
    "smoothgrad": '{"samples":4,"scale":0.2}',
    "integrated_gradients": '{"n_steps":7,"baseline":-1}',
    "random": '{"seed":3}',
    "random_blobs": '{"seed":3,"grid":5}',
    "grad_cam": '{"layer":"body.0"}',
    "fullgrad_plus": '{"blocks":"body.0"}',
    "fullgrad": '{"terms":"input, last"}',
}


@pytest.mark.parametrize("name", [n for n in methods.names() if "attention" not in n])
def test_maps_of_every_method_are_exact(small: Running, tmp_path: Path, name: str) -> None:
    options = OPTIONS.get(name, "{}")
    path = "/api/download/array"
    call = ask(small, PHOTOGRAPH, path, name="a.b.jpg", target=3, method=name, options=options)
    assert call.status == 200, call.content
    found = np.load(io.BytesIO(call.content))
    _, x = expected(small, PHOTOGRAPH, tmp_path)
    chosen = strict(options)
    if name == "fullgrad":
        chosen = {"terms": ("input", "last")}
    heat = methods.attribute(name, small.models[0].module, x, torch.tensor([3]), **chosen)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, heat[0, 0].numpy())
    if name == "fullgrad":
        exact = fullgrad.saliency(small.models[0].module, x, 3, terms=("input", "last"))
        np.testing.assert_array_equal(found, exact[0, 0].numpy())


def test_the_second_method_comes_without_stages(small: Running) -> None:
    whole, part = result(small), result(small, parts="map")
    assert part["stages"] is None
    assert part["waterfall"] is None
    assert part["map"] == whole["map"]
    assert part["top"] == whole["top"]
    assert part["target"]["logit"] == pytest.approx(whole["target"]["logit"], rel=1e-5)


def test_progress_counts_the_passes(small: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fullgrad.app.pool._EVERY", 0.0)
    query = {"method": "integrated_gradients", "options": '{"n_steps":6}', "parts": "map"}
    call = ask(small, PHOTOGRAPH, **query)
    told = [p["progress"] for p in lines(call.content)[:-1]]
    counted = [(p["done"], p["of"]) for p in told if "of" in p]
    assert counted == [(i, 6) for i in (0, *range(6))]
    assert [p["stage"] for p in told][-1] == "drawing"
    assert any("Integrated gradients" in p["text"] for p in told)


def test_about_tells_models_methods_and_limits(small: Running) -> None:
    call = ask(small, b"", "/api/about", "GET")
    found = strict(call.content)
    assert found["version"] == fullgrad.__version__
    assert found["limits"] == {"bytes": 10_000_000, "pixels": 25_000_000}
    assert [m["spec"] for m in found["models"]][:2] == [
        "small_app_model.py:make_net",
        "small_app_model.py:make_functional",
    ]
    assert found["models"][0]["classes"] == ["black cat", "dog", "bird", "tree", "house"]
    assert (found["models"][0]["outputs"], found["models"][0]["height"]) == (5, 32)
    by_name = {m["name"]: m for m in found["methods"]}
    assert list(by_name) == methods.names()
    assert [m["name"] for m in found["methods"] if m["title"] == m["name"]] == []
    assert by_name["guided_backprop"]["applies"][0] is True
    assert "does not apply" in by_name["guided_backprop"]["applies"][1]
    assert "autograd" in by_name["fullgrad"]["applies"][4]
    kinds = {o["name"]: o["kind"] for o in by_name["smooth_fullgrad"]["options"]}
    assert kinds == {
        "psi": "choice",
        "terms": "text",
        "linearization": "choice",
        "samples": "integer",
        "scale": "number",
        "seed": "integer",
    }
    assert {o["name"]: o["kind"] for o in by_name["grad_cam"]["options"]} == {
        "layer": "text",
        "relu": "flag",
    }
    assert [(o["name"], o["kind"], o["least"]) for o in by_name["random_blobs"]["options"]] == [
        ("seed", "integer", -(2**53)),
        ("grid", "integer", 2),
    ]
    assert by_name["fullgrad"]["signed"] is True
    assert by_name["sobel"]["signed"] is False
    assert str(Path.cwd()) not in call.content.decode()
    for name, method in by_name.items():  # what is offered as default is accepted
        values = {o["name"]: o["default"] for o in method["options"]}
        if method["applies"][0] is True:
            text = json.dumps({**values, **({"samples": 1} if "samples" in values else {})})
            assert ask(small, PHOTOGRAPH, method=name, options=text).status == 200


def test_downloads(small: Running, tmp_path: Path) -> None:
    query = {"name": "my cat.JPG", "target": 1, "opacity": "0.3"}
    query |= {"method": "fullgrad", "options": '{"psi":"channel"}'}
    paths = [f"/api/download/{what}" for what in ("picture", "array", "report")]
    picture, array, report = (ask(small, PHOTOGRAPH, path, **query) for path in paths)
    assert [c.status for c in (picture, array, report)] == [200] * 3
    with Image.open(io.BytesIO(picture.content)) as opened:
        assert opened.format == "PNG"
        assert opened.size[0] == 768
    assert picture.headers["content-disposition"] == (
        "attachment; filename=\"my cat.overlay.png\"; filename*=UTF-8''my%20cat.overlay.png"
    )
    assert np.load(io.BytesIO(array.content)).shape == (32, 32)
    html = report.content.decode()
    assert report.headers["content-type"] == "text/html; charset=utf-8"
    assert "my cat.JPG: dog (class 1)" in html
    assert "Layer by layer" in html
    assert "No overlay" not in html
    assert "Not all is here" not in html
    command = (
        "fullgrad explain &#x27;my cat.JPG&#x27; --model small_app_model.py:make_net --target 1 "
        "--method fullgrad --psi channel --layers"
    )
    assert command in html
    assert str(tmp_path.parent) not in html


def test_words_of_controls_do_not_call_them_explanations(small: Running) -> None:
    for name in ("random", "random_blobs", "sobel", "grad_cam"):
        found = result(small, method=name, parts="map")["map"]["says"]
        assert found.startswith(
            f"{method_title(name)}: {methods.get(name).about} The numbers are in the method"
        )
        assert "counts" not in found


def test_downloads_compute_no_more_than_they_hold(
    small: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    split: list[Any] = []

    def counted(*args: Any, **options: Any) -> Any:
        split.append(args)
        return fullgrad.decompose(*args, **options)

    monkeypatch.setattr("fullgrad.vision.image_result.decompose", counted)

    for what, method, count in (
        ("array", "fullgrad", 0),
        ("array", "grad_cam", 0),
        ("picture", "grad_cam", 0),
        ("picture", "fullgrad", 1),
    ):
        split.clear()
        assert ask(small, PHOTOGRAPH, f"/api/download/{what}", method=method).status == 200
        assert len(split) == count


def test_the_command_of_a_report_can_be_run(
    small: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    query = {"method": "fullgrad", "options": '{"psi":"signed"}', "name": "a.jpg"}
    html = ask(small, PHOTOGRAPH, "/api/download/report", **query).content.decode()
    start = "fullgrad explain a.jpg --model small_app_model.py:make_net"
    assert f"{start} --method fullgrad --option psi=signed --layers" in html
    assert "red pixels raise the output" in html

    def fail(*args: Any, **options: Any) -> Any:
        raise LayoutError("no positions")

    monkeypatch.setattr("fullgrad.vision.image_result.layers_of", fail)
    html = ask(small, PHOTOGRAPH, "/api/download/report", name="a.jpg").content.decode()
    assert start in html
    assert "--layers" not in html


def test_a_report_made_in_memory_is_that_of_files(
    small: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[Any] = []

    def keep(name: str, record: Any, files: dict[str, bytes]) -> Any:
        kept.append((record, files))
        return report_of(name, record, files)

    monkeypatch.setattr("fullgrad.app.responses.report_of", keep)
    found = ask(small, PHOTOGRAPH, "/api/download/report").content.decode()
    ((record, files),) = kept
    assert sorted(files) == [".layers.npz", ".overlay.png", ".saliency.npy"]
    (tmp_path / "a.json").write_text(record.text())
    for suffix, content in files.items():
        (tmp_path / f"a{suffix}").write_bytes(content)
    assert report([tmp_path / "a.json"]).html == found
    (tmp_path / "a.png").write_bytes(PHOTOGRAPH)
    # As on the command line, and with the viewer's stages.
    (own,) = explain_images(small.models[0], [tmp_path / "a.png"], depth=None)
    wanted = own.record(provenance(small.models[0]))
    for part in ("target", "top", "decomposition", "saliency"):
        assert getattr(record, part) == getattr(wanted, part)
    assert [s.of for s in record.decomposition.shares[1:]] == [
        s["name"] for s in result(small)["waterfall"]["stages"]
    ]
    made = report_of("a", record, {})
    assert "No overlay: a.overlay.png does not exist" in made.html
    assert "Layer by layer" not in made.html


def test_a_model_without_a_split_still_has_a_report(small: Running) -> None:
    call = ask(small, PHOTOGRAPH, "/api/download/report", model=4, method="grad_cam")
    assert call.status == 200, call.content
    assert "There is no split of the logit" in call.content.decode()


def test_the_downloaded_picture_has_the_asked_opacity(small: Running) -> None:
    def middle(opacity: str) -> np.ndarray[Any, Any]:
        call = ask(small, PHOTOGRAPH, "/api/download/picture", opacity=opacity)
        with Image.open(io.BytesIO(call.content)) as picture:
            return np.asarray(picture.convert("RGB"), float)[100:600, 100:600]

    none, half, whole = middle("0"), middle("0.5"), middle("1")
    assert np.abs(none - whole).mean() > 10
    assert np.abs(half - (none + whole) / 2).max() <= 2


def test_hidden_and_named_files_stay_names(small: Running) -> None:
    for given_name, shown in (
        ("../../etc/passwd", "passwd"),
        ("C:\\secret\\a.png", "a.png"),
        ("..", "photograph"),
        ("", "photograph"),
        ("a\nb\x00.png", "a\N{REPLACEMENT CHARACTER}b\N{REPLACEMENT CHARACTER}.png"),
        ("x" * 500, "x" * 100),
    ):
        assert result(small, name=given_name, parts="map")["name"] == shown
    call = ask(small, PHOTOGRAPH, "/api/download/array", name='ä";\r\nSet-Cookie: a=b\\/ü".png')
    assert "set-cookie" not in call.headers
    assert call.headers["content-disposition"].isascii()
    assert "\n" not in call.headers["content-disposition"]
