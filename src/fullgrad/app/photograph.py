"""From an upload's bytes to a photograph, or a message for the person who sent it.

What a file is, its content says; its name is never looked at. Only a few of Pillow's decoders are
ever tried.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fullgrad._optional import require
from fullgrad.app.limits import Limits, amount
from fullgrad.app.refusal import Refusal
from fullgrad.app.structure import check_structure
from fullgrad.vision.images import Photograph, to_rgb, upright

if TYPE_CHECKING:
    from PIL import Image

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
_STILL = "MPO"  # a JPEG with further views behind it, as telephones write it; the first is used
_ACCEPTED = "Accepted are JPEG, PNG, WebP, GIF and BMP."
_HEAD = 1024
_NOT_AN_IMAGE = (
    (b"%PDF", "a PDF document"),
    (b"MZ", "a Windows program"),
    (b"\x7fELF", "a program"),
    (b"\xcf\xfa\xed\xfe", "a program"),
    (b"\xca\xfe\xba\xbe", "a program"),
    (b"#!", "a script"),
    (b"PK\x03\x04", "a ZIP archive or an office document"),
    (b"\x1f\x8b", "a compressed file"),
    (b"II*\x00", "a TIFF image"),
    (b"MM\x00*", "a TIFF image"),
    (b"8BPS", "a Photoshop file"),
    (b"\x00\x00\x01\x00", "an icon"),
    (b"\xff\x0a", "a JPEG XL image"),
    (b"\x00\x00\x00\x0cJXL ", "a JPEG XL image"),
    (b"\x00\x00\x00\x0cjP  ", "a JPEG 2000 image"),
)


def refused(message: str, status: int = 415) -> Refusal:
    """The answer to a file that is no photograph."""
    return Refusal(message, "photograph", status)


def ceiling() -> int | None:
    """How many pixels an image may have at most, whatever the limits say: Pillow opens no more."""
    most = require("PIL.Image", "app").MAX_IMAGE_PIXELS
    return None if most is None else 2 * int(most)


def check(content: bytes, limits: Limits) -> None:
    """Look at a file's first bytes and at the image's header, without decoding it.

    Args:
        content: of the file.
        limits: of an upload.

    Raises:
        Refusal: empty, too large, no image of an accepted format, an animation, damaged.
    """
    if not content:
        raise refused("The file is empty (0 bytes). Choose a photograph.", 400)
    if len(content) > limits.bytes:
        raise too_large(limits)
    with _opened(content, limits):
        pass


def too_large(limits: Limits) -> Refusal:
    """The answer to a file of too many bytes."""
    most = amount(limits.bytes, "bytes")
    return refused(
        f"The file is larger than the {most} that are accepted. Make the photograph smaller, or "
        "save it as JPEG.",
        413,
    )


def decoded(content: bytes, name: str, limits: Limits) -> Photograph:
    """Decode a file as :func:`fullgrad.vision.images.read_photograph` does.

    Args:
        content: of the file.
        name: for titles; no file of that name is looked for.
        limits: of an upload.

    Returns:
        The photograph, upright, in 8-bit RGB.

    Raises:
        Refusal: as :func:`check`; truncated or damaged.
    """
    with _opened(content, limits) as image:
        size, mode = image.size, image.mode
        frames = 1
        try:
            image.load()
        except Exception as error:  # decoders raise what they like on damaged files
            raise refused(
                "The image is truncated or damaged: it could not be decoded to its end. Send the "
                "whole file, or save it again in an image program.",
                400,
            ) from error
        try:
            picture = to_rgb(upright(image))
        except Exception as error:
            raise refused(
                f"The image's colour mode {mode} cannot be converted to 8-bit RGB. Save it as an "
                "ordinary JPEG or PNG."
            ) from error
    digest = hashlib.sha256(content).hexdigest()
    return Photograph(picture, Path(name), digest, size, mode, frames)


@contextmanager
def _opened(content: bytes, limits: Limits) -> Iterator[Image.Image]:
    """An image whose header was read and found acceptable."""
    pil = require("PIL.Image", "app")
    check_structure(content)
    with io.BytesIO(content) as file:
        try:
            image = pil.open(file, formats=FORMATS)
        except (pil.DecompressionBombError, pil.DecompressionBombWarning) as error:
            raise _too_many_pixels(limits) from error
        except pil.UnidentifiedImageError as error:
            raise refused(_what_it_is(content)) from error
        except Exception as error:
            raise refused("The image is damaged: its header cannot be read.", 400) from error
        with image:
            _check_header(image, limits)
            yield image


def _check_header(image: Any, limits: Limits) -> None:
    width, height = image.size
    if width * height > limits.pixels:
        raise _too_many_pixels(limits, f" has {width} x {height} pixels,")
    try:
        moving = image.format != _STILL and bool(getattr(image, "is_animated", False))
        image.seek(0)
    except Exception as error:
        raise refused("The image is damaged: its header cannot be read.", 400) from error
    if moving:
        raise refused(
            "The file is an animation. Save the frame you mean as a single image (PNG or JPEG)."
        )


def _too_many_pixels(limits: Limits, found: str = " has") -> Refusal:
    return refused(
        f"The image{found} more than the {amount(limits.pixels, 'pixels')} that are accepted. "
        "Make it smaller first: models look at a few hundred pixels a side anyway.",
        413,
    )


def _what_it_is(content: bytes) -> str:
    """Why a file is not accepted, and what to do."""
    head = content[:_HEAD]
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith(b"<svg") or (text.startswith((b"<?xml", b"<!")) and b"<svg" in text):
        return (
            "The file is an SVG drawing, not a photograph: it has no pixels. Export it as PNG "
            "from a drawing program or the browser, and send that."
        )
    if head[4:8] == b"ftyp":
        kind = head[8:12]
        heic = kind in {b"heic", b"heix", b"mif1", b"msf1", b"hevc", b"heim"}
        what = (
            "a HEIC photograph"
            if heic
            else "an AVIF image"
            if kind in {b"avif", b"avis"}
            else ("a video")
        )
        return f"The file is {what}. Export it as JPEG first. {_ACCEPTED}"
    for start, what in _NOT_AN_IMAGE:
        if head.startswith(start):
            return f"The file is {what}, whatever its name says. {_ACCEPTED}"
    if text.startswith((b"<!doctype html", b"<html")):
        return f"The file is a web page, not an image. {_ACCEPTED}"
    return f"The file is not an image of a known format, or its beginning is damaged. {_ACCEPTED}"
