"""Who may talk to the viewer, and the headers of every response.

A web page elsewhere must not use the viewer of a person who has it open: not by sending requests to
it (their ``Origin`` tells), nor by giving its own name the viewer's address (then ``Host`` tells).
"""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fullgrad.app.refusal import Refusal, refusal_of
from fullgrad.app.responses import strict_json

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


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach an address."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Guard:
    """Refuses requests from elsewhere, adds headers to every response, and outlives every error.

    Args:
        app: the application that responds.
        loopback: whether the server listens to this machine alone: then ``Host`` must be a name of
            this machine.
    """

    def __init__(self, app: ASGIApp, loopback: bool) -> None:
        self._app, self._loopback = app, loopback

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Respond to one request."""
        if scope["type"] != "http":
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008})
            return
        begun = False

        async def guarded(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                message = {**message, "headers": [*message.get("headers", []), *HEADERS]}
            await send(message)

        try:
            self._check(scope)
            await self._app(scope, receive, guarded)
        except Exception as error:
            if isinstance(error, OSError) and begun:
                return  # the client hung up, or takes nothing any more
            refusal = refusal_of(error)
            if not begun:  # the rest of a body may still arrive: so the connection ends
                body, headers = strict_json(refusal.body()), {"connection": "close"}
                response = Response(body, refusal.status, headers, "application/json")
                await response(scope, receive, guarded)

    def _check(self, scope: Scope) -> None:
        headers = Headers(scope=scope)
        hosts = headers.getlist("host")
        host = hosts[0].lower() if len(hosts) == 1 else ""
        if self._loopback and not is_loopback(_hostname(host)):
            raise Refusal(
                "This viewer answers to names of its own machine only, such as 127.0.0.1 and "
                "localhost.",
                "request",
                403,
            )
        if scope["method"] in {"GET", "HEAD"}:
            return
        foreign = any(not host or _netloc(o) != host for o in headers.getlist("origin"))
        if foreign or not {"same-origin", "none"}.issuperset(headers.getlist("sec-fetch-site")):
            raise Refusal("Requests from other web pages are refused.", "request", 403)


def _hostname(host: str) -> str:
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _netloc(origin: str) -> str | None:
    """Host and port of a web page's origin; None for any other (``null``, for example)."""
    try:
        parts = urlsplit(origin)
    except ValueError:
        return None
    return parts.netloc.lower() if parts.scheme in {"http", "https"} else None
