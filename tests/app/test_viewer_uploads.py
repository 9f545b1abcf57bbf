"""Uploads: photographs, hostile files, and the limits of a body."""

from __future__ import annotations

import asyncio
import io
import struct
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from fullgrad.vision.images import display_image

pytest.importorskip("starlette")
from app_server import (
    CAPTUM,
    PHOTOGRAPH,
    Call,
    Running,
    ask,
    encoded,
    error,
    expected,
    image_of,
    lines,
    pixels,
    result,
    running,
    strict,
)
from fullgrad.app.upload import Limits, amount

pytestmark = CAPTUM


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
            "more than 20 color profiles, where one is allowed",
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


def test_a_color_mode_that_cannot_be_converted_is_reported(
    small: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(image: Any) -> Any:
        raise ValueError("conversion not supported")

    monkeypatch.setattr("fullgrad.app.upload.to_rgb", fail)
    message = "The image's color mode RGB cannot be converted to 8-bit RGB. Save it as an"
    assert message in error(small, PHOTOGRAPH)[2]


def test_the_service_is_unharmed_by_them(small: Running) -> None:
    before = result(small)
    for content, _, _ in HOSTILE.values():
        ask(small, content)
    after = result(small)
    assert {**after, "seconds": 0} == {**before, "seconds": 0}


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_damaged_files_never_get_further_than_a_message(
    small: Running, data: st.DataObject
) -> None:
    kind = data.draw(st.sampled_from(["JPEG", "PNG", "WEBP", "GIF", "BMP"]))
    content = bytearray(encoded(pixels(0)[..., 0], kind))
    for _ in range(data.draw(st.integers(1, 12))):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place] = data.draw(st.integers(0, 255))
    last = lines(ask(small, bytes(content), parts="map").content)[-1]
    assert "result" in last or last["kind"] == "photograph", last


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
