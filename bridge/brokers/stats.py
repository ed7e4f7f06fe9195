"""Plain counters of the adapter, by name, for telemetry. Names are documented at `metrics` of each broker.

Some names hold a code that the broker chose. Invariant: however many it makes up, memory and metrics stay small.
"""

from __future__ import annotations

from bisect import bisect_left

BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
MOST_NAMES = 500
OTHER = "other"  # where names beyond that are counted


class Stats:
    """Counters and one histogram. Shared by all channels of an adapter; kept when a channel ends."""

    __slots__ = ("_buckets", "_counts", "_roundtrips", "_seconds")

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._buckets = [0] * (len(BUCKETS_S) + 1)
        self._roundtrips = 0
        self._seconds = 0.0

    def count(self, name: str, by: int = 1) -> None:
        counts = self._counts
        if name in counts:
            counts[name] += by
        else:
            name = name if len(counts) < MOST_NAMES else OTHER
            counts[name] = counts.get(name, 0) + by

    def get(self, name: str) -> int:
        return self._counts.get(name, 0)

    def roundtrip(self, seconds: float) -> None:
        self._roundtrips += 1
        self._seconds += seconds
        self._buckets[bisect_left(BUCKETS_S, seconds)] += 1

    def read(self) -> dict[str, float]:
        """All counters; the histogram as cumulative `roundtrip.le_<s>`, `roundtrip.sum`, `roundtrip.count`."""
        values: dict[str, float] = dict(self._counts)
        total = 0
        for bound, number in zip(BUCKETS_S, self._buckets, strict=False):
            total += number
            values[f"roundtrip.le_{bound:g}"] = total
        values["roundtrip.sum"] = self._seconds
        values["roundtrip.count"] = self._roundtrips
        return values
