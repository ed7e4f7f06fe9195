"""Flush of changed records to Redis and to Postgres: our stores and flusher against one awaited write after the other,
server and client on a core each.

Two readings of each. *Writing*: the same prepared documents by `Store.write` in chunks and one by one (Redis: SET;
Postgres: a prepared upsert into a plain table, each its own commit), in interleaved rounds. *Flushing*: the real
`Flusher` from changed mirrors to accepted records, making them included, while a 1 ms ticker watches the loop.
"""

from __future__ import annotations

import asyncio
import gc
import random
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal

import asyncpg
import uvloop
from redis.asyncio import Redis

from bridge.cache.flusher import Flusher
from bridge.cache.record import Reading, RecordStatus, make_record
from bridge.cache.store import CHUNK, Store, Write
from bridge.cache.stores.postgres import PostgresStore
from bridge.cache.stores.redis import RedisStore
from bridge.db.database import Database
from bridge.db.migrate import migrate
from bridge.embedded.postgres import PostgresServer
from bridge.embedded.valkey import ValkeyServer
from bridge.runtime.clock import SystemClock
from core.account import AccountMirror
from core.events import AccountChanged, BalanceChanged, PositionChanged
from core.instruments import Catalogue, Instrument
from core.orders import Side
from core.positions import Position
from core.secret import Secret
from core.user_key import UserKeyScheme
from scripts.benchmarks.measure import LoopLag, collect_as_served, lagging, on_core
from scripts.benchmarks.report import Row, Spread, at_least, at_most

RECORDS = 10_000
ROUNDS = 9
QUICK_ROUNDS = 3
FLUSH_WITHIN_S = 30.0
PLAIN_TABLE = """
create table plain (key text primary key, fence bigint, version bigint, document json, updated_at timestamptz)
with (fillfactor = 50)
"""
PLAIN_UPSERT = """
insert into plain as t values ($1, $2, $3, $4, clock_timestamp())
on conflict (key) do update
set fence = excluded.fence, version = excluded.version, document = excluded.document, updated_at = excluded.updated_at
where (t.fence, t.version) < (excluded.fence, excluded.version)
"""
_CLOCK = SystemClock()


@dataclass(slots=True)
class Source:
    """A live session with two positions, as the flusher sees it."""

    mirror: AccountMirror

    def reading(self) -> Reading:
        return Reading("ctrader", "demo", self.mirror.account_id, RecordStatus.LIVE, None, self.mirror, _CLOCK.now_ms())

    def recall(self, document: bytes) -> None:
        pass

    def fenced(self, fence: int) -> None:
        raise AssertionError(f"nobody else writes here, yet fenced by {fence}")


def catalogue() -> Catalogue:
    """Two symbols quoted in the deposit currency and one that needs a conversion."""
    lot = Decimal(100_000)
    names = {"1": ("EURUSD", "EUR", "USD", 5), "2": ("USDJPY", "USD", "JPY", 3)}
    instruments = {
        key: Instrument(key, name, digits, base, quote, lot) for key, (name, base, quote, digits) in names.items()
    }
    return Catalogue(instruments)


def mirror(number: int, shared: Catalogue) -> AccountMirror:
    """An account with two positions and quotes for both."""
    held = AccountMirror("demo", str(7_000_000 + number), shared)
    settings = AccountChanged("USD", 2, Decimal(100), True, str(5_000_000 + number), "Sim")
    positions = [
        Position(
            str(2 * number + place), "1", side, Decimal(10_000), Decimal("1.08412"), swap=Decimal("-0.12"),
            commission=Decimal("-0.35"), used_margin=Decimal("108.41"), opened_at_ms=1_732_341_000_000,
        )
        for place, side in enumerate((Side.BUY, Side.SELL))
    ]  # fmt: skip
    now_ms = _CLOCK.now_ms()
    held.apply_all([settings, BalanceChanged(Decimal(number) / 100, 1), *map(PositionChanged, positions)], now_ms)
    held.confirmed_at_ms = now_ms
    move(held, number)
    return held


def move(held: AccountMirror, step: int) -> None:
    """A tick on what is held."""
    held.set_quote("1", 108_400 + step % 997, 108_402 + step % 997)


@dataclass(slots=True)
class Bench:
    """Changed accounts and where they are written: by our store, and one by one."""

    label: str
    store: Store
    one_by_one: Callable[[Write], Awaitable[object]]
    single: str
    target: float
    sources: Sequence[Source]
    keys: Sequence[str]
    rounds: int

    async def rows(self) -> list[Row]:
        return [await _writing(self), *await _flushing(self)]


async def measure(quick: bool) -> list[Row]:
    """Both readings, against a fresh Valkey and a fresh Postgres."""
    rounds = QUICK_ROUNDS if quick else ROUNDS
    shared = catalogue()
    sources = [Source(mirror(number, shared)) for number in range(RECORDS)]
    scheme = UserKeyScheme()
    keys = [f"ctrader_account_{scheme.keys(f'user-{number}').canonical}" for number in range(RECORDS)]
    collect_as_served()
    try:
        return [*await _redis(sources, keys, rounds), *await _postgres(sources, keys, rounds)]
    finally:
        gc.unfreeze()


@contextmanager
def _a_core_each(server: ValkeyServer | PostgresServer) -> Iterator[None]:
    """Run a server on one core and ourselves on the other."""
    with on_core(1):
        server.start()
    try:
        with on_core(0):
            yield
    finally:
        server.stop()


async def _redis(sources: Sequence[Source], keys: Sequence[str], rounds: int) -> list[Row]:
    valkey = ValkeyServer()
    with _a_core_each(valkey):
        store = RedisStore(Secret(valkey.url))
        try:
            async with Redis.from_url(valkey.url, protocol=2) as plain:

                async def one(write: Write) -> None:
                    await plain.set(f"plain:{write.key}", write.document)

                return await Bench("Redis", store, one, "single awaited SETs", 10, sources, keys, rounds).rows()
        finally:
            await store.close()


async def _postgres(sources: Sequence[Source], keys: Sequence[str], rounds: int) -> list[Row]:
    postgres = PostgresServer(fsync="on")  # as in production: without it a row alone costs next to nothing
    with _a_core_each(postgres):
        database = Database(Secret(postgres.url()), size=2)
        store = PostgresStore(database)
        await database.open()
        try:
            await migrate(database)
            await store.open()
            plain = await asyncpg.connect(postgres.url())
            try:
                await plain.execute(PLAIN_TABLE)
                upsert = await plain.prepare(PLAIN_UPSERT)

                async def one(write: Write) -> None:
                    await upsert.fetch(write.key, write.fence, write.version, write.document.decode())

                return await Bench("Postgres", store, one, "row by row", 5, sources, keys, rounds).rows()
            finally:
                await plain.close()
        finally:
            await store.close()


async def _writing(bench: Bench) -> Row:
    fences = await bench.store.claim(bench.keys)
    ours: list[float] = []
    single: list[float] = []
    size = 0
    for version in range(1, bench.rounds + 1):
        now_ms = _CLOCK.now_ms()
        writes = [
            Write(
                key, fence, version, make_record(source.reading(), fence=fence, version=version, now_ms=now_ms).document
            )
            for key, fence, source in zip(bench.keys, fences, bench.sources, strict=True)
        ]
        ours.append(await _by_chunks(bench.store, writes))
        single.append(await _one_by_one(bench.one_by_one, writes))
        size = len(writes[0].document)
    ratio = Spread.of([theirs / mine for mine, theirs in zip(ours, single, strict=True)])
    return Row(
        figure=f"{bench.label}: write {len(bench.keys):,} changed records of {size:,} bytes",
        ours=f"{Spread.of(ours).median * 1000:.0f} ms, compared and set in chunks of {CHUNK}",
        compared_with=f"{bench.single}: {Spread.of(single).median * 1000:.0f} ms",
        ratio=ratio.text(1, " ×"),
        target=at_least(bench.target, " ×"),
        value=ratio.median,
        data={"oursS": ours, "singleS": single, "documentBytes": size},
    )


async def _by_chunks(store: Store, writes: Sequence[Write]) -> float:
    began = time.perf_counter()
    for start in range(0, len(writes), CHUNK):
        refused = await store.write(writes[start : start + CHUNK])
        if refused:
            raise AssertionError(f"{len(refused)} of our own writes were refused")
    return time.perf_counter() - began


async def _one_by_one(write_one: Callable[[Write], Awaitable[object]], writes: Sequence[Write]) -> float:
    began = time.perf_counter()
    for write in writes:
        await write_one(write)
    return time.perf_counter() - began


async def _flushing(bench: Bench) -> list[Row]:
    flusher = Flusher([bench.store], clock=_CLOCK, rng=random.Random(1), interval_s=2.0)
    entries = [flusher.register((key,), source) for key, source in zip(bench.keys, bench.sources, strict=True)]
    await flusher.start()
    await flusher.drain(FLUSH_WITHIN_S)  # claims and first records
    quiet = await _lag_for(1.0)
    took: list[float] = []
    busy = LoopLag()
    for step in range(bench.rounds):
        for entry, source in zip(entries, bench.sources, strict=True):
            move(source.mirror, step)
            flusher.mark(entry)
        async with lagging() as lag:
            began = time.perf_counter()
            left = await flusher.drain(FLUSH_WITHIN_S)
            took.append(time.perf_counter() - began)
        if left:
            raise AssertionError(f"{left} records were not written")
        busy.lags_ms += lag.lags_ms
    await flusher.close()
    time_row = Row(
        figure=f"{bench.label}: flush {len(entries):,} changed mirrors, records made and written",
        ours=f"{Spread.of(took).median * 1000:.0f} ms ({Spread.of(took).median / len(entries) * 1e6:.0f} µs each)",
        compared_with="the flush interval of 2 s",
        ratio=Spread.of([seconds / 2 for seconds in took]).text(2, " ×"),
        data={"flushS": took},
    )
    lag_row = Row(
        figure=f"{bench.label}: loop lag p99 during that flush",
        ours=f"{busy.p99_ms():.1f} ms, worst {busy.max_ms():.1f} ms",
        compared_with=f"the same loop at rest: {quiet.p99_ms():.1f} ms, worst {quiet.max_ms():.1f} ms",
        ratio=f"{busy.p99_ms() / max(quiet.p99_ms(), 0.01):.1f} ×",
        target=at_most(20, " ms"),
        value=busy.p99_ms(),
        data={"busyP99Ms": busy.p99_ms(), "busyMaxMs": busy.max_ms(), "quietP99Ms": quiet.p99_ms()},
    )
    return [time_row, lag_row]


async def _lag_for(seconds: float) -> LoopLag:
    async with lagging() as lag:
        await asyncio.sleep(seconds)
    return lag


if __name__ == "__main__":
    from scripts.benchmarks.report import show

    show(uvloop.run(measure(quick=False)))
