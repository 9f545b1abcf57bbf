"""The viewer's server: right answers, clear refusals, and nothing of one person's for another."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import math
import struct
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

import fullgrad
from fullgrad import methods
from fullgrad.errors import LayoutError
from fullgrad.vision.images import display_image, preprocess, read_image
from fullgrad.viz.overlay import colours, normalise
from fullgrad.viz.style import limit_of, signed_colours

pytest.importorskip("starlette")
from app_server import WHITE, Call, Running, encoded, lines, pixels, running, strict
from fullgrad.app.limits import Limits, amount
from fullgrad.app.pages import NAMES, pages
from fullgrad.app.refusal import hide, public
from fullgrad.report import report, report_of

CAPTUM = (r"ignore:\s*Setting", "ignore:Input Tensor", "ignore:.*[Hh]ooks")
pytestmark = [pytest.mark.filterwarnings(text) for text in CAPTUM]

PHOTOGRAPH = encoded(pixels(0))


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    makes = ("make_net", "make_functional", "make_broken", "make_infinite", "make_detached")
    with running(tmp_path_factory.mktemp("app"), *makes) as found:
        yield found


def ask(
    server: Running,
    content: bytes,
    path: str = "/api/explain",
    method: str = "POST",
    headers: dict[str, str] | None = None,
    **query: Any,
) -> Call:
    async def go() -> Call:
        call = Call(server.app, path, urlencode(query), method, headers).body(content)
        return await call.ended(60)

    return asyncio.run(go())


def explained(server: Running, content: bytes, **query: Any) -> Any:
    call = ask(server, content, **query)
    assert call.status == 200, call.content
    *progress, last = lines(call.content)
    assert all(set(p) == {"progress"} for p in progress)
    assert progress[0]["progress"]["stage"] == "waiting"
    return last


def result(server: Running, content: bytes = PHOTOGRAPH, **query: Any) -> Any:
    last = explained(server, content, **query)
    assert "result" in last, last
    return last["result"]


def error(server: Running, content: bytes, **query: Any) -> tuple[int, str, str]:
    """Status, kind and message, wherever the error comes."""
    call = ask(server, content, **query)
    last = lines(call.content)[-1]
    assert set(last) == {"error", "kind"}, last
    assert "Traceback" not in last["error"]
    assert "/" not in last["error"].replace("n/a", "")
    return call.status, last["kind"], last["error"]


def image_of(url: str) -> np.ndarray[Any, Any]:
    head, _, data = url.partition(",")
    assert head == "data:image/png;base64"
    with Image.open(io.BytesIO(base64.b64decode(data))) as picture:
        assert picture.mode == "RGB"
        return np.asarray(picture)


def expected(server: Running, content: bytes, tmp_path: Path) -> tuple[Any, torch.Tensor]:
    """The photograph as the library reads it from a file."""
    path = tmp_path / "x.bin"
    path.write_bytes(content)
    image = read_image(path)
    return image, preprocess(image, server.models[0].preprocessing)[None]


# What it answers


def test_a_result_is_what_the_library_says(small: Running, tmp_path: Path) -> None:
    found = result(small, name="holiday/cat.png")
    image, x = expected(small, PHOTOGRAPH, tmp_path)
    model = small.models[0]
    with torch.no_grad():
        logits = model.module(x)[0]
    target = int(logits.argmax())
    probabilities = logits.double().softmax(0)
    assert found["target"] == {
        "index": target,
        "name": model.class_names[target],
        "probability": pytest.approx(float(probabilities[target])),
        "logit": pytest.approx(float(logits[target]), rel=1e-5),
    }
    assert [t["index"] for t in found["top"]] == probabilities.topk(5).indices.tolist()
    assert found["name"] == "cat.png"
    assert (found["model"], found["method"], found["notes"]) == (0, "fullgrad", [])
    assert found["options"] == {"psi": None, "terms": "all"}
    view = display_image(image, model.preprocessing)
    np.testing.assert_array_equal(image_of(found["photograph"]), np.asarray(view))
    heat = fullgrad.saliency(model.module, x, target)[0, 0]
    np.testing.assert_array_equal(image_of(found["map"]["png"]), colours(normalise(heat)))
    assert found["map"]["least"] == float(heat.min())
    assert found["map"]["most"] == float(heat.max())
    assert found["map"]["signed"] is False
    assert (found["width"], found["height"]) == (32, 32)
    assert found["seconds"] > 0


def test_the_waterfall_closes_and_stages_are_layers_of_the_decomposition(
    small: Running, tmp_path: Path
) -> None:
    found = result(small, target=2)
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
            drawn = colours(normalise(maps[s["name"]]))
            np.testing.assert_array_equal(image_of(s["png"]), drawn)
        else:
            assert s["png"] is None


def test_signed_maps_have_one_scale(small: Running, tmp_path: Path) -> None:
    found = result(small, target=1, options='{"psi":"signed"}')
    _, x = expected(small, PHOTOGRAPH, tmp_path)
    heat = fullgrad.saliency(small.models[0].module, x, 1, psi="signed")[0, 0].double().numpy()
    assert found["map"]["signed"] is True
    drawn = signed_colours(heat, limit_of(heat))
    np.testing.assert_array_equal(image_of(found["map"]["png"]), drawn)
    d = fullgrad.decompose(small.models[0].module, x, 1)
    maps = {
        k: v[0, 0].double().numpy()
        for k, v in fullgrad.layer_maps(d, depth=2, psi="signed").items()
    }
    limit = max(map(limit_of, maps.values()))
    for s in found["stages"]:
        if s["png"] is not None:
            drawn = signed_colours(maps[s["name"]], limit)
            np.testing.assert_array_equal(image_of(s["png"]), drawn)
    assert "red pixels raise" in found["map"]["says"]


OPTIONS = {
    "smooth_fullgrad": '{"samples":3,"seed":5}',
    "smoothgrad": '{"samples":4,"scale":0.2}',
    "integrated_gradients": '{"n_steps":7,"baseline":-1}',
    "random": '{"seed":3}',
    "random_blobs": '{"seed":3,"grid":5}',
    "grad_cam": '{"layer":"body.0"}',
    "fullgrad": '{"terms":"input, last"}',
}


@pytest.mark.parametrize("name", methods.names())
def test_maps_of_every_method_are_exact(small: Running, tmp_path: Path, name: str) -> None:
    options = OPTIONS.get(name, "{}")
    call = (
        ask(
            small,
            PHOTOGRAPH,
            "/api/download/array",
            method="POST",
            name="a.b.jpg",
            **{"target": 3, "options": options},
        )
        if name == "fullgrad"
        else asyncio.run(_array(small, name, options))
    )
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


async def _array(server: Running, name: str, options: str) -> Call:
    query = urlencode({"target": 3, "method": name, "options": options})
    return await Call(server.app, "/api/download/array", query).body(PHOTOGRAPH).ended()


def test_the_second_method_comes_without_stages(small: Running) -> None:
    whole, part = result(small), result(small, parts="map")
    assert part["stages"] is None
    assert part["waterfall"] is None
    assert part["map"] == whole["map"]
    assert part["top"] == whole["top"]
    assert part["target"]["logit"] == pytest.approx(whole["target"]["logit"], rel=1e-5)


def test_progress_counts_the_passes(small: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fullgrad.app.pool._EVERY", 0.0)
    query = {"options": '{"n_steps":6}', "parts": "map"}
    call = asyncio.run(_explain(small, "integrated_gradients", query))
    told = [p["progress"] for p in lines(call.content)[:-1]]
    counted = [(p["done"], p["of"]) for p in told if "of" in p]
    assert counted == [(i, 6) for i in (0, *range(6))]
    assert [p["stage"] for p in told][-1] == "drawing"
    assert any("integrated_gradients" in p["text"] for p in told)


async def _explain(server: Running, name: str, query: dict[str, Any]) -> Call:
    text = urlencode({"method": name, **query})
    return await Call(server.app, "/api/explain", text).body(PHOTOGRAPH).ended()


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
    assert by_name["guided_backprop"]["applies"][0] is True
    assert "does not apply" in by_name["guided_backprop"]["applies"][1]
    assert "autograd" in by_name["fullgrad"]["applies"][4]
    kinds = {o["name"]: o["kind"] for o in by_name["smooth_fullgrad"]["options"]}
    assert kinds == {
        "psi": "choice",
        "terms": "text",
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
            assert asyncio.run(_explain(small, name, {"options": text})).status == 200


def test_downloads(small: Running, tmp_path: Path) -> None:
    query = urlencode(
        {"name": "my cat.JPG", "target": 1, "opacity": "0.3", "options": '{"psi":"channel"}'}
    )

    async def all_three() -> list[Call]:
        calls = [
            Call(small.app, f"/api/download/{what}", query).body(PHOTOGRAPH)
            for what in ("picture", "array", "report")
        ]
        return [await c.ended(60) for c in calls]

    picture, array, report = asyncio.run(all_three())
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
        "--psi channel --layers"
    )
    assert command in html
    assert str(tmp_path.parent) not in html


def test_words_of_controls_do_not_call_them_explanations(small: Running) -> None:
    async def says(name: str) -> str:
        query = urlencode({"method": name, "parts": "map"})
        call = await Call(small.app, "/api/explain", query).body(PHOTOGRAPH).ended()
        return str(lines(call.content)[-1]["result"]["map"]["says"])

    for name in ("random", "random_blobs", "sobel", "grad_cam"):
        found = asyncio.run(says(name))
        assert found.startswith(f"{name}: {methods.get(name).about} The numbers are in the method")
        assert "counts" not in found


def test_downloads_compute_no_more_than_they_hold(
    small: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fullgrad.app import work

    split: list[str] = []
    decomposed = work._decomposed

    def counted(model: Any, x: Any, target: Any, request: Any, notes: Any) -> Any:
        split.append(request.method.name)
        return decomposed(model, x, target, request, notes)

    monkeypatch.setattr("fullgrad.app.work._decomposed", counted)

    async def download(what: str, method: str) -> int:
        query = urlencode({"method": method})
        call = Call(small.app, f"/api/download/{what}", query).body(PHOTOGRAPH)
        return (await call.ended()).status

    for what, method, wanted in (
        ("array", "fullgrad", []),
        ("array", "grad_cam", []),
        ("picture", "grad_cam", []),
        ("picture", "fullgrad", ["fullgrad"]),
    ):
        split.clear()
        assert asyncio.run(download(what, method)) == 200
        assert split == wanted


def test_the_command_of_a_report_can_be_run(
    small: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    query = {"options": '{"psi":"signed"}', "name": "a.jpg"}
    html = ask(small, PHOTOGRAPH, "/api/download/report", **query).content.decode()
    start = "fullgrad explain a.jpg --model small_app_model.py:make_net"
    assert f"{start} --option psi=signed --layers" in html
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

    def keep(name: str, record: dict[str, Any], files: dict[str, bytes]) -> Any:
        kept.append((record, files))
        return report_of(name, record, files)

    monkeypatch.setattr("fullgrad.app.sharing.report_of", keep)
    found = ask(small, PHOTOGRAPH, "/api/download/report").content.decode()
    ((record, files),) = kept
    assert sorted(files) == [".layers.npz", ".overlay.png", ".saliency.npy"]
    (tmp_path / "a.json").write_text(json.dumps(record))
    for suffix, content in files.items():
        (tmp_path / f"a{suffix}").write_bytes(content)
    assert report([tmp_path / "a.json"]).html == found
    made = report_of("a", record, {})
    assert "No overlay: a.overlay.png does not exist" in made.html
    assert "Layer by layer" not in made.html


def test_the_downloaded_picture_has_the_asked_opacity(small: Running) -> None:
    def middle(opacity: str) -> np.ndarray[Any, Any]:
        query = urlencode({"opacity": opacity})

        async def go() -> Call:
            return await Call(small.app, "/api/download/picture", query).body(PHOTOGRAPH).ended()

        with Image.open(io.BytesIO(asyncio.run(go()).content)) as picture:
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


# Photographs


def test_photographs_are_read_as_the_command_line_reads_them(
    small: Running, tmp_path: Path
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned
    rgba = np.dstack([pixels(1), np.linspace(0, 255, 48 * 60).reshape(48, 60).astype(np.uint8)])
    second = Image.fromarray(pixels(3))
    with io.BytesIO() as file:
        Image.fromarray(pixels(2)).save(file, "MPO", save_all=True, append_images=[second])
        mpo = file.getvalue()
    with io.BytesIO() as file:
        Image.fromarray(pixels(2)).convert("CMYK").save(file, "JPEG")
        cmyk = file.getvalue()
    contents = {
        "turned": encoded(pixels(0), "JPEG", exif=exif),
        "alpha": encoded(rgba),
        "webp": encoded(pixels(2), "WEBP"),
        "gif": encoded(pixels(2)[..., 0], "GIF"),
        "bmp": encoded(pixels(2), "BMP"),
        "16 bit": encoded(pixels(0)[..., 0].astype(np.uint16) * 256),
        "several views": mpo,
        "CMYK": cmyk,
        "strip": encoded(np.full((1, 9000, 3), 90, np.uint8)),
        "progressive": encoded(pixels(1), "JPEG", progressive=True),
        "with a film behind it": encoded(pixels(2), "JPEG")
        + np.random.default_rng(0).integers(0, 256, 8_000_000, np.uint8).tobytes(),
        "with a profile in parts": encoded(pixels(1), "JPEG", icc_profile=bytes(600_000)),
    }
    for name, content in contents.items():
        image, _ = expected(small, content, tmp_path)
        found = result(small, content, parts="map", name="liar.exe")
        view = display_image(image, small.models[0].preprocessing)
        np.testing.assert_array_equal(image_of(found["photograph"]), np.asarray(view), err_msg=name)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_of(width: int, height: int, data: bytes, *more: bytes) -> bytes:
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(more) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def moving(kind: str) -> bytes:
    with io.BytesIO() as file:
        frames = [Image.fromarray(pixels(i)) for i in range(3)]
        frames[0].save(file, kind, save_all=True, append_images=frames[1:])
        return file.getvalue()


def hostile() -> dict[str, tuple[bytes, int, str]]:
    jpeg = encoded(pixels(0, 200, 300), "JPEG", quality=95)
    png = encoded(pixels(0, 200, 300))
    bomb = zlib.compress(bytes(20_000 * 2501), 9)
    progressive = encoded(pixels(0), "JPEG", progressive=True)
    scan = progressive[progressive.rindex(b"\xff\xda") : -2]
    scans = progressive[:-2] + scan * 101 + progressive[-2:]
    # What no decoder stops at comes first, and what has no length: neither may hide the rest.
    exif = (
        b"\xff\xd9\xff\xf0\xff\xff"
        + b"\xff\xe1\x00\x10Exif\x00\x00MM\x00*\x00\x00\x00\x08" * 500_000
    )
    profile = chunk(b"iCCP", b"a\x00\x00" + zlib.compress(bytes(1_000_000), 9))
    profiles = png_of(8, 8, zlib.compress(bytes(16)), *[profile] * 8000)
    text = chunk(b"zTXt", b"a\x00\x00" + zlib.compress(bytes(80_000_000), 9))
    return {
        "decompression bomb": (
            png_of(20_000, 20_000, bomb),
            413,
            "more than the 25 million pixels",
        ),
        "bomb by header": (png_of(2**31 - 1, 2**31 - 1, b"x"), 413, "25 million pixels"),
        "bomb in a text": (
            png_of(8, 8, zlib.compress(bytes(16)), text),
            400,
            "header cannot be read",
        ),
        "100 megapixels": (
            encoded(np.zeros((10_000, 10_000), np.uint8), compress_level=1),
            413,
            "more than the 25 million pixels that are accepted",
        ),
        "SVG": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', 415, "Export it as PNG"),
        "SVG with a head": (b'<?xml version="1.0"?>\n<!-- a --><svg></svg>', 415, "SVG drawing"),
        "SVG with entities": (
            b'<!DOCTYPE svg [<!ENTITY x SYSTEM "file:///etc/passwd">]><svg>&x;</svg>',
            415,
            "SVG drawing",
        ),
        "renamed executable": (b"MZ" + bytes(5000), 415, "a Windows program, whatever its name"),
        "renamed ELF": (b"\x7fELF" + bytes(5000), 415, "The file is a program"),
        "script": (b"#!/bin/sh\nrm -rf /\n", 415, "a script"),
        "truncated JPEG": (jpeg[: len(jpeg) // 2], 200, "truncated or damaged"),
        "truncated PNG": (png[: len(png) // 2], 200, "truncated or damaged"),
        "JPEG cut in its head": (jpeg[:15], 400, "header cannot be read"),
        "animated GIF": (moving("GIF"), 415, "an animation. Save the frame"),
        "animated WebP": (moving("WEBP"), 415, "an animation"),
        "animated PNG": (moving("PNG"), 415, "an animation"),
        "0 bytes": (b"", 400, "empty (0 bytes)"),
        "text": (b"hello", 415, "not an image of a known format"),
        "zeros": (bytes(100_000), 415, "not an image of a known format"),
        "web page": (b"<!DOCTYPE html><script>alert(1)</script>", 415, "a web page"),
        "PDF": (b"%PDF-1.7", 415, "a PDF document"),
        "ZIP": (b"PK\x03\x04", 415, "a ZIP archive"),
        "HEIC": (b"\x00\x00\x00\x18ftypheic", 415, "a HEIC photograph. Export it as JPEG"),
        "AVIF": (b"\x00\x00\x00\x18ftypavif", 415, "an AVIF image"),
        "video": (b"\x00\x00\x00\x18ftypmp42", 415, "a video"),
        "TIFF": (encoded(pixels(0), "TIFF"), 415, "a TIFF image"),
        "PostScript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 1 1\n", 415, "not an image"),
        "JPEG of many scans": (scans, 415, "more than 100 scans, which no camera writes. Save it"),
        "JPEG of many segments": (
            jpeg[:2] + exif + jpeg[2:],
            415,
            "more than 1000 segments, which no camera writes. Save it",
        ),
        "PNG of many profiles": (
            profiles,
            415,
            "more than 20 colour profiles, where one is allowed",
        ),
    }


HOSTILE = hostile()


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_uploads_get_a_clear_message(
    small: Running, what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    content, status, message = HOSTILE[what]
    began = time.perf_counter()
    found = error(small, content, name="photograph.jpg")
    assert time.perf_counter() - began < 4
    assert found[:2] == (status, "photograph")
    assert message in found[2]
    for leak in ("PIL", "zlib", "image file is", "broken", "Errno", "0x"):
        assert leak not in found[2]
    call = ask(small, content, "/api/download/report")
    assert call.status == (400 if status == 200 else status)
    assert strict(call.content)["error"] == found[2]
    assert capsys.readouterr() == ("", "")


def test_the_service_is_unharmed_by_them(small: Running) -> None:
    before = result(small)
    for content, _, _ in HOSTILE.values():
        ask(small, content)
    after = result(small)
    assert {**after, "seconds": 0} == {**before, "seconds": 0}


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.data())
def test_damaged_files_never_get_further_than_a_message(
    small: Running, data: st.DataObject
) -> None:
    kind = data.draw(st.sampled_from(["JPEG", "PNG", "WEBP", "GIF", "BMP"]))
    content = bytearray(encoded(pixels(0)[..., 0], kind))
    for _ in range(data.draw(st.integers(1, 12))):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place] = data.draw(st.integers(0, 255))
    last = lines(ask(small, bytes(content), method="POST", parts="map").content)[-1]
    assert "result" in last or last["kind"] == "photograph", last


# Limits on the body


def body_of(server: Running, parts: list[bytes], headers: dict[str, str] | None = None) -> Call:
    async def go() -> Call:
        call = Call(server.app, "/api/explain", headers=headers)
        for i, part in enumerate(parts):
            call.body(part, more=i < len(parts) - 1)
        return await call.ended()

    return asyncio.run(go())


def test_bodies_are_limited_while_they_are_read(tmp_path: Path) -> None:
    with running(tmp_path, limits=Limits(bytes=2000), workers=1) as server:
        fitting = encoded(pixels(0)[:8, :8])
        assert len(fitting) <= 2000
        assert body_of(server, [fitting]).status == 200
        assert body_of(server, [fitting[:99], fitting[99:]]).status == 200
        for parts, headers in (
            ([b"x" * 2001], None),
            ([b"x" * 500] * 5, None),
            ([b"x" * 500] * 5, {"content-length": "10"}),
            ([b"x"], {"content-length": "2001"}),
            ([b"x"], {"content-length": "-1"}),
            ([b"x"], {"content-length": "1e3"}),
            ([b"x"], {"content-length": "9" * 400}),
        ):
            call = body_of(server, parts, headers)
            found = strict(call.content)
            assert (call.status, found["kind"]) == (413, "photograph")
            assert "larger than the 2,000 bytes that are accepted" in found["error"]
            assert call.headers["connection"] == "close"


def test_an_endless_body_ends(tmp_path: Path) -> None:
    async def go(server: Running) -> int:
        call = Call(server.app, "/api/explain")
        sent = 0
        while not call.task.done():
            call.body(b"x" * 1000, more=True)
            sent += 1000
            await asyncio.sleep(0)
        await call.ended()
        assert call.status == 413
        return sent

    with running(tmp_path, limits=Limits(bytes=2000), workers=1) as server:
        assert asyncio.run(go(server)) < 100_000


def test_slow_bodies_time_out(tmp_path: Path) -> None:
    async def pausing(server: Running) -> Call:
        return await Call(server.app, "/api/explain").body(b"x", more=True).ended(5)

    async def dripping(server: Running) -> Call:
        call = Call(server.app, "/api/explain")
        while not call.task.done():
            call.body(b"x", more=True)
            await asyncio.sleep(0.02)
        return await call.ended()

    limits = Limits(seconds=0.4, pause=0.15)
    with running(tmp_path, limits=limits, workers=1) as server:
        for call in (asyncio.run(pausing(server)), asyncio.run(dripping(server))):
            assert call.status == 408
            assert strict(call.content)["error"] == "The photograph came too slowly. Try again."
        assert body_of(server, [PHOTOGRAPH]).status == 200


def test_pixels_are_limited(tmp_path: Path) -> None:
    with running(tmp_path, limits=Limits(pixels=2880), workers=1) as server:
        assert body_of(server, [encoded(pixels(0, 48, 60))]).status == 200
        call = body_of(server, [encoded(pixels(0, 48, 61))])
        assert call.status == 413
        assert "61 x 48 pixels, more than the 2,880 pixels" in strict(call.content)["error"]


def test_limits_are_positive_and_said_plainly() -> None:
    for name in ("bytes", "pixels", "seconds", "pause"):
        with pytest.raises(ValueError, match=f"the limit of {name} must be positive, not 0"):
            Limits(**{name: 0})
    assert amount(10_000_000, "bytes") == "10 MB"
    assert amount(2_500_000, "pixels") == "2.5 million pixels"
    assert amount(900, "bytes") == "900 bytes"


# Requests


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ({"model": "9"}, "model must be a whole number from 0 to 4, not '9'."),
        ({"model": "-1"}, "model must be a whole number"),
        ({"model": "/etc/passwd"}, "model must be a whole number"),
        ({"model": "0.0"}, "model must be a whole number"),
        ({"model": "٣"}, "model must be a whole number"),
        ({"target": "5"}, "target must be a whole number from 0 to 4, not '5'."),
        ({"target": "9" * 5000}, "target must be a whole number from 0 to 4"),
        ({"target": "dog"}, "target must be a whole number"),
        ({"method": "grad-cam"}, "unknown method 'grad-cam'; did you mean 'grad_cam'?"),
        ({"method": "__init__"}, "unknown method"),
        ({"parts": "some"}, "parts must be 'all' or 'map', not 'some'."),
        ({"opacity": "2"}, "opacity must be a number from 0 to 1, not '2'."),
        ({"opacity": "nan"}, "opacity must be a number from 0 to 1"),
        ({"file": "x"}, "Unknown parameter 'file'; known: model, target, method"),
        ({"options": "{"}, "options are no JSON object."),
        ({"options": "[]"}, "options are no JSON object."),
        ({"options": "[" * 3999}, "options are no JSON object."),
        ({"options": '{"a":NaN}'}, "options are no JSON object."),
        ({"options": " " * 5000}, "options are longer than 4000 characters."),
        (
            {"options": '{"psi":"loud"}'},
            "fullgrad: psi must be one of none, layer, channel, signed, not 'loud'.",
        ),
        ({"options": '{"psi":["layer"]}'}, "psi must be one of"),
        ({"options": '{"activation_layouts":{"a":"B C"}}'}, "has no option 'activation_layouts' here; it has psi, terms."),
        ({"options": '{"terms":"nowhere"}'}, "nowhere"),
        ({"options": '{"terms":"a,,b"}'}, "terms must be one of all, explicit"),
        ({"options": '{"terms":{"a":1}}'}, "terms must be a text"),
        (
            {"method": "sobel", "options": '{"psi":"layer"}'},
            "The method sobel has no option 'psi' here; it has none.",
        ),
        (
            {"method": "smoothgrad", "options": '{"samples":0}'},
            "samples must be from 1 to 100 here, not '0'.",
        ),
        (
            {"method": "smoothgrad", "options": '{"samples":1e9}'},
            "samples must be from 1 to 100 here",
        ),
        ({"method": "smoothgrad", "options": '{"samples":1.5}'}, "samples must be a whole number"),
        ({"method": "smoothgrad", "options": '{"samples":true}'}, "samples must be a whole number"),
        ({"method": "smoothgrad", "options": '{"scale":-1}'}, "scale must be from 0 to 10 here"),
        ({"method": "smoothgrad", "options": '{"scale":1e999}'}, "scale must be a number"),
        (
            {"method": "integrated_gradients", "options": '{"baseline":"a"}'},
            "baseline must be a number",
        ),
        (
            {"method": "integrated_gradients", "options": '{"n_steps":100000000}'},
            "n_steps must be from 1 to 300",
        ),
        (
            {"method": "integrated_gradients", "options": '{"baseline":1' + "0" * 400 + "}"},
            "baseline must be a number",
        ),
        (
            {"method": "integrated_gradients", "options": '{"n_steps":1' + "0" * 400 + "}"},
            "n_steps must be from 1 to 300",
        ),
        (
            {"method": "random_blobs", "options": '{"grid":1}'},
            "grid must be from 2 to 256 here, not '1'.",
        ),
        (
            {"method": "random_blobs", "options": '{"grid":1000000}'},
            "grid must be from 2 to 256 here",
        ),
        ({"method": "random", "options": '{"seed":1e300}'}, "seed must be a whole number"),
        ({"method": "grad_cam", "options": '{"relu":1}'}, "relu must be true or false"),
        (
            {"method": "grad_cam", "options": '{"layer":"nowhere"}'},
            "the model has no layer 'nowhere'",
        ),
        (
            {"method": "grad_cam", "options": '{"layer":"' + "x" * 400 + '"}'},
            "layer must be a text of at most 300",
        ),
        (
            {"model": "1", "method": "guided_backprop"},
            "guided_backprop does not apply to the model",
        ),
    ],
)
def test_wrong_requests_get_a_clear_message(
    small: Running, query: dict[str, str], message: str
) -> None:
    async def go() -> Call:
        return await Call(small.app, "/api/explain", urlencode(query)).body(PHOTOGRAPH).ended()

    call = asyncio.run(go())
    last = lines(call.content)[-1]
    assert message in last["error"]
    assert last["kind"] in {"request", "method"}
    assert call.status == 400 or len(lines(call.content)) > 1


def test_a_parameter_given_twice_is_refused(small: Running) -> None:
    async def go() -> Call:
        return await Call(small.app, "/api/explain", "target=1&target=2").body(PHOTOGRAPH).ended()

    call = asyncio.run(go())
    assert (call.status, strict(call.content)["error"]) == (
        400,
        "The parameter 'target' is given twice.",
    )


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
WORDS = st.sampled_from(
    ["psi", "terms", "samples", "scale", "seed", "layer", "relu", "n_steps", "baseline", "activation_layouts"]
)


@settings(
    max_examples=70, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    query=st.dictionaries(
        st.sampled_from(["model", "target", "method", "parts", "name", "opacity"])
        | st.text(max_size=8),
        st.sampled_from(["0", "1", "4", "map", *methods.names(), "../..", "\x00"])
        | st.text(max_size=30),
    ),
    options=st.dictionaries(WORDS | st.text(max_size=5), JSON, max_size=3) | st.text(max_size=20),
)
def test_no_query_gets_more_than_a_result_or_a_message(
    small: Running, query: dict[str, str], options: Any
) -> None:
    text = options if isinstance(options, str) else json.dumps(options)
    pairs = urlencode({**query, "options": text}, errors="replace")
    content = encoded(pixels(1)[:12, :12])

    async def go() -> Call:
        return await Call(small.app, "/api/explain", pairs).body(content).ended()

    call = asyncio.run(go())
    last = lines(call.content)[-1]
    assert call.status in {200, 400}
    if "result" not in last:
        assert set(last) == {"error", "kind"}
        assert last["kind"] in {"request", "method"}, last


# Models that fail


def test_an_unforeseen_error_is_logged_and_outlived(
    small: Running, capsys: pytest.CaptureFixture[str]
) -> None:
    status, kind, message = error(small, WHITE, model=2, parts="map")
    assert (status, kind) == (200, "method")  # the model's own failure is told
    assert "fails on an input of shape 1x3x32x32: KeyError" in message
    assert "secret" not in message
    assert result(small, model=2)["model"] == 2


def test_a_failure_of_the_server_is_logged_and_outlived(
    small: Running, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any) -> Any:
        raise RuntimeError("cannot open /home/somebody/secret.bin")

    with monkeypatch.context() as patched:
        patched.setattr("fullgrad.app.answer.result", fail)
        status, kind, message = error(small, PHOTOGRAPH)
        assert (status, kind) == (200, "internal")
        assert message.startswith("Something went wrong in the viewer.")
        err = capsys.readouterr().err
        assert "fullgrad app: unexpected error" in err
        assert "cannot open /home/somebody/secret.bin" in err
        patched.setattr("fullgrad.app.server.computed", fail)
        call = ask(small, PHOTOGRAPH, "/api/download/array")
        assert (call.status, strict(call.content)["kind"]) == (500, "internal")
        patched.setattr("fullgrad.app.server.parsed", fail)
        call = ask(small, PHOTOGRAPH)
        assert (call.status, strict(call.content)["kind"]) == (500, "internal")
        assert "secret" not in call.content.decode()
    assert result(small)["model"] == 0


def test_running_out_of_memory_is_said(small: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    for raised in (
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
    ):

        def fail(*args: Any, error: BaseException = raised) -> Any:
            raise error

        monkeypatch.setattr("fullgrad.app.server.computed", fail)
        found = error(small, PHOTOGRAPH)
        assert found == (200, "internal", "The viewer ran out of memory for this request.")


def test_outputs_that_are_not_finite_are_refused(small: Running) -> None:
    assert error(small, WHITE, model=3)[1:] == (
        "method",
        "The model's output for this photograph is not finite.",
    )


def test_a_model_without_a_split_still_has_other_maps(small: Running) -> None:
    async def go(method: str) -> Any:
        query = urlencode({"model": 4, "method": method})
        call = await Call(small.app, "/api/explain", query).body(PHOTOGRAPH).ended()
        return lines(call.content)[-1]

    assert asyncio.run(go("fullgrad"))["kind"] == "method"
    found = asyncio.run(go("grad_cam"))["result"]
    assert found["stages"] is None
    assert found["waterfall"] is None
    assert found["notes"][0].startswith("There is no split of the logit: ")
    assert "autograd" in found["notes"][0]


def test_messages_have_no_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    assert public("cannot open /home/me/x.pt: no") == "cannot open (a file of the server): no"
    assert public(r"in C:\Users\me\x.py") == "in (a file of the server)"
    assert public("~/a/b c") == "(a file of the server) c"
    assert public("1/2 of B/C/H/W, 3 / 4") == "1/2 of B/C/H/W, 3 / 4"
    known = Path("/home/John  Smith/nets/x.pt")
    assert "Smith" in public(f"cannot open {known}: no")
    with monkeypatch.context() as patched:
        patched.setattr("fullgrad.app.refusal._HIDDEN", set())
        hide([known, known.parent, Path("/home/John  Smith"), Path("/"), Path("net.py")])
        for path in (
            known,
            "/home/John Smith/nets/x.pt",
            "/home/John  Smith",
            known.parent / "y.py",
        ):
            assert public(f"cannot open '{path}': no") == "cannot open '(a file of the server)': no"
        assert public("1/2 of net.py") == "1/2 of net.py"
        assert public("a/home/John  Smithson") == "a/home/John Smithson"
    assert public("a\nb\x00") == "a b\N{REPLACEMENT CHARACTER}"
    assert len(public("x" * 5000)) == 1000


# Addresses

ROUTES = (
    "/",
    "/static",
    "/static/app.js",
    "/api/about",
    "/api/explain",
    "/api/download",
    "/api/download/report",
)
OUTSIDE = (
    "/..",
    "/../..",
    "/../../../../etc/passwd",
    "/%2e%2e/%2e%2e/etc/passwd",
    "/..%2f..%2fetc%2fpasswd",
    "/..\\..\\etc\\passwd",
    "//etc/passwd",
    "/etc/passwd",
    "/%00",
    "/\x00",
    "/app.js\x00.css",
    "/....//....//etc/passwd",
    "/.git/config",
    "/server.py",
    "/../server.py",
    "/%252e%252e/",
    "/.",
    "/~",
    "/C:/Windows/win.ini",
    "/file:///etc/passwd",
    "/index.html/",
    "/INDEX.HTML",
)


@pytest.mark.parametrize("route", ROUTES)
def test_paths_outside_are_refused_at_every_route(small: Running, route: str) -> None:
    for outside in OUTSIDE:
        for method in (
            "GET",
            "POST",
            "HEAD",
            "PUT",
            "DELETE",
            "PATCH",
            "OPTIONS",
            "TRACE",
            "PROPFIND",
        ):
            for path in (route.rstrip("/") + outside, route + outside[1:] + "x"):
                call = ask(small, b"", path, method)
                assert call.status == 404, (path, method)
                assert strict(call.content) == {
                    "error": "There is nothing at this address.",
                    "kind": "request",
                }


def test_other_methods_are_refused_at_every_route(small: Running) -> None:
    for path in (*pages(), "/api/about", "/api/explain", "/api/download/report"):
        ways = ("POST",) if "explain" in path or "download" in path else ("GET", "HEAD")
        for method in ("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"):
            call = ask(small, b"", path, method)
            assert (call.status == 405) == (method not in ways), (path, method)


def test_pages_are_those_of_the_table(small: Running) -> None:
    folder = Path(fullgrad.__file__).parent / "app" / "static"
    assert sorted(NAMES) == sorted(p.name for p in folder.iterdir())
    for path, page in pages().items():
        call = ask(small, b"", path, "GET")
        assert (call.status, call.content) == (200, page.content)
        assert call.headers["content-type"] == page.kind
        head = ask(small, b"", path, "HEAD")
        assert (head.status, head.content) == (200, b"")
        assert head.headers["content-length"] == str(len(page.content))
    assert ask(small, b"", "/", "GET").content == (folder / "index.html").read_bytes()


def test_the_page_needs_nothing_that_its_policy_forbids() -> None:
    html = pages()["/"].content.decode()
    assert "<style" not in html
    assert " style=" not in html
    assert "onclick" not in html
    assert "http://" not in html.replace("http://www.w3.org", "")
    assert html.count("<script") == html.count('<script type="module" src="/static/')


def test_every_answer_says_how_to_treat_it(small: Running) -> None:
    for call in (
        ask(small, b"", "/", "GET"),
        ask(small, b"", "/nowhere", "GET"),
        ask(small, b""),
        ask(small, PHOTOGRAPH),
        ask(small, PHOTOGRAPH, "/api/download/report"),
        ask(small, b"", "/", "GET", {"host": "evil.example"}),
    ):
        assert call.headers["x-content-type-options"] == "nosniff"
        assert call.headers["cache-control"] == "no-store"
        policy = call.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert "server" not in call.headers
        assert "access-control-allow-origin" not in call.headers


@pytest.mark.parametrize(
    ("host", "welcome"),
    [
        ("127.0.0.1:7860", True),
        ("localhost:7860", True),
        ("[::1]:7860", True),
        ("LOCALHOST", True),
        ("127.0.0.1", True),
        ("evil.example", False),
        ("evil.example:7860", False),
        ("", False),
        ("127.0.0.1.evil.example", False),
        ("localhost.evil.example", False),
        ("192.168.1.2", False),
        ("[::1", False),
        ("0.0.0.0:7860", False),
    ],
)
def test_other_names_than_the_machines_are_refused(
    small: Running, host: str, welcome: bool
) -> None:
    for method, path in (("GET", "/"), ("GET", "/api/about"), ("POST", "/api/explain")):
        call = ask(small, PHOTOGRAPH, path, method, {"host": host})
        assert call.status == (200 if welcome else 403)


@pytest.mark.parametrize(
    ("headers", "welcome"),
    [
        ({}, True),
        ({"origin": "http://127.0.0.1:7860", "sec-fetch-site": "same-origin"}, True),
        ({"sec-fetch-site": "none"}, True),
        ({"origin": "http://127.0.0.1:8000"}, False),
        ({"origin": "http://localhost:7860"}, False),
        ({"origin": "http://evil.example"}, False),
        ({"origin": "null"}, False),
        ({"origin": "file://127.0.0.1:7860"}, False),
        ({"origin": "http://[::1"}, False),
        ({"origin": ""}, False),
        ({"sec-fetch-site": "cross-site"}, False),
        ({"sec-fetch-site": "same-site"}, False),
        ({"origin": "http://127.0.0.1:7860", "sec-fetch-site": "cross-site"}, False),
    ],
)
def test_other_web_pages_are_refused(
    small: Running, headers: dict[str, str], welcome: bool
) -> None:
    for path in ("/api/explain", "/api/download/array"):
        call = ask(small, PHOTOGRAPH, path, "POST", headers)
        assert call.status == (200 if welcome else 403)
        if not welcome:
            assert strict(call.content)["error"] == "Requests from other web pages are refused."


def test_beyond_loopback_any_name_goes_but_no_other_page(tmp_path: Path) -> None:
    with running(tmp_path, workers=1, loopback=False) as server:
        named = {"host": "lab.example:7860"}
        assert ask(server, b"", "/", "GET", named).status == 200
        own = {**named, "origin": "http://lab.example:7860"}
        assert ask(server, PHOTOGRAPH, headers=own).status == 200
        other = {**named, "origin": "http://evil.example"}
        assert ask(server, PHOTOGRAPH, headers=other).status == 403


def test_other_protocols_are_closed(small: Running) -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    asyncio.run(small.app({"type": "websocket", "path": "/"}, receive, send))
    assert sent == [{"type": "websocket.close", "code": 1008}]
