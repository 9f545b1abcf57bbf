"""The most memory that one call needs, above what was in use before it."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")


def tensor_peak(call: Callable[[], Any], device: str) -> int:
    """Bytes of tensors at the call's worst moment, above those alive before it.

    Args:
        call: what is measured.
        device: ``cuda`` asks PyTorch's allocator; ``cpu`` replays every allocation and release
            that its profiler saw.

    Returns:
        Bytes.
    """
    gc.collect()
    if device == "cuda":
        return _cuda_peak(call)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        result = call()
    del result
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        seen.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text(encoding="utf-8", errors="replace"))["traceEvents"]
    return peak_of_trace(events)


def peak_of_trace(events: list[dict[str, Any]]) -> int:
    """The highest sum of the allocations and releases on the CPU, in their order in time."""
    changes = [
        (event["ts"], event["args"].get("Ev Idx", 0), int(event["args"]["Bytes"]))
        for event in events
        if event.get("name") == "[memory]" and event["args"].get("Device Type", 0) == 0
    ]
    now = peak = 0
    for _, _, size in sorted(changes):
        now += size
        peak = max(peak, now)
    return peak


def _cuda_peak(call: Callable[[], Any]) -> int:
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    result = call()
    torch.cuda.synchronize()
    del result
    return torch.cuda.max_memory_allocated() - before


def resident_growth(call: Callable[[], Any]) -> int | None:
    """Bytes by which the process grew at the call's worst moment; None where Linux does not tell.

    What the process had kept free for itself is not counted, so a process that has allocated much
    before tells too little.
    """
    gc.collect()
    with contextlib.suppress(OSError):
        before = _status("VmRSS")
        _CLEAR.write_text("5")  # the peak is counted again from here
        if before is not None and _reset(before):
            result = call()
            peak = _status("VmHWM")
            del result
            return None if peak is None else max(peak - before, 0)
    return None


def _reset(before: int) -> bool:
    peak = _status("VmHWM")
    return peak is not None and peak < before + (8 << 20)


def _status(name: str) -> int | None:
    for line in _STATUS.read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) * 1024
    return None


def limit_data(gibibytes: float | None) -> None:
    """Turn running out of memory into an error of this process instead of its death.

    Args:
        gibibytes: beyond what the process has now; None for nine tenths of what is free.
    """
    try:
        import resource
    except ImportError:  # not on Windows
        return
    free = _available()
    limit = int(gibibytes * 2**30) if gibibytes is not None else free and int(free * 0.9)
    if limit:
        limit += _status("VmData") or 0
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        if hard != resource.RLIM_INFINITY:
            limit = min(limit, hard)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))


def _available() -> int | None:
    with contextlib.suppress(OSError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    with contextlib.suppress(OSError, ValueError):
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return None
