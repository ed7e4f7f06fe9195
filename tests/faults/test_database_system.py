"""The whole system while its Postgres is in trouble: sessions go on, and what was accepted is stored afterwards.

One world for all cases: real processes; every connection of the bridge goes through a pooler in transaction mode, and
an independent reader looks at every record in Valkey and in Postgres.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest
import pytest_asyncio

from bridge.embedded.postgres import PostgresServer
from bridge.embedded.surroundings import free_port
from tests.support.databases import make_database
from tests.support.fault_table import fault
from tests.support.processes import bridge_process
from tests.support.store_scene import StoreScene, run_store_case, store_scene
from tests.support.waiting import eventually
from tests.support.world import APP_KEY

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(120)]
CALLERS = 30  # more than there are connections


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """One server for this module; it is itself again after every case."""
    with PostgresServer() as started:
        yield started


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def scene(tmp_path_factory: pytest.TempPathFactory, server: PostgresServer) -> AsyncIterator[StoreScene]:
    async with store_scene(tmp_path_factory.mktemp("database"), server) as made:
        yield made


async def all_live(scene: StoreScene) -> None:
    assert (await scene.health())["sessions"] == {"live": len(scene.users)}


async def start(scene: StoreScene, user: str, *, stop: bool = False) -> Any:
    """A start or a stop through the API."""
    path = f"/api/{'stop' if stop else 'start'}-session"
    body = {"userId": user, "broker": "ctrader"}
    return await scene.world.api("POST", path, key=APP_KEY, body=body)


@asynccontextmanager
async def held(scene: StoreScene, statement: str, *arguments: object) -> AsyncIterator[None]:
    """Somebody holds what the statement locks."""
    connection = await asyncpg.connect(scene.database_url)
    try:
        async with connection.transaction():
            await connection.fetch(statement, *arguments)
            yield
    finally:
        await connection.close()


async def cut_all(scene: StoreScene) -> None:
    """57P01 for every session of the bridge."""
    await scene.sql(
        "select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database()"
        " and pid <> pg_backend_pid()"
    )


# ------------------------------------------------------------ away


async def restarted(scene: StoreScene) -> None:
    """Immediately, under trading; a start meanwhile is stored or refused."""
    assert scene.postgres is not None
    trading = asyncio.create_task(scene.trade())
    await asyncio.to_thread(scene.postgres.kill)
    refused = await start(scene, scene.VICTIM)
    assert refused["_status"] in (202, 503), refused
    await all_live(scene)
    await asyncio.to_thread(scene.postgres.start)
    await trading


async def ended_sessions(scene: StoreScene) -> None:
    for _ in range(5):
        await cut_all(scene)
        await scene.trade()
    await all_live(scene)


async def read_only(scene: StoreScene) -> None:
    """As on a standby: whatever is written is refused with 25006."""
    (row,) = await scene.sql("select current_database() as name")
    await scene.sql(f'alter database "{row["name"]}" set default_transaction_read_only = on')
    await cut_all(scene)
    try:
        await scene.trade()
        await scene.store_is("down", "postgres")
        await all_live(scene)
        await scene.equal(within_s=8)  # the copy goes on
        assert (await start(scene, scene.VICTIM))["_status"] == 503
    finally:
        connection = await asyncpg.connect(scene.database_url, server_settings={"default_transaction_read_only": "off"})
        await connection.execute(f'alter database "{row["name"]}" reset default_transaction_read_only')
        await connection.close()
        await cut_all(scene)


# ------------------------------------------------------------ busy


async def exhausted(scene: StoreScene) -> None:
    """Callers hold every connection they may have; records are written all the same."""
    row = "select 1 from public.bridge_sessions where account_id = $1 for update"
    async with held(scene, row, scene.world.accounts[scene.VICTIM]):
        calls = [asyncio.create_task(start(scene, scene.VICTIM)) for _ in range(CALLERS)]
        await scene.trade()
        await scene.primary_equal()
        answers = await asyncio.gather(*calls)
        assert {answer["_status"] for answer in answers} == {503}, answers
        assert all(answer["type"].endswith(":unavailable") for answer in answers)
        await all_live(scene)


async def blocked_records(scene: StoreScene) -> None:
    """A flush runs into its deadline; the copy gets what changes."""
    async with held(scene, "lock table public.account_cache in access exclusive mode"):
        await scene.trade()
        await scene.store_is("down", "postgres")
        await scene.equal(within_s=8)
        await all_live(scene)


# ------------------------------------------------------------ a pooler


async def pooled(scene: StoreScene) -> None:
    """Everything that uses the database at least once; no session of the pool keeps anything of it."""
    assert scene.pool is not None
    user = scene.users[-1]
    assert (await start(scene, user, stop=True))["_status"] == 202
    await scene.trade()
    assert (await start(scene, user))["_status"] == 202
    await scene.world.all_live(within_s=15)
    for path in ("/api/sessions", "/api/fleet"):
        assert (await scene.world.api("GET", path))["_status"] == 200
    assert len(scene.pool.backends) > 1
    assert scene.pool.leaks == []


# ------------------------------------------------------------ odd contents


async def poisoned(scene: StoreScene) -> None:
    """A check that one user's next record cannot pass."""
    key = scene.key()
    held = (await scene.sql("select version from public.account_cache where key = $1", key))[0]["version"]
    await scene.sql(
        f"alter table public.account_cache add constraint poison check (key <> '{key}' or version <= {held}) not valid"
    )
    await scene.trade()

    async def others() -> bool:
        assert (await scene.health())["stores"]["postgres"]["state"] == "up"
        return await scene.metric("bridge_unstorable_records_total") > 0

    await eventually(others, within_s=8, every_s=0.2, what="that record is left out")
    now = await scene.sql("select key, version from public.account_cache")
    assert {row["key"]: row["version"] for row in now}[key] <= held
    await scene.equal(*scene.bystanders, within_s=8)


async def cured(scene: StoreScene) -> None:
    await scene.sql("alter table public.account_cache drop constraint if exists poison")
    await scene.trade()  # what could not be stored is not tried again: the next record is


async def garbage(scene: StoreScene) -> None:
    """Somebody overwrites documents; readers get an answer, and the next record stands there."""
    for document in ('"text"', "[1, 2]", "{}"):
        await scene.sql("update public.account_cache set document = $1::json where key = $2", document, scene.key())
        answer = await scene.world.api("GET", "/account", key=APP_KEY, user=scene.VICTIM)
        assert answer["_status"] in (200, 404), answer
        await scene.trade()
        await scene.primary_equal()


# ------------------------------------------------------------ a second deployment


async def other_deployment(scene: StoreScene) -> None:
    """Another database with the same Redis: it does not start, and nothing of ours is touched."""
    assert scene.postgres is not None
    other = await make_database(scene.postgres)
    env = {**scene.world.env, "DATABASE_URL": other, "PORT": str(free_port())}
    with scene.watcher.untouched(*scene.users):
        async with bridge_process("serve", env=env) as second:
            assert await second.ended(within_s=40) == 2
            assert [line for line in second.stderr if line.startswith("configuration: ")] == second.stderr
            assert "REDIS_URL: " in second.stderr[0]
            assert "another deployment" in second.stderr[0]


Step = Callable[[StoreScene], Awaitable[None]]
AFTER = "every record in both stores true within 8 s"
CASES: list[tuple[str, str, Step, Step | None, str]] = [
    (
        "C09",
        "immediate restart under trading",
        restarted,
        None,
        "a start stored or refused, sessions stay live, " + AFTER,
    ),
    ("C10", "30 callers that wait for one row", exhausted, None, "each told 503, records written meanwhile"),
    ("C11", "every transaction refused with 25006", read_only, None, "the copy goes on, a start is told 503, " + AFTER),
    ("C12", "every statement through a pooler", pooled, None, "start, stop, lists, records work; nothing is kept"),
    ("C13", "57P01 for all connections, five times", ended_sessions, None, "sessions stay live, " + AFTER),
    ("C13", "55P03 and 57014: the table of records locked", blocked_records, None, "the copy goes on, " + AFTER),
    (
        "C15",
        "a check that one record cannot pass",
        poisoned,
        cured,
        "the others are written; its next record when it can be",
    ),
    ("C16", "documents overwritten by somebody", garbage, None, "readers answered, overwritten"),
    ("C18", "a process with another database", other_deployment, None, "exit 2 with one line, nothing of ours changed"),
]


@pytest.mark.parametrize(
    ("hurt", "heal"),
    [
        pytest.param(hurt, heal, id=f"{fault_id}-{how}", marks=fault(fault_id, f"whole system: {how}", held))
        for fault_id, how, hurt, heal, held in CASES
    ],
)
async def test_sessions_go_on_and_records_are_true_when_postgres_is_in_trouble(
    scene: StoreScene, hurt: Step, heal: Step | None
) -> None:
    await run_store_case(scene, hurt, heal)
