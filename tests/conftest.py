"""Fixtures that every test may ask for: real stores and the official client."""

from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.support.official_client import official_client_python as make_official_client
from tests.support.valkey import ValkeyServer

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
def official_client_python() -> Path:
    """Interpreter that can import the broker's own client, and nothing of ours."""
    return make_official_client()
