"""Waiting for something, but not for ever."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


async def within(seconds: float, waited_for: Coroutine[Any, Any, T]) -> T:
    """What a coroutine returns, if it does so in time.

    ``asyncio.wait_for`` before Python 3.12 loses the cancellation of a caller whose wait ends in
    the same moment, and the caller then goes on for ever.

    Args:
        seconds: that it may take; it is begun even if they are none.
        waited_for: the coroutine.

    Raises:
        TimeoutError: of asyncio; the coroutine was cancelled.
    """
    task = asyncio.ensure_future(waited_for)
    try:
        await asyncio.wait({task}, timeout=max(seconds, 0.001))
        if not task.done():
            raise asyncio.TimeoutError
        return task.result()
    finally:
        task.cancel()
