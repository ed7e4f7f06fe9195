"""The one place where asyncio tasks are created: named, held, and supervised.

A task that ends with an unexpected exception is never lost: it is logged, counted and handed to `on_crash`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

log = logging.getLogger(__name__)

CrashHandler = Callable[[str, BaseException], None]


class Tasks:
    """Holds background tasks of one owner. `close()` cancels and awaits them all."""

    def __init__(self, owner: str, on_crash: CrashHandler | None = None) -> None:
        self._owner = owner
        self._on_crash = on_crash
        self._tasks: set[asyncio.Task[Any]] = set()
        self.crashes = 0
        self._closing = False

    def __len__(self) -> int:
        return len(self._tasks)

    def start(self, work: Coroutine[Any, Any, Any], *, name: str, essential: bool = False) -> asyncio.Task[Any]:
        """Start a named task and hold it until it ends. An `essential` one that ends at all counts as a crash."""
        task = asyncio.get_running_loop().create_task(work, name=f"{self._owner}:{name}")
        self._tasks.add(task)
        task.add_done_callback(lambda done: self._ended(done, essential))
        return task

    def _ended(self, task: asyncio.Task[Any], essential: bool) -> None:
        self._tasks.discard(task)
        if task.cancelled():
            return
        error = task.exception()
        if error is None and essential and not self._closing:
            error = RuntimeError("an essential task ended")
        if error is None:
            return
        self.crashes += 1
        log.error("task crashed", extra={"task": task.get_name()}, exc_info=error)
        if self._on_crash is not None:
            self._on_crash(task.get_name(), error)

    async def close(self, timeout_s: float = 5.0) -> None:
        """Cancel every task and wait until they have ended, at most `timeout_s`."""
        self._closing = True
        tasks = [task for task in self._tasks if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        if tasks:
            _, pending = await asyncio.wait(tasks, timeout=timeout_s)
            for task in pending:
                log.error("task did not end when cancelled", extra={"task": task.get_name()})
