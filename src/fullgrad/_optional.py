"""Optional packages: imported where they are used, with a clear message where they are missing."""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path, PurePath
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from fullgrad.errors import MissingDependencyError

_QUOTE = '"' if os.name == "nt" else "'"  # cmd.exe knows no single ones


def require(module: str, extra: str) -> Any:
    """Import a module of an optional package.

    Args:
        module: dotted name of the module.
        extra: the extra of fullgrad that installs it.

    Returns:
        The module.

    Raises:
        MissingDependencyError: it is not installed, or cannot be imported.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise MissingDependencyError(
            f"{package} cannot be imported ({error}); install it with: {install_command(extra)}"
        ) from error


def install_command(extra: str) -> str:
    """The command that adds an extra, by the tool and from the place that fullgrad came by."""
    try:
        own = distribution("fullgrad")
    except PackageNotFoundError:  # sources that were put on the path
        folder = Path(__file__).parents[2]
        there = (folder / "pyproject.toml").is_file()
        source = {"url": folder.as_uri(), "dir_info": {"editable": True}} if there else {}
        return command_for(source, "", sys.prefix, extra)
    source = json.loads(own.read_text("direct_url.json") or "{}")
    return command_for(source, (own.read_text("INSTALLER") or "").strip(), sys.prefix, extra)


def command_for(source: Mapping[str, Any], installer: str, prefix: str, extra: str) -> str:
    """The command, given how fullgrad was installed.

    Args:
        source: what ``direct_url.json`` says (PEP 610); empty where it came from an index.
        installer: what ``INSTALLER`` says: ``pip``, ``uv``, ``conda``, ...
        prefix: of the environment.
        extra: that is to be added.

    Example:
        >>> command_for({}, "uv", "/home/me/project/.venv", "cli").replace('"', "'")
        "uv pip install 'fullgrad[cli]'"
    """
    parts = PurePath(prefix).parts
    if "pipx" in parts:
        tool = "pipx install --force"
    elif "uv" in parts and "tools" in parts:
        tool = "uv tool install"
    else:
        tool = "uv pip install" if installer == "uv" else "pip install"
    url, wanted = source.get("url"), f"fullgrad[{extra}]"
    if url and "dir_info" in source:
        wanted = f"{url2pathname(urlsplit(url).path)}[{extra}]"
        tool += " -e" if source["dir_info"].get("editable") else ""
    elif url:
        kind = source.get("vcs_info", {}).get("vcs")
        wanted += f" @ {f'{kind}+' if kind else ''}{url}"
    return f"{tool} {_QUOTE}{wanted}{_QUOTE}"
