"""Everything that uses Postgres, unchanged behind a transaction pooler and behind a session pooler (faults.md C12)."""

import asyncio
import itertools
import random
from collections.abc import Callable

import asyncpg
import pytest

from bridge.db.database import Database, DatabaseReadOnly, DatabaseUnavailable
from bridge.db.locks import LockBusy, Locks
from bridge.db.migrate import check, migrate, migrations
from bridge.embedded.postgres import PostgresServer
from bridge.runtime.clock import SystemClock
from core.errors import ConfigurationError
from core.secret import Secret
from tests.support.databases import make_database, opened
from tests.support.fault_table import fault
from tests.support.pooler import pooler
from tests.support.waiting import eventually


@fault("C12", "each transaction at another server", "nothing is left in any session")
async def test_each_transaction_meets_another_server_and_leaves_nothing_behind(database_url: str) -> None:
    async with pooler(database_url, size=3) as between, opened(between.url(), size=2) as database:
        pids = [await database.fetch_value("select pg_backend_pid()") for _ in range(9)]
        assert len(set(pids)) == 3
        assert all(one != other for one, other in itertools.pairwise(pids))

        async def add(number: int) -> None:
            async with database.transaction() as connection:
                mine = await connection.fetchval("select pg_backend_pid()")
                await connection.execute("insert into public.bridge_facts values ($1, $2)", f"f{number}", str(mine))
                assert mine == await connection.fetchval("select pg_backend_pid()")

        await asyncio.gather(*(add(number) for number in range(40)))
        assert await database.fetch_value("select count(*) from public.bridge_facts where name like 'f%'") == 40
        assert between.leaks == []


@fault("C12", "types looked up across servers", "understood; nothing is left in any session")
async def test_types_that_must_be_looked_up_are_understood_when_every_transaction_meets_another_server(
    database_url: str,
) -> None:
    async with pooler(database_url) as between, opened(between.url()) as database:
        await database.execute("create type mood as enum ('calm', 'brisk')")
        await database.execute("create type pair as (one int, other mood)")
        for _ in range(4):
            assert await database.fetch_value("select array['calm', 'brisk']::mood[]") == ["calm", "brisk"]
            assert await database.fetch_value("select $1::mood[]", ["calm"]) == ["calm"]
            row = await database.fetch_value("select (1, 'brisk')::pair")
            assert (row["one"], row["other"]) == (1, "brisk")
        assert between.leaks == []


@fault("C12", "migrations from three sides at once", "each applied once; nothing is left in any session")
async def test_migrations_run_from_several_sides_at_once_through_the_pooler(empty_database_url: str) -> None:
    async with pooler(empty_database_url, size=4) as between:
        databases = [Database(Secret(between.url()), size=1) for _ in range(3)]
        for each in databases:
            await each.open()
        applied = await asyncio.gather(*(migrate(each) for each in databases))
        assert sorted(one.version for each in applied for one in each) == [each.version for each in migrations()]
        assert await check(databases[0]) == []
        for each in databases:
            await each.close()
        assert between.leaks == []


@fault("C12", "locks of two processes", "they exclude one another")
async def test_locks_exclude_one_another_through_the_pooler(database_url: str) -> None:
    async with (
        pooler(database_url, size=4) as between,
        opened(between.url()) as one,
        opened(between.url()) as other,
    ):
        mine, theirs = Locks(one, SystemClock()), Locks(other, SystemClock())
        async with mine.with_lock("here"):
            async with theirs.try_with_lock("here") as nothing:
                assert nothing is None
            with pytest.raises(LockBusy):
                async with theirs.with_lock("here", timeout_s=0.05):
                    raise AssertionError("never")
            assert (await theirs.status("here")).held
        async with theirs.try_with_lock("here") as something:
            assert something is not None
        assert between.leaks == []


@fault("C07", "statements cancelled behind a pooler", "every answer is the one to its question")
@fault("C12", "statements cancelled", "nothing is left in any session")
async def test_nobody_reads_another_answer_when_statements_are_cancelled_behind_the_pooler(database_url: str) -> None:
    chance = random.Random(11)
    async with pooler(database_url, size=3) as between, opened(between.url(), size=3) as database:

        async def ask(number: int) -> int:
            answer: int = await database.fetch_value("select $1::int from pg_sleep(0.002)", number)
            return answer

        for start in range(0, 300, 3):
            tasks = [asyncio.create_task(ask(start + each)) for each in range(3)]
            await asyncio.sleep(chance.random() * 0.01)
            for task in tasks[: chance.randint(0, 3)]:
                task.cancel()
            for number, result in enumerate(await asyncio.gather(*tasks, return_exceptions=True), start):
                assert isinstance(result, asyncio.CancelledError) or result == number
        assert between.leaks == []


@fault("C12", "the pooler's own servers ended", "work goes on")
async def test_work_goes_on_when_the_pooler_lost_its_servers(database_url: str) -> None:
    async with pooler(database_url) as between, opened(between.url()) as database, opened(database_url) as direct:
        for number in range(3):
            assert await database.fetch_value("select $1::int", number) == number
            await direct.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity where application_name='pooler'"
            )
            await eventually(lambda: _answers(database), within_s=5)


async def _answers(database: Database) -> bool:
    try:
        return await database.fetch_value("select true") is True
    except DatabaseUnavailable:
        return False


@fault(
    "C11",
    "the address leads to a standby for a while",
    "told apart; nothing written there; writes go on afterwards",
)
async def test_writes_go_on_when_the_address_led_to_a_read_only_server_for_a_while(
    postgres_factory: Callable[..., PostgresServer], database_url: str
) -> None:
    """C11: a failover that first leads to the standby, and then to the new primary."""
    standby = postgres_factory()
    write = "insert into public.bridge_facts values ($1, '') on conflict do nothing"
    async with opened(await make_database(standby, "standby")) as copy:
        await migrate(copy)
        await copy.execute("alter database standby set default_transaction_read_only = on")
    async with pooler(database_url, size=3) as between, opened(between.url(), size=3) as database:
        await asyncio.gather(*(database.execute(write, f"before {number}") for number in range(6)))
        between.point_at(standby.url("standby"))
        kinds = set()
        for _ in range(4):
            try:
                await database.execute(write, "lost")
            except DatabaseUnavailable as error:
                kinds.add(type(error))
        assert kinds == {DatabaseReadOnly}
        assert await database.fetch_value("select count(*) from public.bridge_facts where name = 'lost'") == 0
        between.point_at(database_url)
        assert await eventually(lambda: _stored(database, write), within_s=5)
        assert await database.fetch_value("select count(*) from public.bridge_facts where name like 'before%'") == 6


async def _stored(database: Database, write: str) -> bool:
    try:
        await database.execute(write, "after")
    except DatabaseUnavailable:
        return False
    return True


async def test_a_session_pooler_serves_as_well(database_url: str) -> None:
    async with pooler(database_url, size=2, session=True) as between, opened(between.url(), size=2) as database:
        answers = await asyncio.gather(*(database.fetch_value("select $1::int", number) for number in range(20)))
        assert answers == list(range(20))


async def test_the_pooler_is_as_strict_as_real_ones(database_url: str) -> None:
    """What would not work behind a real pooler does not work behind this one: otherwise it proves nothing."""
    async with pooler(database_url, size=2) as between:
        with pytest.raises(asyncpg.PostgresError, match="unsupported startup parameter: search_path"):
            await asyncpg.connect(between.url(), server_settings={"search_path": "public"})
        with pytest.raises(asyncpg.InvalidPasswordError):
            await asyncpg.connect(between.url().replace("postgres:", "postgres:x", 1))
        plain = await asyncpg.connect(between.url())
        await plain.fetch("select $1::int", 1)
        with pytest.raises(asyncpg.PostgresError, match="does not exist"):  # prepared on one server, asked of another
            await plain.fetch("select $1::int", 1)
        await plain.close()
        for leaving in ("set work_mem = '1MB'", "select pg_advisory_lock(1)", "listen news", "create temp table t()"):
            before = len(between.leaks)
            plain = await asyncpg.connect(between.url())
            await plain.execute(leaving)
            plain.terminate()
            assert len(between.leaks) > before


async def test_an_address_that_poolers_refuse_is_one_clear_line(database_url: str) -> None:
    async with pooler(database_url) as between:
        wrong = Database(Secret(between.url("?options=-c%20geqo%3Doff")))
        await wrong.open()
        with pytest.raises((DatabaseUnavailable, ConfigurationError), match="unsupported startup parameter: options"):
            await wrong.fetch_value("select 1")
        await wrong.close()
