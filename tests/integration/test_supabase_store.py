"""The Supabase store, and users beside it, through the unmodified `supabase` package on a project whose grants,
policies and error codes are Postgres's own.
"""

import asyncio
import json
import logging
import socket
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import orjson
import pytest
from aiohttp import web
from postgrest.exceptions import APIError
from supabase import AsyncClient, AsyncClientOptions, create_async_client

from bridge.cache.store import CHUNK, Refusal, StoreCapabilities, StoreUnavailable, Write
from bridge.cache.stores.postgres import PostgresStore
from bridge.cache.stores.supabase import SupabaseStore
from bridge.db.database import Database
from bridge.embedded.postgres import PostgresServer
from bridge.runtime.clock import ManualClock
from core.errors import ConfigurationError
from core.secret import Secret
from tests.contract.test_store_contract import WITHOUT_FUNCTIONS
from tests.support.databases import make_database
from tests.support.fault_table import fault
from tests.support.postgrest import SECRET_KEY, PostgrestServer
from tests.support.waiting import eventually

# of the package, unless it is given an HTTP client
pytestmark = pytest.mark.filterwarnings("ignore:The '(timeout|verify)' parameter is deprecated:DeprecationWarning")
FOREIGN = "kv_store_0a1b2c3d"
USER_KEYS = {"alice": "a" * 64, "bob": "b" * 64}
USER_IDS = {name: str(uuid.uuid5(uuid.NAMESPACE_DNS, name)) for name in USER_KEYS}


@pytest.fixture
def project(database_url: str) -> Iterator[PostgrestServer]:
    with PostgrestServer(database_url) as server:
        yield server


@asynccontextmanager
async def opened(
    project: PostgrestServer, key: str = SECRET_KEY, *, clock: ManualClock | None = None, **options: Any
) -> AsyncIterator[SupabaseStore]:
    store = SupabaseStore(project.url, Secret(key), clock=clock or ManualClock(), **options)
    try:
        await store.open()
        yield store
    finally:
        await store.close()


def write(key: str, fence: int, version: int, text: str = "") -> Write:
    return Write(key, fence, version, orjson.dumps({"fence": fence, "version": version, "text": text}))


async def text_of(store: SupabaseStore, key: str) -> str | None:
    [stored] = await store.read([key])
    return json.loads(stored.document)["text"] if stored and stored.document else None


async def execute(url: str, *statements: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()


# ---------------------------------------------------------------- faults of the service (faults.md C14)


def answering(status: int, text: str, content_type: str = "application/json", **headers: str) -> Any:
    async def fault(request: web.Request) -> web.StreamResponse | None:
        return web.Response(status=status, text=text, content_type=content_type, headers=headers)

    return fault


async def hangs(request: web.Request) -> web.StreamResponse | None:
    await asyncio.sleep(30)
    return None


async def cut(request: web.Request) -> web.StreamResponse | None:
    response = web.StreamResponse(headers={"Content-Type": "application/json", "Content-Length": "1000"})
    await response.prepare(request)
    await response.write(b'{"accepted": 2, "refused": [')
    assert request.transport is not None
    request.transport.close()
    return response


HTML = "<!DOCTYPE html><html><body>502 Bad Gateway</body></html>"
FAULTS = {
    "429": answering(429, '{"message": "slow down"}'),
    "500": answering(500, '{"code": "XX000", "message": "internal"}'),
    "502 html": answering(502, HTML, "text/html"),
    "503": answering(503, ""),
    "520": answering(520, HTML, "text/html"),
    "401": answering(401, '{"message": "Invalid API key"}'),
    "403": answering(403, '{"code": "42501", "message": "permission denied"}'),
    "404 html": answering(404, HTML, "text/html"),
    "timeout 57014": answering(500, '{"code": "57014", "message": "canceling statement"}'),
    "hang": hangs,
    "cut": cut,
    "200 html": answering(200, HTML, "text/html"),
    "200 nothing": answering(200, ""),
    "200 cut json": answering(200, '{"accepted": 2, "refu'),
    "200 no rows": answering(200, "[]"),
    "200 null": answering(200, "null"),
    "200 other": answering(200, '{"accepted": 1, "refused": [], "failed": []}'),
    "200 strangers": answering(200, '{"accepted": 1, "refused": [["x", 1, 1]], "failed": []}'),
    "200 twice": answering(200, '{"accepted": 0, "refused": [["a", 1, 1], ["a", 1, 1]], "failed": []}'),
    "200 odd": answering(200, '{"accepted": 0, "refused": [["a", 1], [7]], "failed": [8]}'),
    "204": answering(204, ""),
    "301": answering(301, "", Location="http://127.0.0.1:9/"),
}


@pytest.fixture(scope="module", params=[False, True], ids=["fenced", "plain"])
def lasting(request: pytest.FixtureRequest, postgres: PostgresServer, _migrated: str) -> Iterator[PostgrestServer]:
    """A project for many tests, with the functions and without; what they write lasts."""
    url = asyncio.run(make_database(postgres, template=_migrated))
    if request.param:
        asyncio.run(execute(url, WITHOUT_FUNCTIONS))
    with PostgrestServer(url) as server:
        yield server


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
@fault(
    "C14",
    "22 wrong answers, with the functions and without",
    "every one says unavailable; nothing is repeated; nothing is reported that did not happen",
)
async def test_no_write_is_reported_that_did_not_happen_when_the_service_fails(
    lasting: PostgrestServer, fault: Any, request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    project = lasting
    project.fault = None
    await execute(project.database_url, "truncate public.kv_store_bridge")
    async with opened(project, timeout_s=0.5 if fault is hangs else 3) as store:
        plain = not store.capabilities.fenced
        assert plain == ("plain" in request.node.callspec.id)
        await store.write([write("a", 1, 1, "before")])
        before = len(project.requests)
        project.fault = fault
        with pytest.raises(StoreUnavailable):
            await store.write([write("a", 1, 2, "lost"), write("b", 1, 1, "lost")])
        assert len(project.requests) == before + 1  # nothing is repeated behind our back
        with pytest.raises(StoreUnavailable):
            await store.claim(["a"])
        if not plain:  # plainly, an answer without rows reads as nothing to remove
            with pytest.raises(StoreUnavailable):
                await store.delete(["a"])
        project.fault = None
        assert await text_of(store, "a") == "before"
        assert await store.read(["b"]) == [None]
        assert await store.write([write("a", 1, 2, "after"), write("b", 1, 1, "after")]) == []
        assert store.capabilities.fenced is not plain
    assert SECRET_KEY not in caplog.text


@pytest.mark.parametrize("status", [429, 503])
@fault("C14", "429 and 503 with Retry-After", "nothing is asked before")
async def test_nothing_is_asked_until_the_time_told_has_passed(project: PostgrestServer, status: int) -> None:
    clock = ManualClock()
    async with opened(project, clock=clock) as store:
        project.fault = answering(status, "{}", **{"Retry-After": "7"})
        with pytest.raises(StoreUnavailable) as caught:
            await store.write([write("a", 1, 1)])
        assert caught.value.retry_after_s == 7
        project.fault = None
        asked = len(project.requests)
        clock.advance(6)
        for call in (store.ping(), store.read(["a"]), store.write([write("a", 1, 1)]), store.keys("")):
            with pytest.raises(StoreUnavailable, match="asked to wait"):
                await call
        assert len(project.requests) == asked
        clock.advance(2)
        assert await store.write([write("a", 1, 1)]) == []


@pytest.mark.parametrize("told", ["86400", "-5", "soon", "Wed, 21 Oct 2026 07:28:00 GMT", "nan", "9" * 40])
async def test_a_strange_time_told_never_stops_the_store_for_long(project: PostgrestServer, told: str) -> None:
    clock = ManualClock()
    async with opened(project, clock=clock) as store:
        project.fault = answering(429, "{}", **{"Retry-After": told})
        with pytest.raises(StoreUnavailable):
            await store.ping()
        project.fault = None
        clock.advance(61)
        await store.ping()


# ---------------------------------------------------------------- with the functions and without


async def test_a_store_that_compared_once_never_writes_plainly_when_the_functions_vanish(
    database_url: str, project: PostgrestServer
) -> None:
    async with opened(project) as store:
        await store.write([write("a", 5, 1, "owner")])
        await execute(database_url, WITHOUT_FUNCTIONS)
        for call in (store.write([write("a", 1, 1, "zombie")]), store.claim(["a"]), store.ping()):
            with pytest.raises(StoreUnavailable, match="PGRST202"):
                await call
        assert store.capabilities == StoreCapabilities(fenced=True, exact=False)
        assert await text_of(store, "a") == "owner"


async def test_a_plain_store_says_so_and_compares_as_soon_as_the_functions_are_there(
    project: PostgrestServer, caplog: pytest.LogCaptureFixture
) -> None:
    async def missing(request: web.Request) -> web.StreamResponse | None:
        body = {"code": "PGRST202", "message": "Could not find the function", "details": None, "hint": None}
        return web.json_response(body, status=404) if "/rpc/" in request.path else None

    project.fault = missing
    async with opened(project) as store:
        assert store.capabilities == StoreCapabilities(fenced=False, exact=False)
        [fence] = await store.claim(["a"])
        assert await store.write([write("a", fence, 2, "plain")]) == []
        await store.ping()
        assert not store.capabilities.fenced
        project.fault = None
        await store.ping()
        assert store.capabilities.fenced
        assert await store.write([write("a", fence, 1, "late")]) == [Refusal("a", fence, 2)]
    assert [record.message for record in caplog.records if record.levelno >= logging.WARNING] == [
        "records are written without a compare: one process only"
    ]


@pytest.mark.parametrize("plain", [False, True], ids=["fenced", "plain"])
@fault("C15", "two poisoned rows of 500 through Supabase", "the others are written")
async def test_only_that_row_is_left_out_when_one_row_of_a_batch_cannot_be_stored(
    database_url: str, project: PostgrestServer, plain: bool
) -> None:
    if plain:
        await execute(database_url, WITHOUT_FUNCTIONS)
    keys = [f"ctrader_account_{n:064x}" for n in range(CHUNK)]
    async with opened(project) as store:
        batch = [write(key, 6, 1, "new") for key in keys]
        batch[77] = Write(keys[77], 6, 1, b'{"text": "\\u0000"}')
        batch[78] = Write(keys[78], 6, 1, b"[]")
        assert set(await store.write(batch)) == {Refusal(keys[77], 0, 0), Refusal(keys[78], 0, 0)}
        assert sum(stored is not None for stored in await store.read(keys)) == CHUNK - 2


async def test_a_table_that_the_project_already_has_is_used_when_it_is_named(
    database_url: str, project: PostgrestServer
) -> None:
    await execute(
        database_url,
        f"create table public.{FOREIGN} (key text not null primary key, value jsonb not null)",
        f"grant all on public.{FOREIGN} to service_role",
        f"insert into public.{FOREIGN} values ('ctrader_account_x', '\"rubbish\"')",
    )
    async with opened(project, table=FOREIGN) as store:
        [fence] = await store.claim(["ctrader_account_x"])
        assert await store.write([write("ctrader_account_x", fence, 1, "record")]) == []
        assert await store.write([write("ctrader_account_x", fence - 1, 9, "zombie")]) == [
            Refusal("ctrader_account_x", fence, 1)
        ]
    async with await user(project, "service_role") as client:
        [row] = (await client.table(FOREIGN).select("*").execute()).data
        assert row == {"key": "ctrader_account_x", "value": {"fence": fence, "version": 1, "text": "record"}}


# ---------------------------------------------------------------- at start


@pytest.mark.parametrize(
    ("key", "says"),
    [
        (lambda project: "sb_secret_of_somebody_else", "refuses the key"),
        (lambda project: project.token("service_role", expires_in_s=-9), "refuses the key"),
        (lambda project: project.token("service_role", secret="x" * 40), "refuses the key"),
        (lambda project: project.anon_key, "refuses the key"),
        (lambda project: project.token("authenticated", "someone"), "refuses the key"),
    ],
)
async def test_the_start_stops_with_one_line_when_the_key_is_not_the_secret_one(
    project: PostgrestServer, key: Callable[[PostgrestServer], str], says: str
) -> None:
    with pytest.raises(ConfigurationError, match=says) as caught:
        async with opened(project, key(project)):
            pass
    assert "\n" not in str(caught.value)
    assert key(project) not in str(caught.value)


@pytest.mark.parametrize("plain", [False, True], ids=["fenced", "plain"])
async def test_the_start_stops_when_the_table_is_not_there(
    database_url: str, project: PostgrestServer, plain: bool
) -> None:
    if plain:
        await execute(database_url, WITHOUT_FUNCTIONS)
    with pytest.raises(ConfigurationError, match=f"no table {FOREIGN}"):
        async with opened(project, table=FOREIGN):
            pass


def test_a_name_or_url_that_can_never_work_is_refused() -> None:
    for name in ("users", "kv_store_", "kv_store_a?x=1", "kv_store_A", "../rpc/x"):
        with pytest.raises(ConfigurationError, match="SUPABASE_KV_TABLE"):
            SupabaseStore("https://x.supabase.co", Secret(SECRET_KEY), clock=ManualClock(), table=name)
    with pytest.raises(ConfigurationError, match="SUPABASE_URL"):
        SupabaseStore("ftp://x", Secret(SECRET_KEY), clock=ManualClock())


async def test_a_project_that_is_away_at_start_is_used_when_it_comes(database_url: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        store = SupabaseStore(f"http://127.0.0.1:{port}", Secret(SECRET_KEY), clock=ManualClock())
        await store.open()
        with pytest.raises(StoreUnavailable, match="ConnectError"):
            await store.claim(["a"])
    with PostgrestServer(database_url, port=port):
        [fence] = await store.claim(["a"])
        assert await store.write([write("a", fence, 1, "there")]) == []
        assert await text_of(store, "a") == "there"
        await store.close()


# ---------------------------------------------------------------- users of the project


@asynccontextmanager
async def client_of(project: PostgrestServer, key: str, token: str | None) -> AsyncIterator[AsyncClient]:
    options = AsyncClientOptions(auto_refresh_token=False, persist_session=False)
    client = await create_async_client(project.url, key, options)
    if token is not None:
        client.postgrest.auth(token)
    try:
        yield client
    finally:
        await client.postgrest.aclose()
        await client.auth.close()


async def user(project: PostgrestServer, name: str) -> Any:
    """A client as the app makes it: with the anonymous key, signed in or not; or the app's own server side."""
    if name == "service_role":
        return client_of(project, SECRET_KEY, None)
    token = project.token("authenticated", USER_IDS[name]) if name in USER_IDS else None
    return client_of(project, project.anon_key, token)


@pytest.fixture
async def records(database_url: str) -> AsyncIterator[PostgresStore]:
    """Alice and Bob each have a record of their default account, and Alice one more."""
    users = ", ".join(f"('{USER_KEYS[name]}', '{USER_IDS[name]}')" for name in USER_KEYS)
    await execute(database_url, f"insert into public.bridge_users (user_key, user_id) values {users}")
    store = PostgresStore(Database(Secret(database_url), size=2))
    await store.open()
    await store.write(
        [write(f"ctrader_account_{key}", 1, 1, name) for name, key in USER_KEYS.items()]
        + [write(f"ctrader_account_{USER_KEYS['alice']}_77", 1, 1, "alice's second"), write("other", 1, 1, "no user's")]
    )
    yield store
    await store.close()


async def my_account(project: PostgrestServer, name: str, broker: str = "ctrader") -> Any:
    async with await user(project, name) as client:
        return (await client.rpc("my_account", {"broker": broker}).execute()).data


async def refused(request: Awaitable[Any]) -> str | None:
    with pytest.raises(APIError) as caught:
        await request
    return caught.value.code


async def test_users_get_their_own_record_by_rpc(project: PostgrestServer, records: PostgresStore) -> None:
    for name in USER_KEYS:
        assert (await my_account(project, name))["text"] == name
        assert await my_account(project, name, "alpaca") is None
        stranger = f"ctrader_account_{USER_KEYS['bob' if name == 'alice' else 'alice']}"
        assert await my_account(project, name, stranger) is None
    async with await user(project, "nobody") as client:
        assert await refused(client.rpc("my_account", {"broker": "ctrader"}).execute()) == "42501"


async def test_users_get_their_own_record_by_rpc_when_records_are_in_a_key_value_table(
    project: PostgrestServer, records: PostgresStore
) -> None:
    async with opened(project) as store:
        await store.claim([f"ctrader_account_{USER_KEYS['bob']}"])
        await store.write([write(f"ctrader_account_{USER_KEYS['alice']}", 2, 1, "from the table")])
        assert (await my_account(project, "alice"))["text"] == "from the table"
        assert await my_account(project, "bob") is None  # claimed only


async def test_a_user_without_any_record_gets_none(project: PostgrestServer, records: PostgresStore) -> None:
    async with client_of(project, project.anon_key, project.token("authenticated", "a stranger")) as client:
        assert (await client.rpc("my_account", {"broker": "ctrader"}).execute()).data is None
        assert (await client.table("account_cache").select("key").execute()).data == []


async def test_users_see_their_own_rows_only(project: PostgrestServer, records: PostgresStore) -> None:
    async with await user(project, "alice") as client:
        rows = (await client.table("account_cache").select("key,user_key,document").order("key").execute()).data
        assert [row["document"]["text"] for row in rows] == ["alice", "alice's second"]
        theirs = client.table("account_cache").select("key").eq("user_key", USER_KEYS["bob"])
        assert (await theirs.execute()).data == []
        assert len((await client.table("account_cache").select("*").execute()).data) == 2
    async with await user(project, "service_role") as client:
        assert len((await client.table("account_cache").select("key").execute()).data) == 4
    async with await user(project, "nobody") as client:
        assert await refused(client.table("account_cache").select("key").execute()) == "42501"


@pytest.mark.parametrize("name", ["alice", "nobody"])
async def test_users_write_nothing_and_call_nothing_else(
    database_url: str, project: PostgrestServer, records: PostgresStore, name: str
) -> None:
    own = f"ctrader_account_{USER_KEYS['alice']}"
    row = {"key": own, "fence": 9, "version": 9, "document": {}}
    batch = {"p_keys": [own], "p_fences": [9], "p_versions": [9], "p_documents": ["{}"]}
    async with await user(project, name) as client:
        table = client.table("account_cache")
        store = client.table("kv_store_bridge")
        for request in (
            table.insert(row),
            table.upsert(row, on_conflict="key"),
            table.update({"document": {}}).eq("key", own),
            table.delete().eq("key", own),
            store.select("*"),
            store.insert({"key": "x", "value": {}}),
            client.table("bridge_users").select("*"),
            client.table("bridge_cache_fences").select("*"),
            client.table("bridge_cache_life").select("*"),
            client.rpc("bridge_cache_write", batch),
            client.rpc("bridge_cache_claim", {"p_keys": [own], "p_at_least": 0}),
            client.rpc("bridge_kv_write", {"p_table": "kv_store_bridge", **batch}),
            client.rpc("bridge_kv_claim", {"p_table": "kv_store_bridge", "p_keys": [own], "p_at_least": 0}),
            client.rpc("bridge_kv_remove", {"p_table": "kv_store_bridge", "p_keys": [own]}),
            client.rpc("bridge_kv_table", {"p_table": "kv_store_bridge"}),
            client.rpc("bridge_cache_open", {"p_table": "kv_store_bridge"}),
            client.rpc("bridge_cache_ping", {"p_table": "account_cache"}),
            client.rpc("bridge_cache_generation", {"p_table": "account_cache"}),
        ):
            assert await refused(request.execute()) == "42501"
    assert (await records.read([own]))[0] is not None
    [stored] = await records.read([own])
    assert stored is not None
    assert (stored.fence, json.loads(stored.document)["text"]) == (1, "alice")


async def test_forged_and_expired_tokens_are_nobody(project: PostgrestServer, records: PostgresStore) -> None:
    for token, code in (
        (project.token("authenticated", USER_IDS["alice"], secret="x" * 40), "PGRST301"),
        (project.token("authenticated", USER_IDS["alice"], expires_in_s=-5), "PGRST303"),
    ):
        async with client_of(project, project.anon_key, token) as client:
            assert await refused(client.rpc("my_account", {"broker": "ctrader"}).execute()) == code


async def test_a_write_that_is_cancelled_leaves_the_next_answer_to_its_asker(project: PostgrestServer) -> None:
    async with opened(project, timeout_s=10.0) as store:
        await store.write([write("a", 1, 1, "a"), write("b", 1, 1, "b")])
        for n in range(40):
            waiting = [asyncio.ensure_future(store.read([key])) for key in ("a", "b") for _ in range(3)]
            asked = len(project.requests)
            await eventually(lambda asked=asked: len(project.requests) > asked, within_s=5)  # type: ignore[misc]
            waiting[n % 6].cancel()
            for key, answer in zip("aaabbb", await asyncio.gather(*waiting, return_exceptions=True), strict=True):
                if not isinstance(answer, BaseException):
                    assert [stored.key for stored in answer if stored] == [key]
        assert await text_of(store, "a") == "a"
