"""Gives back the memory of a request when the request has ended."""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


def memory_release() -> Callable[[], None]:
    """Return a function that collects garbage and gives the freed memory back to the system.

    Objects that refer to themselves, such as a figure or an error's trace, stay until Python's
    collector runs. And the C library keeps freed memory, in an arena for each thread; GNU's has a
    call that gives it back, and others are left unchanged.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if _linux() else None
    if trim is not None:
        trim.argtypes, trim.restype = [ctypes.c_size_t], ctypes.c_int

    def give() -> None:
        gc.collect()
        if trim is not None:
            trim(0)

    return give


def _linux() -> bool:
    return sys.platform.startswith("linux")


@contextmanager
def frozen_collector() -> Iterator[None]:
    """Keep the collector from visiting again and again the objects that exist already."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
