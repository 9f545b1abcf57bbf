"""``fullgrad app`` as a process: it starts, it is reached as it should be, and it ends."""

from __future__ import annotations

import http.client
import importlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
import fullgrad.app
from app_server import encoded, lines, pixels, source_of
from fullgrad.app.guard import is_loopback
from fullgrad.app.refusal import public
from fullgrad.cli.app import listen
from fullgrad.cli.main import main
from fullgrad.errors import MissingDependencyError

PHOTOGRAPH = encoded(pixels(0))


@dataclass
class Server:
    process: subprocess.Popen[str]
    line: str
    folder: Path

    @property
    def port(self) -> int:
        return int(self.line.partition("http://")[2].partition("/")[0].rpartition(":")[2])


def started(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    for name in ("work", "tmp", "home"):
        (folder / name).mkdir()
    source_of(folder)
    env = {
        **os.environ,
        "TMPDIR": str(folder / "tmp"),
        "HOME": str(folder / "home"),
        "OMP_NUM_THREADS": "1",
        "MPLCONFIGDIR": os.environ.get("MPLCONFIGDIR", str(folder)),
        "TORCHINDUCTOR_CACHE_DIR": str(folder / "torch"),  # made by PyTorch, empty
    }
    command = [sys.executable, "-m", "fullgrad", "app", "--port", "0", *arguments]
    return subprocess.Popen(
        command,
        cwd=folder / "work",
        env=env,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A viewer, which the last test that uses it ends."""
    folder = tmp_path_factory.mktemp("served")
    model = "../small_app_model.py:make_gated"
    process = started(folder, "--model", model, "--max-bytes", "100000")
    try:
        assert process.stdout is not None
        yield Server(process, process.stdout.readline(), folder)
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def request(
    server: Server, method: str, path: str, body: bytes = b"", **headers: str
) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    try:
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def raw(server: Server, *parts: bytes, pause: float = 0.0) -> bytes:
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        for part in parts:
            try:
                connection.sendall(part)
            except OSError:  # refused already
                break
            time.sleep(pause)
        found = b""
        try:
            while block := connection.recv(65536):
                found += block
        except OSError:
            pass
        return found


def test_one_line_says_where_it_is(server: Server) -> None:
    assert server.line == f"fullgrad app: open http://127.0.0.1:{server.port}/ (Ctrl-C ends it)\n"
    assert server.port > 0
    assert request(server, "GET", "/")[0] == 200


def test_it_explains_over_a_real_connection(server: Server) -> None:
    status, content = request(server, "POST", "/api/explain?name=a.png", PHOTOGRAPH)
    assert status == 200
    assert lines(content)[-1]["result"]["name"] == "a.png"
    for what in ("picture", "array", "report"):
        assert request(server, "POST", f"/api/download/{what}", PHOTOGRAPH)[0] == 200


def test_the_first_line_is_sent_before_anything_is_computed(server: Server) -> None:
    head = b"POST /api/explain HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        connection.sendall(head % len(PHOTOGRAPH) + PHOTOGRAPH)
        first = connection.recv(65536)
        while b'"progress"' not in first:
            first += connection.recv(65536)
    assert b'{"progress":{"stage":"waiting"' in first
    assert b'"result"' not in first


@pytest.mark.parametrize(
    "target",
    [
        b"/../../../../etc/passwd",
        b"/static/../../../../../etc/passwd",
        b"/static/%2e%2e/server.py",
        b"/static/..%2f..%2fserver.py",
        b"/static/%00app.js",
        b"//etc/passwd",
        b"/static//etc/passwd",
        b"/static/..\\..\\server.py",
        b"/api/download/../../etc/passwd",
        b"http://evil.example/etc/passwd",
    ],
)
def test_paths_outside_are_refused_on_the_wire(server: Server, target: bytes) -> None:
    for method in (b"GET", b"POST"):
        head = method + b" " + target + b" HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
        answer = raw(server, head)
        status = answer.split(b" ", 2)[1]
        assert status in {b"404", b"400"}, answer
        assert b"root:" not in answer
        assert b"import" not in answer


def test_other_names_and_pages_are_refused_on_the_wire(server: Server) -> None:
    assert request(server, "GET", "/", Host="evil.example")[0] == 403
    foreign = {"Origin": "http://evil.example"}
    assert request(server, "POST", "/api/explain", PHOTOGRAPH, **foreign)[0] == 403
    answer = raw(server, b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
    assert b"\r\nserver:" not in answer.lower()


def test_bodies_too_large_are_refused_on_the_wire(server: Server) -> None:
    start = b"POST /api/explain HTTP/1.1\r\nHost: 127.0.0.1\r\n"
    cases = {
        "announced": (start + b"Content-Length: 3000000000\r\n\r\n", b"x" * 500_000),
        "sent": (start + b"Content-Length: 200000\r\n\r\n", b"x" * 200_000),
        "without length": (
            start + b"Transfer-Encoding: chunked\r\n\r\n",
            (b"%x\r\n" % 50_000 + b"x" * 50_000 + b"\r\n") * 4,
            b"0\r\n\r\n",
        ),
        "waits for leave": (start + b"Content-Length: 3000000000\r\nExpect: 100-continue\r\n\r\n",),
    }
    for name, parts in cases.items():
        answer = raw(server, *parts)
        assert answer.startswith(b"HTTP/1.1 413 "), (name, answer)
        assert b"larger than the 0.1 MB that are accepted" in answer
        assert b"100 Continue" not in answer
    assert raw(server, start + b"Content-Length: -5\r\n\r\n").startswith(b"HTTP/1.1 400 ")
    both = start + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    assert raw(server, both)[9:12] in {b"400", b"415"}
    assert request(server, "POST", "/api/explain", PHOTOGRAPH)[0] == 200


def test_nothing_is_left_on_disk(server: Server) -> None:
    for name in ("work", "tmp"):
        assert list((server.folder / name).iterdir()) == []


def test_a_port_in_use_is_said(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    port = server.port
    assert main(["app", "--port", str(port)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err == (
        f"fullgrad: error: cannot answer at 127.0.0.1 port {port}: Address already in use. Another "
        "program, or another viewer, may use it: give --port another number, or 0 for any that is "
        "free\n"
    )


def test_ctrl_c_ends_it_even_in_the_middle_of_a_computation(server: Server) -> None:
    slow = "/api/explain?method=integrated_gradients&options=" + '{"n_steps":300}'.replace(
        '"', "%22"
    )
    head = f"POST {slow} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(PHOTOGRAPH)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        connection.sendall(head.encode() + PHOTOGRAPH)
        connection.recv(200)
        began = time.monotonic()
        server.process.send_signal(signal.SIGINT)
        out, err = server.process.communicate(timeout=20)
        assert server.process.returncode == 0, err
        assert out == ""
        assert all(line.startswith("fullgrad: ") for line in err.splitlines()), err
        assert time.monotonic() - began < 15


# Without a process


def test_mistakes_in_the_arguments(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = f"{source_of(tmp_path)}:make_net"
    for arguments, message in (
        (["--port", "70000"], "'70000' is not a port: 0 to 65535"),
        (["--port", "x"], "'x' is not a port"),
        (["--workers", "0"], "'0' is not a whole number of at least 1"),
        (
            ["--max-pixels", "178956971"],
            "--max-pixels 178956971 is more than Pillow opens: give at most 178956970 pixels",
        ),
        (["--max-bytes", "-1"], "'-1' is not a whole number of at least 1"),
        (
            ["--host", "nowhere.invalid"],
            "--host 'nowhere.invalid' is not an address of this machine",
        ),
        (["--host", ""], "--host is empty: give an address"),
        (["--host", "203.0.113.9"], "cannot answer at 203.0.113.9 port 0"),
        (
            ["--model", path, path, "--weights", "none"],
            "--weights is given for 1 models, but there are 2",
        ),
        (
            ["--model", path, "--labels", "-", "-"],
            "--labels is given for 2 models, but there are 1",
        ),
        (["--model", "resnet18"], "unknown model 'resnet18'"),
        (["--model", path, "--labels", "imagenet"], "--labels has 1000 names, but the model has 5"),
    ):
        given = arguments if "--port" in arguments else [*arguments, "--port", "0"]
        assert main(["app", *given]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert message in err
        assert "Traceback" not in err


@pytest.mark.parametrize("host", ["0.0.0.0", "127.0.0.1"])
def test_who_can_reach_it_is_said(
    host: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    served: list[Any] = []
    monkeypatch.setattr("fullgrad.cli.app._serve", lambda *args: served.append(args))
    monkeypatch.setattr("torch.set_num_threads", lambda count: served.append(count))
    monkeypatch.setattr("fullgrad.cli.app.os.cpu_count", lambda: 8)
    model = f"{source_of(tmp_path)}:make_net"
    wanted = ["app", "--model", model, "--host", host, "--port", "0", "--workers", "3", "--open"]
    assert main(wanted) == 0
    assert served[0] == 2  # threads of each worker
    _, _, url, browser = served[1]
    assert browser is True
    assert url.startswith("http://")
    assert ("127.0.0.1" in url) == (host == "127.0.0.1")
    err = capsys.readouterr().err
    warned = (
        "fullgrad: note: everyone who can reach 0.0.0.0 over the network can use this viewer and "
        "this machine's computing time; it asks for no password and does not encrypt. Leave --host "
        "out to keep it to this machine.\n"
    )
    assert (warned in err) == (host == "0.0.0.0")


def test_every_worker_has_its_queue_and_files_stay_hidden(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {}

    def built(*args: Any, **options: Any) -> Any:
        asked.update(options, pool=args[1])

    monkeypatch.setattr("fullgrad.cli.app.build", built)
    monkeypatch.setattr("fullgrad.cli.app._serve", lambda *args: None)
    monkeypatch.setattr("torch.set_num_threads", lambda count: None)
    monkeypatch.setattr("fullgrad.app.refusal._HIDDEN", set())
    folder = tmp_path / "John Smith"
    folder.mkdir()
    model = f"{source_of(folder)}:make_net"
    labels = folder / "names of classes.txt"
    labels.write_text("a\nb\nc\nd\ne\n")
    wanted = ["app", "--model", model, "--labels", str(labels), "--port", "0", "--workers", "5"]
    assert main([*wanted, "--max-pixels", "178956970"]) == 0
    assert asked["uploads"] == 5 * 32
    assert asked["uploads"] > asked["pool"]._most + 5
    assert asked["pool"]._most == 5 * 16
    for path in (labels, folder, folder / "other.bin", Path.home(), Path.home() / "x"):
        assert public(f"in {path}: no") == "in (a file of the server): no"


def test_what_is_loopback() -> None:
    for host in ("127.0.0.1", "127.8.9.1", "::1", "localhost", "LOCALHOST"):
        assert is_loopback(host)
    for host in ("0.0.0.0", "::", "192.168.0.1", "example.org", "", "localhost.example.org"):
        assert not is_loopback(host)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "starlette", None)
    message = r"starlette cannot be imported .*; install it with: pip install 'fullgrad\[app\]'"
    with pytest.raises(MissingDependencyError, match=message):
        importlib.reload(fullgrad.app)


def test_any_free_port(capsys: pytest.CaptureFixture[str]) -> None:
    with listen("127.0.0.1", 0) as one, listen("127.0.0.1", 0) as two:
        ports = {one.getsockname()[1], two.getsockname()[1]}
        assert len(ports) == 2
        assert all(ports)


def test_help_names_the_limits(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["app", "--help"]) == 0
    out = capsys.readouterr().out
    assert "10000000" in out
    assert "25000000" in out
    assert "127.0.0.1" in out
