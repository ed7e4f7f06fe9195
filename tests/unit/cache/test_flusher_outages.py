"""The flusher in virtual time, against a store that is slow, away or forgetful."""

import asyncio
import logging
from collections.abc import Sequence

import pytest

from bridge.cache.flusher import Flusher
from bridge.cache.record import RecordStatus
from bridge.cache.store import CHUNK, Refusal, Write
from tests.unit.cache.flushing import MakeFlusher, change, register
from tests.unit.cache.stores import FakeStore, LoopClock

# ---------------------------------------------------------------- outages


async def test_the_newest_state_of_every_entry_is_written_after_an_outage(
    flusher: Flusher, store: FakeStore, clock: LoopClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "bridge.cache")
    entries, _ = register(flusher, 1200)
    await asyncio.sleep(1)
    stamps = [store.stamp(entry.keys[0]) for entry in entries]
    store.away = True
    for n in range(200):
        for entry in entries[n % 7 :: 7]:
            change(flusher, entry, balance=f"{n}.00", urgent=n % 3 == 0)
        await asyncio.sleep(0.1)
    health = flusher.health()["primary"]
    assert (health.role, health.state) == ("primary", "down")
    assert health.failures > 10
    assert not flusher.primary_usable
    made = flusher.metrics()["records_made"]
    store.away = False
    store.lose_everything()
    await asyncio.sleep(3)
    assert [store.document(entry.keys[0])["balance"] for entry in entries] == [
        max(n for n in range(200) if number % 7 == n % 7) for number in range(len(entries))
    ]
    for entry, (fence, version) in zip(entries, stamps, strict=True):
        assert store.stamp(entry.keys[0]) > (fence, version)
        assert store.stamp(entry.keys[0])[0] == fence, "the owner keeps its fence: a claim would steal it back"
    assert flusher.metrics()["records_made"] - made <= 2 * len(entries)
    assert flusher.health()["primary"].state == "up"
    assert [record.getMessage() for record in caplog.records] == ["store unavailable", "store recovered"]


async def test_nothing_grows_while_no_store_answers(flusher: Flusher, store: FakeStore) -> None:
    entries, _ = register(flusher, 50)
    await asyncio.sleep(1)
    store.away = True
    made = flusher.metrics()["records_made"]
    for n in range(500):
        for entry in entries:
            change(flusher, entry, urgent=n % 2 == 0)
        await asyncio.sleep(0.05)
    plan = flusher._plan
    assert len(plan._dirty) + len(plan._due) + len(plan._urgent) <= 3 * len(entries)
    assert len(plan._renewals) <= len(entries)
    assert flusher.metrics()["records_made"] - made <= CHUNK, "records are not made for a store that is away"
    assert store.attempts < 120, "an outage is probed with patience"


async def test_everything_is_rewritten_when_an_idle_store_lost_its_data(flusher: Flusher, store: FakeStore) -> None:
    entries, _ = register(flusher, 20, status=RecordStatus.STOPPED)
    await asyncio.sleep(5)
    store.lose_everything()
    await asyncio.sleep(3)
    assert all(store.document(entry.keys[0]) for entry in entries)


async def test_everything_is_rewritten_when_a_store_lost_its_data_between_two_chunks(
    flusher: Flusher, store: FakeStore
) -> None:
    entries, _ = register(flusher, 20, status=RecordStatus.STOPPED)
    await asyncio.sleep(1)
    store.lose_everything()
    change(flusher, entries[0], urgent=True)
    await asyncio.sleep(0.2)
    assert all(store.document(entry.keys[0]) for entry in entries)


async def test_a_store_that_hangs_costs_the_chunk_deadline_only(flusher: Flusher, store: FakeStore) -> None:
    [entry], _ = register(flusher, 1)
    await asyncio.sleep(1)
    store.hanging = True
    change(flusher, entry, balance="9.00", urgent=True)
    await asyncio.sleep(1.7)
    assert flusher.health()["primary"].state == "down"
    store.hanging = False
    await asyncio.sleep(3)
    assert store.document(entry.keys[0])["balance"] == 9


async def test_accepted_chunks_are_cleared_at_once_when_a_later_one_fails(flusher: Flusher, store: FakeStore) -> None:
    entries, _ = register(flusher, 2 * CHUNK)
    await asyncio.sleep(1)
    store.flushes.clear()
    store.delay_s = 0.1
    for entry in entries:
        change(flusher, entry)
    while not store.flushes:
        await asyncio.sleep(0.01)
    store.away = True
    await asyncio.sleep(0.3)
    assert flusher.health()["primary"].dirty == CHUNK


async def test_a_write_whose_reply_was_lost_fences_nobody(flusher: Flusher, store: FakeStore) -> None:
    [entry], [source] = register(flusher, 1)
    await asyncio.sleep(1)
    store.drop_replies = True
    change(flusher, entry, balance="3.00", urgent=True)
    await asyncio.sleep(0.2)
    store.drop_replies = False
    await asyncio.sleep(3)
    assert store.document(entry.keys[0])["balance"] == 3
    assert source.fenced_by == []
    assert entry.written


async def test_an_equal_pair_counts_as_written(make_flusher: MakeFlusher, clock: LoopClock) -> None:
    class Replayed(FakeStore):
        async def write(self, writes: Sequence[Write]) -> list[Refusal]:
            await super().write(writes)
            return [Refusal(write.key, write.fence, write.version) for write in writes]

    store = Replayed(clock)
    flusher = make_flusher(store)
    await flusher.start()
    [entry], [source] = register(flusher, 1)
    await asyncio.sleep(1)
    assert source.fenced_by == []
    assert entry.written
    assert entry.last_flush_at_ms is not None
