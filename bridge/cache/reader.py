"""Reading records through the tiers: this process's memory, then the copies, then the primary (DESIGN §8).

A tier answers only with a record that is still fresh and not older than what another tier showed; everything else falls
through, so the primary has the last word on whatever does not look live. Nothing is written back to stores. The memory
tier is bounded in size and time; it also remembers a while longer what it last saw, for when no store answers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from cachetools import TTLCache

from bridge.cache.record import is_fresh
from bridge.cache.store import Store, Stored, StoreUnavailable, Write
from bridge.runtime.clock import Clock

MEMORY = "memory-l1"  # the name of the in-process tier in counts
MEMORY_SIZE = 10_000  # records; about 20 MB
SERVE_S = 1.0  # how long the in-process tier answers without asking a store
REMEMBER_S = 60.0  # how long it can still help when no store answers
READ_DEADLINE_S = 1.0


@dataclass(slots=True)
class TierStats:
    """Counts of one tier since start. A miss: nothing there, past `staleAfter`, or older than another tier's."""

    hits: int = 0
    misses: int = 0
    evictions: int = 0
    failures: int = 0


@dataclass(frozen=True, slots=True)
class _Held:
    stored: Stored
    read_at: float  # monotonic s


class _Memory(TTLCache[str, _Held]):
    """Counts what falls out, whether too old or too many."""

    evictions = 0

    def popitem(self) -> tuple[str, _Held]:
        self.evictions += 1
        return super().popitem()

    def expire(self, time: float | None = None) -> Any:
        expired = list(super().expire(time))
        self.evictions += len(expired)
        return expired


class Reader:
    """Read-through over the stores of a flusher: `stores[0]` is the primary, the others are copies."""

    def __init__(self, stores: Sequence[Store], *, clock: Clock, size: int = MEMORY_SIZE) -> None:
        self._order = (*stores[1:], stores[0])
        self._clock = clock
        self._memory = _Memory(size, REMEMBER_S, timer=clock.monotonic)
        self._stats = {name: TierStats() for name in (MEMORY, *(store.name for store in self._order))}

    async def get(self, key: str) -> Stored | None:
        """The newest record known under `key`, None when there is none.

        Raises StoreUnavailable when the primary does not answer and no other tier has a record.
        """
        held = self._memory.get(key)
        best = None if held is None else held.stored
        if held is not None and self._clock.monotonic() - held.read_at < SERVE_S and self._fresh(held.stored):
            self._stats[MEMORY].hits += 1
            return held.stored
        self._stats[MEMORY].misses += 1
        found, failure = await self._ask_stores(key, best)
        if found is None and failure is None:
            self._memory.pop(key, None)  # the primary says that there is nothing
            return None
        newest = _newer(found, best)
        if newest is None and failure is not None:
            raise failure
        if newest is not None and found is not None:
            self._remember(newest)
        return newest

    async def many(self, keys: Sequence[str]) -> list[Stored | None]:
        """The newest record known under each key, for listings: nothing is remembered, no tier is counted.

        Never raises: what no store answers for is None.
        """
        newest: dict[str, Stored | None] = dict.fromkeys(keys)
        missing = list(keys)
        for store in self._order:
            try:
                async with asyncio.timeout(READ_DEADLINE_S):
                    found = await store.read(missing) if missing else []
            except (StoreUnavailable, TimeoutError):
                continue
            for key, stored in zip(missing, found, strict=False):
                newest[key] = _newer(stored, newest[key])
            missing = [key for key in missing if (held := newest[key]) is None or not self._fresh(held)]
        return [newest[key] for key in keys]

    def offer(self, writes: Sequence[Write]) -> None:
        """Take over records just written by this process, for keys that somebody reads here."""
        for write in writes:
            held = self._memory.get(write.key)
            if held is not None and (write.fence, write.version) > _age(held.stored):
                self._remember(Stored(write.key, write.fence, write.version, write.document))

    def stats(self) -> dict[str, TierStats]:
        """Counts by tier; the stores under their names."""
        self._stats[MEMORY].evictions = self._memory.evictions
        return self._stats

    async def _ask_stores(self, key: str, best: Stored | None) -> tuple[Stored | None, StoreUnavailable | None]:
        """The first fresh record that is not older than any other, else the newest found; the primary's failure."""
        newest: Stored | None = None
        failure: StoreUnavailable | None = None
        for store in self._order:
            stats = self._stats[store.name]
            try:
                found, failure = await _read(store, key), None
            except StoreUnavailable as error:
                stats.failures += 1
                failure = error
                continue
            if found is None or not found.document:
                stats.misses += 1
                continue
            newest = _newer(found, newest)
            if self._fresh(found) and found is newest and _newer(found, best) is found:
                stats.hits += 1
                return found, None
            if store is self._order[-1]:
                stats.hits += 1
            else:
                stats.misses += 1
        return newest, failure

    def _remember(self, stored: Stored) -> None:
        self._memory[stored.key] = _Held(stored, self._clock.monotonic())

    def _fresh(self, stored: Stored) -> bool:
        """What is not our JSON is not fresh, and harms nobody."""
        try:
            document = orjson.loads(stored.document)
        except orjson.JSONDecodeError:
            return False
        if not isinstance(document, dict):
            return False
        return is_fresh(document.get("status"), document.get("staleAfter"), self._clock.now_ms())


async def _read(store: Store, key: str) -> Stored | None:
    try:
        async with asyncio.timeout(READ_DEADLINE_S):
            return (await store.read([key]))[0]
    except TimeoutError as error:
        raise StoreUnavailable(f"{store.name} did not answer a read in time") from error


def _age(stored: Stored) -> tuple[int, int]:
    return stored.fence, stored.version


def _newer(one: Stored | None, other: Stored | None) -> Stored | None:
    """The one under the greater (fence, version); the first when they are equal."""
    if one is None or other is None:
        return one if other is None else other
    return one if _age(one) >= _age(other) else other
