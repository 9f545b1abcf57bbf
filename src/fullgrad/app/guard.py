"""Who may talk to the viewer, and what every answer says about itself.

A web page elsewhere must not use the viewer of a person who has it open: not by sending requests to
it (their ``Origin`` tells), nor by giving its own name the viewer's address (then ``Host`` tells).
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import sys
import traceback
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeAlias
from urllib.parse import urlsplit

import torch

from fullgrad.app.refusal import Refusal
from fullgrad.errors import FullGradError, ImageError

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "connect-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = (
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
)
_ALLOCATION = "can't allocate memory"  # as PyTorch says it of the CPU's, in a RuntimeError
_READING = ("GET", "HEAD")


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Guard:
    """Refuses requests from elsewhere, adds headers to every answer, and outlives every error.

    Args:
        app: what answers.
        loopback: whether the server listens to this machine alone: then it has to be called by a
            name of this machine.
    """

    def __init__(self, app: App, loopback: bool) -> None:
        self._app, self._loopback = app, loopback

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008})
            return
        begun = False

        async def guarded(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                named = {name for name, _ in HEADERS}
                own = [h for h in message.get("headers", []) if h[0].lower() not in named]
                message = {**message, "headers": [*own, *HEADERS]}
            await send(message)

        try:
            self._check(scope)
            await self._app(scope, receive, guarded)
        except Refusal as refusal:
            if not begun:
                await answer(guarded, refusal)
        except (OSError, asyncio.TimeoutError):  # the client hung up, or took nothing any more
            if not begun:
                raise
        except Exception as error:
            log(error)
            if not begun:
                await answer(guarded, internal())

    def _check(self, scope: Scope) -> None:
        headers: dict[str, list[str]] = {}
        for name, value in scope["headers"]:
            headers.setdefault(name.decode("latin-1").lower(), []).append(value.decode("latin-1"))
        hosts = headers.get("host", [])
        host = hosts[0] if len(hosts) == 1 else ""
        if self._loopback and not is_loopback(_hostname(host)):
            raise Refusal(
                "This viewer answers to names of its own machine only, such as 127.0.0.1 and "
                "localhost.",
                "request",
                403,
            )
        if scope["method"] in _READING:
            return
        origins = headers.get("origin", [])
        sites = headers.get("sec-fetch-site", [])
        foreign = any(not host or _netloc(o) != host.lower() for o in origins)
        if foreign or any(s not in {"same-origin", "none"} for s in sites):
            raise Refusal("Requests from other web pages are refused.", "request", 403)


def _hostname(host: str) -> str:
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _netloc(origin: str) -> str | None:
    """Host and port of an origin; None for one that is no web page's (``null``, for example)."""
    try:
        parts = urlsplit(origin)
    except ValueError:
        return None
    return parts.netloc.lower() if parts.scheme in {"http", "https"} else None


def internal() -> Refusal:
    """What a person is told of an error that was not foreseen."""
    return Refusal(
        "Something went wrong in the viewer. Its terminal tells more; other requests are not "
        "affected.",
        "internal",
        500,
    )


def log(error: BaseException) -> None:
    """Write an error that was not foreseen on the terminal."""
    text = "".join(traceback.format_exception(error))
    print(f"fullgrad app: unexpected error\n{text}", file=sys.stderr, flush=True)


def explained_failure(error: BaseException) -> Refusal:
    """What a person is told of a computation that failed; unforeseen errors are logged."""
    if isinstance(error, Refusal):
        return error
    if isinstance(error, ImageError):
        return Refusal(str(error), "photograph")
    if isinstance(error, FullGradError):
        return Refusal(str(error), "method")
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or _ALLOCATION in str(error):
        return Refusal("The viewer ran out of memory for this request.", "internal", 500)
    log(error)
    return internal()


async def answer(send: Send, refusal: Refusal) -> None:
    """Send a refusal, and end the connection: the rest of a body may still be under way."""
    body = json.dumps(refusal.body()).encode("ascii") + b"\n"
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),
    ]
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
