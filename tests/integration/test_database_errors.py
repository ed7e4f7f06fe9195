"""What failures of Postgres mean for the caller, and that none of them says what it must not (faults.md C13, S05)."""

import asyncio
import traceback

import pytest

from bridge.db.database import (
    Connection,
    Database,
    DatabaseConflict,
    DatabaseContended,
    DatabaseDenied,
    DatabaseMisused,
    DatabaseRefusedValue,
    DatabaseUnavailable,
)
from bridge.embedded.postgres import PostgresServer
from core.errors import ConfigurationError
from core.secret import Secret
from tests.support.databases import opened
from tests.support.fault_table import fault

# ------------------------------------------------------------ what errors mean


async def test_nothing_is_said_to_be_stored_when_an_error_was_passed_over(database: Database) -> None:
    async def pass_over() -> None:
        async with database.transaction() as connection:
            await connection.execute("insert into public.bridge_facts values ('lost', '1')")
            with pytest.raises(DatabaseRefusedValue):
                await connection.execute("select 1 / 0")

    with pytest.raises(DatabaseMisused, match="nothing was committed"):
        await pass_over()
    assert await database.fetch_value("select count(*) from public.bridge_facts where name = 'lost'") == 0


async def test_the_connection_is_kept_when_a_statement_or_the_caller_fails(database_url: str) -> None:
    async with opened(database_url, size=1) as database:
        mine = await database.fetch_value("select pg_backend_pid()")
        with pytest.raises(DatabaseMisused, match="nowhere"):
            await database.fetch("select * from nowhere")
        with pytest.raises(DatabaseConflict) as refused:
            await database.execute("insert into public.bridge_users values ('x', 'ann@example.com')")
        assert refused.value.constraint == "bridge_users_user_key_check"
        with pytest.raises(KeyError):
            async with database.transaction():
                raise KeyError("the caller's own")
        assert await database.fetch_value("select pg_backend_pid()") == mine


@pytest.mark.parametrize(
    ("sql", "arguments"),
    [
        ("select $1::text::uuid", ["canary-ann@example.com"]),
        ("select $1::int", ["canary-ann@example.com"]),
        ("select $1::smallint", [10**30]),
        ("select $1::text", ["canary\x00ann@example.com"]),
        ("select $1::text", ["canary\ud800"]),
        ("select $1::text::jsonb", ["{canary"]),
        ("select $1::text::numeric(3)", ["12345678"]),
    ],
)
async def test_a_value_is_refused_without_being_quoted_when_it_cannot_be_stored(
    database: Database, sql: str, arguments: list[object]
) -> None:
    with pytest.raises(DatabaseRefusedValue) as refused:
        await database.fetch_value(sql, *arguments)
    assert "canary" not in _everything_said(refused.value)
    assert await database.fetch_value("select 1") == 1


async def test_no_row_is_quoted_when_a_constraint_refuses_it(database: Database) -> None:
    insert = "insert into public.bridge_users (user_key, user_id) values ($1, $2)"
    whom = "canary@example.com"
    await database.execute(insert, "a" * 64, whom)
    with pytest.raises(DatabaseConflict) as refused:
        await database.execute(insert, "b" * 64, whom)
    assert refused.value.constraint == "bridge_users_user_id_key"
    assert "canary" not in _everything_said(refused.value)


def _everything_said(error: BaseException) -> str:
    """What a traceback shows: the error and, as far as they are shown, its causes."""
    return "".join(traceback.format_exception(error))


async def test_a_missing_grant_is_told_apart_when_the_user_may_not(database: Database) -> None:
    async def ask() -> None:
        async with database.transaction() as connection:
            await connection.execute("set local role authenticated")
            await connection.fetch("select * from public.bridge_users")

    with pytest.raises(DatabaseDenied, match="bridge_users"):
        await ask()


@fault("C13", "40P01: two write in reverse order", "the victim starts again and ends well")
async def test_contention_is_told_apart_and_repeated_when_two_write_in_reverse_order(database: Database) -> None:
    """C13: one of them is chosen as the victim of the deadlock, starts again and ends well."""
    await database.execute("insert into public.bridge_facts values ('one', ''), ('two', '')")
    both = asyncio.Barrier(2)
    tries = 0

    async def write(first: str, second: str, first_time: list[int]) -> str:
        async def work(connection: Connection) -> str:
            nonlocal tries
            tries += 1
            await connection.execute("update public.bridge_facts set value = value || 'x' where name = $1", first)
            if not first_time:
                first_time.append(1)
                await both.wait()
            await connection.execute("update public.bridge_facts set value = value || 'x' where name = $1", second)
            return first

        return await database.repeated(work)

    assert await asyncio.gather(write("one", "two", []), write("two", "one", [])) == ["one", "two"]
    assert tries == 3
    rows = await database.fetch("select value from public.bridge_facts where name in ('one', 'two')")
    assert [row["value"] for row in rows] == ["xx", "xx"]


@fault("C13", "40001 without end", "said after a bounded number of tries")
async def test_contention_surfaces_when_it_does_not_end(database: Database) -> None:
    tries = 0

    async def work(connection: Connection) -> None:
        nonlocal tries
        tries += 1
        await connection.execute("do $$ begin raise serialization_failure; end $$")

    with pytest.raises(DatabaseContended):
        await database.repeated(work, tries=4)
    assert tries == 4


# ------------------------------------------------------------ the address


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:pass/word@host/db",
        "postgresql://u:p@host:port/db",
        "http://u:p@host/db",
        "postgresql://u:p@host/db?sslmode=on",
        "postgresql://u:p@host/db?sslmode=verify-full&sslrootcert=/no/such/file",
    ],
)
async def test_an_address_is_refused_without_being_quoted_when_it_can_never_work(url: str) -> None:
    database = Database(Secret(url))
    with pytest.raises(ConfigurationError, match=r"^DATABASE_URL: ") as refused:
        await database.open()
    said = _everything_said(refused.value)
    assert "word" not in said.replace("password", "")
    assert "/no/such" not in said.replace(repr(url), "")


async def test_words_of_providers_are_left_out_when_the_address_has_some(database_url: str) -> None:
    added = "?pgbouncer=true&connection_limit=1&supa=base-pooler.x&sslmode=prefer&application_name=other&schema="
    async with opened(database_url + added) as database:
        assert await database.fetch_value("select current_setting('application_name')") == "pulse-bridge"


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ("postgresql://postgres:canary-password@127.0.0.1:1/x", "nothing listens"),
        ("postgresql://postgres:canary-password@no-such-host.invalid/x", "host name is not known"),
    ],
)
async def test_the_reason_is_said_without_the_address_when_nobody_can_be_reached(wrong: str, reason: str) -> None:
    async with opened(wrong) as database:
        with pytest.raises(DatabaseUnavailable, match=reason) as refused:
            await database.fetch_value("select 1")
    assert "canary" not in _everything_said(refused.value)
    assert "127.0.0.1" not in str(refused.value)


async def test_the_reason_is_said_when_the_password_or_the_database_is_wrong(postgres: PostgresServer) -> None:
    url = postgres.url()
    for wrong, reason in (
        (url.replace("postgres:", "postgres:canary", 1), "user or password"),
        (postgres.url("canary"), "no such database"),
        (f"{url}?sslmode=require", "does not speak TLS"),
    ):
        async with opened(wrong) as database:
            with pytest.raises(DatabaseUnavailable, match=reason) as refused:
                await database.fetch_value("select 1")
            assert "canary" not in str(refused.value)
