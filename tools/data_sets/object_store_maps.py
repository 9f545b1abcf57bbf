"""Maps on an S3-like object store: conditional puts, two runs at once, and a server that goes away.

    pip install 'fullgrad[cli,s3]' 'moto[server]'
    python tools/data_sets/object_store_maps.py

The server is moto's. A relay stands between it and the runs, so that it can be cut off: the run that
is under way ends with an error, and the same command goes on when the server is there again.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import fsspec
import pandas

from fullgrad import datasets
from fullgrad.datasets.files import files_at
from killed_maps import OPTIONS, make_data, rows, shards

BUCKET = "s3://bucket"
MAP = [sys.executable, "-m", "fullgrad", "map", "photos", "--model", "net.py:make_model", *OPTIONS]


def free_port() -> int:
    """A port that is free now."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


class Relay:
    """Passes bytes on to a server while it is open.

    Args:
        port: that it listens at.
        target: of the server.
    """

    def __init__(self, port: int, target: int) -> None:
        self._port, self._target = port, target
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        self._server: Any = None
        self._open: set[Any] = set()

    def open(self) -> None:
        """Let connections in."""
        start = asyncio.start_server(self._passing, "127.0.0.1", self._port)
        self._server = asyncio.run_coroutine_threadsafe(start, self._loop).result()

    def close(self) -> None:
        """Cut all connections, and refuse new ones."""

        def cut() -> None:
            self._server.close()
            for writer in self._open:
                writer.transport.abort()

        self._loop.call_soon_threadsafe(cut)
        time.sleep(0.2)

    async def _passing(self, reader: Any, writer: Any) -> None:
        with contextlib.suppress(OSError):
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target)
            self._open |= {writer, far_writer}
            await asyncio.gather(_copy(reader, far_writer), _copy(far_reader, writer))


async def _copy(reader: Any, writer: Any) -> None:
    with contextlib.suppress(OSError):
        while content := await reader.read(65536):
            writer.write(content)
            await writer.drain()
    writer.close()


def start_map(home: Path, name: str) -> subprocess.Popen[str]:
    """A run that writes to the bucket."""
    line = [*MAP, "--out", f"{BUCKET}/{name}", "--quiet", "--workers", "0"]
    return subprocess.Popen(
        line, cwd=home, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def check(home: Path, name: str) -> None:
    """Compare a store on the server with one on the disk."""
    copied = home / f"copy-{name}"
    fsspec.filesystem("s3").get(f"{BUCKET}/{name}", str(copied), recursive=True)
    pandas.testing.assert_frame_equal(rows(copied), rows(home / "reference"))
    if shards(copied) != shards(home / "reference"):
        raise SystemExit(f"{name}: shards differ")
    remote = datasets.open(f"{BUCKET}/{name}")
    if not remote.maps.equals(datasets.open(copied).maps):
        raise SystemExit(f"{name}: maps differ")


def counted(name: str) -> int:
    """How many units are committed."""
    return sum(n.startswith("index/") for n in files_at(f"{BUCKET}/{name}").sizes())


def main() -> None:
    if importlib.util.find_spec("moto") is None:
        raise SystemExit("moto is not installed: pip install 'moto[server]'")
    server_port, relay_port = free_port(), free_port()
    os.environ |= {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{relay_port}",
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    line = [sys.executable, "-m", "moto.server", "-p", str(server_port)]
    server = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(server_port)
        relay = Relay(relay_port, server_port)
        relay.open()
        fsspec.filesystem("s3").mkdir("bucket")
        files = files_at(f"{BUCKET}/put")
        put = [files.create("x", b"1"), files.create("x", b"2"), files.read("x")]
        if put != [True, False, b"1"]:
            raise SystemExit(f"the server's conditional put gave {put}")
        print("a second conditional put is refused", flush=True)
        with tempfile.TemporaryDirectory() as place:
            run(Path(place), relay)
    finally:
        server.terminate()
        server.wait()


def wait_for(port: int) -> None:
    """Wait until somebody listens."""
    for _ in range(600):
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        time.sleep(0.1)
    raise SystemExit("moto's server does not start")


def run(home: Path, relay: Relay) -> None:
    """The checks."""
    make_data(home)
    subprocess.run([*MAP, "--out", "reference", "--quiet"], cwd=home, check=False)
    both = [start_map(home, "both") for _ in range(2)]
    said = [p.communicate() for p in both]
    if [p.returncode for p in both] != [1, 1]:
        raise SystemExit(f"two at once: {said}")
    check(home, "both")
    written = [int(s[0].split("this run: ")[1].split(" ")[0]) for s in said]
    print(f"two at once: wrote {written[0]} and {written[1]} units, equal to the byte", flush=True)
    process = start_map(home, "cut")
    while counted("cut") < 10:
        time.sleep(0.05)
    relay.close()
    _, error = process.communicate()
    if process.returncode != 2:
        raise SystemExit(f"server away: {process.returncode} {error}")
    relay.open()
    there = counted("cut")
    print(f"server away: {error.strip()[:150]}; {there} units are there", flush=True)
    process = start_map(home, "cut")
    out, error = process.communicate()
    if process.returncode != 1:
        raise SystemExit(f"server back: {process.returncode} {error}")
    check(home, "cut")
    print(f"server back: {out.splitlines()[1]}; equal to the byte", flush=True)


if __name__ == "__main__":
    main()
