"""The Postgres store on a real server that is killed, made read-only, emptied, misconfigured and shared."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from random import Random
from typing import Any

import asyncpg
import orjson
import pytest

from bridge.cache.flusher import Flusher
from bridge.cache.record import RecordStatus
from bridge.cache.store import CHUNK, Refusal, Stored, StoreUnavailable, Write
from bridge.cache.stores.postgres import PostgresStore
from bridge.db.database import Database
from bridge.embedded.postgres import PostgresServer
from bridge.runtime.clock import SystemClock
from core.errors import ConfigurationError
from core.secret import Secret
from tests.support.databases import migrate_database
from tests.support.fault_table import fault
from tests.support.waiting import eventually
from tests.unit.cache.builders import Source, account

pytestmark = pytest.mark.timeout(90)
COUNT = 1000
PATIENCE_S = 15.0
KV = "kv_store_bridge"
FOREIGN = "kv_store_0a1b2c3d"
FOREIGN_TABLE = (
    f"create table public.{FOREIGN} (key text not null primary key, value jsonb not null)"  # as projects have
)


def write(key: str, fence: int, version: int, text: str = "") -> Write:
    return Write(key, fence, version, orjson.dumps({"fence": fence, "version": version, "text": text}))


@asynccontextmanager
async def opened(url: str, **options: Any) -> AsyncIterator[PostgresStore]:
    store = PostgresStore(Database(Secret(url), size=2), **options)
    try:
        await store.open()
        yield store
    finally:
        await store.close()


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        await connection.close()


async def text_of(store: PostgresStore, key: str) -> str | None:
    [stored] = await store.read([key])
    return json.loads(stored.document)["text"] if stored and stored.document else None


# ---------------------------------------------------------------- crashes


@pytest.fixture
async def server(postgres_factory: Callable[[], PostgresServer]) -> PostgresServer:
    server = await asyncio.to_thread(postgres_factory)
    await asyncio.to_thread(server.start)
    await migrate_database(server.url())
    return server


@pytest.mark.parametrize("unlogged", [False, True])
@fault("C09", "three crashes under flushing of 1,000 records", "every record is the newest again, fences unchanged")
async def test_every_record_is_the_newest_again_when_the_server_crashed_under_load(
    server: PostgresServer, unlogged: bool
) -> None:
    clock = SystemClock()
    async with opened(server.url(), unlogged=unlogged) as store:
        crashes: list[BaseException] = []
        flusher = Flusher([store], clock=clock, rng=Random(2), on_crash=lambda _, error: crashes.append(error))
        await flusher.start()
        sources = [Source(account(), as_of_ms=clock.now_ms(), status=RecordStatus.STOPPED) for _ in range(COUNT)]
        keys = [f"ctrader_account_{n:064x}" for n in range(COUNT)]
        entries = [flusher.register((key,), source) for key, source in zip(keys, sources, strict=True)]
        await eventually(lambda: all(entry.written for entry in entries), within_s=PATIENCE_S)
        fences = [entry.fence for entry in entries]
        for step in range(1, 4):
            changed = list(range(step, COUNT, 7))
            for n in changed:
                assert sources[n].mirror is not None
                sources[n].mirror.balance += step
                flusher.mark(entries[n], urgent=step == 2)
            await asyncio.to_thread(server.restart)
            await eventually(lambda: flusher.health()["postgres"].state == "up", within_s=PATIENCE_S)
            await eventually(lambda: all(entry.written for entry in entries), within_s=PATIENCE_S)
        truth = [float(source.mirror.balance) for source in sources if source.mirror]

        async def all_true() -> bool:
            held = [each for start in range(0, COUNT, CHUNK) for each in await store.read(keys[start : start + CHUNK])]
            return [json.loads(each.document)["balance"] for each in held if each and each.document] == truth

        await eventually(all_true, within_s=PATIENCE_S, what="every record again")
        assert [entry.fence for entry in entries] == fences
        await flusher.close()
        assert crashes == []


@pytest.mark.parametrize("unlogged", [False, True])
async def test_an_older_owner_is_refused_when_the_server_crashed(server: PostgresServer, unlogged: bool) -> None:
    """Unlogged tables are empty after a crash; the fences are not."""
    async with opened(server.url(), unlogged=unlogged) as zombie, opened(server.url(), unlogged=unlogged) as owner:
        [old] = await zombie.claim(["a"])
        [new] = await owner.claim(["a"])
        await owner.write([write("a", new, 3, "owner")])
        generation = owner.generation
        await asyncio.to_thread(server.restart)
        refusals = await zombie.write([write("a", old, 99, "zombie"), write("b", 1, 1)])
        assert refusals == [Refusal("a", new, 0 if unlogged else 3)]
        assert zombie.generation != generation
        assert await text_of(zombie, "a") == (None if unlogged else "owner")
        refusals = await owner.write([write("a", new, 4, "owner")])
        assert refusals == []
        assert owner.generation == zombie.generation


async def test_the_table_changes_its_kind_and_keeps_its_records_when_the_setting_changes(database_url: str) -> None:
    kind = "select relpersistence::text from pg_class where oid = 'public.account_cache'::regclass"
    async with connected(database_url) as connection:
        for unlogged, expected in ((False, "p"), (True, "u"), (True, "u"), (False, "p")):
            async with opened(database_url, unlogged=unlogged) as store:
                assert await connection.fetchval(kind) == expected
                await store.write([write("a", 1, 1, "kept")])
                assert await text_of(store, "a") == "kept"


async def test_the_generation_changes_when_somebody_empties_the_table(database_url: str) -> None:
    async with opened(database_url) as store, connected(database_url) as connection:
        await store.ping()
        before = store.generation
        await store.write([write("a", 1, 1)])
        assert store.generation == before
        await connection.execute("truncate public.account_cache")
        await store.ping()
        assert store.generation != before


# ---------------------------------------------------------------- waits and refusals


@fault("C10", "30 readers holding their connections", "a write finds one")
async def test_a_write_finds_a_connection_when_reads_hold_theirs(database_url: str) -> None:
    release = asyncio.Event()

    class Slow(Database):
        async def fetch(self, sql: str, *arguments: object, timeout_s: float = 5.0) -> list[Any]:
            async with self.transaction() as connection:
                await release.wait()
                return await connection.fetch(sql, *arguments)

    store = PostgresStore(Slow(Secret(database_url), size=2))
    await store.open()
    reads = [asyncio.ensure_future(store.read([f"k{n}"])) for n in range(30)]
    try:
        await asyncio.sleep(0)
        [fence] = await store.claim(["a"])
        assert await store.write([write("a", fence, 1)]) == []
        assert not any(read.done() for read in reads)
    finally:
        release.set()
        await asyncio.gather(*reads)
        await store.close()


async def test_a_write_is_given_up_in_time_when_somebody_holds_the_row(database_url: str) -> None:
    async with opened(database_url) as store, connected(database_url) as connection:
        await store.write([write("a", 1, 1)])
        transaction = connection.transaction()
        await transaction.start()
        await connection.execute("select 1 from public.account_cache where key = 'a' for update")
        with pytest.raises(StoreUnavailable, match="cannot be used now"):
            await store.write([write("a", 1, 2)])
        await transaction.rollback()
        assert await store.write([write("a", 1, 3)]) == []


@fault("C11", "default_transaction_read_only", "writes say unavailable, reads go on")
async def test_ping_and_write_fail_when_the_server_takes_no_writes(database_url: str) -> None:
    async with opened(database_url) as store, connected(database_url) as connection:
        await store.write([write("a", 1, 1)])
        name = await connection.fetchval("select current_database()")
        await connection.execute(f'alter database "{name}" set default_transaction_read_only = on')
        await connection.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity where datname = $1 and pid <> pg_backend_pid()",
            name,
        )
        with pytest.raises(StoreUnavailable, match="cannot be used now"):
            await store.ping()
        with pytest.raises(StoreUnavailable, match="cannot be used now"):
            await store.write([write("a", 1, 2)])
        assert (await store.read(["a"]))[0] is not None


@pytest.mark.parametrize("kv_table", [None, KV])
@fault("C13", "batches written in opposite order by two", "no deadlock")
async def test_batches_that_cross_never_lock_up(database_url: str, kv_table: str | None) -> None:
    keys = [f"k{n:03d}" for n in range(200)]
    async with (
        opened(database_url, kv_table=kv_table) as one,
        opened(database_url, kv_table=kv_table) as other,
        connected(database_url) as connection,
    ):

        async def go(store: PostgresStore, order: list[str]) -> None:
            for version in range(1, 15):
                await store.write([write(key, 1, version) for key in order])
                await store.claim(order)
                await store.delete(order)

        await asyncio.gather(go(one, keys), go(other, keys[::-1]))
        deadlocks = "select deadlocks from pg_stat_database where datname = current_database()"
        await connection.execute("select pg_stat_force_next_flush()")
        assert await connection.fetchval(deadlocks) == 0


# ---------------------------------------------------------------- rows that cannot be stored


@pytest.mark.parametrize(
    ("kv_table", "bad"),
    [
        (None, b"{no json"),
        (None, b'"\xff"'),
        (None, b'"\0"'),
        (KV, b'{"fence": 1, "text": "\\u0000"}'),
        (KV, b"[1]"),
        (KV, b'"text"'),
    ],
)
@fault("C15", "one poisoned row of 500", "the other rows are written, nobody is fenced")
async def test_only_that_row_is_left_out_and_nobody_fenced_when_one_row_of_a_batch_cannot_be_stored(
    database_url: str, kv_table: str | None, bad: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    keys = [f"ctrader_account_{n:064x}" for n in range(CHUNK)]
    async with opened(database_url, kv_table=kv_table) as store:
        await store.write([write(key, 5, 1, "old") for key in keys])
        batch = [write(key, 6, 1, "new") for key in keys]
        batch[77] = Write(keys[77], 6, 1, bad)
        batch[78] = Write(keys[78], 4, 1, bad)  # and of an older owner
        batch.append(Write("never written", 6, 1, bad))
        del batch[10]
        for _ in range(2):
            refusals = await store.write(batch)
            below = {refusal.key: refusal for refusal in refusals if (refusal.fence, refusal.version) != (6, 1)}
            assert below == {
                keys[77]: Refusal(keys[77], 5, 1),
                keys[78]: Refusal(keys[78], 5, 1),
                "never written": Refusal("never written", 0, 0),
            }
        texts = [json.loads(stored.document)["text"] for stored in await store.read(keys) if stored]
        assert texts == ["old" if n in (10, 77, 78) else "new" for n in range(CHUNK)]
        assert await store.write([write(keys[77], 6, 2, "mended")]) == []
    said = [record for record in caplog.records if record.message == "a record cannot be stored"]
    assert [(record.levelno, record.__dict__["key"][:6]) for record in said] == [(logging.ERROR, "000000")] * 2 + [
        (logging.ERROR, "")
    ]


# ---------------------------------------------------------------- key-value tables


@pytest.mark.parametrize(
    "value",
    ['"text"', "[1, 2]", "7", "null", "{}", '{"fence": "x", "version": 1}', '{"fence": 1}',
     '{"fence": 1e300, "version": 1}', '{"fence": -5, "version": 1}',
     '{"fence": 99007199254740992, "version": 1}', '{"fence": 1.5, "version": 2}',
     '{"fence": {"a": 1}, "version": [1]}', '{"fence": 9007199254740993, "version": 1}'],
)  # fmt: skip
@fault("C16", "values of other shapes in a key-value table", "read as older than anything, overwritten")
async def test_a_value_of_another_shape_is_read_as_older_than_anything_and_overwritten(
    database_url: str, value: str
) -> None:
    async with connected(database_url) as connection:
        await connection.execute(FOREIGN_TABLE)
        for key in ("written", "claimed", "removed"):
            await connection.execute(f"insert into public.{FOREIGN} values ($1, $2)", key, value)
        async with opened(database_url, kv_table=FOREIGN) as store:
            [stored] = await store.read(["written"])
            assert stored is not None
            assert (stored.fence, stored.version) == (0, 0)
            assert await store.write([write("written", 0, 0, "new")]) == []
            assert await text_of(store, "written") == "new"
            [fence] = await store.claim(["claimed"])
            assert 1_700_000_000_000 < fence < 4_000_000_000_000
            assert await store.write([write("claimed", fence, 1, "new")]) == []
            await store.delete(["removed"])
            assert await store.read(["removed"]) == [Stored("removed", 0, 0, b"")]


async def test_what_others_keep_in_the_table_stays_when_records_are_written_beside_it(database_url: str) -> None:
    async with connected(database_url) as connection:
        await connection.execute(FOREIGN_TABLE)
        await connection.execute(
            f"insert into public.{FOREIGN} values ('ctrader_settings_x', '{{\"accessToken\": \"t\"}}')"
        )
        async with opened(database_url, kv_table=FOREIGN) as store:
            await store.claim(["ctrader_account_x"])
            await store.write([write("ctrader_account_y", 1, 1, "y")])
            assert await store.keys("ctrader_account_") == ["ctrader_account_y"]
        rows = await connection.fetch(f"select key, value->>'text' as text from public.{FOREIGN} order by key")
        assert [tuple(row) for row in rows] == [
            ("ctrader_account_x", None),
            ("ctrader_account_y", "y"),
            ("ctrader_settings_x", None),
        ]


@pytest.mark.parametrize(
    "name",
    ["account_cache", "bridge_facts", "kv_store_", "KV_STORE_A", "kv_store_a;drop table x", 'kv_store_a"',
     "kv_store_a.b", "public.kv_store_a", "kv_store_a b", "kv_store_" + "a" * 51, "kv_store_a\n", "", None],
)  # fmt: skip
async def test_no_other_table_can_be_reached_through_the_functions(database_url: str, name: str | None) -> None:
    async with connected(database_url) as connection:
        for call in (
            "public.bridge_kv_write($1, '{k}', '{1}', '{1}', '{x}')",
            "public.bridge_kv_claim($1, '{k}', 0)",
            "public.bridge_kv_remove($1, '{k}')",
            "public.bridge_kv_table($1)",
        ):
            with pytest.raises(asyncpg.UndefinedTableError, match="not a key-value table"):
                await connection.execute(f"select {call}", name)
    if name:
        with pytest.raises(ConfigurationError, match="SUPABASE_KV_TABLE"):
            PostgresStore(Database(Secret(database_url)), kv_table=name)


# ---------------------------------------------------------------- at start


async def test_the_start_stops_with_one_line_when_the_tables_are_not_there(
    empty_database_url: str, database_url: str
) -> None:
    for url, options in ((empty_database_url, {}), (database_url, {"kv_table": FOREIGN})):
        with pytest.raises(ConfigurationError, match=r"store postgres: .*(does not exist|no table).*") as caught:
            async with opened(url, **options):
                pass
        assert "\n" not in str(caught.value)


async def test_the_start_stops_when_the_password_is_wrong(database_url: str) -> None:
    scheme, _, rest = database_url.partition("://")
    url = f"{scheme}://postgres:wrong@{rest.rpartition('@')[2]}"
    with pytest.raises(ConfigurationError, match=r"store postgres: .*refuses our user or password"):
        async with opened(url):
            pass


@pytest.mark.parametrize("unlogged", [False, True])
async def test_the_start_stops_when_the_role_may_not_write(database_url: str, unlogged: bool) -> None:
    async with connected(database_url) as connection:
        role = f"reader_{await connection.fetchval('select current_database()')}"
        await connection.execute(f"create role {role} login password 'reads'")
    url = f"postgresql://{role}:reads@{database_url.rpartition('@')[2]}"
    with pytest.raises(ConfigurationError, match=r"store postgres: .*(permission|owner)"):
        async with opened(url, unlogged=unlogged):
            pass


async def test_a_server_that_is_away_at_start_is_used_when_it_comes(server: PostgresServer) -> None:
    await asyncio.to_thread(server.kill)
    async with opened(server.url(), unlogged=True) as store:
        with pytest.raises(StoreUnavailable):
            await store.claim(["a"])
        await asyncio.to_thread(server.start)
        [fence] = await store.claim(["a"])
        assert await store.write([write("a", fence, 1)]) == []
    async with connected(server.url()) as connection:
        kind = "select relpersistence::text from pg_class where oid = 'public.account_cache'::regclass"
        assert await connection.fetchval(kind) == "u"
