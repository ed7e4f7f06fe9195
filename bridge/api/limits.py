"""Rate limits: one token bucket per caller, in a bounded table. Pure: `now` comes in, a decision goes out.

Invariant: the table never holds more than `size` buckets; forgetting the one unused for longest can only help a caller
who was silent for long.
"""

from __future__ import annotations

from collections import OrderedDict

TABLE_SIZE = 10_000


class RateLimiter:
    """`rate` requests per second for each name, with bursts of one second's worth."""

    def __init__(self, rate: float, *, size: int = TABLE_SIZE) -> None:
        self._rate = rate
        self._size = size
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # name -> tokens, as of when

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, name: str, now: float) -> float | None:
        """Take one token. Returns None when there was one, else the seconds until the next."""
        tokens, since = self._buckets.pop(name, (self._rate, now))
        tokens = min(self._rate, tokens + (now - since) * self._rate)
        allowed = tokens >= 1
        self._buckets[name] = (tokens - 1 if allowed else tokens, now)
        if len(self._buckets) > self._size:
            self._buckets.popitem(last=False)
        return None if allowed else (1 - tokens) / self._rate
