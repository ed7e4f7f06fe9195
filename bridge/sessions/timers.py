"""One timer heap for all sessions: who is due, and when the next one is. Pure; the owner brings the time.

A timer is never cancelled: it carries the epoch of its member at the time it was set, and the owner ignores one whose
member has moved on. Stale timers are swept when they outnumber what is alive, so the heap stays O(members).
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Generic, TypeVar

M = TypeVar("M")

SWEEP_SLACK = 256


class TimerHeap(Generic[M]):
    """Timers of members. `is_current(member, epoch)` says whether a timer still means something."""

    def __init__(self, is_current: Callable[[M, int], bool]) -> None:
        self._is_current = is_current
        self._heap: list[tuple[float, int, int, M]] = []  # due (monotonic s), sequence, epoch, member
        self._sequence = 0
        self._sweep_at = SWEEP_SLACK

    def __len__(self) -> int:
        return len(self._heap)

    def set(self, due: float, member: M, epoch: int) -> None:
        """Remind of `member` at `due`."""
        if len(self._heap) >= self._sweep_at:
            self._sweep()
        self._sequence += 1
        heapq.heappush(self._heap, (due, self._sequence, epoch, member))

    def due(self, now: float) -> list[M]:
        """Remove and return the members whose current timers are due, earliest first."""
        members: list[M] = []
        while self._heap and self._heap[0][0] <= now:
            _, _, epoch, member = heapq.heappop(self._heap)
            if self._is_current(member, epoch):
                members.append(member)
        return members

    def next_due(self) -> float | None:
        """When to look again (monotonic s); None when no timer is set."""
        return self._heap[0][0] if self._heap else None

    def _sweep(self) -> None:
        self._heap = [timer for timer in self._heap if self._is_current(timer[3], timer[2])]
        heapq.heapify(self._heap)
        self._sweep_at = 2 * len(self._heap) + SWEEP_SLACK
