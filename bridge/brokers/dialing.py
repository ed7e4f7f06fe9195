"""When to dial: full-jitter backoff per channel and a budget per host. Pure decisions, time is passed in."""

from __future__ import annotations

import random
from collections import deque


class DialBackoff:
    """Delays between dials of one channel: U(0, min(cap, first x 2^n)), forgotten after `stable_s` of being up."""

    __slots__ = ("_cap_s", "_first_s", "_rng", "_stable_s", "_up_since", "failures")

    def __init__(self, rng: random.Random, first_s: float, cap_s: float, stable_s: float) -> None:
        self._rng = rng
        self._first_s = first_s
        self._cap_s = cap_s
        self._stable_s = stable_s
        self._up_since: float | None = None
        self.failures = 0

    def up(self, now: float) -> None:
        """The channel is usable."""
        self._up_since = now

    def down(self, now: float) -> float:
        """A dial failed or the channel was lost; returns the delay before the next dial in seconds."""
        if self._up_since is not None and now - self._up_since >= self._stable_s:
            self.failures = 0
        self._up_since = None
        ceiling = min(self._cap_s, self._first_s * 2.0 ** min(self.failures, 30))
        self.failures += 1
        return self._rng.uniform(0.0, ceiling)


class DialBudget:
    """At most `per_second` dials begin in any second on one host."""

    __slots__ = ("_per_second", "_starts")

    def __init__(self, per_second: int) -> None:
        self._per_second = per_second
        self._starts: deque[float] = deque(maxlen=per_second)

    def wait_s(self, now: float) -> float:
        """Seconds until a dial asked for now could begin."""
        if len(self._starts) < self._per_second:
            return 0.0
        return max(0.0, self._starts[0] + 1.0 - now)

    def reserve(self, now: float) -> float:
        """Take the next free start; returns the seconds to wait for it."""
        wait = self.wait_s(now)
        self._starts.append(now + wait)
        return wait
