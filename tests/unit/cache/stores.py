"""A store that does what it is told: slow, away, hanging, forgetful; on top of the reference store."""

import asyncio
from collections.abc import Sequence
from typing import Any

import orjson

from bridge.cache.store import Refusal, StoreUnavailable, Write
from bridge.cache.stores.memory import MemoryStore
from tests.unit.cache.builders import NOW_MS


class LoopClock:
    """Both clocks follow the event loop, whose time is virtual in these tests."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._start = self._loop.time()

    def now_ms(self) -> int:
        return NOW_MS + round((self._loop.time() - self._start) * 1000)

    def monotonic(self) -> float:
        return self._loop.time()

    @property
    def passed(self) -> float:
        """Seconds since the test began."""
        return round(self._loop.time() - self._start, 3)


class FakeStore(MemoryStore):
    """`flushes` lists (seconds, keys) of every accepted or refused write; `sizes` the records per write."""

    def __init__(self, clock: LoopClock, name: str = "primary") -> None:
        super().__init__(clock, name=name)
        self.time: LoopClock = clock
        self.away = False
        self.hanging = False
        self.drop_replies = False
        self.delay_s = 0.0
        self.flushes: list[tuple[float, list[str]]] = []
        self.claims: list[list[str]] = []
        self.attempts = 0
        self.pings = 0
        self.at_once = self.most_at_once = 0

    async def _obey(self) -> None:
        self.attempts += 1
        if self.hanging:
            await asyncio.Event().wait()
        if self.delay_s:
            await asyncio.sleep(self.delay_s)
        if self.away:
            raise StoreUnavailable(f"{self.name} is away")

    async def claim(self, keys: Sequence[str], *, at_least: int = 0) -> list[int]:
        await self._obey()
        self.claims.append(list(keys))
        return await super().claim(keys, at_least=at_least)

    async def write(self, writes: Sequence[Write]) -> list[Refusal]:
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await self._obey()
            refusals = await super().write(writes)
            self.flushes.append((self.time.passed, [write.key for write in writes]))
        finally:
            self.at_once -= 1
        if self.drop_replies:
            raise StoreUnavailable("the reply was lost")
        return refusals

    async def ping(self) -> None:
        self.pings += 1
        await self._obey()

    def lose_everything(self) -> None:
        """As a restart without persistence, or FLUSHALL."""
        self._held.clear()
        self.generation = f"{self.generation}+"

    def document(self, key: str) -> Any:
        """The record under a key; None when there is none."""
        held = self._held.get(key)
        return orjson.loads(held.document) if held is not None and held.document else None

    def stamp(self, key: str) -> tuple[int, int]:
        held = self._held[key]
        return held.fence, held.version

    @property
    def times(self) -> list[float]:
        return [at for at, _ in self.flushes]
