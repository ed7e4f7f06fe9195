"""Postgres through `Database`: real server, real sockets, real faults (faults.md C07, C09-C11, C13)."""

import asyncio
import random
import uuid
from collections.abc import Callable
from contextlib import suppress

import pytest

from bridge.db import database as rules
from bridge.db.database import (
    Database,
    DatabaseContended,
    DatabaseMisused,
    DatabaseReadOnly,
    DatabaseUnavailable,
)
from bridge.embedded.postgres import PostgresServer
from core.secret import Secret
from tests.support.databases import make_database, opened
from tests.support.fault_table import fault
from tests.support.waiting import eventually

Servers = Callable[[], PostgresServer]


async def running(database: Database, text: str) -> int:
    """How many sessions of this database run a statement that contains `text`."""
    return await database.fetch_value(
        "select count(*) from pg_stat_activity where datname = current_database() and state = 'active'"
        " and pid <> pg_backend_pid() and position($1 in query) > 0",
        text,
    )


# ------------------------------------------------------------ the server goes away and comes back


@fault("C09", "restart with every connection in use", "the pool works at once afterwards")
async def test_the_pool_comes_back_when_the_server_was_restarted_with_every_connection_in_use(
    postgres_factory: Servers,
) -> None:
    server = postgres_factory()
    async with opened(server.url(), size=6) as database:
        await asyncio.gather(*(database.fetch_value("select pg_sleep(0.05)") for _ in range(6)))
        for number in range(2):
            await asyncio.to_thread(server.restart)
            assert await database.fetch_value("select $1::int", number) == number
        await asyncio.to_thread(server.kill)
        with pytest.raises(DatabaseUnavailable):
            await database.fetch_value("select 3")


@fault("C09", "three immediate restarts under inserts", "what was said to be stored is stored, once")
async def test_work_goes_on_under_load_when_the_server_restarts_immediately(postgres_factory: Servers) -> None:
    server = postgres_factory()
    async with opened(server.url(), size=4) as database:
        await database.execute("create table done (number int primary key)")
        stored: set[int] = set()
        going = True

        async def work(start: int) -> None:
            number = start
            while going:
                try:
                    await database.execute("insert into done values ($1) on conflict do nothing", number)
                except DatabaseUnavailable:
                    await asyncio.sleep(0.02)  # outcome unknown: the same statement again
                    continue
                stored.add(number)
                number += 10

        workers = [asyncio.create_task(work(start)) for start in range(8)]
        for _ in range(3):
            before = len(stored)
            await eventually(lambda before=before: len(stored) > before + 40, within_s=20)
            await asyncio.to_thread(server.restart)
        before = len(stored)
        await eventually(lambda: len(stored) > before + 40, within_s=20)
        going = False
        await asyncio.gather(*workers)
        rows = {row["number"] for row in await database.fetch("select number from done")}
        assert rows == stored


@fault("C13", "57P01 on an idle connection", "replaced before anybody notices")
async def test_a_dead_connection_is_replaced_when_the_server_cut_it_behind_our_back(database_url: str) -> None:
    async with opened(database_url, size=1) as database, opened(database_url) as other:
        mine = await database.fetch_value("select pg_backend_pid()")
        await other.execute("select pg_terminate_backend($1)", mine)
        assert await database.fetch_value("select pg_backend_pid()") != mine


@fault("C13", "57P01 within a transaction", "said as unavailable")
async def test_a_statement_is_unavailable_when_its_session_is_ended_under_it(database_url: str) -> None:
    async with opened(database_url, size=1) as database, opened(database_url) as other:

        async def work() -> None:
            async with database.transaction() as connection:
                mine = await connection.fetchval("select pg_backend_pid()")
                await other.execute("select pg_terminate_backend($1)", mine)
                await connection.fetchval("select 1")

        with pytest.raises(DatabaseUnavailable, match=r"shutting down|cut"):
            await work()
        assert await database.fetch_value("select 1") == 1


@fault("C11", "a session that turned read-only", "one refusal, then every connection is new")
async def test_connections_are_dialled_anew_when_the_server_has_become_read_only(database_url: str) -> None:
    async with opened(database_url, size=3) as database, opened(database_url) as other:
        name = await database.fetch_value("select current_database()")

        async def three() -> set[int]:
            return set(
                await asyncio.gather(
                    *(database.fetch_value("select pg_backend_pid() from pg_sleep(0.1)") for _ in range(3))
                )
            )

        old = await three()
        assert len(old) == 3
        async with database.transaction() as connection:  # this session only, as a standby is for its own clients
            await connection.execute("set session characteristics as transaction read only")
        refused = 0
        for _ in range(20):
            try:
                await database.execute("update public.bridge_facts set value = value")
            except DatabaseReadOnly:
                refused += 1
        assert refused == 1
        assert not old & await three()
        assert name == await other.fetch_value("select current_database()")


# ------------------------------------------------------------ waits are bounded


@fault("C10", "a pool of one, in use", "told after the bounded wait")
async def test_a_caller_is_told_in_time_when_every_connection_is_in_use(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rules, "START_S", 0.2)
    async with opened(database_url, size=1) as database:
        async with database.transaction():
            figures = database.figures()
            assert (figures["connections"], figures["busy"], figures["connections_most"]) == (1, 1, 1)
            with pytest.raises(DatabaseUnavailable, match="no answer in time"):
                await database.fetch_value("select 1")
        assert await database.fetch_value("select 1") == 1
        figures = database.figures()
        assert (figures["busy"], figures["transactions"], figures["unavailable"]) == (0, 2, 1)


@fault("C10", "a server that accepts nobody", "told after the bounded wait")
async def test_a_caller_is_told_in_time_when_the_server_accepts_nobody(
    postgres_factory: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rules, "START_S", 0.3)
    server = postgres_factory()
    async with opened(server.url()) as database:
        with server.paused(), pytest.raises(DatabaseUnavailable, match="no answer in time"):
            await database.fetch_value("select 1")
        assert await eventually(lambda: _answers(database), within_s=10)


async def _answers(database: Database) -> bool:
    try:
        return await database.fetch_value("select true") is True
    except DatabaseUnavailable:
        return False


@fault("C10", "the role's connection limit", "the reason is named")
async def test_too_many_connections_are_a_reason_when_the_server_has_no_more(database_url: str) -> None:
    async with opened(database_url, size=1) as owner:
        name = await owner.fetch_value("select current_database()")
        await owner.execute("create role crowd login password 'crowd-password' connection limit 1")
        try:
            url = f"postgresql://crowd:crowd-password@{database_url.partition('@')[2]}"
            async with opened(url, size=2) as database, database.transaction():
                with pytest.raises(DatabaseUnavailable, match="too many connections"):
                    await database.fetch_value("select 1")
        finally:
            await eventually(lambda: _dropped(owner, "crowd"), within_s=5)
        assert name


async def _dropped(owner: Database, role: str) -> bool:
    await owner.execute(f"drop role {role}")
    return True


@fault("C13", "57014 by the statement's own limit", "said as taking too long")
async def test_a_statement_ends_at_its_own_limit_when_it_takes_too_long(database: Database) -> None:
    with pytest.raises(DatabaseUnavailable, match="took too long"):
        await database.execute("select pg_sleep(20)", timeout_s=0.05)
    assert await database.fetch_value("select 1 from pg_sleep(1.2)", timeout_s=8) == 1  # and not at asyncpg's own


async def test_a_statement_ends_when_the_server_itself_does_not_end_it(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rules, "MARGIN_S", -0.8)
    with pytest.raises(DatabaseUnavailable, match="no answer in time"):
        await database.execute("select pg_sleep(20)", timeout_s=1.0)
    assert await database.fetch_value("select 1") == 1


async def test_a_transaction_is_ended_when_its_process_is_frozen_in_it(database: Database) -> None:
    async def freeze() -> None:
        async with database.transaction(pause_s=0.05) as connection:
            await connection.execute("lock table public.bridge_facts")
            await eventually(lambda: _unlocked(database), within_s=5)

    with pytest.raises(DatabaseUnavailable):
        await freeze()


async def _unlocked(database: Database) -> bool:
    try:
        await database.execute("lock table public.bridge_facts nowait")
    except DatabaseContended:
        return False
    return True


# ------------------------------------------------------------ cancelled


async def test_the_server_stops_at_once_when_a_statement_is_cancelled(database: Database) -> None:
    task = asyncio.create_task(database.fetch_value("select pg_sleep(4.999)"))
    await eventually(lambda: running(database, "4.999"), within_s=5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await eventually(lambda: _none(database), within_s=3)


async def _none(database: Database) -> bool:
    return await running(database, "4.999") == 0


@fault("C07", "a statement cut off by its caller", "its connection is not used again")
async def test_a_connection_is_not_used_again_when_a_statement_on_it_was_cut_off(database_url: str) -> None:
    async with opened(database_url, size=1) as database, opened(database_url) as other:

        async def cut_off() -> None:
            task = asyncio.create_task(database.fetch_value("select pg_sleep(4.999)"))
            await eventually(lambda: running(other, "4.999"), within_s=5)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

        async def pass_over(then: Exception | None) -> None:
            async with database.transaction() as connection:
                with suppress(TimeoutError):
                    async with asyncio.timeout(0.05):
                        await connection.execute("select pg_sleep(4.999)")
                if then:
                    raise then

        async def goes_well(then: Exception) -> None:
            with pytest.raises(type(then)):
                await pass_over(then)

        async def says_so() -> None:
            with pytest.raises((DatabaseMisused, DatabaseUnavailable)):
                await pass_over(None)

        for way in (cut_off, lambda: goes_well(KeyError()), says_so):
            mine = await database.fetch_value("select pg_backend_pid()")
            await way()
            assert await database.fetch_value("select pg_backend_pid()") != mine


@fault("C07", "statements of Postgres cancelled at random", "every answer is the one to its question")
async def test_nobody_reads_another_answer_when_statements_are_cancelled_at_random(database_url: str) -> None:
    """C07: each answer is the one to the question, whatever was cancelled before it on the same connection."""
    chance = random.Random(7)
    async with opened(database_url, size=3) as database:
        await database.execute("create table counted (number int)")
        wrong: list[object] = []
        cancelled = 0

        async def ask(number: int) -> None:
            async with database.transaction() as connection:
                if await connection.fetchval("select $1::int", number) != number:
                    wrong.append(number)
                if await connection.fetchval("select $1::text from pg_sleep(0.001)", str(number)) != str(number):
                    wrong.append(str(number))

        for number in range(400):
            tasks = [asyncio.create_task(ask(number * 3 + each)) for each in range(3)]
            await asyncio.sleep(chance.random() * 0.012)
            for task in tasks[: chance.randint(0, 3)]:
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            cancelled += sum(isinstance(result, asyncio.CancelledError) for result in results)
            assert not [each for each in results if isinstance(each, Exception)]
        assert not wrong
        assert 100 < cancelled < 1100
        # every place of the pool is still there, and no transaction is left open
        pids = await asyncio.gather(
            *(database.fetch_value("select pg_backend_pid() from pg_sleep(0.1)") for _ in range(3))
        )
        assert len(set(pids)) == 3
        await eventually(lambda: _nothing_open(database), within_s=3)


async def _nothing_open(database: Database) -> bool:
    left = await database.fetch_value(
        "select count(*) from pg_stat_activity where datname = current_database() and state like 'idle in%'"
    )
    return left == 0


async def test_nothing_is_stored_when_a_transaction_is_cancelled_between_statements(database: Database) -> None:
    inside = asyncio.Event()

    async def work() -> None:
        async with database.transaction() as connection:
            await connection.execute("insert into public.bridge_facts values ('half', '1')")
            inside.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await inside.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await database.fetch_value("select count(*) from public.bridge_facts where name = 'half'") == 0


async def test_a_closed_database_is_unavailable_and_can_be_opened_again(postgres: PostgresServer) -> None:
    url = await make_database(postgres)
    database = Database(Secret(url))
    with pytest.raises(DatabaseUnavailable, match="not open"):
        await database.fetch_value("select 1")
    await database.open()
    await database.open()
    sleeping = asyncio.create_task(database.execute(f"select pg_sleep(4), '{uuid.uuid4()}'"))
    async with opened(url) as other:
        await eventually(lambda: running(other, "pg_sleep(4)"), within_s=5)
    await database.close()
    with pytest.raises(DatabaseUnavailable):
        await sleeping
    await database.open()
    assert await database.fetch_value("select 1") == 1
    await database.close()
