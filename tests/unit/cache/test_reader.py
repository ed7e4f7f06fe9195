"""Reading through the tiers: what counts as an answer, what falls through, and what happens when stores are away."""

import asyncio
from random import Random

import orjson
import pytest

from bridge.cache.flusher import Flusher
from bridge.cache.reader import MEMORY, REMEMBER_S, SERVE_S, Reader
from bridge.cache.record import RecordStatus
from bridge.cache.store import Stored, StoreUnavailable, Write
from tests.unit.cache.builders import NOW_MS, Source
from tests.unit.cache.stores import FakeStore, LoopClock

KEY = "ctrader_account_0"


class ReadStore(FakeStore):
    """Counts and obeys in reads too."""

    reads = 0

    async def read(self, keys: list[str]) -> list[Stored | None]:  # type: ignore[override]
        self.reads += 1
        await self._obey()
        return await super().read(keys)


@pytest.fixture
async def clock() -> LoopClock:
    return LoopClock()


@pytest.fixture
async def primary(clock: LoopClock) -> ReadStore:
    return ReadStore(clock, "primary")


@pytest.fixture
async def copy(clock: LoopClock) -> ReadStore:
    return ReadStore(clock, "copy")


@pytest.fixture
async def reader(primary: ReadStore, copy: ReadStore, clock: LoopClock) -> Reader:
    return Reader([primary, copy], clock=clock)


async def put(*stores: FakeStore, version: int, status: str = "live", stale_after: object = NOW_MS + 10_000) -> None:
    document = orjson.dumps({"status": status, "staleAfter": stale_after, "version": version})
    for store in stores:
        assert await store.write([Write(KEY, 1, version, document)]) == []


async def version(reader: Reader) -> int | None:
    stored = await reader.get(KEY)
    return None if stored is None else stored.version


async def test_a_fresh_record_of_a_copy_answers_without_the_primary(
    reader: Reader, primary: ReadStore, copy: ReadStore
) -> None:
    await put(primary, copy, version=1)
    assert await version(reader) == 1
    assert (copy.reads, primary.reads) == (1, 0)


async def test_memory_answers_for_a_moment_and_then_a_store_is_asked_again(
    reader: Reader, primary: ReadStore, copy: ReadStore
) -> None:
    await put(primary, copy, version=1)
    for _ in range(5):
        await version(reader)
    assert copy.reads == 1
    await put(primary, copy, version=2)
    await asyncio.sleep(SERVE_S + 0.01)
    assert await version(reader) == 2
    stats = reader.stats()
    assert (stats[MEMORY].hits, stats[MEMORY].misses) == (4, 2)
    assert (stats["copy"].hits, stats["copy"].misses) == (2, 0)


async def test_memory_never_answers_past_the_horizon(reader: Reader, primary: ReadStore, copy: ReadStore) -> None:
    await put(primary, copy, version=1, stale_after=NOW_MS + 500)
    await version(reader)
    await asyncio.sleep(0.6)
    await version(reader)
    assert (copy.reads, primary.reads) == (2, 1)


@pytest.mark.parametrize(
    ("status", "stale_after"),
    [("live", NOW_MS), ("live", None), ("live", "soon"), ("stale", NOW_MS + 10_000), ("stopped", NOW_MS + 10_000)],
)
async def test_what_is_not_fresh_falls_through_to_the_primary(
    reader: Reader, primary: ReadStore, copy: ReadStore, status: str, stale_after: object
) -> None:
    await put(copy, version=1, status=status, stale_after=stale_after)
    await put(primary, version=2)
    assert await version(reader) == 2
    assert reader.stats()["copy"].misses == 1
    assert reader.stats()["primary"].hits == 1


async def test_the_newest_answers_when_nothing_is_fresh(reader: Reader, primary: ReadStore, copy: ReadStore) -> None:
    await put(copy, version=5, status="stale")
    await put(primary, version=4, status="stale")
    assert await version(reader) == 5


async def test_a_copy_that_fell_behind_is_passed_over(reader: Reader, primary: ReadStore, copy: ReadStore) -> None:
    await put(primary, copy, version=1)
    await version(reader)
    await put(primary, version=2)
    reader.offer([Write(KEY, 1, 2, primary._held[KEY].document)])
    await asyncio.sleep(SERVE_S + 0.01)
    assert await version(reader) == 2
    assert primary.reads == 1


async def test_a_record_just_written_is_offered_to_readers_of_its_key_only(
    reader: Reader, primary: ReadStore, copy: ReadStore
) -> None:
    document = orjson.dumps({"status": "live", "staleAfter": NOW_MS + 10_000})
    reader.offer([Write(KEY, 1, 2, document)])
    assert await version(reader) is None
    await put(primary, copy, version=1)
    await version(reader)
    reader.offer([Write(KEY, 1, 3, document), Write("other", 1, 1, document)])
    reader.offer([Write(KEY, 1, 2, document)])
    reads = copy.reads
    assert await version(reader) == 3
    assert copy.reads == reads


async def test_nothing_is_found_when_no_tier_has_it(reader: Reader, primary: ReadStore) -> None:
    assert await reader.get(KEY) is None
    await primary.claim([KEY])
    assert await reader.get(KEY) is None, "a claim is not a record"


async def test_a_removed_record_is_gone_from_memory_too(reader: Reader, primary: ReadStore, copy: ReadStore) -> None:
    await put(primary, copy, version=1)
    await version(reader)
    for store in (primary, copy):
        await store.delete([KEY])
    await asyncio.sleep(SERVE_S + 0.01)
    assert await version(reader) is None
    primary.away = copy.away = True
    with pytest.raises(StoreUnavailable):
        await reader.get(KEY)


@pytest.mark.parametrize("document", [b"not json", b"[1]", b"7", b"\xff\xfe", b'{"status": {}, "staleAfter": []}'])
async def test_garbage_harms_nobody_and_is_not_fresh(
    reader: Reader, primary: ReadStore, copy: ReadStore, document: bytes
) -> None:  # C16
    await copy.write([Write(KEY, 1, 1, document)])
    await put(primary, version=2)
    assert await version(reader) == 2
    await primary.write([Write("garbage", 1, 1, document)])
    assert await reader.get("garbage") == Stored("garbage", 1, 1, document)


async def test_the_next_tier_answers_when_one_is_away_or_hangs(
    reader: Reader, primary: ReadStore, copy: ReadStore, clock: LoopClock
) -> None:
    await put(primary, copy, version=1)
    copy.hanging = True
    assert await version(reader) == 1
    assert clock.passed <= 1.1
    copy.hanging, primary.away = False, True
    await asyncio.sleep(SERVE_S + 0.01)
    assert await version(reader) == 1
    assert reader.stats()["copy"].failures == 1


async def test_what_was_last_seen_answers_for_a_while_when_no_store_does(
    reader: Reader, primary: ReadStore, copy: ReadStore
) -> None:
    await put(primary, copy, version=1)
    await version(reader)
    primary.away = copy.away = True
    await asyncio.sleep(REMEMBER_S / 2)
    assert await version(reader) == 1, "its staleAfter tells the reader what it is worth"
    await asyncio.sleep(REMEMBER_S)
    with pytest.raises(StoreUnavailable):
        await reader.get(KEY)


async def test_absence_is_not_claimed_while_the_primary_is_away(
    reader: Reader, primary: ReadStore, copy: ReadStore
) -> None:
    primary.away = True
    with pytest.raises(StoreUnavailable):
        await reader.get(KEY)


async def test_memory_is_bounded_and_counts_what_falls_out(primary: ReadStore, clock: LoopClock) -> None:
    reader = Reader([primary], clock=clock, size=10)
    document = orjson.dumps({"status": "live", "staleAfter": NOW_MS + 10_000_000})
    for n in range(25):
        await primary.write([Write(f"k{n}", 1, 1, document)])
        await reader.get(f"k{n}")
    assert reader.stats()[MEMORY].evictions == 15
    await asyncio.sleep(REMEMBER_S + 1)
    await reader.get("k0")
    assert reader.stats()[MEMORY].evictions == 25


async def test_readers_see_what_the_flusher_wrote_without_asking_a_store(primary: ReadStore, clock: LoopClock) -> None:
    reader = Reader([primary], clock=clock)
    flusher = Flusher([primary], clock=clock, rng=Random(1), on_written=reader.offer)
    await flusher.start()
    source = Source()
    entry = flusher.register((KEY,), source)
    await asyncio.sleep(0.5)
    assert await version(reader) == 1
    source.status = RecordStatus.STALE
    flusher.mark(entry, urgent=True)
    await asyncio.sleep(0.1)
    stored = await reader.get(KEY)
    assert stored is not None
    assert stored.version == 2
    assert orjson.loads(stored.document)["status"] == "stale"
    await flusher.close()
