"""CONTRIBUTING's examples: each is applied to a copy of the sources, and its own tests pass there."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PART = re.compile(r"^### (.+?)\n.*?```diff\n(.*?)```\n\n    python (.+?)\n", re.M | re.S)
PARTS = PART.findall((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"))


def run(command: list[str], folder: Path, **environment: str) -> str:
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_there_is_one_for_each_kind_of_change() -> None:
    titles = [title for title, _, _ in PARTS]
    assert titles == ["An operation", "A method", "A test of maps", "An output format"]


@pytest.mark.parametrize(("diff", "command"), [pytest.param(d, c, id=t) for t, d, c in PARTS])
def test_the_example_works_as_it_stands(diff: str, command: str, tmp_path: Path) -> None:
    for name in ("src", "tests"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / "example.diff").write_text(diff, encoding="utf-8")
    run(["git", "apply", "example.diff"], tmp_path, GIT_CEILING_DIRECTORIES=str(tmp_path.parent))
    path = str(tmp_path / "src")
    said = run(
        [sys.executable, *shlex.split(command), "-q", "-p", "no:cacheprovider"],
        tmp_path,
        PYTHONPATH=path,
    )
    assert re.search(r"^\d+ passed", said, re.M), said
    sources = [line[6:] for line in diff.splitlines() if line.startswith("+++ b/")]
    run([sys.executable, "-m", "ruff", "check", *sources], tmp_path)
    run([sys.executable, "-m", "ruff", "format", "--check", *sources], tmp_path)
