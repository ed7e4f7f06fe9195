"""Fixtures that every test may ask for: real stores and the official clients."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import settings

from bridge.db.database import Database
from bridge.embedded.postgres import PostgresServer
from bridge.embedded.valkey import ValkeyServer
from bridge.telemetry.logs import OURS, JsonFormatter
from core.secret import Secret
from tests.negative_controls.applying import apply_breakage
from tests.support.canaries import assert_clean, stored_in_postgres
from tests.support.databases import drop_database, make_database, migrate_database
from tests.support.official_client import Node
from tests.support.official_client import alpaca_node as make_alpaca_node
from tests.support.official_client import alpaca_py_python as make_alpaca_py
from tests.support.official_client import official_client_python as make_official_client
from tests.support.transport_choice import use_transport

pytest_plugins = ["tests.support.fault_table"]

apply_breakage()  # before anything is made; nothing, unless a negative control runs

use_transport()  # of BRIDGE_TRANSPORT, when a run is to be made with another one

# the machine may be busy: no example is judged by the clock
settings.register_profile("bridge", deadline=None)
settings.load_profile("bridge")


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    """Keep looptime off synchronous tests: it would ask for their event loop, and so make one that nobody closes."""
    if pyfuncitem.get_closest_marker("asyncio") is None:
        pyfuncitem.funcargs.pop("event_loop_policy", None)
    return (yield)


class _Lines(logging.Handler):
    """What our code hands to the log, before anything is cut from it."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.setFormatter(JsonFormatter())
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


@pytest.fixture(autouse=True)
def _no_secret_is_handed_to_the_log() -> Iterator[None]:
    """The filter of the log is the last net: our own code, run here in the test's process, may not need it."""
    handler = _Lines()
    loggers = [logging.getLogger(name) for name in OURS]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(logging.DEBUG)
    yield
    for logger, level in zip(loggers, levels, strict=True):
        logger.removeHandler(handler)
        logger.setLevel(level)
    assert_clean("\n".join(handler.lines), "what was handed to the log")


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
    with ExitStack() as stack:
        yield lambda: stack.enter_context(ValkeyServer())


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
def empty_database_url(postgres: PostgresServer) -> Iterator[str]:
    """URL of a new database without any table."""
    url = asyncio.run(make_database(postgres))
    yield url
    asyncio.run(drop_database(postgres, url))


@pytest.fixture
def database_url(postgres: PostgresServer, _migrated: str) -> Iterator[str]:
    """URL of a new database with every migration applied, as its owner. No secret may be in it afterwards."""
    url = asyncio.run(make_database(postgres, template=_migrated))
    yield url
    try:
        assert_clean(asyncio.run(stored_in_postgres(url)), "the database")
    finally:
        asyncio.run(drop_database(postgres, url))


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
    with ExitStack() as stack:
        yield lambda: stack.enter_context(PostgresServer())


@pytest.fixture(scope="session")
def official_client_python() -> Path:
    """Interpreter that can import the broker's own client, and nothing of ours."""
    return make_official_client()


@pytest.fixture(scope="session")
def alpaca_py_python() -> Path:
    """Interpreter that can import `alpaca-py`, and nothing of ours."""
    return make_alpaca_py()


@pytest.fixture(scope="session")
def alpaca_node() -> Node:
    """Node, with the packages of Alpaca's npm client."""
    return make_alpaca_node()
