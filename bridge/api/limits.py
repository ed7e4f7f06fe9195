"""How often one caller may call: so many requests in a second, counted here and, with Redis, with all other processes.

The library `limits` decides and speaks to Redis; its own memory storage sweeps every key in a task per request, so the
counters of this process are a bounded table of ours behind the library's storage interface. Every request is counted
here first: a flood is refused without asking Redis, and when Redis is away or slow the count of this process stands.
Invariants: no more than `size` counters; no request waits for Redis longer than SHARED_WITHIN_S.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from urllib.parse import urlsplit

from limits import RateLimitItemPerSecond
from limits.aio.storage import RedisStorage, Storage
from limits.aio.strategies import FixedWindowRateLimiter
from limits.errors import StorageError

from bridge.runtime.clock import Clock
from core.secret import Secret

log = logging.getLogger(__name__)

TABLE_SIZE = 10_000
SHARED_WITHIN_S = 0.05
SHARED_AGAIN_S = 5.0  # Redis is left alone for so long after it failed
SHARED_AT_ONCE = 16  # requests beyond these are counted here only: nobody queues for being counted
SHARED_PREFIX = "pulse:rate"
REDIS_PORT = 6379


class OwnCounters(Storage):
    """Counters of this process. Of too many, the one that began longest ago is forgotten."""

    STORAGE_SCHEME = None

    def __init__(self, clock: Clock, size: int = TABLE_SIZE) -> None:
        super().__init__()
        self._clock = clock
        self._size = size
        self._counters: OrderedDict[str, tuple[int, float]] = OrderedDict()  # key -> count, ends at (monotonic)

    def __len__(self) -> int:
        return len(self._counters)

    @property
    def base_exceptions(self) -> type[Exception]:
        return ValueError

    async def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        now = self._clock.monotonic()
        count, ends = self._counters.get(key, (0, now))
        if ends <= now:  # a new window
            self._counters.pop(key, None)
            count, ends = 0, now + expiry
        self._counters[key] = (count + amount, ends)
        if len(self._counters) > self._size:
            self._counters.popitem(last=False)
        return count + amount

    async def get(self, key: str) -> int:
        count, ends = self._counters.get(key, (0, 0.0))
        return count if ends > self._clock.monotonic() else 0

    async def get_expiry(self, key: str) -> float:
        return self._counters.get(key, (0, self._clock.monotonic()))[1]

    async def check(self) -> bool:
        return True

    async def reset(self) -> int:
        count = len(self._counters)
        self._counters.clear()
        return count

    async def clear(self, key: str) -> None:
        self._counters.pop(key, None)


class RateLimiter:
    """Counts callers by name. `shared`: URL of a Redis in which all processes count together."""

    def __init__(self, clock: Clock, *, shared: Secret | None = None, size: int = TABLE_SIZE) -> None:
        self._clock = clock
        self._size = size
        self._tables: dict[str, OwnCounters] = {}
        self._storage: RedisStorage | None = None
        if shared is not None:
            self._storage = RedisStorage(
                library_url(shared.reveal()),
                implementation="redispy",
                wrap_exceptions=True,
                key_prefix=SHARED_PREFIX,
                max_connections=SHARED_AT_ONCE,
            )
            self._shared = FixedWindowRateLimiter(self._storage)
        self._turns = asyncio.Semaphore(SHARED_AT_ONCE)
        self._away_until = 0.0  # monotonic
        self._away = False

    def __len__(self) -> int:
        """Counters held."""
        return sum(map(len, self._tables.values()))

    @property
    def shared(self) -> bool | None:
        """Processes count together at the moment; None where they are not meant to."""
        return None if self._storage is None else not self._away

    async def allows(self, kind: str, name: str, per_second: int) -> bool:
        """Count one request of `name`; False when it is one too many in this second.

        `kind`: callers of one kind, of which there are few, share a table: addresses push out addresses, never keys.
        """
        item = RateLimitItemPerSecond(per_second)
        if kind not in self._tables:
            self._tables[kind] = OwnCounters(self._clock, self._size)
        if not await FixedWindowRateLimiter(self._tables[kind]).hit(item, kind, name):
            return False
        if self._storage is None or self._turns.locked() or self._clock.monotonic() < self._away_until:
            return True
        try:
            async with asyncio.timeout(SHARED_WITHIN_S), self._turns:
                allowed = await self._shared.hit(item, kind, name)
        except (StorageError, TimeoutError, OSError, RuntimeError) as error:  # the last: uvloop, of a reset connection
            self._lost(error)
            return True  # within what this process allows
        if self._away:
            self._away = False
            log.info("rates are counted together again")
        return allowed

    async def close(self) -> None:
        """Close the connections to Redis."""
        if self._storage is not None:
            await self._storage.bridge.get_connection().aclose()  # type: ignore[attr-defined]

    def _lost(self, error: Exception) -> None:
        self._away_until = self._clock.monotonic() + SHARED_AGAIN_S
        if not self._away:
            self._away = True
            log.warning("rates are counted by this process alone for now", extra={"error": type(error).__name__})


def library_url(url: str) -> str:
    """A Redis URL as the library reads it: with its port stated, and its own name for a socket in the file system."""
    parts = urlsplit(url)
    if parts.scheme == "unix":
        return f"async+redis+{url}"
    if parts.port is None:
        parts = parts._replace(netloc=f"{parts.netloc.rstrip(':')}:{REDIS_PORT}")
    return f"async+{parts.geturl()}"
