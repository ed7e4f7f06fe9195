"""The three ways in which the adapters reach a broker, behind one question: was it reached, and if not, why.

`REACHED` is a server that hears a request and turns it away, in plain HTTP: enough for what happens before that.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from bridge.brokers.alpaca.broker import AlpacaBroker
from bridge.brokers.alpaca.settings import AlpacaSettings
from bridge.brokers.base import BrokerFault, Environment
from bridge.brokers.ctrader.pool import Pool
from bridge.brokers.ctrader.settings import CtraderSettings
from bridge.brokers.stats import Stats
from bridge.runtime.clock import Clock, SystemClock
from bridge.runtime.tasks import Tasks
from core.secret import Secret
from tests.support.hostile_alpaca import answer, keys, open_stream, send

CONNECT_S = 1.0
APPLICATION_SECRET = "canary-ctrader-application-secret-0123456789"
Open = Callable[[], Awaitable[BrokerFault]]


async def turned_away(head: bytes, writer: asyncio.StreamWriter) -> None:
    """What the server behind a door says (`Tcp`)."""
    await send(writer, answer(b"no", status="503 Service Unavailable"))


@asynccontextmanager
async def ctrader_channel(
    host: str, port: int, *, tls: bool, clock: Clock | None = None, **changes: Any
) -> AsyncIterator[Open]:
    tasks = Tasks("door")
    settings = CtraderSettings(
        client_id="canary-app",
        client_secret=Secret(APPLICATION_SECRET),
        demo_url=f"{'wss' if tls else 'ws'}://{host}:{port}",
        **{"connect_timeout_s": CONNECT_S, "backoff_first_s": 0.0, **changes},
    )
    pool = Pool(Environment.DEMO, settings, clock or SystemClock(), random.Random(3), tasks, Stats())
    channel = pool.assign()
    try:
        yield lambda: _fault_of(channel.ready())
    finally:
        await pool.close()
        await tasks.close()
    assert tasks.crashes == 0


@asynccontextmanager
async def alpaca(host: str, port: int, *, tls: bool, **changes: Any) -> AsyncIterator[AlpacaBroker]:
    tasks = Tasks("door")
    settings = AlpacaSettings(
        paper_url=f"{'https' if tls else 'http'}://{host}:{port}",
        data_url=f"{'wss' if tls else 'ws'}://{host}:{port}",
        **{"connect_timeout_s": CONNECT_S, "request_timeout_s": 2 * CONNECT_S, **changes},
    )
    broker = AlpacaBroker(settings, SystemClock(), random.Random(3), tasks)
    try:
        yield broker
    finally:
        await broker.close()
        await tasks.close()
    assert tasks.crashes == 0


@asynccontextmanager
async def alpaca_stream(host: str, port: int, **how: Any) -> AsyncIterator[Open]:
    async with alpaca(host, port, **how) as broker:
        yield lambda: _fault_of(open_stream(broker))


@asynccontextmanager
async def alpaca_rest(host: str, port: int, **how: Any) -> AsyncIterator[Open]:
    async with alpaca(host, port, **how) as broker:
        yield lambda: _fault_of(broker.accounts(keys(broker)))


DOORS = {"ctrader": ctrader_channel, "alpaca-stream": alpaca_stream, "alpaca-rest": alpaca_rest}


async def _fault_of(asked: Awaitable[object]) -> BrokerFault:
    try:
        await asked
    except BrokerFault as fault:
        return fault
    raise AssertionError("whoever is turned away is told so")
