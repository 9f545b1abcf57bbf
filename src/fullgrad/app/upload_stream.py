"""Reads an upload while it arrives, as far as the limits allow."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from anyio import fail_after, move_on_after
from starlette.requests import Request

from fullgrad.app.refusal import Refusal
from fullgrad.app.upload import Limits, too_large

# Browsers read no response before they have sent all: so a part of an upload that is too large is
# read and thrown away.
_DRAINED = 4  # times the limit
_DRAINING = 3.0  # seconds


async def read_upload(request: Request, limits: Limits) -> bytes:
    """Read the body of a request.

    Args:
        request: the request, of whose body nothing is read yet.
        limits: the upload's limits.

    Raises:
        Refusal: the upload is too large, whatever its ``Content-Length`` says, or too slow.
        ClientDisconnect: the client has hung up.
    """
    stream = request.stream()
    parts: list[bytes] = []
    size = _announced(request)
    if size <= limits.bytes:
        size = 0
    try:
        with fail_after(limits.seconds):
            while size <= limits.bytes:
                with fail_after(limits.pause):
                    part = await anext(stream, None)
                if part is None:
                    return b"".join(parts)
                parts.append(part)
                size += len(part)
    except TimeoutError as error:
        raise Refusal("The photograph came too slowly. Try again.", "request", 408) from error
    parts.clear()
    await drain(request, limits, stream)
    raise too_large(limits)


def _announced(request: Request) -> int:
    """The size that the request's headers tell; one that cannot be read counts as endless."""
    text = request.headers.get("content-length", "0")
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 19 else 1 << 62


async def drain(
    request: Request, limits: Limits, stream: AsyncGenerator[bytes, None] | None = None
) -> None:
    """Read a body for a while without keeping it, so that the client then reads the refusal.

    Args:
        request: the request.
        limits: the upload's limits.
        stream: what is left of the body, where its reading has begun.

    Raises:
        ClientDisconnect: the client has hung up.
    """
    if "expect" in request.headers:
        return  # it sends nothing unless the response says so
    left = _DRAINED * limits.bytes
    with move_on_after(_DRAINING):
        async for part in stream or request.stream():
            left -= len(part)
            if left < 0:
                return
