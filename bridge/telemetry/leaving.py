"""Waits a moment, at the end of the process, for a library that blocks; what does not end in time is left behind.

A thread of the event loop's own pool would keep the process until the library has ended.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress


async def leave(work: Callable[[], object], *, within_s: float) -> None:
    """Run `work` in a thread that the end of the process does not wait for, and wait `within_s` for it. Never raises
    what it raises: nobody is left to act on it."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()

    def run() -> None:
        try:
            work()
        finally:
            with suppress(RuntimeError):  # the loop has been closed meanwhile
                loop.call_soon_threadsafe(ended.set)

    threading.Thread(target=run, name="leaving", daemon=True).start()
    with suppress(TimeoutError):
        async with asyncio.timeout(within_s):
            await ended.wait()
