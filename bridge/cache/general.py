"""The general cache: derived values under keys such as `position:{symbol}`, each with a time to live (DESIGN §8).

Reads go through this process's memory, then the shared tiers in order; writes go to all of them. Any tier may be down
at any time: that costs misses, never an error. What another process sets or invalidates is seen here at the latest
`memory_s` later, because nothing stays longer in this process's memory; while a shared tier is cut off from one process
only, that one's changes reach the others when the tier is back, or when the old value expires. A value is whatever JSON
can hold, None included; it is a copy each time. Must not hold what cannot be lost, nor secrets.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import orjson

from bridge.cache.reader import TierStats
from bridge.cache.tiers.guarded import GuardedTier
from bridge.cache.tiers.memory import MemoryTier
from bridge.cache.tiers.tier import MAX_KEY, MAX_VALUE, Tier, is_exact, matcher
from bridge.runtime.clock import Clock
from bridge.runtime.keyed_locks import KeyedLocks
from bridge.runtime.tasks import CrashHandler, Tasks
from bridge.runtime.ticker import Ticker
from core.errors import Unavailable

NAME = "general"
MEMORY_S = 5.0
ENTRIES = 10_000
SIZE = 16 * 2**20  # bytes
LOAD_S = 10.0
MISSING_S = 5.0
KEEP_S = 1.0  # how often tiers that are away are tried
CLEAN_S = 60.0
MAX_TTL_S = 30 * 86_400.0


@dataclass(eq=False, slots=True)
class _Lookup:
    """Somebody reads or loads a key; `outdated` when it was set or invalidated meanwhile."""

    key: str
    outdated: bool = False


class GeneralCache:
    """`tiers`: shared tiers, nearest first; may be empty. Give it back with `close`, which closes the tiers too."""

    def __init__(
        self,
        tiers: Sequence[Tier],
        *,
        clock: Clock,
        rng: Random,
        entries: int = ENTRIES,
        size: int = SIZE,
        memory_s: float = MEMORY_S,
        load_s: float = LOAD_S,
        on_crash: CrashHandler | None = None,
    ) -> None:
        self._clock = clock
        self._rng = rng
        self._memory_s = memory_s
        self._load_s = load_s
        self._memory = MemoryTier(entries=entries, size=size, timer=clock.monotonic)
        self._memory_stats = TierStats()
        self._tiers = [GuardedTier(tier) for tier in tiers]
        self._tasks = Tasks("general cache", on_crash)
        self._lookups: set[_Lookup] = set()
        self._flights: dict[str, tuple[_Lookup, asyncio.Future[bytes]]] = {}
        self._landings: set[asyncio.Future[bytes]] = set()
        self._writing: KeyedLocks[str] = KeyedLocks()  # else two values of one key reach the tiers in another order
        self.loads = self.load_failures = self.shared = self.oversize = 0

    def start(self) -> None:
        """Begin to look after the tiers."""
        self._tasks.start(self._keep(), name="keep", essential=True)
        self._tasks.start(self._clean(), name="clean", essential=True)

    async def close(self) -> None:
        """End what runs; loads in work are given up, and whoever waits for one is told so (Unavailable)."""
        await self._tasks.close()
        for landing in self._landings:
            landing.set_exception(Unavailable("the cache has been closed"))
            landing.exception()  # they may all have gone
        for guarded in self._tiers:
            await guarded.tier.close()

    # ------------------------------------------------------------ reading

    async def get(self, key: str, default: Any = None) -> Any:
        """The value under `key`, or `default`. Raises ValueError for an impossible key, and nothing else."""
        _check_key(key)
        lookup = self._look_up(key)
        try:
            found = await self._find(lookup)
        finally:
            self._lookups.discard(lookup)
        return default if found is None else orjson.loads(found)

    async def fetch(
        self, key: str, ttl_s: float, loader: Callable[[], Awaitable[Any]], *, missing_s: float | None = None
    ) -> Any:
        """The value under `key`; made by `loader` and kept for `ttl_s` when there is none.

        One load at a time per key in this process, whoever asks: the others wait for it, and it goes on when whoever
        asked first has gone. A None is kept too, for `missing_s` (default: 5 s at most). A load during which the key
        was set or invalidated answers those who waited and is not kept. Raises what `loader` raises; Unavailable when
        it takes too long; TypeError when it returns what JSON cannot hold.
        """
        _check_key(key)
        _check_ttl(ttl_s)
        if (held := self._memory.find(key)) is not None:
            self._memory_stats.hits += 1
            return orjson.loads(held)
        if key in self._flights:
            self.shared += 1
        else:
            lookup = self._look_up(key)
            landing: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
            self._flights[key] = (lookup, landing)
            self._landings.add(landing)
            landing.add_done_callback(self._landings.discard)
            missing_s = min(ttl_s, MISSING_S) if missing_s is None else missing_s
            self._tasks.start(self._fly(lookup, landing, loader, ttl_s, missing_s), name="load")
        return orjson.loads(await asyncio.shield(self._flights[key][1]))

    # ------------------------------------------------------------ writing

    async def set(self, key: str, value: Any, ttl_s: float) -> None:
        """Keep a value in every tier for `ttl_s` seconds. One of more than 256 KiB of JSON is not kept, and counted.

        Raises ValueError for an impossible key or time, TypeError for what JSON cannot hold.
        """
        _check_key(key)
        _check_ttl(ttl_s)
        document = orjson.dumps(value)
        self._outdate(key)
        await self._write(key, document, ttl_s)
        self._outdate(key)  # what read the old value meanwhile
        if len(document) <= MAX_VALUE:
            self._memory.keep(key, document, min(ttl_s, self._memory_s))

    async def invalidate(self, pattern: str) -> None:
        """Forget every key that `pattern` matches: `*` any run of characters, `?` any one, all else itself."""
        _check_length(pattern)
        self._outdate(pattern)
        await self._remove(pattern)
        self._outdate(pattern)

    # ------------------------------------------------------------ for metrics

    def stats(self) -> dict[str, TierStats]:
        """Counts by tier, nearest first; names begin with "general-"."""
        self._memory_stats.evictions = self._memory.evictions
        shared = {f"{NAME}-{guarded.tier.name}": guarded.stats for guarded in self._tiers}
        return {f"{NAME}-l1": self._memory_stats, **shared}

    def counts(self) -> dict[str, int]:
        """`entries` and `bytes` in memory and `debts` to tiers now; loads, failed ones, callers who shared one, and
        values too big to keep since start."""
        return {
            "entries": len(self._memory),
            "bytes": round(self._memory.currsize),
            "debts": sum(guarded.debts for guarded in self._tiers),
            "loads": self.loads,
            "load_failures": self.load_failures,
            "shared_loads": self.shared,
            "oversize": self.oversize,
        }

    # ------------------------------------------------------------ inside

    async def _fly(
        self,
        lookup: _Lookup,
        landing: asyncio.Future[bytes],
        loader: Callable[[], Awaitable[Any]],
        ttl_s: float,
        missing_s: float,
    ) -> None:
        """Find or load one value for everybody who waits for it."""
        try:
            found = await self._find(lookup)
            document = await self._load(loader) if found is None else found
        except Exception as error:  # noqa: BLE001 - whatever the loader raised is handed to everybody who waits for it
            landing.set_exception(error)
            landing.exception()  # they may all have gone
        else:
            landing.set_result(document)
            if found is None:
                await self._keep_loaded(lookup, document, missing_s if document == b"null" else ttl_s)
        finally:
            self._lookups.discard(lookup)
            self._leave(lookup)

    async def _load(self, loader: Callable[[], Awaitable[Any]]) -> bytes:
        self.loads += 1
        limit = asyncio.timeout(self._load_s)
        try:
            async with limit:
                return orjson.dumps(await loader())
        except BaseException as error:
            self.load_failures += 1
            if isinstance(error, TimeoutError) and limit.expired():
                raise Unavailable("a value could not be loaded in time") from error
            raise

    async def _keep_loaded(self, lookup: _Lookup, document: bytes, ttl_s: float) -> None:
        if ttl_s <= 0 or lookup.outdated:
            return
        self._leave(lookup)  # whoever asks from here on finds it, or begins anew
        if len(document) > MAX_VALUE:
            self.oversize += 1
            return
        self._memory.keep(lookup.key, document, min(ttl_s, self._memory_s))
        await self._fill(self._tiers, lookup, document, ttl_s)

    async def _find(self, lookup: _Lookup) -> bytes | None:
        """The JSON under a key from the nearest tier that has it; the nearer ones get it too."""
        key = lookup.key
        if (document := self._memory.find(key)) is not None:
            self._memory_stats.hits += 1
            return document
        self._memory_stats.misses += 1
        for place, guarded in enumerate(self._tiers):
            held = await guarded.get(key)
            if held is None:
                continue
            if not _is_json(held.value):
                guarded.stats.failures += 1  # not written by us
                continue
            await self._fill(self._tiers[:place], lookup, held.value, held.left_s)
            if not lookup.outdated:
                self._memory.keep(key, held.value, min(held.left_s, self._memory_s))
            return held.value
        return None

    async def _write(self, key: str, document: bytes, ttl_s: float) -> None:
        """Farthest first, so that no nearer tier is filled from a farther one with what is being replaced."""
        async with self._writing.hold(key):
            if len(document) > MAX_VALUE:
                self.oversize += 1
                await self._remove(key)
                return
            for guarded in reversed(self._tiers):
                await guarded.set(key, document, ttl_s)

    async def _fill(self, tiers: Sequence[GuardedTier], lookup: _Lookup, document: bytes, ttl_s: float) -> None:
        """Keep what was found or loaded, and take it back when it turns out to be outdated meanwhile."""
        async with self._writing.hold(lookup.key):
            filled = []
            for guarded in reversed(tiers):
                if lookup.outdated:
                    break
                filled.append(guarded)
                await guarded.set(lookup.key, document, ttl_s)
            if lookup.outdated:
                for guarded in filled:
                    await guarded.remove(lookup.key)

    async def _remove(self, pattern: str) -> None:
        for guarded in reversed(self._tiers):
            await guarded.remove(pattern)

    def _look_up(self, key: str) -> _Lookup:
        lookup = _Lookup(key)
        self._lookups.add(lookup)
        return lookup

    def _outdate(self, pattern: str) -> None:
        """Forget it here, and let nobody keep what they read or load at this moment."""
        matches = pattern.__eq__ if is_exact(pattern) else matcher(pattern).fullmatch
        self._memory.remove(pattern)
        for lookup in self._lookups:
            if matches(lookup.key):
                lookup.outdated = True
                self._leave(lookup)

    def _leave(self, lookup: _Lookup) -> None:
        """Let nobody else wait for this load."""
        if lookup.key in self._flights and self._flights[lookup.key][0] is lookup:
            del self._flights[lookup.key]

    async def _keep(self) -> None:
        async for _ in Ticker(KEEP_S, clock=self._clock, rng=self._rng, jitter=0.3):
            await asyncio.gather(*(guarded.restore() for guarded in self._tiers))

    async def _clean(self) -> None:
        async for _ in Ticker(CLEAN_S, clock=self._clock, rng=self._rng):
            self._memory.expire()
            for guarded in self._tiers:
                await guarded.clean()


def _check_key(key: str) -> None:
    _check_length(key)
    if not is_exact(key):
        raise ValueError("a key of the cache must not hold * or ?")


def _check_length(text: str) -> None:
    if not 0 < len(text) <= MAX_KEY or "\0" in text:
        raise ValueError(f"keys and patterns have 1 to {MAX_KEY} characters, and no zero byte")


def _check_ttl(ttl_s: float) -> None:
    if not 0 < ttl_s <= MAX_TTL_S:
        raise ValueError("a time to live is more than 0 s and at most 30 days")


def _is_json(value: bytes) -> bool:
    try:
        orjson.loads(value)
    except orjson.JSONDecodeError:
        return False
    return True
