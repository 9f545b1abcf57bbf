"""The message for a missing package names the command that installs it."""

from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import pytest

from fullgrad import _optional
from fullgrad.errors import MissingDependencyError

WHEEL = {"url": "file:///tmp/fullgrad-0.2.0-py3-none-any.whl", "archive_info": {}}
FOLDER = {"url": Path("/src/full grad").as_uri(), "dir_info": {}}
GIT = {"url": "https://example.org/fullgrad.git", "vcs_info": {"vcs": "git", "commit_id": "1"}}


@pytest.mark.parametrize(
    ("source", "installer", "prefix", "command"),
    [
        ({}, "pip", "/usr", "pip install 'fullgrad[cli]'"),
        ({}, "conda", "/opt/conda/envs/x", "pip install 'fullgrad[cli]'"),
        ({}, "uv", "/p/.venv", "uv pip install 'fullgrad[cli]'"),
        ({}, "uv", "/h/.local/share/uv/tools/fullgrad", "uv tool install 'fullgrad[cli]'"),
        ({}, "pip", "/h/pipx/venvs/fullgrad", "pipx install --force 'fullgrad[cli]'"),
        (WHEEL, "pip", "/usr", f"pip install 'fullgrad[cli] @ {WHEEL['url']}'"),
        (GIT, "pip", "/usr", f"pip install 'fullgrad[cli] @ git+{GIT['url']}'"),
        (FOLDER, "pip", "/usr", "pip install '/src/full grad[cli]'"),
        (
            FOLDER | {"dir_info": {"editable": True}},
            "pip",
            "/usr",
            "pip install -e '/src/full grad[cli]'",
        ),
    ],
    ids=["index", "conda", "uv", "uv tool", "pipx", "wheel", "git", "folder", "editable"],
)
def test_the_command_is_that_of_the_installation(
    source: dict[str, Any], installer: str, prefix: str, command: str
) -> None:
    assert _optional.command_for(source, installer, prefix, "cli") == command


class Installed:
    """A distribution as pip leaves it."""

    def __init__(self, **files: str) -> None:
        self.read_text = files.get


def test_what_is_installed_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "prefix", "/usr")
    for files, command in (
        ({"INSTALLER": "uv\n"}, "uv pip install 'fullgrad[x]'"),
        ({"INSTALLER": "pip", "direct_url.json": '{"url": "https://e.org/f.whl"}'}, "@ https://e"),
        ({}, "pip install 'fullgrad[x]'"),
    ):
        monkeypatch.setattr(_optional, "distribution", lambda _, f=files: Installed(**f))
        assert command in INSTALL_COMMAND("x")

    def absent(name: str) -> None:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(_optional, "distribution", absent)
    monkeypatch.setattr(_optional, "__file__", str(tmp_path / "src/fullgrad/_optional.py"))
    assert INSTALL_COMMAND("x") == "pip install 'fullgrad[x]'"
    (tmp_path / "pyproject.toml").touch()
    assert INSTALL_COMMAND("x") == f"pip install -e '{tmp_path}[x]'"


def test_a_missing_package_is_named() -> None:
    text = r"nosuch cannot be imported \(No module.*\); install it with: pip install 'fullgrad\[cli"
    with pytest.raises(MissingDependencyError, match=text):
        _optional.require("nosuch.part", "cli")


INSTALL_COMMAND = _optional.install_command  # before conftest replaces it
