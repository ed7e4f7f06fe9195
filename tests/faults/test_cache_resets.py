"""Redis connections that were reset while they were idle, on the event loop of production.

There the library raises what it does not name, and hands such connections out: a failover would end the process.
"""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

import pytest
import uvloop

from bridge.api import limits
from bridge.api.limits import SHARED_AGAIN_S, RateLimiter
from bridge.cache.stores.redis import RedisStore
from bridge.cache.tiers.redis import RedisTier
from bridge.embedded.valkey import ValkeyServer
from bridge.runtime.clock import ManualClock
from core.secret import Secret
from tests.support.fault_proxy import FaultProxy, fault_proxy
from tests.support.fault_table import fault

Made = tuple[Any, Callable[[], Awaitable[object]]]


def store(url: Secret) -> Made:
    made = RedisStore(url)
    return made, made.ping


def tier(url: Secret) -> Made:
    made = RedisTier(url)
    return made, lambda: made.get("a")


def limiter(url: Secret) -> Made:
    clock = ManualClock()
    made = RateLimiter(clock, shared=url)

    async def allows() -> None:
        clock.advance(SHARED_AGAIN_S + 1)  # so that Redis is asked in any case
        assert await made.allows("ip", "a", 10**6)

    return made, allows


@contextmanager
def line_to(port: int) -> Iterator[tuple[int, Callable[[], int]]]:
    """A proxy on a loop of its own: what is tested has the other one. Its port, and what cuts everything."""
    ready: Future[tuple[FaultProxy, asyncio.AbstractEventLoop, asyncio.Event]] = Future()

    async def run() -> None:
        async with fault_proxy(port) as line:
            done = asyncio.Event()
            ready.set_result((line, asyncio.get_running_loop(), done))
            await done.wait()

    thread = threading.Thread(target=lambda: asyncio.run(run()), name="proxy")
    thread.start()
    line, loop, done = ready.result(10)

    async def cut() -> int:
        return line.cut()

    try:
        yield line.port, lambda: asyncio.run_coroutine_threadsafe(cut(), loop).result(10)
    finally:
        loop.call_soon_threadsafe(done.set)
        thread.join(10)


@pytest.mark.parametrize("make", [store, tier, limiter])
@fault("C01", "idle connections reset, on uvloop", "the next call is answered")
def test_an_idle_connection_that_was_reset_costs_nobody_an_error(
    valkey: ValkeyServer, make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "SHARED_WITHIN_S", 10.0)  # the machine may be busy

    async def run(port: int, cut: Callable[[], int]) -> None:
        made, call = make(Secret(f"redis://127.0.0.1:{port}/0"))
        cuts = 0
        for _ in range(6):
            await call()
            cuts += await asyncio.to_thread(cut) > 0
            await asyncio.sleep(0.05)  # until our own end has heard of it
        await call()
        assert cuts >= 3  # the limiter leaves Redis alone for one call after each
        await made.close()

    with line_to(valkey.port) as line, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run(*line))
