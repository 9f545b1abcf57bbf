"""The release script refuses what is not ready, and a step that fails leaves nothing behind."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import release
from release import ReleaseError, changed, cited

CHANGES = "# Changes\n\n## [Unreleased]\n\n- news\n\n## [0.1.0] - 2026-01-01\n\n- old\n"


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository; ``make`` and what builds are only noted, in a file beside it."""
    root = tmp_path / "tree"
    root.mkdir()
    (root / "CHANGELOG.md").write_text(CHANGES)
    (root / "CITATION.cff").write_text("version: 0.1.0\ndate-released: 2026-01-01\n")
    (root / ".gitignore").write_text("dist/\n")
    for name, value in (("NAME", "a"), ("EMAIL", "a@example.org")):
        for who in ("AUTHOR", "COMMITTER"):
            monkeypatch.setenv(f"GIT_{who}_{name}", value)
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"]):
        subprocess.run(["git", *command], cwd=root, check=True)
    real = release.call

    def call(*command: str, root: Path) -> str:
        if command[0] == "git":
            return real(*command, root=root)
        with (tmp_path / "said").open("a") as file:
            file.write(" ".join(command[:2] if command[0] == "make" else command[2:3]) + "\n")
        if "build" in command:
            (root / "dist").mkdir()
            (root / "dist" / built["name"]).touch()
        return ""

    built = {"name": "fullgrad-0.2.0.tar.gz"}
    monkeypatch.setattr(release, "call", call)
    monkeypatch.setattr(release, "BUILT", built, raising=False)
    return root


def git(root: Path, *command: str) -> str:
    return subprocess.run(
        ["git", *command], cwd=root, check=True, capture_output=True, text=True
    ).stdout


def test_a_release(tree: Path) -> None:
    (file,) = release.release("0.2.0", tree, "2026-12-01")
    assert file.name == "fullgrad-0.2.0.tar.gz"
    said = (tree.parent / "said").read_text().split("\n")
    assert said == [*(f"make {name}" for name in release.CHECKS), "build", "twine", ""]
    assert git(tree, "tag") == "v0.2.0\n" and git(tree, "status", "--porcelain") == ""
    news = "## [Unreleased]\n\n## [0.2.0] - 2026-12-01\n\n### Added\n\n- news\n\n## [0.1.0] - "
    assert news in (tree / "CHANGELOG.md").read_text()
    assert (tree / "CITATION.cff").read_text() == "version: 0.2.0\ndate-released: 2026-12-01\n"
    with pytest.raises(ReleaseError, match=r"the tag v0\.2\.0 is there already"):
        release.release("0.2.0", tree)


def test_what_is_not_ready_is_refused(tree: Path) -> None:
    with pytest.raises(ReleaseError, match=r"'2' is not a version such as 0\.2\.0"):
        release.release("2", tree)
    (tree / "new").touch()
    with pytest.raises(
        ReleaseError, match=r"the tree has changes; commit or remove(.|\n)*\?\? new"
    ):
        release.release("0.2.0", tree)
    assert not (tree.parent / "said").exists()
    with pytest.raises(ReleaseError, match=r"nothing under \[Unreleased\]"):
        changed("## [Unreleased]\n\n### Added\n\n## [0.1.0]\n- old\n", "0.2.0", "")
    with pytest.raises(ReleaseError, match=r"a version 0\.1\.0 already"):
        changed(CHANGES, "0.1.0", "")
    assert cited("version: 1\n", "0.2.0", "d") == "version: 0.2.0\ndate-released: d\n"


def test_news_are_under_their_headings() -> None:
    news = "\n- Fixed: two\n  lines\n- new\n\n### Removed\n\n- gone\n- Changed: other\n"
    found = "### Added\n\n- new\n\n### Changed\n\n- Other\n\n### Removed\n\n- gone\n\n"
    found += "### Fixed\n\n- Two\n  lines\n"
    assert release.grouped(news) == found == release.grouped(found)
    with pytest.raises(ReleaseError, match="'Broken' is not one of Added, Changed, Deprecated,"):
        release.grouped("### Broken\n\n- x\n")


def test_the_changelog_can_be_released() -> None:
    text = (Path(__file__).parents[2] / "CHANGELOG.md").read_text(encoding="utf-8")
    assert "\n## [0.2.0] - 2026-12-01\n\n### Added\n\n- " in changed(text, "0.2.0", "2026-12-01")


def test_a_step_that_fails_leaves_nothing(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    release.BUILT["name"] = "fullgrad-0.1.dev3.tar.gz"
    before = git(tree, "rev-parse", "HEAD")
    with pytest.raises(
        ReleaseError, match=r"built \['fullgrad-0\.1\.dev3\.tar\.gz'\], not 0\.2\.0"
    ):
        release.release("0.2.0", tree)
    assert (git(tree, "rev-parse", "HEAD"), git(tree, "tag")) == (before, "")
    assert (tree / "CHANGELOG.md").read_text() == CHANGES and not (tree / "dist").exists()


def test_the_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    asked: list[tuple[str, ...]] = []
    monkeypatch.setattr(release, "release", lambda version: [Path("f.whl")])
    monkeypatch.setattr(release, "call", lambda *command: asked.append(command) or "")
    assert release.main(["0.2.0"]) == 0 and not asked
    assert "not uploaded" in capsys.readouterr().out
    assert release.main(["0.2.0", "--upload"]) == 0
    assert asked == [(sys.executable, "-m", "twine", "upload", "f.whl")]
    monkeypatch.undo()
    assert release.main(["x"]) == 1
    assert "error: 'x' is not a version" in capsys.readouterr().err
