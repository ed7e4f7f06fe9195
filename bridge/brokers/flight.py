"""Single flight: many callers who need the same thing share one running attempt.

The attempt runs as a task of its own, so that a caller who gives up does not spoil it for the others; when the last
caller has given up it is cancelled. Errors of the project's tree reach every caller.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

from bridge.runtime.tasks import Tasks
from core.errors import BridgeError

T = TypeVar("T")


class Flight(Generic[T]):
    """One shared attempt at a time."""

    __slots__ = ("_task", "_waiters")

    def __init__(self) -> None:
        self._task: asyncio.Task[tuple[T | None, BridgeError | None]] | None = None
        self._waiters = 0

    @property
    def active(self) -> bool:
        return self._task is not None and not self._task.done()

    async def join(self, tasks: Tasks, work: Callable[[], Coroutine[Any, Any, T]], name: str) -> T:
        """Wait for the running attempt, or start `work` as a new one. Raises what the attempt raised."""
        if self._task is None or self._task.done():  # a finished one is only forgotten in the loop's next turn
            self._task = tasks.start(_outcome(work), name=name)
            self._task.add_done_callback(self._forget)
            self._waiters = 0
        task = self._task
        self._waiters += 1
        try:
            value, error = await asyncio.shield(task)
        finally:
            if self._task is task:
                self._waiters -= 1
                if self._waiters == 0 and not task.done():
                    self._task = None
                    task.cancel()
        if error is not None:
            raise error.with_traceback(None)  # many callers raise the same object: do not chain their frames
        return value  # type: ignore[return-value]  # no error means that there is a value

    def _forget(self, task: asyncio.Task[tuple[T | None, BridgeError | None]]) -> None:
        if self._task is task:
            self._task = None


async def _outcome(work: Callable[[], Coroutine[Any, Any, T]]) -> tuple[T | None, BridgeError | None]:
    try:
        return await work(), None
    except BridgeError as error:
        return None, error
