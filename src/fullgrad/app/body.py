"""A request's body, as far as the limits allow."""

from __future__ import annotations

import asyncio
import time

from fullgrad.app.guard import Message, Receive, Scope
from fullgrad.app.limits import Limits
from fullgrad.app.photograph import too_large
from fullgrad.app.refusal import Refusal
from fullgrad.app.within import within

_DRAINED = 4  # times the limit: so much of a body that is too large is read and thrown away,
_DRAINING = 3.0  # for so many seconds, since browsers read no answer before they have sent all


class Gone(Exception):
    """The client has hung up."""


async def read(scope: Scope, receive: Receive, limits: Limits) -> bytes:
    """The body.

    Args:
        scope: of the request.
        receive: its messages.
        limits: of an upload.

    Raises:
        Refusal: too large, whatever its ``Content-Length`` says, or too slow.
        Gone: the client has hung up.
    """
    announced = _announced(scope)
    if announced is not None and announced > limits.bytes:
        await drain(scope, receive, limits)
        raise too_large(limits)
    parts: list[bytes] = []
    count = 0
    end = time.monotonic() + limits.seconds
    while True:
        left = min(limits.pause, end - time.monotonic())
        try:
            message = await within(left, _next(receive))
        except asyncio.TimeoutError as error:
            raise Refusal("The photograph came too slowly. Try again.", "request", 408) from error
        if message["type"] == "http.disconnect":
            raise Gone
        part = message.get("body", b"")
        count += len(part)
        if count > limits.bytes:
            parts.clear()
            if message.get("more_body"):
                await drain(scope, receive, limits)
            raise too_large(limits)
        parts.append(part)
        if not message.get("more_body"):
            return b"".join(parts)


def _announced(scope: Scope) -> int | None:
    for name, value in scope["headers"]:
        if name.lower() == b"content-length":
            return int(value) if value.isdigit() and len(value) < 19 else 1 << 62
    return None


async def _next(receive: Receive) -> Message:
    return await receive()


async def drain(scope: Scope, receive: Receive, limits: Limits) -> None:
    """Read on for a while, so that a refusal can be read on the other side.

    Args:
        scope: of the request.
        receive: its messages.
        limits: of an upload.

    Raises:
        Gone: the client has hung up.
    """
    if any(name.lower() == b"expect" for name, _ in scope["headers"]):
        return  # it sends nothing unless it is told to
    end = time.monotonic() + _DRAINING
    count = 0
    while count < _DRAINED * limits.bytes:
        try:
            message = await within(end - time.monotonic(), _next(receive))
        except asyncio.TimeoutError:
            return
        if message["type"] == "http.disconnect":
            raise Gone
        count += len(message.get("body", b""))
        if not message.get("more_body"):
            return
