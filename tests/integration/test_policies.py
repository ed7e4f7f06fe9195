"""Who may see and do what in the database: every table and function that the migrations make, with the real roles.

Tables and functions are found in the catalogue, so that a new one is tried without being named here. A role logs in as
PostgREST does: as a role that may only become one of the three, and with the caller's claims as a setting.
"""

import asyncio
import hashlib
import json
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.api.user_tokens import SharedSecret
from bridge.db.migrate import migrate
from bridge.embedded.postgres import PostgresServer
from bridge.runtime.clock import ManualClock
from core.errors import InvalidInput
from core.secret import Secret
from core.user_key import UserKeyScheme, normalise_user_id
from tests.support import issuer
from tests.support.catalogue import rights
from tests.support.databases import make_database, opened
from tests.support.issuer import HS_SECRET, sign, verifier
from tests.support.sample_rows import OTHER_ROWS, USER_ROWS, rows_of

LIKE_SUPABASE = """
alter default privileges in schema public grant all on tables to anon, authenticated, service_role;
alter default privileges in schema public grant all on functions to anon, authenticated, service_role;
alter default privileges in schema public grant all on sequences to anon, authenticated, service_role;
grant usage on schema public to anon, authenticated, service_role;
"""
FOR_USERS = {"bridge_my_user_key", "my_account"}  # functions that a signed-in user may call
AS_DEFINER = {
    "bridge_my_user_key",
    "my_account",
    "bridge_audit_advance",
}  # functions with their owner's rights: read twice what they answer
ALL = ("select", "insert", "update", "delete")
OF_SERVICE = {
    "bridge_audit": ("select", "insert"),
    "bridge_audit_head": ("select",),
}  # not even the service changes those
LOOKS_SECRET = re.compile(r"sealed|secret|token|hash|cipher|nonce|password|cookie|ticket|code$|key_id|user_id|audit_id")
KEYS = UserKeyScheme()
ANN, BOB = "ann@example.com", "Bob"
USERS = {KEYS.keys(user).canonical: user for user in (ANN, BOB)}
A, B = USERS

TABLES = "select c.relname from pg_class c where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p')"
COLUMNS = """
select a.attname, format_type(a.atttypid, null) as type, has_column_privilege($2, c.oid, a.attnum, 'select') as readable
from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
where c.relnamespace = 'public'::regnamespace and c.relname = $1
"""
FUNCTIONS = """
select p.oid::regprocedure::text as signature, p.proname, p.prosecdef, p.proconfig, p.pronargs,
  exists (select from aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) x where x.grantee = 0) as for_public
from pg_proc p where p.pronamespace = 'public'::regnamespace
"""


class World:
    """A migrated database with rows of two users in every table."""

    def __init__(self, server: PostgresServer, url: str) -> None:
        self._server = server
        self.url = url

    async def fill(self) -> None:
        owner = await asyncpg.connect(self.url)
        try:
            async with owner.transaction():
                found = {row[0] for row in await owner.fetch(TABLES)}
                order = [name for name in (*USER_ROWS, *OTHER_ROWS) if name in found]
                for table in (*order, *sorted(found - set(order))):
                    for row in rows_of(table, USERS):
                        names = ", ".join(row)
                        values = ", ".join(_literal(value) for value in row.values())
                        await owner.execute(
                            f"insert into public.{table} ({names}) values ({values})"
                            if row
                            else f"insert into public.{table} default values"
                        )
        finally:
            await owner.close()

    async def ask_owner(self, sql: str, *arguments: object) -> list[asyncpg.Record]:
        owner = await asyncpg.connect(self.url)
        try:
            return await owner.fetch(sql, *arguments)
        finally:
            await owner.close()

    @asynccontextmanager
    async def role(self, name: str, claims: object = None) -> AsyncIterator[asyncpg.Connection]:
        """A connection of a caller: rolled back at the end."""
        url = f"postgresql://{ENTRANCE}:{ENTRANCE}@{self.url.partition('@')[2]}"
        connection = await asyncpg.connect(url)
        try:
            transaction = connection.transaction()
            await transaction.start()
            await connection.execute(f"set local role {name}")
            if claims is not None:
                text = claims if isinstance(claims, str) else json.dumps(claims)
                await connection.execute("select set_config('request.jwt.claims', $1, true)", text)
            yield connection
            await transaction.rollback()
        finally:
            await connection.close()

    async def tables(self) -> list[str]:
        return sorted(row[0] for row in await self.ask_owner(TABLES))

    async def readable(self, table: str, role: str) -> list[str]:
        return [row["attname"] for row in await self.ask_owner(COLUMNS, table, role) if row["readable"]]


ENTRANCE = "entrance_for_tests"


def _literal(value: object) -> str:
    if isinstance(value, bytes):
        return f"'\\x{value.hex()}'"
    if isinstance(value, bool | int):
        return str(value).lower()
    return "null" if value is None else "'" + str(value).replace("'", "''") + "'"


async def make_world(server: PostgresServer, before: str) -> World:
    world = World(server, await make_database(server))
    async with opened(world.url) as database:
        if before:
            await database.execute("select 1")
            await migrate_roles(database)
            async with database.transaction() as connection:
                await connection.execute(before)
        await migrate(database)
    await world.ask_owner(
        f"""do $$ begin
          create role {ENTRANCE} login noinherit password '{ENTRANCE}';
          grant anon, authenticated, service_role to {ENTRANCE};
        exception when duplicate_object then null; end $$"""
    )
    await world.fill()
    return world


async def migrate_roles(database: Any) -> None:
    """The three roles, as Supabase has them before anything of ours."""
    for name, more in (("anon", ""), ("authenticated", ""), ("service_role", " bypassrls")):
        await database.execute(
            f"do $$ begin create role {name} nologin{more}; exception when duplicate_object then null; end $$"
        )


@pytest.fixture(scope="module", params=["", LIKE_SUPABASE], ids=["plain", "like-supabase"])
def world(request: pytest.FixtureRequest, postgres: PostgresServer) -> World:
    return asyncio.run(make_world(postgres, request.param))


async def rows_seen(connection: asyncpg.Connection, table: str, columns: list[str]) -> list[asyncpg.Record]:
    return await connection.fetch(f"select {', '.join(columns)} from public.{table}")


async def refused(connection: asyncpg.Connection, sql: str) -> bool:
    try:
        async with connection.transaction():
            await connection.execute(sql)
    except asyncpg.InsufficientPrivilegeError:
        return True
    return False


# ------------------------------------------------------------ tables


async def test_every_table_has_row_level_security_and_no_other_policies_than_for_reading_own_rows(world: World) -> None:
    unprotected = await world.ask_owner(f"{TABLES} and not c.relrowsecurity")
    assert [row[0] for row in unprotected] == []
    for policy in await world.ask_owner("select * from pg_policies where schemaname = 'public'"):
        assert (policy["cmd"], list(policy["roles"])) == ("SELECT", ["authenticated"]), policy
        assert "user_key = ( SELECT" in policy["qual"], policy
        assert "bridge_my_user_key()" in policy["qual"], policy
    views = await world.ask_owner(
        "select relname from pg_class where relnamespace = 'public'::regnamespace and relkind in ('v', 'm', 'f')"
    )
    assert views == [], "a view reads with its owner's rights: make a function, or security_invoker and a test"


async def test_a_user_reads_their_own_rows_and_no_others(world: World) -> None:
    read = set()
    for table in await world.tables():
        columns = await world.readable(table, "authenticated")
        for key, user in USERS.items():
            async with world.role("authenticated", {"sub": user, "role": "authenticated"}) as connection:
                if not columns:
                    assert await refused(connection, f"select count(*) from public.{table}"), table
                    continue
                assert "user_key" in columns, f"{table}: users may read it, so user_key must be among the columns"
                rows = await rows_seen(connection, table, columns)
                assert [row["user_key"] for row in rows] == [key], table
                read.add(table)
    assert {"account_cache", "bridge_sessions"} <= read
    assert "bridge_users" not in read
    assert not read & set(OTHER_ROWS)


async def test_a_user_is_known_by_another_claim_when_the_bridge_was_told_so(world: World) -> None:
    owner = await asyncpg.connect(world.url)
    try:
        await owner.execute("update public.bridge_facts set value = 'email' where name = 'user_id_claim'")
        async with world.role("authenticated", {"sub": BOB, "email": ANN}) as connection:
            assert [row["user_key"] for row in await rows_seen(connection, "account_cache", ["user_key"])] == [A]
        async with world.role("authenticated", {"sub": BOB}) as connection:
            assert await rows_seen(connection, "account_cache", ["user_key"]) == []
    finally:
        await owner.execute("update public.bridge_facts set value = 'sub' where name = 'user_id_claim'")
        await owner.close()


NOBODY: list[Any] = [
    None,
    "",
    {},
    [],
    {"sub": None},
    {"sub": ""},
    {"sub": "%"},
    {"sub": "stranger"},
    {"sub": A},
    {"sub": [ANN]},
    {"sub": {"sub": ANN}},
    {"email": ANN},
    {"sub": ANN.upper()},
    {"SUB": ANN},
    {"sub": BOB + "\u0301"},
]


@pytest.mark.parametrize("claims", NOBODY, ids=json.dumps)
async def test_nobody_reads_anything_when_the_claims_name_no_user(world: World, claims: object) -> None:
    for table in await world.tables():
        if columns := await world.readable(table, "authenticated"):
            async with world.role("authenticated", claims) as connection:
                assert await rows_seen(connection, table, columns) == [], table


@pytest.mark.parametrize("claims", ["{", "null null", '{"sub": "ann'])
async def test_nothing_is_answered_when_the_claims_are_broken(world: World, claims: str) -> None:
    async with world.role("authenticated", claims) as connection:
        with pytest.raises(asyncpg.PostgresError):
            await rows_seen(connection, "account_cache", ["user_key"])


async def test_an_anonymous_caller_reads_nothing_and_calls_nothing(world: World) -> None:
    async with world.role("anon", {"sub": ANN, "role": "anon"}) as connection:
        for table in await world.tables():
            assert await world.readable(table, "anon") == [], table
            assert await refused(connection, f"select count(*) from public.{table}"), table
        for function in await world.ask_owner(FUNCTIONS):
            call = f"select public.{function['proname']}({', '.join(['null'] * function['pronargs'])})"
            assert await refused(connection, call), function["signature"]


@pytest.mark.parametrize("role", ["anon", "authenticated"])
async def test_no_caller_writes_anything(world: World, role: str) -> None:
    async with world.role(role, {"sub": ANN}) as connection:
        for table in await world.tables():
            column = (await world.ask_owner(COLUMNS, table, role))[0]["attname"]
            for statement in (
                f"insert into public.{table} default values",
                f"update public.{table} set {column} = default",
                f"delete from public.{table}",
                f"truncate public.{table}",
                f"lock table public.{table} in access exclusive mode",
            ):
                assert await refused(connection, statement), statement
        for sequence in await world.ask_owner(
            "select relname from pg_class where relnamespace = 'public'::regnamespace and relkind = 'S'"
        ):
            assert await refused(connection, f"select nextval('public.{sequence[0]}')"), sequence[0]
            assert await refused(connection, f"select * from public.{sequence[0]}"), sequence[0]


async def test_no_secret_is_among_the_columns_that_a_user_may_read(world: World) -> None:
    for table in await world.tables():
        for column in await world.ask_owner(COLUMNS, table, "authenticated"):
            if column["type"] == "bytea" or (LOOKS_SECRET.search(column["attname"])):
                assert not column["readable"], f"{table}.{column['attname']}"
    async with world.role("authenticated", {"sub": ANN}) as connection:
        assert await refused(connection, "select sealed from public.bridge_grants")
        assert await refused(connection, "select * from public.bridge_grants")


async def test_the_service_may_do_everything(world: World) -> None:
    async with world.role("service_role") as connection:
        for table in await world.tables():
            counted = await connection.fetchval(f"select count(*) from public.{table}")
            assert counted == (await world.ask_owner(f"select count(*) from public.{table}"))[0][0], table
            if table in USER_ROWS:
                assert counted == len(USERS), table
            for privilege in ALL:
                may = await connection.fetchval(f"select has_table_privilege('public.{table}', '{privilege}')")
                assert may == (privilege in OF_SERVICE.get(table, ALL)), (table, privilege)
        for function in await world.ask_owner(f"{FUNCTIONS} and p.prorettype <> 'trigger'::regtype"):
            may = await connection.fetchval("select has_function_privilege($1, 'execute')", function["signature"])
            assert may, function["signature"]


# ------------------------------------------------------------ functions


async def test_functions_look_up_nothing_by_a_path_and_few_have_their_owners_rights(world: World) -> None:
    functions = await world.ask_owner(FUNCTIONS)
    assert functions
    for function in functions:
        assert 'search_path=""' in (function["proconfig"] or []), function["signature"]
        assert not function["for_public"], function["signature"]
        if function["prosecdef"]:
            assert function["proname"] in AS_DEFINER, function["signature"]
        async with world.role("authenticated", {"sub": ANN}) as connection:
            may = await connection.fetchval("select has_function_privilege($1, 'execute')", function["signature"])
        assert may == (function["proname"] in FOR_USERS), function["signature"]


async def test_the_map_of_users_answers_only_for_oneself(world: World) -> None:
    for key, user in USERS.items():
        async with world.role("authenticated", {"sub": f" {user}\u2003"}) as connection:
            assert await connection.fetchval("select public.bridge_my_user_key()") == key
            for column in ("user_key", "user_id", "audit_id", "*"):
                assert await refused(connection, f"select {column} from public.bridge_users")


async def test_my_account_answers_the_record_of_who_asks(world: World) -> None:
    for user in USERS.values():
        async with world.role("authenticated", {"sub": user}) as connection:
            answer = await connection.fetchval("select public.my_account('ctrader')")
            assert json.loads(answer)["accountId"] == f"of {user}"
            assert await connection.fetchval("select public.my_account('alpaca')") is None
            other = B if user == ANN else A
            assert await connection.fetchval("select public.my_account($1)", f"ctrader_account_{other}") is None
    for claims in NOBODY:
        async with world.role("authenticated", claims) as connection:
            assert await connection.fetchval("select public.my_account('ctrader')") is None


@pytest.fixture(scope="module")
def keys_of(postgres: PostgresServer) -> Iterator[Any]:
    """Asks one connection as `authenticated` for the key of a claim, in a database with one stored user."""
    with asyncio.Runner() as runner:
        world = runner.run(make_world(postgres, ""))
        connection = runner.run(asyncpg.connect(world.url))

        async def ask(stored: str, claim: str) -> str | None:
            transaction = connection.transaction()
            await transaction.start()
            try:
                await connection.execute(
                    "insert into public.bridge_users (user_key, user_id) values ($1, $2) on conflict do nothing",
                    hashlib.sha256(stored.encode()).hexdigest(),
                    stored,
                )
                await connection.execute(
                    "select set_config('request.jwt.claims', $1, true)", json.dumps({"sub": claim})
                )
                await connection.execute("set local role authenticated")
                key: str | None = await connection.fetchval("select public.bridge_my_user_key()")
                return key
            finally:
                await transaction.rollback()

        yield lambda stored, claim: runner.run(ask(stored, claim))
        runner.run(connection.close())


@pytest.mark.parametrize("claim", ["sub", "email"])
@pytest.mark.parametrize(
    ("said", "person"),
    [
        ({}, True),
        ({"user_metadata": None}, True),
        ({"user_metadata": "email_verified"}, True),
        ({"email_verified": True}, True),
        ({"email_verified": False}, "sub"),
        ({"email_verified": None}, "sub"),
        ({"email_verified": "true"}, "sub"),
        ({"user_metadata": {"email_verified": False}}, "sub"),
        ({"is_anonymous": True}, False),
        ({"is_anonymous": "false"}, False),
        ({"role": "service_role"}, False),
        ({"role": None}, False),
    ],
    ids=json.dumps,
)
async def test_who_is_nobody_to_the_bridge_is_nobody_to_the_database(
    world: World, said: dict[str, Any], person: bool | str, claim: str
) -> None:
    told = {"sub": ANN, "email": ANN, "role": "authenticated", **said}
    expected = person is True or person == claim
    clock = ManualClock()
    users = verifier(SharedSecret(Secret(HS_SECRET)), clock, claim)
    token = sign({**issuer.claims(clock), "user_metadata": {}, **told}, HS_SECRET, "HS256")
    assert (await users.user_id(token) is not None) is expected
    await world.ask_owner("update public.bridge_facts set value = $1 where name = 'user_id_claim'", claim)
    try:
        async with world.role("authenticated", told) as connection:
            assert (await connection.fetchval("select public.bridge_my_user_key()") is not None) is expected
            assert (await connection.fetchval("select public.my_account('ctrader')") is not None) is expected
            assert len(await rows_seen(connection, "account_cache", ["user_key"])) == int(expected)
    finally:
        await world.ask_owner("update public.bridge_facts set value = 'sub' where name = 'user_id_claim'")


@pytest.mark.parametrize("table", ["account_cache", "bridge_sessions"])
async def test_the_planner_tells_a_user_nothing_of_somebody_elses_rows(postgres: PostgresServer, table: str) -> None:
    """PostgREST answers its estimate to whoever asks with `Prefer: count=planned`."""
    world = await make_world(postgres, "")
    busy, account = KEYS.keys("busy").canonical, "'ctrader_account_%s_' || n, 1, 1"
    columns = "key, fence, version"
    if table == "bridge_sessions":
        columns, account = "user_key, broker, account_id, environment, wanted", "'%s', 'ctrader', n::text, 'demo', true"
    await world.ask_owner("insert into public.bridge_users (user_key, user_id) values ($1, 'busy')", busy)
    await world.ask_owner(
        f"insert into public.{table} ({columns}) select {account % busy} from generate_series(1, 500) n"
    )
    await world.ask_owner(
        f"insert into public.{table} ({columns}) select {account % A} from generate_series(1001, 1100) n"
    )
    await world.ask_owner(f"analyze public.{table}")
    async with world.role("authenticated", {"sub": ANN}) as connection:
        expected = set()
        for key in (busy, B, KEYS.keys("absent").canonical):
            plan = await connection.fetchval(
                f"explain (format json) select user_key from public.{table} where user_key = '{key}'"
            )
            expected.add(json.loads(plan)[0]["Plan"]["Plan Rows"])
    assert len(expected) == 1, "the number of rows that is expected differs by user"


SPACES = st.text(st.sampled_from(" \t\n\r\u00a0\u2003\u3000\u1680\u0085\x1c"), max_size=3)
NAMES = st.text(st.characters(exclude_categories=["Cs", "Cc", "Cn"]), min_size=1, max_size=20)


@given(name=NAMES, before=SPACES, after=SPACES, other=NAMES)
@settings(max_examples=150)
def test_the_database_takes_a_claim_for_the_same_user_id_as_the_bridge(
    keys_of: Any, name: str, before: str, after: str, other: str
) -> None:
    claim = before + name + after
    try:
        user = normalise_user_id(claim)
    except InvalidInput:
        return
    assert keys_of(user, claim) == KEYS.keys(claim).canonical
    if normalise_user_id("x" + other) != user:
        assert keys_of(user, "x" + other) is None


# ------------------------------------------------------------ defaults of the server


async def test_nothing_is_wider_when_the_server_grants_everything_by_default(postgres: PostgresServer) -> None:
    plain, generous = await make_world(postgres, ""), await make_world(postgres, LIKE_SUPABASE)

    async def of_callers(world: World) -> list[str]:
        return [line for line in await rights(world.url) if " service_role " not in line]

    assert await of_callers(generous) == await of_callers(plain)
    assert len(await of_callers(plain)) > 10
