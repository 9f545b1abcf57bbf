"""Memory that a request has used, given back when the request has ended."""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


def giver() -> Callable[[], None]:
    """What collects what a request has left behind, and gives it back to the system.

    What refers to itself, such as a figure or an error's trace, stays until Python's collector
    comes by. And the C library keeps what was freed for later, in an arena for each thread: GNU's
    can be told to give it back; where there is another, it is left to itself.
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
def settled() -> Iterator[None]:
    """Keep the collector from looking again and again at what was there before."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
