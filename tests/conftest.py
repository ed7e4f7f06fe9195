"""Fixtures that every test may ask for: real stores and the official client."""

import asyncio
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from bridge.db.database import Database
from bridge.embedded.postgres import PostgresServer
from bridge.embedded.valkey import ValkeyServer
from core.secret import Secret
from tests.support.databases import make_database, migrate_database
from tests.support.official_client import official_client_python as make_official_client

# the machine may be busy: no example is judged by the clock
settings.register_profile("bridge", deadline=None)
settings.load_profile("bridge")


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    """Keep looptime off synchronous tests: it would ask for their event loop, and so make one that nobody closes."""
    if pyfuncitem.get_closest_marker("asyncio") is None:
        pyfuncitem.funcargs.pop("event_loop_policy", None)
    return (yield)


@pytest.fixture(scope="session")
def valkey() -> Iterator[ValkeyServer]:
    """One server for all tests of this worker. Ask for `redis_url` to have it empty; never stop or pause this one."""
    with ValkeyServer() as server:
        yield server


@pytest.fixture
def redis_url(valkey: ValkeyServer) -> str:
    """URL of an empty Valkey."""
    assert valkey.command("FLUSHALL") == b"+OK"
    return valkey.url


@pytest.fixture
def valkey_factory() -> Iterator[Callable[[], ValkeyServer]]:
    """Starts servers of the test's own, to be killed, restarted or paused; all are stopped when the test ends."""
    servers: list[ValkeyServer] = []

    def start() -> ValkeyServer:
        server = ValkeyServer()
        servers.append(server)
        server.start()
        return server

    yield start
    for server in servers:
        server.stop()


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """One server for all tests of this worker. Ask for `database_url`; never stop or pause this one."""
    with PostgresServer() as server:
        yield server


@pytest.fixture(scope="session")
def _migrated(postgres: PostgresServer) -> str:
    """Name of a migrated database that nobody is connected to: what the others are copies of."""
    asyncio.run(make_database(postgres, "migrated"))
    asyncio.run(migrate_database(postgres.url("migrated")))
    return "migrated"


@pytest.fixture
def empty_database_url(postgres: PostgresServer) -> str:
    """URL of a new database without any table."""
    return asyncio.run(make_database(postgres))


@pytest.fixture
def database_url(postgres: PostgresServer, _migrated: str) -> str:
    """URL of a new database with every migration applied, as its owner."""
    return asyncio.run(make_database(postgres, template=_migrated))


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """An open `Database` on a migrated database of the test's own."""
    opened = Database(Secret(database_url))
    await opened.open()
    yield opened
    await opened.close()


@pytest.fixture
def postgres_factory() -> Iterator[Callable[[], PostgresServer]]:
    """Starts servers of the test's own, to be killed, restarted or paused; all are stopped when the test ends."""
    servers: list[PostgresServer] = []

    def start() -> PostgresServer:
        server = PostgresServer()
        servers.append(server)
        server.start()
        return server

    yield start
    for server in servers:
        server.stop()


@pytest.fixture(scope="session")
def official_client_python() -> Path:
    """Interpreter that can import the broker's own client, and nothing of ours."""
    return make_official_client()
