"""The viewer in a real Chromium: a server, a browser, photographs, and pages that must not complain.

These tests take minutes and need a browser, so they run only when they are asked for:
``FULLGRAD_BROWSER=1 python -m pytest tests/browser``. Screenshots are written to
``browser-artefacts/``, or to ``$FULLGRAD_ARTEFACTS``.
"""

from __future__ import annotations

import importlib
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fullgrad.vision.models import DEFAULT_MODEL

WANTED = os.environ.get("FULLGRAD_BROWSER") == "1"
collect_ignore_glob = [] if WANTED else ["test_*.py"]
if WANTED:
    for needed in ("playwright.sync_api", "axe_playwright_python.sync_playwright", "skimage"):
        try:
            importlib.import_module(needed)
        except ImportError as error:
            raise pytest.UsageError(
                f"the browser tests need {needed} ({error}): pip install playwright "
                "axe-playwright-python scikit-image"
            ) from error

ROOT = Path(__file__).parents[2]
ARTEFACTS = Path(os.environ.get("FULLGRAD_ARTEFACTS", ROOT / "browser-artefacts"))
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
LINE = re.compile(r"http://127\.0\.0\.1:\d+")
TALL = 47  # stages of the second model
NET = f'''
"""A deep network with random weights and long names."""
import torch
from torch import nn

PREPROCESSING = {{"resize": 64, "crop": [40, 60]}}
CLASSES = ["a class whose name is so long that it cannot stand on one line of a narrow screen, "
           "and_one_word_that_has_no_place_to_break_it_" + "x" * 60,
           "a <b>class</b> & its 'markup'", "third"]


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        for i in range({TALL - 2}):
            stage = nn.Conv2d(3, 3, 3, padding=1)
            nn.init.dirac_(stage.weight)
            self.add_module(f"a_stage_with_a_long_name_for_a_module_{{i}}", stage)
        self.norm = nn.BatchNorm2d(3)
        nn.init.normal_(self.norm.bias)
        self.head = nn.Linear(3, 3)

    def forward(self, x):
        for name, stage in self.named_children():
            if name.startswith("a_stage"):
                x = stage(x)
        return self.head(self.norm(x).mean((2, 3)))


def make_model():
    torch.manual_seed(0)
    return Net()
'''


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """A Chromium: ``$CHROMIUM``, the system's, or Playwright's own."""
    from playwright import sync_api as api

    path = os.environ.get("CHROMIUM") or shutil.which("chromium")
    with api.sync_playwright() as playwright:
        try:
            found = playwright.chromium.launch(executable_path=path, args=list(FLAGS))
        except api.Error as error:
            pytest.fail(
                "no Chromium can be started: apt install chromium, or playwright install chromium, "
                f"or name one in $CHROMIUM\n{error}",
                pytrace=False,
            )
        yield found
        found.close()


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a running viewer with two models."""
    net = tmp_path_factory.mktemp("net") / "net.py"
    net.write_text(NET)
    command = [
        sys.executable,
        "-m",
        "fullgrad",
        "app",
        "--port",
        "0",
        "--model",
        DEFAULT_MODEL,
        f"{net}:make_model",
    ]
    said: list[str] = []
    found: list[str] = []
    ready = threading.Event()
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=net.parent,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    ) as process:
        assert process.stdout is not None

        def read(stream: Any) -> None:
            for line in stream:
                said.append(line)
                if (match := LINE.search(line)) and not found:
                    found.append(match.group())
                    ready.set()
            ready.set()

        reader = threading.Thread(target=read, args=(process.stdout,))
        reader.start()
        try:
            ready.wait(120)
            if not found:
                process.kill()
                pytest.fail(f"the viewer did not start:\n{''.join(said)}", pytrace=False)
            yield found[0]
        finally:
            process.terminate()
            process.wait(20)
            reader.join(20)
        assert not [line for line in said if "Traceback" in line], "".join(said)


@pytest.fixture(scope="session")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Photographs by name, as JPEG files."""
    import skimage.data
    from PIL import Image

    folder = tmp_path_factory.mktemp("photographs")
    found = {}
    for name in ("chelsea", "coffee", "rocket"):
        found[name] = folder / f"{name}.jpg"
        Image.fromarray(getattr(skimage.data, name)()).save(found[name], quality=92)
    return found


class Watched:
    """What a page said on its console, and which errors it threw."""

    def __init__(self) -> None:
        self.complaints: list[str] = []
        self.accepted: list[str] = []

    def watch(self, page: Any) -> None:
        page.on("console", lambda m: m.type in {"error", "warning"} and self._add(m.text))
        page.on("pageerror", lambda e: self._add(f"page error: {e}"))

    def _add(self, text: str) -> None:
        self.complaints.append(text)

    def accept(self, part: str) -> None:
        """Expect a complaint that holds these words."""
        self.accepted.append(part)

    def check(self) -> None:
        rest = [c for c in self.complaints if not any(a in c for a in self.accepted)]
        assert rest == []


@pytest.fixture
def watched() -> Iterator[Watched]:
    found = Watched()
    yield found
    found.check()


@pytest.fixture
def open_page(browser: Any, server: str, watched: Watched) -> Iterator[Callable[..., Any]]:
    """Open the viewer: ``open_page(width, dark=False, hash="")``."""
    contexts = []

    def opened(width: int = 1440, dark: bool = False, hash: str = "", height: int = 900) -> Any:
        context = browser.new_context(
            viewport={"width": width, "height": height},
            accept_downloads=True,
            color_scheme="dark" if dark else "light",
            reduced_motion="reduce",
        )
        contexts.append(context)
        context.set_default_timeout(20_000)
        page = context.new_page()
        watched.watch(page)
        page.goto(f"{server}/{hash}")
        return page

    yield opened
    for context in contexts:
        context.close()


@pytest.fixture(scope="session")
def shot() -> Callable[[Any, str], None]:
    """Keep a screenshot of the whole page under a name."""
    ARTEFACTS.mkdir(parents=True, exist_ok=True)

    def taken(page: Any, name: str) -> None:
        # In a window as tall as the page, what sticks to an edge is in its place.
        before = page.viewport_size
        height = page.evaluate("document.documentElement.scrollHeight")
        page.set_viewport_size({"width": before["width"], "height": max(height, before["height"])})
        page.screenshot(path=ARTEFACTS / f"{name}.png")
        page.set_viewport_size(before)

    return taken
