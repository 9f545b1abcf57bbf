"""What only some systems have is used with a way out for the others."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path
from types import SimpleNamespace

import pytest

import fullgrad
from fullgrad import _files
from fullgrad.datasets import plan

PACKAGE = Path(fullgrad.__file__).parent
MODULES = "fcntl|grp|pty|pwd|resource|syslog|termios|tty"
CALLS = (
    "chown|fork|forkpty|getloadavg|getuid|geteuid|kill|killpg|mkfifo|nice|posix_spawn|pread|"
    "sched_[gs]etaffinity|setsid|sysconf|uname|wait|waitpid"
)
SIGNALS = "SIG(?:KILL|HUP|QUIT|CHLD|ALRM|USR[12])|alarm|setitimer|pause"
ONLY = re.compile(
    rf"^\s*(?:import|from) (?:{MODULES})\b|\bos\.(?:{CALLS})\b|\bsignal\.(?:{SIGNALS})\b|AF_UNIX"
    r"|\bpreexec_fn\b|\bstart_new_session\b|\badd_signal_handler\b|/(?:proc|dev)/\w+|[\"']/tmp",
    re.M,
)
# Each has a test of its own for the other systems.
WITH_A_WAY_OUT = {
    "_files.py": {"os.kill"},
    "maps/minibatches.py": {"os.sysconf", "/proc/meminfo"},  # tests/maps/test_minibatches.py
    "datasets/plan.py": {"/proc/cpuinfo"},
}


def test_what_windows_lacks_has_a_way_out() -> None:
    found = {
        path.relative_to(PACKAGE).as_posix(): {*ONLY.findall(path.read_text(encoding="utf-8"))}
        for path in PACKAGE.rglob("*.py")
    }
    assert {name: names for name, names in found.items() if names} == WITH_A_WAY_OUT
    assert ONLY.findall("  import fcntl\nos.fork()\nsignal.SIGKILL") == [
        *("  import fcntl", "os.fork", "signal.SIGKILL")
    ]


def test_a_process_is_not_ended_where_a_signal_is_no_question(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert _files.may_run(os.getpid())
    asked: list[int] = []
    windows = SimpleNamespace(name="nt", kill=lambda process, number: asked.append(process))
    monkeypatch.setattr(_files, "os", windows)
    assert _files.may_run(os.getpid()) and not asked


def test_the_processor_has_a_name_without_linux(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "Path", lambda name: Path("nowhere") / name.lstrip("/"))
    monkeypatch.setattr(platform, "processor", lambda: "a processor")
    assert plan._processor() == "a processor"
