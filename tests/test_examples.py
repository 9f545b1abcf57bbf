"""The examples in docstrings hold, in an interpreter of their own: some register operations."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_examples_in_docstrings_hold() -> None:
    files = sorted((ROOT / "src" / "fullgrad").rglob("*.py"))
    shown = [str(path) for path in files if ">>> " in path.read_text(encoding="utf-8")]
    assert shown
    command = [sys.executable, "-m", "pytest", "--doctest-modules", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run([*command, *shown], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stdout
    assert re.search(r"^\d+ passed", done.stdout, re.M), done.stdout
