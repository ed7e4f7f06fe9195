"""The flusher in virtual time: when records are written, how long they stay fresh, how it ends."""

import asyncio

import pytest

from bridge.brokers.base import Reason, ReasonCode
from bridge.cache.entry import Entry
from bridge.cache.flusher import Flusher
from bridge.cache.making import RecordMaker
from bridge.cache.planning import FlushMode
from bridge.cache.record import Reading, RecordStatus
from bridge.cache.store import CHUNK
from tests.unit.cache.builders import NOW_MS, Source, account
from tests.unit.cache.flushing import INTERVAL_S, MakeFlusher, change, least_freshness_left, register
from tests.unit.cache.stores import FakeStore, LoopClock

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


async def test_drain_waits_for_no_record_twice_when_prices_go_on(
    flusher: Flusher, store: FakeStore, clock: LoopClock
) -> None:
    entries, sources = register(flusher, 7)
    await asyncio.sleep(2.5)  # of virtual time: the first records are written
    for source in sources:
        source.status = RecordStatus.STALE

    async def prices() -> None:
        while True:
            await asyncio.sleep(0.01)  # of virtual time, until the next price
            for entry in entries:
                flusher.mark(entry)

    going_on = asyncio.create_task(prices())
    before = clock.passed
    assert await flusher.drain(1.0) == 0
    assert clock.passed - before < 0.5
    going_on.cancel()
    assert {store.document(entry.keys[0])["status"] for entry in entries} == {"stale"}


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
