"""From an upload's bytes to a photograph, or to a message for the person who sent it.

The content alone says what a file is; its name is never looked at. Only a few of Pillow's decoders
are ever tried.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from fullgrad.app.refusal import Refusal
from fullgrad.vision.images import Photograph, to_rgb, upright

MEGA = 1_000_000
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
_STILL = "MPO"  # a JPEG with further views behind it, as telephones write it; the first is used
_ACCEPTED = "Accepted are JPEG, PNG, WebP, GIF and BMP."
_DAMAGED_HEADER = "The image is damaged: its header cannot be read."
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
_CONTAINERS = {  # the four bytes behind "ftyp"
    **dict.fromkeys((b"heic", b"heix", b"mif1", b"msf1", b"hevc", b"heim"), "a HEIC photograph"),
    **dict.fromkeys((b"avif", b"avis"), "an AVIF image"),
}
# Some structures keep a decoder busy for minutes.
_SCANS = 100  # of a JPEG: each goes over the whole image; ordinary files have about ten
_SEGMENTS = 1000  # of a JPEG, before and between its scans; a camera's file has some dozens
_PROFILES = 20  # of a PNG: the standard has one, and each is unpacked
_END, _SCAN = b"\xd9", b"\xda"
# Markers that a length follows, and the end of the image; what lies between is skipped.
_MARKER = re.compile(rb"\xff([\xc0-\xc7\xc9-\xcf\xd9-\xdf\xe0-\xef\xfe])")


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of one upload.

    Args:
        bytes: the file's size.
        pixels: width times height of the image in the file.
        seconds: the time in which the whole file must arrive.
        pause: the seconds in which the next part of it must arrive.

    Raises:
        ValueError: a limit is not positive.
    """

    bytes: int = 10 * MEGA
    pixels: int = 25 * MEGA
    seconds: float = 60.0
    pause: float = 10.0

    def __post_init__(self) -> None:
        for f in fields(self):
            value = getattr(self, f.name)
            if not value > 0:
                raise ValueError(f"the limit of {f.name} must be positive, not {value!r}")


def amount(count: int, unit: str) -> str:
    """Write a number of bytes or pixels in words: ``10 MB``, ``0.5 million pixels``."""
    if count < MEGA // 10:
        return f"{count:,} {unit}"
    return f"{count / MEGA:,.10g} {'MB' if unit == 'bytes' else 'million pixels'}"


def pillow_limit() -> int | None:
    """Return how many pixels Pillow opens at most, whatever the limits are."""
    most = Image.MAX_IMAGE_PIXELS
    return None if most is None else 2 * int(most)


def check_upload(content: bytes, limits: Limits) -> None:
    """Check a file's first bytes and the image's header, without decoding it.

    Args:
        content: the file's bytes.
        limits: the upload's limits.

    Raises:
        Refusal: the file is empty, too large, damaged, an animation, or not an image of an
            accepted format.
    """
    if not content:
        raise _refused("The file is empty (0 bytes). Choose a photograph.", 400)
    if len(content) > limits.bytes:
        raise too_large(limits)
    with _opened(content, limits):
        pass


def too_large(limits: Limits) -> Refusal:
    """Return the refusal of a file of too many bytes."""
    most = amount(limits.bytes, "bytes")
    return _refused(
        f"The file is larger than the {most} that are accepted. Make the photograph smaller, or "
        "save it as JPEG.",
        413,
    )


def decode_upload(content: bytes, name: str, limits: Limits) -> Photograph:
    """Decode a file as :func:`fullgrad.vision.images.read_photograph` does.

    Args:
        content: the file's bytes.
        name: the photograph's name for titles; no file of that name is opened.
        limits: the upload's limits.

    Returns:
        The photograph, upright, in 8-bit RGB.

    Raises:
        Refusal: as :func:`check_upload`; or the file is truncated or damaged.
    """
    with _opened(content, limits) as image:
        size, mode = image.size, image.mode
        try:
            image.load()
        except Exception as error:  # decoders raise any exception on damaged files
            raise _refused(
                "The image is truncated or damaged: it could not be decoded to its end. Send the "
                "whole file, or save it again in an image program.",
                400,
            ) from error
        try:
            picture = to_rgb(upright(image))
        except Exception as error:
            raise _refused(
                f"The image's color mode {mode} cannot be converted to 8-bit RGB. Save it as an "
                "ordinary JPEG or PNG."
            ) from error
    return Photograph(picture, Path(name), hashlib.sha256(content).hexdigest(), size, mode, 1)


def _refused(message: str, status: int = 415) -> Refusal:
    return Refusal(message, "photograph", status)


@contextmanager
def _opened(content: bytes, limits: Limits) -> Iterator[Image.Image]:
    """An image whose header was read and is acceptable."""
    _check_structure(content)
    with io.BytesIO(content) as file:
        try:
            image = Image.open(file, formats=FORMATS)
        except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            raise _too_many_pixels(limits) from error
        except UnidentifiedImageError as error:
            raise _refused(_what_it_is(content)) from error
        except Exception as error:
            raise _refused(_DAMAGED_HEADER, 400) from error
        with image:
            _check_header(image, limits)
            yield image


def _check_structure(content: bytes) -> None:
    """Refuse small files that keep a decoder busy for long."""
    if content.startswith(b"\xff\xd8"):
        _check_jpeg(content)
    elif content.startswith(b"\x89PNG") and content.count(b"iCCP") > _PROFILES:
        raise _unusual(f"The PNG has more than {_PROFILES} color profiles, where one is allowed.")


def _check_jpeg(content: bytes) -> None:
    """Walk over the segments; the data of scans, and all that follows the image, is skipped."""
    place, segments, scans = 2, 0, 0
    while found := _MARKER.search(content, place):
        place = found.end()
        if found[1] == _END:
            if scans:
                return
            continue  # an end before any scan stops no decoder
        segments, scans = segments + 1, scans + (found[1] == _SCAN)
        if scans > _SCANS:
            raise _unusual(f"The JPEG has more than {_SCANS} scans, which no camera writes.")
        if segments > _SEGMENTS:
            raise _unusual(f"The JPEG has more than {_SEGMENTS} segments, which no camera writes.")
        place += int.from_bytes(content[place : place + 2], "big")


def _unusual(what: str) -> Refusal:
    return _refused(f"{what} Save it again in an image program.")


def _check_header(image: Image.Image, limits: Limits) -> None:
    width, height = image.size
    if width * height > limits.pixels:
        raise _too_many_pixels(limits, f" has {width} x {height} pixels,")
    try:
        moving = image.format != _STILL and bool(getattr(image, "is_animated", False))
        image.seek(0)
    except Exception as error:
        raise _refused(_DAMAGED_HEADER, 400) from error
    if moving:
        raise _refused(
            "The file is an animation. Save the frame you mean as a single image (PNG or JPEG)."
        )


def _too_many_pixels(limits: Limits, found: str = " has") -> Refusal:
    return _refused(
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
        what = _CONTAINERS.get(head[8:12], "a video")
        return f"The file is {what}. Export it as JPEG first. {_ACCEPTED}"
    for start, what in _NOT_AN_IMAGE:
        if head.startswith(start):
            return f"The file is {what}, whatever its name says. {_ACCEPTED}"
    if text.startswith((b"<!doctype html", b"<html")):
        return f"The file is a web page, not an image. {_ACCEPTED}"
    return f"The file is not an image of a known format, or its beginning is damaged. {_ACCEPTED}"
