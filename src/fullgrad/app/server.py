"""The routes: the page's files, what is offered, and where a photograph is sent."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import asdict
from importlib import resources
from typing import Any

from anyio import CapacityLimiter, WouldBlock, fail_after
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from fullgrad import methods
from fullgrad._version import __version__
from fullgrad.app.compute import TOP, compute
from fullgrad.app.guard import Guard
from fullgrad.app.models import Served
from fullgrad.app.names import method_title
from fullgrad.app.options import offered_options
from fullgrad.app.pool import Done, Event, Failed, Job, Pool, Progress, Steps, WorkerModels
from fullgrad.app.query import Query, parse_query
from fullgrad.app.refusal import Refusal, refusal_of
from fullgrad.app.responses import DOWNLOADS, result_of, strict_json
from fullgrad.app.stores import StorePages
from fullgrad.app.upload import Limits, check_upload
from fullgrad.app.upload_stream import drain, read_upload

_SENDING = 60.0  # seconds in which a client must take what it is sent
_MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".jpg": "image/jpeg",
}


def build(
    models: Sequence[Served],
    pool: Pool,
    limits: Limits,
    *,
    loopback: bool,
    uploads: int = 64,
    depth: int | None = None,
    store: StorePages | None = None,
) -> ASGIApp:
    """Build the application, which keeps nothing of a request.

    Args:
        models: the models of the command line; none where only a store is shown.
        pool: the workers, each with copies of the models.
        limits: the limits of an upload.
        loopback: whether it is reached from this machine alone; see
            :class:`fullgrad.app.guard.Guard`.
        uploads: the most requests at a time, those that are still being sent included.
        depth: the components of a module path that make a stage; None for a few stages.
        store: the pages of a store of maps, if there is one.

    Returns:
        An ASGI application.
    """
    endpoints: dict[str, ASGIApp] = {path: _Fixed(*file) for path, file in pages().items()}
    if models:
        endpoints["/api/about"] = _Fixed(strict_json(about(models, limits)), "application/json")
        how = (models, pool, limits, CapacityLimiter(uploads), depth)
        endpoints["/api/explain"] = _Explain(*how)
        for what in DOWNLOADS:
            endpoints[f"/api/download/{what}"] = _Download(what, *how)
    if store is not None:
        endpoints["/store"] = endpoints["/static/store.html"]
        endpoints |= store.routes()
        if not models:
            endpoints["/"] = endpoints["/store"]
    routes = [Route(path, endpoint) for path, endpoint in endpoints.items()]
    return Guard(Router(routes, redirect_slashes=False, default=_not_found), loopback)


def pages() -> dict[str, tuple[bytes, str]]:
    """Read the page's files into memory.

    Returns:
        From the paths under which the files are requested to their contents and media types.
    """
    folder = resources.files("fullgrad.app") / "static"
    found = {}
    for file in folder.iterdir():
        kind = _MEDIA_TYPES.get(file.name[file.name.rfind(".") :])
        if kind is not None:
            found[f"/static/{file.name}"] = (file.read_bytes(), kind)
    found["/"] = found["/static/index.html"]
    return found


def about(models: Sequence[Served], limits: Limits) -> dict[str, Any]:
    """Return what ``/api/about`` tells; see docs/design/app.md."""
    known = [methods.get(name) for name in methods.names()]
    return {
        "version": __version__,
        "limits": {"bytes": limits.bytes, "pixels": limits.pixels},
        "models": [
            {
                "name": m.model.spec,
                "spec": m.model.spec,
                "weights": m.model.weights,
                "classes": m.names,
                "outputs": m.outputs,
                "height": m.model.preprocessing.crop[0],
                "width": m.model.preprocessing.crop[1],
            }
            for m in models
        ],
        "recommended": methods.RECOMMENDED,
        "methods": [
            {
                "name": method.name,
                "title": method_title(method.name),
                "about": method.about,
                "reference": method.reference,
                "signed": any(o.name == "psi" for o in offered_options(method)),
                "applies": [m.applies[i] for m in models],
                "options": [asdict(o) for o in offered_options(method)],
            }
            for i, method in enumerate(known)
        ],
    }


async def _not_found(scope: Scope, receive: Receive, send: Send) -> None:
    raise Refusal("There is nothing at this address.", "request", 404)


def _check_method(scope: Scope, *allowed: str) -> None:
    if scope["method"] not in allowed:
        raise Refusal(f"This address answers {' or '.join(allowed)} only.", "request", 405)


class _Fixed:
    """A response that is ready when the server starts."""

    def __init__(self, content: bytes, media_type: str) -> None:
        self._content, self._media_type = content, media_type

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        _check_method(scope, "GET", "HEAD")
        content = b"" if scope["method"] == "HEAD" else self._content
        headers = {"content-length": str(len(self._content))}
        await Response(content, 200, headers, self._media_type)(scope, receive, send)


class _Upload:
    """An address to which a photograph is sent: a worker computes, and the response is sent."""

    def __init__(
        self,
        models: Sequence[Served],
        pool: Pool,
        limits: Limits,
        limiter: CapacityLimiter,
        depth: int | None,
    ) -> None:
        self._models, self._pool, self._limits = models, pool, limits
        self._limiter, self._depth = limiter, depth

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        _check_method(scope, "POST")
        request = Request(scope, receive)
        with suppress(ClientDisconnect):  # nobody is left to respond to
            try:
                self._limiter.acquire_nowait()
            except WouldBlock as error:
                await drain(request, self._limits)
                raise Refusal(
                    f"{self._limiter.borrowed_tokens:g} requests are under way already. Try again "
                    "in a moment.",
                    "busy",
                    503,
                ) from error
            try:
                await self._admitted(request, send)
            finally:
                self._limiter.release()

    async def _admitted(self, request: Request, send: Send) -> None:
        try:
            query = parse_query(request.query_params.multi_items(), self._models)
        except Refusal:
            await drain(request, self._limits)
            raise
        content = await read_upload(request, self._limits)
        await asyncio.to_thread(check_upload, content, self._limits)
        events: asyncio.Queue[Event] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def tell(event: Event) -> None:
            with suppress(RuntimeError):  # the server has stopped meanwhile
                loop.call_soon_threadsafe(events.put_nowait, event)

        job = Job(self.work(query, content), tell)
        self._pool.submit(job)
        del content
        try:
            await _while_connected(request, self.reply(request, send, query, events))
        finally:
            self._pool.drop(job)

    def work(self, query: Query, content: bytes) -> Callable[[WorkerModels, Steps], Any]:
        """Return what a worker is to do."""
        raise NotImplementedError

    async def reply(
        self, request: Request, send: Send, query: Query, events: asyncio.Queue[Event]
    ) -> None:
        """Send what the worker tells."""
        raise NotImplementedError


async def _while_connected(request: Request, reply: Coroutine[Any, Any, None]) -> None:
    """Send a reply until it is sent or the client has hung up."""

    async def hung_up() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    replying, watching = asyncio.ensure_future(reply), asyncio.ensure_future(hung_up())
    try:
        await asyncio.wait({replying, watching}, return_when=asyncio.FIRST_COMPLETED)
        if replying.done():
            replying.result()
    finally:
        for task in (replying, watching):
            task.cancel()
        await asyncio.gather(replying, watching, return_exceptions=True)


class _Explain(_Upload):
    """Sends progress, then the result, as lines of JSON."""

    def work(self, query: Query, content: bytes) -> Callable[[WorkerModels, Steps], Any]:
        served, limits, depth = self._models[query.model], self._limits, self._depth

        def run(worker: WorkerModels, steps: Steps) -> bytes:
            found = compute(content, query, served, limits, worker, steps, depth)
            steps.stage("drawing", "drawing the maps")
            return strict_json({"result": result_of(query, served, found)})

        return run

    async def reply(
        self, request: Request, send: Send, query: Query, events: asyncio.Queue[Event]
    ) -> None:
        headers = [(b"content-type", b"application/x-ndjson"), (b"x-accel-buffering", b"no")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        more = True
        while more:
            event = await events.get()
            more = isinstance(event, Progress)
            message = {"type": "http.response.body", "body": _line(event), "more_body": more}
            with fail_after(_SENDING):
                await send(message)


def _line(event: Event) -> bytes:
    if isinstance(event, Done):
        line: bytes = event.result
        return line
    if isinstance(event, Failed):
        return strict_json(refusal_of(event.error).body())
    told = {k: v for k, v in asdict(event).items() if v is not None}
    return strict_json({"progress": told})


class _Download(_Upload):
    """Sends a file, which is computed again."""

    def __init__(self, what: str, *how: Any) -> None:
        super().__init__(*how)
        self._what = what

    def work(self, query: Query, content: bytes) -> Callable[[WorkerModels, Steps], Any]:
        served, limits, what = self._models[query.model], self._limits, self._what
        depth, top = self._depth, 5 if self._what == "report" else TOP  # 5: as the command writes
        parts = "map"  # where no split of the logit is shown
        if what == "report" or (what == "picture" and query.method.name == "fullgrad"):
            parts = "all"
        needed = query.model_copy(update={"parts": parts})

        def run(worker: WorkerModels, steps: Steps) -> Response:
            found = compute(content, needed, served, limits, worker, steps, depth, top)
            steps.stage("drawing", f"drawing the {what}")
            return DOWNLOADS[what](query, worker.models[query.model], found, depth)

        return run

    async def reply(
        self, request: Request, send: Send, query: Query, events: asyncio.Queue[Event]
    ) -> None:
        while isinstance(event := await events.get(), Progress):
            pass
        if isinstance(event, Failed):
            raise refusal_of(event.error)
        response: Response = event.result
        with fail_after(_SENDING):
            await response(request.scope, request.receive, send)
