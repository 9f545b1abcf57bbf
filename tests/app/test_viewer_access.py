"""Addresses, other web pages, headers, and messages without paths."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

import fullgrad

pytest.importorskip("starlette")
from app_server import CAPTUM, PHOTOGRAPH, Running, ask, running, strict
from fullgrad.app.refusal import hide, public
from fullgrad.app.server import pages

pytestmark = CAPTUM


def test_messages_have_no_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    assert public("cannot open /home/me/x.pt: no") == "cannot open (a file of the server): no"
    assert public(r"in C:\Users\me\x.py") == "in (a file of the server)"
    assert public("~/a/b c") == "(a file of the server) c"
    assert public("1/2 of B/C/H/W, 3 / 4") == "1/2 of B/C/H/W, 3 / 4"
    known = Path("/home/John  Smith/nets/x.pt")
    assert "Smith" in public(f"cannot open {known}: no")
    with monkeypatch.context() as patched:
        patched.setattr("fullgrad.app.refusal._HIDDEN", set())
        hide([known, known.parent, Path("/home/John  Smith"), Path("/"), Path("net.py")])
        for path in (
            known,
            "/home/John Smith/nets/x.pt",
            "/home/John  Smith",
            known.parent / "y.py",
        ):
            assert public(f"cannot open '{path}': no") == "cannot open '(a file of the server)': no"
        assert public("1/2 of net.py") == "1/2 of net.py"
        assert public("a/home/John  Smithson") == "a/home/John Smithson"
    assert public("a\nb\x00") == "a b\N{REPLACEMENT CHARACTER}"
    assert len(public("x" * 5000)) == 1000


ROUTES = (
    "/",
    "/static",
    "/static/app.js",
    "/api/about",
    "/api/explain",
    "/api/download",
    "/api/download/report",
)
OUTSIDE = (
    "/..",
    "/../..",
    "/../../../../etc/passwd",
    "/%2e%2e/%2e%2e/etc/passwd",
    "/..%2f..%2fetc%2fpasswd",
    "/..\\..\\etc\\passwd",
    "//etc/passwd",
    "/etc/passwd",
    "/%00",
    "/\x00",
    "/app.js\x00.css",
    "/....//....//etc/passwd",
    "/.git/config",
    "/server.py",
    "/../server.py",
    "/%252e%252e/",
    "/.",
    "/~",
    "/C:/Windows/win.ini",
    "/file:///etc/passwd",
    "/index.html/",
    "/INDEX.HTML",
)


@pytest.mark.parametrize("route", ROUTES)
def test_paths_outside_are_refused_at_every_route(small: Running, route: str) -> None:
    for outside in OUTSIDE:
        for method in (
            "GET",
            "POST",
            "HEAD",
            "PUT",
            "DELETE",
            "PATCH",
            "OPTIONS",
            "TRACE",
            "PROPFIND",
        ):
            for path in (route.rstrip("/") + outside, route + outside[1:] + "x"):
                call = ask(small, b"", path, method)
                assert call.status == 404, (path, method)
                assert strict(call.content) == {
                    "error": "There is nothing at this address.",
                    "kind": "request",
                }


def test_other_methods_are_refused_at_every_route(small: Running) -> None:
    for path in (*pages(), "/api/about", "/api/explain", "/api/download/report"):
        ways = ("POST",) if "explain" in path or "download" in path else ("GET", "HEAD")
        for method in ("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"):
            call = ask(small, b"", path, method)
            assert (call.status == 405) == (method not in ways), (path, method)
            if call.status == 405:
                message = f"This address answers {' or '.join(ways)} only."
                assert strict(call.content)["error"] == message


def test_pages_are_those_of_the_table(small: Running) -> None:
    folder = Path(fullgrad.__file__).parent / "app" / "static"
    files = {f"/static/{p.name}" for p in folder.iterdir()}
    assert set(pages()) == {"/", *files}
    for path, (content, media_type) in pages().items():
        call = ask(small, b"", path, "GET")
        assert (call.status, call.content) == (200, content)
        assert call.headers["content-type"] == media_type
        head = ask(small, b"", path, "HEAD")
        assert (head.status, head.content) == (200, b"")
        assert head.headers["content-length"] == str(len(content))
    assert ask(small, b"", "/", "GET").content == (folder / "index.html").read_bytes()


def test_the_page_needs_nothing_that_its_policy_forbids() -> None:
    html = pages()["/"][0].decode()
    assert "<style" not in html
    assert " style=" not in html
    assert "onclick" not in html
    assert "http://" not in html.replace("http://www.w3.org", "")
    assert html.count("<script") == html.count('<script type="module" src="/static/')


def test_every_answer_says_how_to_treat_it(small: Running) -> None:
    for call in (
        ask(small, b"", "/", "GET"),
        ask(small, b"", "/nowhere", "GET"),
        ask(small, b""),
        ask(small, PHOTOGRAPH),
        ask(small, PHOTOGRAPH, "/api/download/report"),
        ask(small, b"", "/", "GET", {"host": "evil.example"}),
    ):
        assert call.headers["x-content-type-options"] == "nosniff"
        assert call.headers["cache-control"] == "no-store"
        policy = call.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert "server" not in call.headers
        assert "access-control-allow-origin" not in call.headers


@pytest.mark.parametrize(
    ("host", "welcome"),
    [
        ("127.0.0.1:7860", True),
        ("localhost:7860", True),
        ("[::1]:7860", True),
        ("LOCALHOST", True),
        ("127.0.0.1", True),
        ("evil.example", False),
        ("evil.example:7860", False),
        ("", False),
        ("127.0.0.1.evil.example", False),
        ("localhost.evil.example", False),
        ("192.168.1.2", False),
        ("[::1", False),
        ("0.0.0.0:7860", False),
    ],
)
def test_other_names_than_the_machines_are_refused(
    small: Running, host: str, welcome: bool
) -> None:
    for method, path in (("GET", "/"), ("GET", "/api/about"), ("POST", "/api/explain")):
        call = ask(small, PHOTOGRAPH, path, method, {"host": host})
        assert call.status == (200 if welcome else 403)
        if not welcome:
            assert "answers to names of its own machine only" in strict(call.content)["error"]


@pytest.mark.parametrize(
    ("headers", "welcome"),
    [
        ({}, True),
        ({"origin": "http://127.0.0.1:7860", "sec-fetch-site": "same-origin"}, True),
        ({"sec-fetch-site": "none"}, True),
        ({"origin": "http://127.0.0.1:8000"}, False),
        ({"origin": "http://localhost:7860"}, False),
        ({"origin": "http://evil.example"}, False),
        ({"origin": "null"}, False),
        ({"origin": "file://127.0.0.1:7860"}, False),
        ({"origin": "http://[::1"}, False),
        ({"origin": ""}, False),
        ({"sec-fetch-site": "cross-site"}, False),
        ({"sec-fetch-site": "same-site"}, False),
        ({"origin": "http://127.0.0.1:7860", "sec-fetch-site": "cross-site"}, False),
    ],
)
def test_other_web_pages_are_refused(
    small: Running, headers: dict[str, str], welcome: bool
) -> None:
    for path in ("/api/explain", "/api/download/array"):
        call = ask(small, PHOTOGRAPH, path, "POST", headers)
        assert call.status == (200 if welcome else 403)
        if not welcome:
            assert strict(call.content)["error"] == "Requests from other web pages are refused."


def test_beyond_loopback_any_name_goes_but_no_other_page(tmp_path: Path) -> None:
    with running(tmp_path, workers=1, loopback=False) as server:
        named = {"host": "lab.example:7860"}
        assert ask(server, b"", "/", "GET", named).status == 200
        own = {**named, "origin": "http://lab.example:7860"}
        assert ask(server, PHOTOGRAPH, headers=own).status == 200
        other = {**named, "origin": "http://evil.example"}
        assert ask(server, PHOTOGRAPH, headers=other).status == 403


def test_other_protocols_are_closed(small: Running) -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    asyncio.run(small.app({"type": "websocket", "path": "/"}, receive, send))
    assert sent == [{"type": "websocket.close", "code": 1008}]
