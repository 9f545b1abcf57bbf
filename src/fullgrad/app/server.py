"""The routes: a fixed table of pages, and the ways to send a photograph."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from typing import Any
from urllib.parse import quote

from fullgrad import methods
from fullgrad._optional import require
from fullgrad._version import __version__
from fullgrad.app import answer, body
from fullgrad.app.guard import App, Guard, Message, Receive, Scope, Send, explained_failure
from fullgrad.app.limits import Limits
from fullgrad.app.models import Served
from fullgrad.app.options import offered
from fullgrad.app.pages import Page, pages
from fullgrad.app.photograph import check, decoded
from fullgrad.app.pool import Bench, Done, Event, Failed, Job, Pool, Progress, Steps
from fullgrad.app.refusal import Refusal
from fullgrad.app.request import Request, parsed
from fullgrad.app.sharing import reported
from fullgrad.app.within import within
from fullgrad.app.work import computed

DOWNLOADS = ("picture", "array", "report")
_SENDING = 60.0  # seconds in which a client must take what it is sent
_NDJSON = "application/x-ndjson"


def build(
    models: Sequence[Served], pool: Pool, limits: Limits, *, loopback: bool, uploads: int = 64
) -> App:
    """The application.

    Args:
        models: of the command line, at least one.
        pool: of workers, each with copies of the models.
        limits: of an upload.
        loopback: whether it is reached from this machine alone; see
            :class:`fullgrad.app.guard.Guard`.
        uploads: requests at a time, those that are still being sent included.

    Returns:
        An ASGI application. It keeps nothing of a request.

    Raises:
        MissingDependencyError: Starlette is not installed.
    """
    routing = require("starlette.routing", "app")
    desk = _Desk(tuple(models), pool, limits, uploads)
    table: dict[str, _Endpoint] = {path: _Fixed(page) for path, page in pages().items()}
    table["/api/about"] = _Fixed(
        Page(answer.strict(about(desk.models, limits)), "application/json")
    )
    table["/api/explain"] = _Explain(desk)
    for what in DOWNLOADS:
        table[f"/api/download/{what}"] = _Download(desk, what)
    routes = [routing.Route(path, endpoint) for path, endpoint in table.items()]
    return Guard(routing.Router(routes, redirect_slashes=False, default=_nothing), loopback)


def about(models: Sequence[Served], limits: Limits) -> dict[str, Any]:
    """What ``/api/about`` answers; see docs/design/app.md."""
    return {
        "version": __version__,
        "limits": {"bytes": limits.bytes, "pixels": limits.pixels},
        "models": [
            {
                "name": m.model.spec,
                "spec": m.model.spec,
                "weights": m.model.weights,
                "classes": None if m.names is None else list(m.names),
                "outputs": m.outputs,
                "height": m.model.preprocessing.crop[0],
                "width": m.model.preprocessing.crop[1],
            }
            for m in models
        ],
        "methods": [
            {
                "name": name,
                "about": methods.get(name).about,
                "reference": methods.get(name).reference,
                "signed": any(o.name == "psi" for o in offered(methods.get(name))),
                "applies": [m.applies[i] for m in models],
                "options": [asdict(o) for o in offered(methods.get(name))],
            }
            for i, name in enumerate(methods.names())
        ],
    }


async def _nothing(scope: Scope, receive: Receive, send: Send) -> None:
    raise Refusal("There is nothing at this address.", "request", 404)


async def _send(
    scope: Scope,
    receive: Receive,
    send: Send,
    content: bytes,
    kind: str,
    headers: dict[str, str] | None = None,
) -> None:
    responses = require("starlette.responses", "app")
    head = scope["method"] == "HEAD"
    response = responses.Response(b"" if head else content, 200, headers, media_type=None)
    response.headers["content-type"] = kind
    response.headers["content-length"] = str(len(content))
    await response(scope, receive, send)


class _Endpoint:
    """One address, asked for in one way."""

    allowed: tuple[str, ...] = ("POST",)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] not in self.allowed:
            ways = " or ".join(self.allowed)
            raise Refusal(f"This address answers {ways} only.", "request", 405)
        with suppress(body.Gone):  # nobody is left to answer
            await self.answer(scope, receive, send)

    async def answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        raise NotImplementedError


class _Fixed(_Endpoint):
    """An answer that was ready when the server started."""

    allowed = ("GET", "HEAD")

    def __init__(self, page: Page) -> None:
        self._page = page

    async def answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        await _send(scope, receive, send, self._page.content, self._page.kind)


class _Desk:
    """Where uploads are taken in."""

    def __init__(
        self, models: tuple[Served, ...], pool: Pool, limits: Limits, uploads: int
    ) -> None:
        self.models, self.pool, self.limits = models, pool, limits
        self._most, self._now = uploads, 0

    def enter(self) -> None:
        """Count one more request.

        Raises:
            Refusal: there are too many.
        """
        if self._now >= self._most:
            raise Refusal(
                f"{self._now} requests are under way already. Try again in a moment.", "busy", 503
            )
        self._now += 1

    def leave(self) -> None:
        """Count one less."""
        self._now -= 1

    async def received(self, scope: Scope, receive: Receive) -> tuple[Request, bytes]:
        """The checked query, and the photograph's bytes."""
        params = require("starlette.datastructures", "app").QueryParams(scope["query_string"])
        try:
            request = parsed(params.multi_items(), self.models)
        except Refusal:
            await body.drain(scope, receive, self.limits)
            raise
        content = await body.read(scope, receive, self.limits)
        await asyncio.to_thread(check, content, self.limits)
        return request, content


class _Upload(_Endpoint):
    """A photograph is sent, a worker computes."""

    def __init__(self, desk: _Desk) -> None:
        self.desk = desk

    async def answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            self.desk.enter()
        except Refusal:
            await body.drain(scope, receive, self.desk.limits)
            raise
        try:
            request, content = await self.desk.received(scope, receive)
            events: asyncio.Queue[Event] = asyncio.Queue()
            loop = asyncio.get_running_loop()

            def tell(event: Event) -> None:
                with suppress(RuntimeError):  # the server has stopped meanwhile
                    loop.call_soon_threadsafe(events.put_nowait, event)

            job = Job(self.work(request, content), tell)
            self.desk.pool.submit(job)
            del content
            try:
                await _while_there(receive, self.reply(scope, receive, send, request, events))
            finally:
                self.desk.pool.drop(job)
        finally:
            self.desk.leave()

    def work(self, request: Request, content: bytes) -> Callable[[Bench, Steps], Any]:
        """What a worker is to do."""
        raise NotImplementedError

    async def reply(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        request: Request,
        events: asyncio.Queue[Event],
    ) -> None:
        """Send what comes of it."""
        raise NotImplementedError


async def _while_there(receive: Receive, reply: Any) -> None:
    """Send a reply until it is sent or the client has hung up."""

    async def hung_up() -> None:
        while (await receive())["type"] != "http.disconnect":
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
    """Progress, then the result, as lines of JSON."""

    def work(self, request: Request, content: bytes) -> Callable[[Bench, Steps], Any]:
        served, limits = self.desk.models[request.model], self.desk.limits

        def run(bench: Bench, steps: Steps) -> bytes:
            found = computed(content, request, limits, bench, steps)
            steps.stage("drawing", "drawing the maps")
            return answer.strict({"result": answer.result(request, served, found)})

        return run

    async def reply(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        request: Request,
        events: asyncio.Queue[Event],
    ) -> None:
        headers = [(b"content-type", _NDJSON.encode()), (b"x-accel-buffering", b"no")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        more = True
        while more:
            line = _line(await events.get())
            more = line.startswith(b'{"progress"')
            message = {"type": "http.response.body", "body": line, "more_body": more}
            await within(_SENDING, _sent(send, message))


async def _sent(send: Send, message: Message) -> None:
    await send(message)


def _line(event: Event) -> bytes:
    if isinstance(event, Done):
        line: bytes = event.result
        return line
    if isinstance(event, Failed):
        return answer.strict(explained_failure(event.error).body())
    told = {k: v for k, v in asdict(event).items() if v is not None}
    return answer.strict({"progress": told})


class _Download(_Upload):
    """A file, computed anew."""

    def __init__(self, desk: _Desk, what: str) -> None:
        super().__init__(desk)
        self._what = what

    def work(self, request: Request, content: bytes) -> Callable[[Bench, Steps], Any]:
        served, limits, what = self.desk.models[request.model], self.desk.limits, self._what
        needed = request
        if what == "array" or request.method.name != "fullgrad":  # no split of the logit is shown
            needed = replace(request, parts="map")

        def run(bench: Bench, steps: Steps) -> answer.File:
            if what == "report":
                steps.stage("reading", "reading the photograph")
                photograph = decoded(content, request.name, limits)
                steps.stage("explaining", "explaining and writing the report")
                return reported(photograph, request, served, bench.models[request.model])
            found = computed(content, needed, limits, bench, steps)
            steps.stage("drawing", "drawing the picture")
            return (
                answer.array(found) if what == "array" else (answer.picture(request, served, found))
            )

        return run

    async def reply(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        request: Request,
        events: asyncio.Queue[Event],
    ) -> None:
        while isinstance(event := await events.get(), Progress):
            pass
        if isinstance(event, Failed):
            raise explained_failure(event.error)
        file: answer.File = event.result
        name = filename(request.name, file.suffix)
        headers = {"content-disposition": name}
        sending = _send(scope, receive, send, file.content, file.kind, headers)
        await within(_SENDING, sending)


def filename(name: str, suffix: str) -> str:
    """The header that names a download.

    Args:
        name: of the photograph.
        suffix: of the download.
    """
    stem, dot, ending = name.rpartition(".")
    stem = stem if dot and stem and len(ending) <= 5 else name
    plain = "".join(c if c.isascii() and (c.isalnum() or c in "-_. ") else "_" for c in stem)
    exact = quote(f"{stem}{suffix}", safe="")
    return f"attachment; filename=\"{plain}{suffix}\"; filename*=UTF-8''{exact}"
