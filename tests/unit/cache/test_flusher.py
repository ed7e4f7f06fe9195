"""The flusher in virtual time, against stores that are slow, away, forgetful or owned by somebody else."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from decimal import Decimal
from random import Random
from typing import Any

import pytest

from bridge.brokers.base import Reason, ReasonCode
from bridge.cache.claims import claim
from bridge.cache.contact import Contact
from bridge.cache.entry import Entry
from bridge.cache.flusher import Flusher
from bridge.cache.making import RecordMaker
from bridge.cache.planning import FlushMode
from bridge.cache.record import Reading, RecordStatus
from bridge.cache.store import CHUNK, Refusal, Write
from tests.unit.cache.builders import NOW_MS, Source, account
from tests.unit.cache.stores import FakeStore, LoopClock

INTERVAL_S = 2.0
MakeFlusher = Callable[..., Flusher]


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


def register(flusher: Flusher, count: int, **options: Any) -> tuple[list[Entry], list[Source]]:
    sources = [Source(account(), **options) for _ in range(count)]
    return [flusher.register((f"ctrader_account_{n}",), source) for n, source in enumerate(sources)], sources


def change(flusher: Flusher, entry: Entry, *, balance: str = "1.00", urgent: bool = False) -> None:
    """The source's account changes, as an event would."""
    source = entry.source
    assert isinstance(source, Source)
    assert source.mirror is not None
    source.mirror.balance = Decimal(balance)
    flusher.mark(entry, urgent=urgent)


# ---------------------------------------------------------------- when


async def test_the_first_record_is_written_at_once_under_a_claimed_fence(flusher: Flusher, store: FakeStore) -> None:
    [entry], [source] = register(flusher, 1, status=RecordStatus.STARTING)
    source.mirror = None
    await asyncio.sleep(0.1)
    assert store.stamp(entry.keys[0]) == (entry.fence, 1)
    assert entry.fence is not None
    assert entry.fence >= NOW_MS
    assert store.document(entry.keys[0])["status"] == "starting"
    assert entry.last_flush_at_ms is not None


async def test_changes_are_coalesced_into_one_record_per_interval(flusher: Flusher, store: FakeStore) -> None:
    [entry], _ = register(flusher, 1)
    await asyncio.sleep(0.5)
    for n in range(60):
        change(flusher, entry, balance=f"{n}.00")
        await asyncio.sleep(0.1)
    await asyncio.sleep(INTERVAL_S * 1.1)
    assert store.document(entry.keys[0])["balance"] == 59
    gaps = [later - earlier for earlier, later in zip(store.times[1:], store.times[2:], strict=False)]
    assert 3 <= len(store.times) - 1 <= 4
    assert all(INTERVAL_S * 0.9 - 0.01 <= gap <= INTERVAL_S * 1.1 + 0.01 for gap in gaps)


async def test_the_version_grows_by_one_with_every_record_and_never_with_a_read(
    flusher: Flusher, store: FakeStore, clock: LoopClock
) -> None:
    [entry], [source] = register(flusher, 1)
    versions = []
    for n in range(5):
        await asyncio.sleep(INTERVAL_S * 1.2)
        source.as_of_ms = clock.now_ms()
        source.reading()
        versions.append(store.stamp(entry.keys[0])[1])
        change(flusher, entry, balance=f"{n}.00")
    assert versions == [1, 2, 3, 4, 5]
    assert store.document(entry.keys[0])["version"] == 5
    assert entry.version == 5


async def test_an_urgent_change_is_written_within_a_tenth_of_a_second(
    flusher: Flusher, store: FakeStore, clock: LoopClock
) -> None:
    [entry, other], _ = register(flusher, 2)
    await asyncio.sleep(0.5)
    change(flusher, other)
    change(flusher, entry, balance="7.00", urgent=True)
    before = clock.passed
    await asyncio.sleep(0.1)
    at, keys = store.flushes[-1]
    assert keys == [entry.keys[0]], "an urgent flush takes what is urgent only"
    assert at - before <= 0.1
    assert store.document(entry.keys[0])["balance"] == 7


async def test_who_waits_for_a_record_hears_when_its_urgent_change_is_written(
    flusher: Flusher, store: FakeStore, clock: LoopClock
) -> None:
    store.delay_s = 0.03
    [entry], _ = register(flusher, 1)
    began = clock.monotonic()
    await flusher.recorded(entry, 1.0)
    assert store.stamp(entry.keys[0]) == (entry.fence, 1)
    change(flusher, entry)  # not urgent: nobody waits for the interval
    await flusher.recorded(entry, 1.0)
    assert clock.monotonic() - began < 0.3
    store.hanging = True
    change(flusher, entry, urgent=True)
    before = clock.monotonic()
    await flusher.recorded(entry, 0.25)
    assert clock.monotonic() - before == pytest.approx(0.25, abs=0.01)


async def test_an_urgent_change_waits_only_for_the_chunk_in_flight(flusher: Flusher, store: FakeStore) -> None:
    entries, _ = register(flusher, 3 * CHUNK)
    await asyncio.sleep(1)
    store.delay_s = 0.5
    store.flushes.clear()
    for entry in entries:
        change(flusher, entry)
    while store.at_once == 0:
        await asyncio.sleep(0.01)
    late = flusher.register(("ctrader_account_late",), Source())
    late.fence = 1  # as if claimed: only the write is timed here
    while store.document(late.keys[0]) is None:
        await asyncio.sleep(0.01)
    assert late.keys[0] in store.flushes[1][1]
    assert len(store.flushes) == 2


async def test_a_thousand_sessions_cut_at_once_are_written_within_two_seconds(
    flusher: Flusher, store: FakeStore
) -> None:
    entries, sources = register(flusher, 1000)
    await asyncio.sleep(1)
    store.flushes.clear()
    store.delay_s = 0.2
    for entry, source in zip(entries, sources, strict=True):
        source.status = RecordStatus.STALE
        source.reason = Reason(ReasonCode.CONNECTION_LOST, "The connection was lost.")
        flusher.mark(entry, urgent=True)
    await asyncio.sleep(2)
    assert all(store.document(entry.keys[0])["status"] == "stale" for entry in entries)
    assert [len(keys) for _, keys in store.flushes] == [CHUNK, CHUNK]


async def test_ordinary_changes_are_not_starved_by_endless_urgent_ones(flusher: Flusher, store: FakeStore) -> None:
    [ordinary, noisy], _ = register(flusher, 2)
    await asyncio.sleep(0.5)
    store.delay_s = 0.05
    change(flusher, ordinary, balance="5.00")
    for _ in range(80):
        change(flusher, noisy, urgent=True)
        await asyncio.sleep(0.03)
    assert store.document(ordinary.keys[0])["balance"] == 5


async def test_one_flush_is_in_flight_however_slow_the_store_is(flusher: Flusher, store: FakeStore) -> None:
    entries, _ = register(flusher, 2 * CHUNK)
    store.delay_s = 1.4
    for _ in range(40):
        for entry in entries[:10]:
            change(flusher, entry, urgent=True)
        await asyncio.sleep(0.3)
    assert store.most_at_once == 1


async def test_making_records_lets_the_loop_turn_between_slices(clock: LoopClock) -> None:
    maker = RecordMaker(clock, lambda _: True)
    entries = [Entry((f"k{n}",), Source(), fence=1) for n in range(CHUNK)]
    steps: list[int] = []

    async def watch() -> None:
        before = 0
        for _ in range(20):
            steps.append(maker.made - before)
            before = maker.made
            await asyncio.sleep(0)

    await asyncio.gather(maker.make(entries), watch())
    assert sum(steps) == CHUNK
    assert max(steps) <= 150


# ---------------------------------------------------------------- freshness


async def least_freshness_left(
    flusher: Flusher, store: FakeStore, clock: LoopClock, source: Source, *, for_s: float, heard_every_s: float
) -> float:
    """Run a quiet session and return the least time to `staleAfter` that a reader ever saw, in seconds."""
    least = float("inf")
    key = "ctrader_account_0"
    while clock.passed < for_s:
        heard = int(clock.passed / heard_every_s) * heard_every_s
        source.as_of_ms = NOW_MS + round(heard * 1000)
        await asyncio.sleep(0.05)
        document = store.document(key)
        if document is not None:
            least = min(least, (document["staleAfter"] - clock.now_ms()) / 1000)
    return least


async def test_a_quiet_live_record_is_rewritten_before_two_intervals_are_left(
    flusher: Flusher, store: FakeStore, clock: LoopClock
) -> None:
    _, [source] = register(flusher, 1)
    least = await least_freshness_left(flusher, store, clock, source, for_s=120, heard_every_s=5)
    assert least >= 2 * INTERVAL_S - 0.1
    assert 20 <= len(store.flushes) <= 40, "renewals, not a rewrite per interval and more"


async def test_a_quiet_empty_account_is_renewed_about_once_a_minute(
    flusher: Flusher, store: FakeStore, clock: LoopClock
) -> None:
    source = Source(account(at_risk=False))
    flusher.register(("ctrader_account_0",), source)
    least = await least_freshness_left(flusher, store, clock, source, for_s=600, heard_every_s=5)
    assert least >= 2 * INTERVAL_S - 0.1
    assert 10 <= len(store.flushes) <= 14


async def test_a_change_waiting_for_its_interval_does_not_delay_a_renewal(
    make_flusher: MakeFlusher, store: FakeStore, clock: LoopClock
) -> None:
    flusher = make_flusher(store, interval_s=4.0)
    await flusher.start()
    [entry], [source] = register(flusher, 1)
    least = float("inf")
    while clock.passed < 60:
        source.as_of_ms = clock.now_ms()
        flusher.mark(entry)
        await asyncio.sleep(0.05)
        if clock.passed > 1:
            least = min(least, (store.document(entry.keys[0])["staleAfter"] - clock.now_ms()) / 1000)
    assert least >= 8.0 - 0.1


async def test_nothing_is_written_when_the_broker_was_not_heard_again(
    flusher: Flusher, store: FakeStore, clock: LoopClock
) -> None:
    [entry], _ = register(flusher, 1)
    await asyncio.sleep(60)
    assert len(store.flushes) == 1
    assert store.document(entry.keys[0])["staleAfter"] == NOW_MS + 10_000
    assert entry.version == 1


async def test_a_record_is_written_anew_when_the_wall_clock_was_set_back(
    flusher: Flusher, store: FakeStore, clock: LoopClock
) -> None:
    [entry], [source] = register(flusher, 1)
    await asyncio.sleep(1)
    source.as_of_ms = clock.now_ms() - 3_600_000  # heard just now, by a clock that is an hour behind
    await asyncio.sleep(10)
    assert store.document(entry.keys[0])["staleAfter"] == source.as_of_ms + 10_000
    assert len(store.flushes) == 2


async def test_a_record_that_is_not_live_is_not_renewed(flusher: Flusher, store: FakeStore, clock: LoopClock) -> None:
    [entry], [source] = register(flusher, 1)
    await asyncio.sleep(1)
    source.status = RecordStatus.STOPPED
    flusher.mark(entry, urgent=True)
    for _ in range(120):
        source.as_of_ms = clock.now_ms()
        await asyncio.sleep(1)
    assert len(store.flushes) == 2


async def test_every_live_record_is_written_at_every_interval_in_always_mode(
    make_flusher: MakeFlusher, store: FakeStore, clock: LoopClock
) -> None:
    flusher = make_flusher(store, mode=FlushMode.ALWAYS)
    await flusher.start()
    [entry, stopped], [_, source] = register(flusher, 2)
    source.status = RecordStatus.STOPPED
    await asyncio.sleep(20.5)
    assert 9 <= store.stamp(entry.keys[0])[1] - 1 <= 11
    assert store.stamp(stopped.keys[0])[1] == 1


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


# ---------------------------------------------------------------- ownership


async def test_a_session_is_fenced_once_when_the_primary_holds_a_higher_fence(
    flusher: Flusher, store: FakeStore
) -> None:
    entries, sources = register(flusher, 3)
    await asyncio.sleep(1)
    [higher] = await store.claim([entries[1].keys[0]])
    await store.write([Write(entries[1].keys[0], higher, 1, b'{"owner": "new"}')])
    for entry in entries:
        change(flusher, entry, balance="4.00", urgent=True)
    await asyncio.sleep(1)
    change(flusher, entries[1], urgent=True)
    await asyncio.sleep(10)
    assert [source.fenced_by for source in sources] == [[], [higher], []]
    assert store.document(entries[1].keys[0]) == {"owner": "new"}
    assert store.stamp(entries[1].keys[0]) == (higher, 1)
    assert store.document(entries[0].keys[0])["balance"] == 4
    assert entries[1].fenced
    assert flusher.metrics()["fenced"] == 1


async def test_who_takes_a_record_over_is_shown_what_stood_there(
    make_flusher: MakeFlusher, flusher: Flusher, store: FakeStore
) -> None:
    [entry], [first] = register(flusher, 1)
    await asyncio.sleep(1)
    left = store.document(entry.keys[0])
    successor = make_flusher(store)
    await successor.start()
    _, [second, third] = register(successor, 2)
    await asyncio.sleep(1)
    assert (first.recalled, third.recalled) == ([], [])
    assert [json.loads(document) for document in second.recalled] == [left]


async def test_an_outage_gives_no_fence_back_to_an_owner_that_lost_it(flusher: Flusher, store: FakeStore) -> None:
    """A process that slept wakes with broken connections: it must not claim what somebody took over meanwhile."""
    [entry], [source] = register(flusher, 1)
    await asyncio.sleep(1)
    store.away = True
    change(flusher, entry, urgent=True)
    await asyncio.sleep(5)
    store.away = False
    [higher] = await store.claim([entry.keys[0]])
    await asyncio.sleep(3)
    assert source.fenced_by == [higher]
    assert store.stamp(entry.keys[0])[0] == higher


async def test_the_common_fence_is_claimed_in_every_store_although_time_passes(
    store: FakeStore, clock: LoopClock
) -> None:
    """Otherwise an earlier owner could still write where the claim came out lower."""
    copies = [FakeStore(clock, name) for name in ("one", "two")]
    entries = [Entry((f"k{n}",), Source()) for n in range(3)]
    for each in (store, *copies):
        each.delay_s = 0.3
    await copies[1].claim(["k1"], at_least=NOW_MS + 5000)
    await claim(entries, Contact(store, "primary"), [Contact(copy, "copy") for copy in copies], clock)
    for entry in entries:
        assert {each.stamp(entry.keys[0]) for each in (store, *copies)} == {(entry.fence, 0)}


async def test_dual_keys_hold_the_same_document_under_the_same_pair(flusher: Flusher, store: FakeStore) -> None:
    await store.claim(["plain"], at_least=NOW_MS + 50_000)
    entry = flusher.register(("keyed", "plain"), Source())
    await asyncio.sleep(1)
    assert store.stamp("keyed") == store.stamp("plain") == (entry.fence, 1)
    assert store.document("keyed") == store.document("plain")


async def test_many_new_entries_are_claimed_in_batches(flusher: Flusher, store: FakeStore) -> None:
    register(flusher, 1000)
    await asyncio.sleep(1)
    assert [len(keys) for keys in store.claims] == [CHUNK, CHUNK]


async def test_entries_wait_unclaimed_while_the_primary_is_away(flusher: Flusher, store: FakeStore) -> None:
    store.away = True
    [entry], _ = register(flusher, 1)
    await asyncio.sleep(5)
    assert entry.fence is None
    store.away = False
    await asyncio.sleep(2)
    assert store.stamp(entry.keys[0]) == (entry.fence, 1)


async def test_a_key_registered_again_goes_on_under_its_fence(flusher: Flusher, store: FakeStore) -> None:
    [old], _ = register(flusher, 1)
    await asyncio.sleep(1)
    new = flusher.register(old.keys, Source(account("8.00")))
    change(flusher, old, balance="666.00", urgent=True)
    await asyncio.sleep(1)
    assert store.document(new.keys[0])["balance"] == 8
    assert store.stamp(new.keys[0]) == (old.fence, 2)


# ---------------------------------------------------------------- copies


@pytest.fixture
async def copy(clock: LoopClock) -> FakeStore:
    return FakeStore(clock, "copy")


@pytest.fixture
async def pair(make_flusher: MakeFlusher, store: FakeStore, copy: FakeStore) -> Flusher:
    flusher = make_flusher(store, copy)
    await flusher.start()
    return flusher


async def test_one_fence_is_claimed_in_all_stores_and_copies_get_what_was_accepted(
    pair: Flusher, store: FakeStore, copy: FakeStore
) -> None:
    await copy.claim(["ctrader_account_0"], at_least=NOW_MS + 3_600_000)
    entries, sources = register(pair, 3)
    await asyncio.sleep(1)
    for entry in entries:
        assert store.stamp(entry.keys[0]) == copy.stamp(entry.keys[0]) == (entry.fence, 1)
        assert store.document(entry.keys[0]) == copy.document(entry.keys[0])
    [higher] = await store.claim([entries[2].keys[0]])
    change(pair, entries[2], balance="666.00", urgent=True)
    change(pair, entries[1], balance="5.00", urgent=True)
    await asyncio.sleep(1)
    assert sources[2].fenced_by == [higher]
    assert copy.document(entries[2].keys[0])["balance"] == 100, "what the primary refused never reaches a copy"
    assert copy.document(entries[1].keys[0])["balance"] == 5


async def test_a_record_that_the_primary_cannot_store_reaches_no_copy_and_fences_nobody(
    make_flusher: MakeFlusher, clock: LoopClock, copy: FakeStore
) -> None:
    class Choosy(FakeStore):
        async def write(self, writes: Sequence[Write]) -> list[Refusal]:
            bad = [write for write in writes if b'"balance":666' in write.document]
            refusals = await super().write([write for write in writes if write not in bad])
            return refusals + [Refusal(write.key, write.fence, write.version - 1) for write in bad]

    store = Choosy(clock)
    flusher = make_flusher(store, copy)
    await flusher.start()
    [poisoned, well], [source, _] = register(flusher, 2)
    await asyncio.sleep(1)
    change(flusher, poisoned, balance="666.00", urgent=True)
    change(flusher, well, balance="5.00", urgent=True)
    await asyncio.sleep(1)
    assert copy.document(poisoned.keys[0])["balance"] == 100
    assert copy.document(well.keys[0])["balance"] == 5
    assert source.fenced_by == []
    assert flusher.metrics()["unstorable"] == 1
    change(flusher, poisoned, balance="7.00", urgent=True)
    await asyncio.sleep(1)
    assert store.document(poisoned.keys[0])["balance"] == copy.document(poisoned.keys[0])["balance"] == 7


async def test_a_refusing_copy_is_counted_and_claimed_anew_and_fences_nobody(
    pair: Flusher, store: FakeStore, copy: FakeStore
) -> None:
    [entry], [source] = register(pair, 1)
    await asyncio.sleep(1)
    before = entry.fence
    assert before is not None
    [foreign] = await copy.claim(entry.keys, at_least=before + 7_200_000)
    change(pair, entry, balance="5.00", urgent=True)
    await asyncio.sleep(1)
    assert source.fenced_by == []
    assert pair.health()["copy"].refused >= 1
    assert entry.fence is not None
    assert entry.fence > foreign
    assert store.stamp(entry.keys[0]) == copy.stamp(entry.keys[0])
    assert copy.document(entry.keys[0])["balance"] == 5


async def test_a_copy_refusing_after_a_takeover_lets_the_primary_decide(
    pair: Flusher, store: FakeStore, copy: FakeStore
) -> None:
    [entry], [source] = register(pair, 1)
    await asyncio.sleep(1)
    [higher] = await store.claim(entry.keys)
    await copy.claim(entry.keys, at_least=higher)
    change(pair, entry, urgent=True)
    await asyncio.sleep(1)
    assert source.fenced_by == [higher]
    assert store.stamp(entry.keys[0])[0] == higher


async def test_copies_are_written_while_the_primary_is_away(pair: Flusher, store: FakeStore, copy: FakeStore) -> None:
    [entry], _ = register(pair, 1)
    await asyncio.sleep(1)
    store.away = True
    change(pair, entry, balance="2.00", urgent=True)
    await asyncio.sleep(2)
    change(pair, entry, balance="3.00", urgent=True)
    late = pair.register(("ctrader_account_late",), Source())
    await asyncio.sleep(0.2)
    assert copy.document(entry.keys[0])["balance"] == 3
    assert late.fence is None
    assert copy.document(late.keys[0]) is None, "without the primary nothing is claimed"
    store.away = False
    await asyncio.sleep(2)
    assert store.document(entry.keys[0])["balance"] == 3
    assert store.document(late.keys[0]) == copy.document(late.keys[0])


async def test_a_live_record_is_renewed_in_the_copy_while_the_primary_is_away(
    pair: Flusher, store: FakeStore, copy: FakeStore, clock: LoopClock
) -> None:
    _, [source] = register(pair, 1)
    await asyncio.sleep(1)
    store.away = True
    change(pair, next(iter(pair._entries.values())), urgent=True)
    await asyncio.sleep(1)
    least = await least_freshness_left(pair, copy, clock, source, for_s=60, heard_every_s=5)
    assert least >= 2 * INTERVAL_S - 0.1


async def test_a_copy_that_was_away_gets_everything_on_its_return_and_holds_nobody_up(
    pair: Flusher, store: FakeStore, copy: FakeStore
) -> None:
    entries, _ = register(pair, 20)
    await asyncio.sleep(1)
    copy.hanging = True
    for n in range(50):
        change(pair, entries[n % 20], balance=f"{n}.00", urgent=True)
        await asyncio.sleep(0.1)
        assert store.document(entries[n % 20].keys[0])["balance"] == n
    assert pair.health()["copy"].state == "down"
    assert pair.health()["copy"].dirty == 20
    assert pair._copies[0].waiting == 0, "nothing is kept for a copy that is away"
    assert pair.health()["primary"].state == "up"
    copy.hanging = False
    copy.lose_everything()
    await asyncio.sleep(3)
    assert pair.health()["copy"].state == "up"
    for entry in entries:
        assert copy.document(entry.keys[0]) == store.document(entry.keys[0])


async def test_a_copy_that_was_away_at_the_claim_is_brought_level_on_its_return(
    pair: Flusher, store: FakeStore, copy: FakeStore
) -> None:
    copy.away = True
    await MemoryOf(copy).claim(["ctrader_account_0"], NOW_MS + 7_200_000)
    [entry], [source] = register(pair, 1)
    await asyncio.sleep(1)
    assert entry.written
    copy.away = False
    await asyncio.sleep(3)
    assert source.fenced_by == []
    assert store.stamp(entry.keys[0]) == copy.stamp(entry.keys[0])
    assert copy.document(entry.keys[0]) == store.document(entry.keys[0])


class MemoryOf:
    """Reaches into a store that does not answer."""

    def __init__(self, store: FakeStore) -> None:
        self.store = store

    async def claim(self, keys: list[str], at_least: int) -> None:
        away, self.store.away = self.store.away, False
        await self.store.claim(keys, at_least=at_least)
        self.store.away = away


# ---------------------------------------------------------------- leaving


async def test_release_writes_the_last_state_and_forgets(flusher: Flusher, store: FakeStore, clock: LoopClock) -> None:
    [entry], [source] = register(flusher, 1)
    await asyncio.sleep(1)
    source.status = RecordStatus.STOPPED
    await flusher.release(entry)
    assert clock.passed < 1.2
    assert store.document(entry.keys[0])["status"] == "stopped"
    assert flusher.metrics()["entries"] == 0
    await flusher.release(entry)
    flusher.mark(entry, urgent=True)
    await asyncio.sleep(5)
    assert store.stamp(entry.keys[0])[1] == 2


async def test_a_released_entry_is_written_later_when_the_store_is_away(
    flusher: Flusher, store: FakeStore, clock: LoopClock
) -> None:
    [entry], [source] = register(flusher, 1)
    await asyncio.sleep(1)
    store.away = True
    source.status = RecordStatus.STOPPED
    await flusher.release(entry)
    assert clock.passed < 5, "release does not wait for ever"
    await asyncio.sleep(5)
    store.away = False
    await asyncio.sleep(3)
    assert store.document(entry.keys[0])["status"] == "stopped"
    assert flusher.metrics()["entries"] == 0


async def test_drain_writes_the_last_state_of_every_entry(
    pair: Flusher, store: FakeStore, copy: FakeStore, clock: LoopClock
) -> None:
    entries, sources = register(pair, 1200)
    await asyncio.sleep(2)
    copy.delay_s = 0.05
    before = clock.passed
    for source in sources:
        source.status = RecordStatus.STALE
        source.reason = Reason(ReasonCode.DRAINING, "The bridge is restarting.")
    assert await pair.drain(2.0) == 0
    assert clock.passed - before < 2.0
    for entry in entries:
        for each in (store, copy):
            assert each.document(entry.keys[0])["reason"]["code"] == "draining"


async def test_drain_ends_at_its_deadline_when_the_store_hangs(
    flusher: Flusher, store: FakeStore, clock: LoopClock
) -> None:
    register(flusher, 7)
    await asyncio.sleep(1)
    store.hanging = True
    before = clock.passed
    assert await flusher.drain(1.0) == 7
    assert clock.passed - before == pytest.approx(1.0, abs=0.01)


async def test_a_copy_that_goes_away_is_noticed_while_the_primary_is_away_and_nothing_changes(
    pair: Flusher, store: FakeStore, copy: FakeStore
) -> None:
    register(pair, 1)
    await asyncio.sleep(2)
    store.away = True
    await asyncio.sleep(3)
    copy.away = True
    await asyncio.sleep(5)
    assert [health.state for health in pair.health().values()] == ["down", "down"]


@pytest.mark.parametrize("how", ["hanging", "away", "away before"])
async def test_drain_tells_the_copy_when_the_primary_does_not_answer(
    pair: Flusher, store: FakeStore, copy: FakeStore, clock: LoopClock, how: str
) -> None:
    entries, sources = register(pair, 700)
    await asyncio.sleep(2)
    store.hanging, store.away = how == "hanging", how != "hanging"
    if how == "away before":
        change(pair, entries[0], balance="5.00", urgent=True)
        await asyncio.sleep(1)
    for source in sources:
        source.status = RecordStatus.STALE
        source.reason = Reason(ReasonCode.DRAINING, "The bridge is restarting.")
    before = clock.passed
    assert await pair.drain(1.0) == 0
    assert clock.passed - before <= 1.01
    for entry in entries:
        assert copy.document(entry.keys[0])["reason"]["code"] == "draining"


async def test_drain_still_reaches_the_primary_when_it_answers_again_in_time(
    pair: Flusher, store: FakeStore, copy: FakeStore, clock: LoopClock
) -> None:
    entries, sources = register(pair, 3)
    await asyncio.sleep(2)
    store.delay_s = 30.0
    for source in sources:
        source.status = RecordStatus.STALE
        source.reason = Reason(ReasonCode.DRAINING, "The bridge is restarting.")
    draining = asyncio.ensure_future(pair.drain(2.0))
    await asyncio.sleep(0.5)
    store.delay_s = 0.1
    assert await draining == 0
    for each in (store, copy):
        assert each.document(entries[0].keys[0])["reason"]["code"] == "draining"


# ---------------------------------------------------------------- defects and telemetry


async def test_an_account_that_cannot_be_told_keeps_nobody_back(
    flusher: Flusher, store: FakeStore, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(Source):
        whole = False

        def reading(self) -> Reading:
            if not self.whole:
                raise ZeroDivisionError
            return super().reading()

    broken = Broken()
    bad = flusher.register(("ctrader_account_bad",), broken)
    [good], _ = register(flusher, 1)
    await asyncio.sleep(10)
    assert store.document(good.keys[0]) is not None
    assert store.document(bad.keys[0]) is None
    assert flusher.metrics()["record_failures"] > 2
    assert [record.getMessage() for record in caplog.records] == ["a record could not be made"]
    broken.whole = True
    await asyncio.sleep(3)
    assert store.document(bad.keys[0]) is not None, "it is tried again without a new mark"


async def test_the_mirror_speaks_again_after_its_record_was_made(flusher: Flusher, store: FakeStore) -> None:
    [entry], [source] = register(flusher, 1)
    assert source.mirror is not None
    source.mirror.on_dirty = lambda: flusher.mark(entry)
    for n in range(3):
        source.mirror.set_quote("1", 110_000 + n, None)
        await asyncio.sleep(INTERVAL_S * 1.2)
        assert store.document(entry.keys[0])["positions"][0]["currentPrice"] == pytest.approx(1.1 + n / 100_000)


async def test_observers_hear_of_chunks_and_readers_of_records(
    make_flusher: MakeFlusher, store: FakeStore, clock: LoopClock
) -> None:
    heard: list[tuple[str, int, float]] = []
    offered: list[str] = []

    class Observer:
        def flushed(self, store: str, records: int, seconds: float) -> None:
            heard.append((store, records, seconds))

    flusher = make_flusher(
        store, observer=Observer(), on_written=lambda writes: offered.extend(write.key for write in writes)
    )
    await flusher.start()
    store.delay_s = 0.25
    register(flusher, 3)
    await asyncio.sleep(2)
    assert heard == [("primary", 3, pytest.approx(0.25))]
    assert len(offered) == 3
    assert flusher.health()["primary"].last_flush_ms == pytest.approx(250)
    assert flusher.primary_usable
    assert clock.monotonic() - flusher.alive_at < INTERVAL_S * 1.2
    await asyncio.sleep(4)
    assert flusher.metrics()["record_age_s"] >= 3.5
