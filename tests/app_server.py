"""What the tests of the viewer share: a small model, photographs, and a server of them."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import numpy as np
import pytest
import torch
from PIL import Image

from fullgrad._user_code import FILE_MODULE
from fullgrad.app.models import copies, serve
from fullgrad.app.pool import Pool, WorkerModels
from fullgrad.app.server import build
from fullgrad.app.upload import Limits
from fullgrad.vision.images import preprocess, read_image
from fullgrad.vision.models import LoadedModel, load_model

# Where two threads silence warnings at once, Python may put back the wrong list of them.
_CAPTUM = (r"ignore:\s*Setting", "ignore:Input Tensor", "ignore:.*[Hh]ooks")
CAPTUM = [pytest.mark.filterwarnings(text) for text in _CAPTUM]

SOURCE = '''
import threading

import torch
from torch import nn

PREPROCESSING = {"resize": 36, "crop": [32, 32], "mean": [0.5] * 3, "std": [0.5] * 3}
CLASSES = ["black cat", "dog", "bird", "tree", "house"]
GATE = threading.Event()  # shut: black photographs wait in the middle of the model
GATE.set()
ENTERED = threading.Semaphore(0)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU())
        self.body = nn.Sequential(nn.Conv2d(6, 8, 3, padding=1, stride=2), nn.ReLU())
        self.last = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU())
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))

    def forward(self, x):
        return self.head(self.last(self.body(self.stem(x))))


class Gated(Net):
    def forward(self, x):
        if bool((x == -1).all()):
            ENTERED.release()
            GATE.wait(20)
        return super().forward(x)


def make_net():
    return Net()


def make_gated():
    return Gated()


class Functional(Net):
    def forward(self, x):
        return self.head(torch.relu(self.last(self.body(self.stem(x)))))


def make_functional():
    return Functional()


class Broken(Net):
    """Fails in a way that nobody foresaw, on bright photographs alone."""

    def forward(self, x):
        if float(x.detach().mean()) > 0.5:
            raise KeyError("/secret/place/of/the/model.bin")
        return super().forward(x)


def make_broken():
    return Broken()


class Infinite(Net):
    def forward(self, x):
        return super().forward(x) * (float("nan") if float(x.detach().mean()) > 0.5 else 1.0)


def make_infinite():
    return Infinite()


class Detached(Net):
    def forward(self, x):
        return super().forward(x) + x.detach().mean((1, 2, 3))[:, None]


def make_detached():
    return Detached()
'''


@dataclass
class Running:
    """A server of the small model, without a network."""

    app: Any
    pool: Pool
    models: list[LoadedModel]


def source_of(folder: Path) -> Path:
    path = folder / "small_app_model.py"
    path.write_text(SOURCE)
    return path


def gates() -> Any:
    """The model file's module, with its gate."""
    own = [m for n, m in sys.modules.items() if n.startswith(f"{FILE_MODULE}small_app_model")]
    return own[-1]


@contextmanager
def running(
    folder: Path,
    *makes: str,
    workers: int = 2,
    most: int = 32,
    limits: Limits | None = None,
    loopback: bool = True,
    uploads: int = 64,
    depth: int | None = None,
) -> Iterator[Running]:
    path = source_of(folder)
    loaded = [load_model(f"{path}:{make}") for make in makes or ("make_net",)]
    models = [serve(m, m.class_names) for m in loaded]
    pool = Pool([WorkerModels(own) for own in copies(models, workers)], most)
    app = build(models, pool, limits or Limits(), loopback=loopback, uploads=uploads, depth=depth)
    try:
        yield Running(app, pool, loaded)
    finally:
        if hasattr(gates(), "GATE"):
            gates().GATE.set()
        assert pool.close(10)


def pixels(seed: int, height: int = 48, width: int = 60) -> np.ndarray[Any, Any]:
    """A photograph-like picture: smooth shapes, no noise."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 200, (6, 8, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def encoded(array: np.ndarray[Any, Any], kind: str = "PNG", **options: Any) -> bytes:
    with io.BytesIO() as file:
        Image.fromarray(array).save(file, kind, **options)
        return file.getvalue()


PHOTOGRAPH = encoded(pixels(0))
BLACK = encoded(np.zeros((40, 40, 3), np.uint8))
WHITE = encoded(np.full((40, 40, 3), 255, np.uint8))


def strict(text: str | bytes) -> Any:
    """JSON as the standard has it."""

    def refuse(name: str) -> Any:
        raise AssertionError(f"{name} is not JSON")

    return json.loads(text, parse_constant=refuse)


def lines(content: bytes) -> list[Any]:
    assert content.endswith(b"\n")
    return [strict(line) for line in content.splitlines()]


class Call:
    """One request as the server sees it: its messages are sent and looked at one by one."""

    def __init__(
        self,
        app: Any,
        path: str,
        query: str = "",
        method: str = "POST",
        headers: dict[str, str] | None = None,
    ) -> None:
        named = {"host": "127.0.0.1:7860", **(headers or {})}
        self.scope = {
            "type": "http",
            "method": method,
            "path": path,
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "scheme": "http",
            "http_version": "1.1",
            "server": ("127.0.0.1", 7860),
            "client": ("127.0.0.1", 5),
            "root_path": "",
            "headers": [(k.encode(), v.encode("latin-1")) for k, v in named.items()],
            "asgi": {"version": "3.0", "spec_version": "2.4"},
        }
        self.incoming: asyncio.Queue[Any] = asyncio.Queue()
        self.sent: list[Any] = []
        self.changed = asyncio.Event()
        self.task = asyncio.ensure_future(app(self.scope, self.incoming.get, self._send))

    async def _send(self, message: Any) -> None:
        self.sent.append(message)
        self.changed.set()

    def body(self, content: bytes, more: bool = False) -> Call:
        self.incoming.put_nowait({"type": "http.request", "body": content, "more_body": more})
        return self

    def hang_up(self) -> None:
        self.incoming.put_nowait({"type": "http.disconnect"})

    @property
    def status(self) -> int:
        return int(self.sent[0]["status"])

    @property
    def headers(self) -> dict[str, str]:
        return {k.decode(): v.decode("latin-1") for k, v in self.sent[0]["headers"]}

    @property
    def content(self) -> bytes:
        return b"".join(m.get("body", b"") for m in self.sent[1:])

    async def until(self, condition: Any, seconds: float = 10.0) -> None:
        async def wait() -> None:
            while not condition(self):
                self.changed.clear()
                await self.changed.wait()

        await asyncio.wait_for(wait(), seconds)

    async def ended(self, seconds: float = 20.0) -> Call:
        await asyncio.wait_for(asyncio.shield(self.task), seconds)
        return self


async def eventually(condition: Any, seconds: float = 10.0) -> None:
    end = asyncio.get_running_loop().time() + seconds
    while not condition():
        assert asyncio.get_running_loop().time() < end
        await asyncio.sleep(0.005)


def ask(
    server: Running,
    content: bytes,
    path: str = "/api/explain",
    verb: str = "POST",
    headers: dict[str, str] | None = None,
    raw: str = "",
    **query: Any,
) -> Call:
    """One request; ``raw`` is its query where the words do not say it."""

    async def go() -> Call:
        call = Call(server.app, path, raw or urlencode(query), verb, headers).body(content)
        return await call.ended(60)

    return asyncio.run(go())


def explained(server: Running, content: bytes, **query: Any) -> Any:
    call = ask(server, content, **query)
    assert call.status == 200, call.content
    *progress, last = lines(call.content)
    assert all(set(p) == {"progress"} for p in progress)
    assert progress[0]["progress"]["stage"] == "waiting"
    return last


def result(server: Running, content: bytes = PHOTOGRAPH, **query: Any) -> Any:
    last = explained(server, content, **query)
    assert "result" in last, last
    return last["result"]


def error(server: Running, content: bytes, **query: Any) -> tuple[int, str, str]:
    """Status, kind and message, wherever the error comes."""
    call = ask(server, content, **query)
    last = lines(call.content)[-1]
    assert set(last) == {"error", "kind"}, last
    assert "Traceback" not in last["error"]
    assert "/" not in last["error"].replace("n/a", "")
    return call.status, last["kind"], last["error"]


def numbers_of(told: Any) -> np.ndarray[Any, Any]:
    """The numbers of a map in a result."""
    values = np.frombuffer(base64.b64decode(told["values"]), "<f4")
    return values.reshape(told["rows"], told["columns"])


def image_of(url: str) -> np.ndarray[Any, Any]:
    head, _, data = url.partition(",")
    assert head == "data:image/png;base64"
    with Image.open(io.BytesIO(base64.b64decode(data))) as picture:
        assert picture.mode == "RGB"
        return np.asarray(picture)


def expected(server: Running, content: bytes, tmp_path: Path) -> tuple[Any, torch.Tensor]:
    """The photograph as the library reads it from a file."""
    path = tmp_path / "x.bin"
    path.write_bytes(content)
    image = read_image(path)
    return image, preprocess(image, server.models[0].preprocessing)[None]
