"""Runs what the cookbook's pages say, and compares it with what they quote.

A page's ```python blocks that begin with "# NAME.py" are files; its ```console blocks are
commands with what they print, in a new folder beside examples/. Numbers are compared up to rounding,
the rest letter by letter; a line "..." stands for any lines. A command that stands elsewhere, in an
indented block, would not be run, and so counts as a difference, unless it is a target of the Makefile.
``--write`` puts what was printed, and the pictures, into the pages.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from fullgrad.cli.main import main as fullgrad

ROOT = Path(__file__).parents[2]
PAGES = (ROOT / "docs" / "own-models.md", *sorted((ROOT / "docs" / "cookbook").glob("*.md")))
_FILE = re.compile(r"^```python\n# (\S+\.(?:py|txt))\n(.*?)^```", re.M | re.S)
_CONSOLE = re.compile(r"^```console\n(.*?)^```\n", re.M | re.S)
_PICTURE = re.compile(r"^<!-- picture: (\S+) -->\n!\[[^\]]*\]\(([^)]+)\)", re.M)
_COMMAND = re.compile(r"^    (?:\S+=\S+ )*(?:python|fullgrad|pip|make) .*", re.M)
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e[-+]\d+)?")
_CLOSE = 2e-2  # relative; quoted numbers have three or four digits


@dataclass(frozen=True)
class Step:
    """A command of a page, and the lines that it is said to print."""

    command: str
    quoted: tuple[str, ...]


def steps(block: str) -> list[Step]:
    """The commands of a console block; lines that end in a backslash go on."""
    found: list[Step] = []
    for part in re.split(r"^\$ ", block, flags=re.M)[1:]:
        text = part.replace("\\\n", "")
        command, _, quoted = text.partition("\n")
        found.append(Step(" ".join(command.split()), tuple(quoted.splitlines())))
    return found


def printed(command: str) -> list[str]:
    """The lines that a command prints in this folder, and its exit code where it is not 0."""
    words = shlex.split(command)
    if words[0] not in ("python", "fullgrad"):
        raise ValueError(f"a page runs fullgrad and python alone, not {words[0]}")
    if words[0] == "python":
        done = subprocess.run(
            [sys.executable, *words[1:]], capture_output=True, text=True, check=False
        )
        lines = (done.stdout + (done.stderr if done.returncode else "")).splitlines()
        return [*lines, f"(exit code {done.returncode})"] if done.returncode else lines
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        code = fullgrad(words[1:])
    lines = out.getvalue().splitlines()
    return [*lines, f"(exit code {code})"] if code else lines


def agree(quoted: Sequence[str], found: Sequence[str]) -> bool:
    """Whether quoted lines are those that were printed, "..." being any number of lines."""
    if not quoted:
        return not found
    if quoted[0] == "...":
        return any(agree(quoted[1:], found[i:]) for i in range(len(found) + 1))
    return bool(found) and _equal(quoted[0], found[0]) and agree(quoted[1:], found[1:])


def _equal(quoted: str, found: str) -> bool:
    if _NUMBER.sub("#", quoted) != _NUMBER.sub("#", found):
        return False
    pairs = zip(_NUMBER.findall(quoted), _NUMBER.findall(found), strict=True)
    return all(abs(float(a) - float(b)) <= max(1e-4, _CLOSE * abs(float(a))) for a, b in pairs)


@contextlib.contextmanager
def folder() -> Iterator[None]:
    """A new folder to work in."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as place:
        os.chdir(place)
        Path("examples").symlink_to(ROOT / "examples")
        try:
            yield
        finally:
            os.chdir(before)


def run(page: Path, write: bool = False) -> list[str]:
    """Carry a page out.

    Args:
        page: the file.
        write: put what was printed into it, and its pictures beside it.

    Returns:
        What differs, for people.
    """
    text = page.read_text(encoding="utf-8")
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
    wrong = [
        f"{page.name}: not run: {line.strip()}"
        for line in _COMMAND.findall(text)
        if line.removeprefix("    make ").strip() not in targets
    ]
    with folder():
        for name, content in _FILE.findall(text):
            Path(name).write_text(content, encoding="utf-8")

        def again(block: re.Match[str]) -> str:
            lines = []
            for step in steps(block[1]):
                found = printed(step.command)
                same = agree(step.quoted, found)
                if not same:
                    said = "\n    ".join(found)
                    wrong.append(f"{page.name}: $ {step.command}\n    {said}")
                shown = step.quoted if same else found
                lines += [f"$ {step.command}", *shown]
            return "```console\n" + "".join(f"{line}\n" for line in lines) + "```\n"

        made = _CONSOLE.sub(again, text)
        for source, target in _PICTURE.findall(text):
            if not Path(source).is_file():
                wrong.append(f"{page.name}: no picture {source}")
            elif write:
                place = page.parent / target
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, place)
    if write and made != text:
        page.write_text(made, encoding="utf-8")
    return wrong


def main(argv: Sequence[str] | None = None) -> int:
    """Run all pages.

    Returns:
        The exit code: 0 where pages and commands agree.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="put what is printed into the pages")
    parser.add_argument("pages", nargs="*", type=Path, default=PAGES)
    args = parser.parse_args(argv)
    wrong = [text for page in args.pages for text in run(page.resolve(), args.write)]
    print("\n".join(wrong) or f"{len(args.pages)} pages agree with what their commands print")
    return 1 if wrong and not args.write else 0


if __name__ == "__main__":
    sys.exit(main())
