"""Prepare a release: check the tree, run all checks, write the version, tag, build. Nothing leaves.

    python tools/packaging/release.py 0.2.0             # or: make release VERSION=0.2.0
    python tools/packaging/release.py 0.2.0 --upload    # the same, and twine uploads what was built

It refuses a tree with changes, a version that is there already, and a list of changes without
news. A step that fails leaves the tree and the tags as they were.
"""

from __future__ import annotations

import argparse
import datetime
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
CHECKS = ("test", "guard", "test-oldest", "test-browser")
WRITTEN = ("CHANGELOG.md", "CITATION.cff")
HEADS = ("Added", "Changed", "Deprecated", "Removed", "Fixed", "Security")  # Keep a Changelog's


class ReleaseError(Exception):
    """The release cannot be made; nothing was done."""


def call(*command: str, root: Path = ROOT) -> str:
    """Run a command, and return what it prints; it may show errors itself.

    Raises:
        ReleaseError: it fails.
    """
    done = subprocess.run(command, cwd=root, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise ReleaseError(f"{' '.join(command)} failed:\n{done.stdout[-3000:]}")
    return str(done.stdout)


def grouped(news: str) -> str:
    """News under the headings of Keep a Changelog, in their order, each line as it is.

    A line goes by its first word ("Fixed: ..."), which the heading then says for it; without such a
    word it stays under its heading, or is something added.
    """
    found: dict[str, list[str]] = {head: [] for head in HEADS}
    under = HEADS[0]
    for part in re.split(r"^(?=- |### )", news, flags=re.M):
        if head := re.match(r"### (\w+)", part):
            under = head[1]
            if under not in found:
                raise ReleaseError(f"CHANGELOG.md: {under!r} is not one of {', '.join(HEADS)}")
        elif part.strip():
            word = re.match(rf"- ({'|'.join(HEADS)}): +", part)
            line = f"- {part[word.end() :][0].upper()}{part[word.end() + 1 :]}" if word else part
            found[word[1] if word else under].append(f"{line.rstrip()}\n")
    return "\n".join(f"### {head}\n\n{''.join(lines)}" for head, lines in found.items() if lines)


def changed(text: str, version: str, day: str) -> str:
    """The list of changes with the news under the version.

    Raises:
        ReleaseError: there are no news, or the version is there already.
    """
    news = re.search(r"^## \[Unreleased\]\n(.*?)(?=^## |\Z)", text, re.M | re.S)
    if news is None or not re.search(r"^- ", news[1], re.M):
        raise ReleaseError("CHANGELOG.md has nothing under [Unreleased]")
    if re.search(rf"^## \[{re.escape(version)}\]", text, re.M):
        raise ReleaseError(f"CHANGELOG.md has a version {version} already")
    head = f"## [Unreleased]\n\n## [{version}] - {day}\n\n"
    after = text[news.end() :]
    return text[: news.start()] + head + grouped(news[1]) + ("\n" + after if after else "")


def cited(text: str, version: str, day: str) -> str:
    """CITATION.cff with version and day."""
    text = re.sub(r"^date-released: .*\n", "", text, flags=re.M)
    return re.sub(r"^version: .*$", f"version: {version}\ndate-released: {day}", text, flags=re.M)


def refuse(version: str, root: Path) -> None:
    """See that a release can be made.

    Raises:
        ReleaseError: it cannot.
    """
    if not re.fullmatch(r"\d+\.\d+\.\d+", version):
        raise ReleaseError(f"{version!r} is not a version such as 0.2.0")
    if dirty := call("git", "status", "--porcelain", root=root).strip():
        raise ReleaseError(f"the tree has changes; commit or remove them first:\n{dirty}")
    if call("git", "tag", "--list", f"v{version}", root=root).strip():
        raise ReleaseError(f"the tag v{version} is there already")


def release(version: str, root: Path = ROOT, day: str | None = None) -> list[Path]:
    """Check, write, commit, tag and build; the files that were built.

    Raises:
        ReleaseError: a step failed; tree and tags are as they were.
    """
    refuse(version, root)
    day = day or datetime.date.today().isoformat()
    texts = [(root / name).read_text(encoding="utf-8") for name in WRITTEN]
    new = (changed(texts[0], version, day), cited(texts[1], version, day))
    for target in CHECKS:
        call("make", target, root=root)
    call("git", "checkout", "--", ".", root=root)  # tables that the checks wrote
    before, dist = call("git", "rev-parse", "HEAD", root=root).strip(), root / "dist"
    try:
        for name, text in zip(WRITTEN, new, strict=True):
            (root / name).write_text(text, encoding="utf-8")
        call("git", "commit", "--quiet", "--message", f"Version {version}", *WRITTEN, root=root)
        call("git", "tag", "--annotate", f"v{version}", "--message", version, root=root)
        shutil.rmtree(dist, ignore_errors=True)
        call(sys.executable, "-m", "build", "--outdir", str(dist), str(root), root=root)
        files = sorted(dist.iterdir())
        if not files or not all(f.name.startswith(f"fullgrad-{version}") for f in files):
            raise ReleaseError(f"built {[f.name for f in files]}, not {version}")
        call(sys.executable, "-m", "twine", "check", "--strict", *map(str, files), root=root)
    except BaseException:
        subprocess.run(
            ["git", "tag", "--delete", f"v{version}"], cwd=root, capture_output=True, check=False
        )
        call("git", "reset", "--quiet", "--hard", before, root=root)
        shutil.rmtree(dist, ignore_errors=True)
        raise
    return files


def main(argv: list[str] | None = None) -> int:
    """See above.

    Returns:
        0: done; 1: a step failed; nothing is left of it.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("version")
    parser.add_argument(
        "--upload", action="store_true", help="upload with twine, which asks for a token"
    )
    options = parser.parse_args(argv)
    try:
        files = release(options.version)
        if options.upload:
            call(sys.executable, "-m", "twine", "upload", *map(str, files))
    except ReleaseError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(*files, sep="\n")
    if not options.upload:
        print(
            f"not uploaded. What is left: git push --follow-tags; twine upload {' '.join(str(f) for f in files)}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
