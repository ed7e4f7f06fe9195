"""Postgres as the primary, Redis as its copy, and this process's memory: each tier killed and restored under load.

Afterwards every tier holds the newest record of every key, readers were served throughout, and nothing grew.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from random import Random
from typing import Any

import orjson
import pytest

from bridge.cache.entry import Entry
from bridge.cache.flusher import Flusher
from bridge.cache.reader import MEMORY, Reader
from bridge.cache.store import Store, StoreUnavailable
from bridge.cache.stores.postgres import PostgresStore
from bridge.cache.stores.redis import RedisStore
from bridge.db.database import Database
from bridge.embedded.postgres import PostgresServer
from bridge.embedded.valkey import ValkeyServer
from bridge.runtime.clock import SystemClock
from core.secret import Secret
from tests.support.databases import make_database, migrate_database
from tests.support.waiting import eventually
from tests.unit.cache.builders import Source, account

pytestmark = [pytest.mark.timeout(180), pytest.mark.slow]
COUNT = 400
MEMORY_RECORDS = 150  # fewer than there are, so that some must go
PATIENCE_S = 30.0


@dataclass
class Tiers:
    """The running parts. `balances`: the truth of every key."""

    postgres: PostgresServer
    valkey: ValkeyServer
    primary: PostgresStore
    copy: RedisStore
    flusher: Flusher
    reader: Reader
    entries: list[Entry]
    crashes: list[BaseException]
    balances: dict[str, int] = field(default_factory=dict)
    seen: dict[str, tuple[int, int]] = field(default_factory=dict)
    reads: int = 0
    changes: int = 0
    unserved: int = 0

    def change(self, entry: Entry, balance: int, *, urgent: bool) -> None:
        """The broker says something new."""
        source = entry.source
        assert isinstance(source, Source)
        assert source.mirror is not None
        source.mirror.balance = Decimal(balance)
        source.as_of_ms = SystemClock().now_ms()
        self.balances[entry.keys[0]] = balance
        self.flusher.mark(entry, urgent=urgent)
        self.changes += 1

    async def load(self, stop: asyncio.Event) -> None:
        """Change and read at random; a reader never sees an older record after a newer one."""
        rng = Random(4)
        while not stop.is_set():
            for _ in range(20):
                self.change(rng.choice(self.entries), rng.randrange(10**6), urgent=rng.random() < 0.1)
            await asyncio.gather(*(self.read(rng.choice(self.entries).keys[0]) for _ in range(20)))
            await asyncio.sleep(0.01)  # the load's own pace

    async def read(self, key: str) -> None:
        try:
            stored = await self.reader.get(key)
        except StoreUnavailable:
            self.unserved += 1
            return
        self.reads += 1
        assert stored is not None, key
        assert (stored.fence, stored.version) >= self.seen.get(key, (0, 0)), key
        self.seen[key] = (stored.fence, stored.version)

    async def newest_everywhere(self) -> None:
        """Wait until both stores hold what is true now."""
        for entry in self.entries:
            self.flusher.mark(entry)
        for store in (self.primary, self.copy):
            await eventually(lambda store=store: self.holds(store), within_s=PATIENCE_S, every_s=0.1, what=store.name)

    async def holds(self, store: Store) -> bool:
        try:
            stored = await store.read([entry.keys[0] for entry in self.entries])
        except StoreUnavailable:
            return False
        held = [orjson.loads(each.document)["balance"] if each and each.document else None for each in stored]
        return held == [self.balances[entry.keys[0]] for entry in self.entries]


@asynccontextmanager
async def running(postgres: PostgresServer, valkey: ValkeyServer) -> AsyncIterator[Tiers]:
    url = await make_database(postgres, "tiers")
    await migrate_database(url)
    clock, crashes = SystemClock(), []
    async with AsyncExitStack() as stack:
        primary = PostgresStore(Database(Secret(url), size=4))
        copy = RedisStore(Secret(valkey.url))
        for store in (primary, copy):
            stack.push_async_callback(store.close)
            await store.open()
        reader = Reader([primary, copy], clock=clock, size=MEMORY_RECORDS)
        flusher = Flusher(
            [primary, copy],
            clock=clock,
            rng=Random(2),
            interval_s=0.25,
            on_written=reader.offer,
            on_crash=lambda _, error: crashes.append(error),
        )
        await flusher.start()
        stack.push_async_callback(flusher.close)
        entries = [
            flusher.register((f"sim_account_{n:064x}",), Source(account(), as_of_ms=clock.now_ms()))
            for n in range(COUNT)
        ]
        yield Tiers(postgres, valkey, primary, copy, flusher, reader, entries, crashes)
        assert crashes == []


@pytest.fixture
async def tiers(
    postgres_factory: Callable[[], PostgresServer], valkey_factory: Callable[[], ValkeyServer]
) -> AsyncIterator[Tiers]:
    async with running(postgres_factory(), valkey_factory()) as made:
        for number, entry in enumerate(made.entries):
            made.change(entry, number, urgent=False)
        await made.newest_everywhere()
        yield made


async def progress(tiers: Tiers, reads: int) -> None:
    before = tiers.reads
    await eventually(lambda: tiers.reads > before + reads, within_s=PATIENCE_S, what="readers are served")


def state(tiers: Tiers, store: Store) -> Any:
    return tiers.flusher.health()[store.name].state


@pytest.mark.parametrize("which", ["primary", "copy", "one after the other"])
async def test_nothing_is_lost_and_readers_are_served_when_a_tier_is_killed_under_load(
    tiers: Tiers, which: str
) -> None:
    stop = asyncio.Event()
    load = asyncio.create_task(tiers.load(stop))
    primary, copy = (tiers.primary, tiers.postgres), (tiers.copy, tiers.valkey)
    for store, server in {"primary": [primary], "copy": [copy]}.get(which, [primary, copy]):
        await progress(tiers, 200)
        await asyncio.to_thread(server.kill)
        await eventually(lambda store=store: state(tiers, store) == "down", within_s=PATIENCE_S)
        unserved = tiers.unserved
        await progress(tiers, 200)
        assert tiers.unserved == unserved  # the tier that is left has every record that was ever written
        await asyncio.to_thread(server.start)
        await eventually(lambda store=store: state(tiers, store) == "up", within_s=PATIENCE_S)
    stop.set()
    await load
    await tiers.newest_everywhere()
    await eventually(
        lambda: not any(health.dirty for health in tiers.flusher.health().values()),
        within_s=PATIENCE_S,
        what="nothing waits",
    )
    stats = tiers.reader.stats()
    assert stats[MEMORY].hits > 0
    assert stats[MEMORY].evictions > 0
    assert stats[tiers.copy.name].hits > 0
    assert sum(each.hits for each in stats.values()) >= tiers.reads - tiers.unserved
    if which != "copy":
        assert tiers.flusher.health()[tiers.primary.name].failures > 0
    if which != "primary":
        assert stats[tiers.copy.name].failures > 0
        assert stats[tiers.primary.name].hits > 0


async def test_readers_are_still_shown_what_was_last_seen_when_both_stores_are_killed(tiers: Tiers) -> None:
    keys = [entry.keys[0] for entry in tiers.entries[:MEMORY_RECORDS]]
    for key in keys:
        await tiers.read(key)
    await asyncio.to_thread(tiers.valkey.kill)
    await asyncio.to_thread(tiers.postgres.kill)
    for key in keys[:20]:
        await tiers.read(key)
    assert tiers.unserved == 0
    with pytest.raises(StoreUnavailable):
        await tiers.reader.get(tiers.entries[-1].keys[0])
    for n, entry in enumerate(tiers.entries):
        tiers.change(entry, 7_000_000 + n, urgent=True)
    await asyncio.to_thread(tiers.valkey.start)
    await asyncio.to_thread(tiers.postgres.start)
    await tiers.newest_everywhere()


async def test_a_copy_that_was_emptied_is_filled_again_under_load(tiers: Tiers) -> None:
    stop = asyncio.Event()
    load = asyncio.create_task(tiers.load(stop))
    await progress(tiers, 100)
    assert tiers.valkey.command("FLUSHALL") == b"+OK"
    await progress(tiers, 200)
    assert tiers.unserved == 0
    stop.set()
    await load
    await tiers.newest_everywhere()


async def test_nothing_is_kept_for_a_tier_that_stays_away(tiers: Tiers) -> None:
    """What waits is one mark for each record, however long the outage and however many the changes."""
    await asyncio.to_thread(tiers.postgres.kill)
    await asyncio.to_thread(tiers.valkey.kill)
    await eventually(lambda: state(tiers, tiers.primary) == state(tiers, tiers.copy) == "down", within_s=PATIENCE_S)
    for n in range(50 * COUNT):
        tiers.change(tiers.entries[n % COUNT], n, urgent=n % 7 == 0)
        if n % COUNT == 0:
            await asyncio.sleep(0)
    health = tiers.flusher.health()
    assert {each.dirty for each in health.values()} == {COUNT}
    assert all(copy.waiting == 0 for copy in tiers.flusher._copies)
    await asyncio.to_thread(tiers.postgres.start)
    await asyncio.to_thread(tiers.valkey.start)
    await tiers.newest_everywhere()
