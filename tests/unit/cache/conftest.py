"""Virtual time for these tests: a loop that never waits, but moves its clock to the next timer; and a flusher on it."""

import asyncio
import selectors
from collections.abc import AsyncIterator, Callable, Mapping
from random import Random
from typing import Any

import pytest

from bridge.cache.flusher import Flusher
from tests.unit.cache.flushing import MakeFlusher
from tests.unit.cache.stores import FakeStore, LoopClock


class VirtualSelector(selectors.DefaultSelector):
    """Never sleeps: the time it was told to wait has passed at once."""

    now = 1000.0

    def select(self, timeout: float | None = None) -> Any:
        events = super().select(0)
        if not events:
            if timeout is None:
                raise RuntimeError("nothing will ever happen: every task waits for another")
            self.now += max(timeout, 0)
        return events


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop on virtual time, from fixture set-up to tear-down."""

    def __init__(self) -> None:
        self._virtual = VirtualSelector()
        super().__init__(self._virtual)

    def time(self) -> float:
        return self._virtual.now


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"virtual": VirtualLoop}


@pytest.fixture
async def clock() -> LoopClock:
    return LoopClock()


@pytest.fixture
async def store(clock: LoopClock) -> FakeStore:
    return FakeStore(clock)


@pytest.fixture
async def make_flusher(clock: LoopClock) -> AsyncIterator[MakeFlusher]:
    made: list[Flusher] = []

    def make(*stores: FakeStore, **options: Any) -> Flusher:
        crashed: list[BaseException] = []
        flusher = Flusher(
            stores, clock=clock, rng=Random(1), on_crash=lambda _, error: crashed.append(error), **options
        )
        flusher.crashes = crashed  # type: ignore[attr-defined]
        made.append(flusher)
        return flusher

    yield make
    for flusher in made:
        await flusher.close()
        assert flusher.crashes == []  # type: ignore[attr-defined]


@pytest.fixture
async def flusher(make_flusher: MakeFlusher, store: FakeStore) -> Flusher:
    flusher = make_flusher(store)
    await flusher.start()
    return flusher


@pytest.fixture
async def copy(clock: LoopClock) -> FakeStore:
    return FakeStore(clock, "copy")


@pytest.fixture
async def pair(make_flusher: MakeFlusher, store: FakeStore, copy: FakeStore) -> Flusher:
    flusher = make_flusher(store, copy)
    await flusher.start()
    return flusher
