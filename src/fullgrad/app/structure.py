"""How a file is built, looked at before a decoder sees it: some shapes cost it minutes."""

from __future__ import annotations

import re

from fullgrad.app.refusal import Refusal

_SCANS = 100  # of a JPEG: each goes over the whole image; ordinary files have about ten
_SEGMENTS = 1000  # in front of its scans and between them; a camera's file has some dozens
_PROFILES = 20  # of a PNG: the standard has one, and each is unpacked
_END, _SCAN = b"\xd9", b"\xda"
# Markers that a length follows, and the end of the image; what lies between is skipped.
_MARKER = re.compile(rb"\xff([\xc0-\xc7\xc9-\xcf\xd9-\xdf\xe0-\xef\xfe])")


def check_structure(content: bytes) -> None:
    """Refuse files of which a small one keeps a decoder busy for long.

    Args:
        content: of the file.

    Raises:
        Refusal: a JPEG of too many scans or segments, a PNG of too many colour profiles.
    """
    if content.startswith(b"\xff\xd8"):
        _check_jpeg(content)
    elif content.startswith(b"\x89PNG") and content.count(b"iCCP") > _PROFILES:
        raise _refused(f"The PNG has more than {_PROFILES} colour profiles, where one is allowed.")


def _check_jpeg(content: bytes) -> None:
    """Walk over the segments; data of scans, and all behind the image, is none."""
    place, segments, scans = 2, 0, 0
    while found := _MARKER.search(content, place):
        place = found.end()
        if found[1] == _END:
            if scans:
                return
            continue  # an end before any scan stops no decoder
        segments, scans = segments + 1, scans + (found[1] == _SCAN)
        if scans > _SCANS:
            raise _refused(f"The JPEG has more than {_SCANS} scans, which no camera writes.")
        if segments > _SEGMENTS:
            raise _refused(f"The JPEG has more than {_SEGMENTS} segments, which no camera writes.")
        place += int.from_bytes(content[place : place + 2], "big")


def _refused(what: str) -> Refusal:
    return Refusal(f"{what} Save it again in an image program.", "photograph", 415)
