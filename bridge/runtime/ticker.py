"""A ticker with jitter: many processes and loops that started together do not stay in step.

Invariant: a slow consumer is never called twice for one period; missed periods are dropped, not made up.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator

from bridge.runtime.clock import Clock


class Ticker:
    """Ticks about every `interval_s` seconds, each period longer or shorter by up to `jitter` (a share, 0.1 = 10 %)."""

    def __init__(self, interval_s: float, *, clock: Clock, rng: random.Random, jitter: float = 0.1) -> None:
        self._interval_s = interval_s
        self._clock = clock
        self._rng = rng
        self._jitter = jitter

    async def __aiter__(self) -> AsyncIterator[float]:
        """Yield the monotonic time at which each tick was due; the first one period from now."""
        due = self._clock.monotonic()
        while True:
            due = max(due + self._period_s(), self._clock.monotonic())
            await asyncio.sleep(max(0.0, due - self._clock.monotonic()))
            yield due

    def _period_s(self) -> float:
        return self._interval_s * (1 + self._rng.uniform(-self._jitter, self._jitter))
