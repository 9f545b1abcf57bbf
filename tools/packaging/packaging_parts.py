"""What the programs here share: environments, and parts of docs/versions.md that a run writes."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

BIN = "Scripts" if os.name == "nt" else "bin"
PAGE = Path(__file__).parents[2] / "docs/versions.md"


def put(name: str, text: str) -> None:
    """Put text between the two marks of a part of docs/versions.md."""
    page = PAGE.read_text(encoding="utf-8")
    marks = re.compile(rf"(<!-- {name}: [^\n]*-->\n).*?(<!-- end of {name} -->)", re.S)
    found, count = marks.subn(lambda m: f"{m[1]}\n{text}\n{m[2]}", page)
    if count != 1:
        raise ValueError(f"{PAGE.name} has no part {name!r}")
    PAGE.write_text(found, encoding="utf-8")


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table in Markdown."""
    lines = [list(head), *map(list, rows)]
    lines.insert(1, ["---"] * len(lines[0]))
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


@dataclass(frozen=True)
class Environment:
    """A virtual environment.

    Args:
        folder: where it lies.
    """

    folder: Path

    def run(self, *command: str) -> str:
        """What Python prints there."""
        return subprocess.run(
            [str(self.folder / BIN / "python"), *command],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()

    def python(self) -> str:
        """The version of Python."""
        return self.run("-c", "import platform; print(platform.python_version())")

    def packages(self) -> list[str]:
        """What is installed, as ``name==version``."""
        code = "from importlib.metadata import distributions as d\nfor p in d(): print(f'{p.name}=={p.version}')"
        return self.run("-c", code).splitlines()

    def version(self, package: str) -> str:
        """The version of a package."""
        return self.run("-c", f"from importlib.metadata import version as v; print(v({package!r}))")


@contextmanager
def environment_of(
    folder: Path, python: str, wanted: list[str], *options: str
) -> Iterator[Environment]:
    """A fresh environment with packages, removed at the end.

    Raises:
        SystemExit: they cannot be installed; uv's message.
    """
    uv = shutil.which(
        "uv", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    )
    if uv is None:
        raise SystemExit("uv is missing: install the extra dev")
    try:
        for line in (
            ["venv", "--seed", "--python", python, str(folder)],
            ["pip", "install", "--python", str(folder / BIN / "python"), *options, *wanted],
        ):
            done = subprocess.run(
                [uv, "--quiet", *line], capture_output=True, text=True, check=False
            )
            if done.returncode:
                raise SystemExit(f"uv {' '.join(line)}\n{done.stderr}")
        yield Environment(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
