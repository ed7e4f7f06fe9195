"""The two clocks, injected everywhere: wall time for what people read, monotonic time for every timer."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Source of time. Never compare one clock with the other."""

    def now_ms(self) -> int:
        """Wall clock, Unix milliseconds."""
        ...

    def monotonic(self) -> float:
        """Monotonic seconds; equal to the event loop's time in a running process."""
        ...


class SystemClock:
    """The machine's clocks."""

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000

    monotonic = staticmethod(time.monotonic)  # asked for with every message: without a call of ours between


class ManualClock:
    """A clock that moves only when told; for tests and simulations."""

    def __init__(self, now_ms: int = 1_732_341_600_000, monotonic: float = 1000.0) -> None:
        self._now_ms = now_ms
        self._monotonic = monotonic

    def now_ms(self) -> int:
        return self._now_ms

    def monotonic(self) -> float:
        return self._monotonic

    def advance(self, seconds: float) -> None:
        """Move both clocks forward."""
        self._monotonic += seconds
        self._now_ms += round(seconds * 1000)

    def step_wall(self, seconds: float) -> None:
        """Step the wall clock only, as NTP does."""
        self._now_ms += round(seconds * 1000)
