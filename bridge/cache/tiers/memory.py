"""The tier in this process's memory: bounded in entries, bytes and time, least recently used out first. No I/O."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cachetools import TLRUCache

from bridge.cache.tiers.tier import is_exact, matcher

OVERHEAD = 300  # bytes that an entry costs beside key and value

_Entry = tuple[bytes, float]  # value, and when it expires by the timer


class MemoryTier(TLRUCache[str, _Entry]):
    """Values with a time of their own. `evictions`: fell out, whether too old or too many."""

    def __init__(self, *, entries: int, size: int, timer: Callable[[], float]) -> None:
        """`size`: bytes in all. `timer`: monotonic seconds."""
        super().__init__(size, ttu=_expires_at, timer=timer, getsizeof=_size)
        self._entries = entries
        self._now = timer
        self.evictions = 0

    def keep(self, key: str, value: bytes, ttl_s: float) -> None:
        """Keep a value for so long, at most; a value beyond the whole size is not kept."""
        entry = (value, self._now() + ttl_s)
        self.pop(key, None)
        if _size(entry) > self.maxsize:
            return
        while len(self) >= self._entries:
            self.popitem()
        self[key] = entry

    def find(self, key: str) -> bytes | None:
        """The value under a key."""
        entry = self.get(key)
        return None if entry is None else entry[0]

    def remove(self, pattern: str) -> None:
        """Remove what a pattern matches."""
        if is_exact(pattern):
            self.pop(pattern, None)
            return
        matches = matcher(pattern).fullmatch
        for key in [key for key in self if matches(key)]:
            self.pop(key, None)

    def popitem(self) -> tuple[str, _Entry]:
        self.evictions += 1
        return super().popitem()

    def expire(self, time: float | None = None) -> Any:
        expired = list(super().expire(time))
        self.evictions += len(expired)
        return expired


def _expires_at(_key: str, entry: _Entry, _now: float) -> float:
    return entry[1]


def _size(entry: _Entry) -> int:
    return len(entry[0]) + OVERHEAD
