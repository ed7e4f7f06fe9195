"""A process with a vault and the real adapter that dies at a chosen point of a renewal, and one that comes after it.

    python -m tests.support.refresh_program crash POINT WAY     stores user-1's tokens, renews them, dies by SIGKILL
    python -m tests.support.refresh_program resume WAY          serves user-1 as a bridge does; prints how it ended
                                                                (DIE_AT=POINT: dies there)
    python -m tests.support.refresh_program store               stores user-1's tokens
    python -m tests.support.refresh_program race MOMENT WAY     renews at that monotonic moment; prints the new token

WAY: `in_band` (over the open channel) or `http`. All the tripping is done from out here: the code that is judged knows
no crash points.
"""

import asyncio
import json
import os
import random
import signal
import sys
import time
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, NoReturn

import asyncpg

from bridge.brokers.base import BrokerFault, Credential, Environment, FaultKind, IssuedTokens
from bridge.brokers.ctrader.broker import CtraderBroker
from bridge.brokers.ctrader.settings import CtraderSettings
from bridge.credentials.vault_source import VaultCredentials
from bridge.db.connection import LimitedConnection
from bridge.db.database import Database
from bridge.runtime.clock import SystemClock
from bridge.sessions.service import SessionService
from bridge.sessions.standing import Standing
from core.secret import Secret
from core.user_key import UserKeyScheme
from tests.support.fake_broker import FakeRecorder
from tests.support.vaults import QUICK, vault_of

USER, BROKER = "user-1", "ctrader"
ENTRY = {"accessToken": "sim-access-1", "refreshToken": "sim-refresh-1", "environment": "demo"}
SETTLED = ("live", "action_required")
ADMIN = f"http://127.0.0.1:{os.environ['SIM_ADMIN']}/sim"


def die() -> NoReturn:
    """The end, without a word to anybody."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("still alive")


def simulator(method: str, path: str, body: object = None) -> Any:
    """Ask the simulator. Blocks this process's loop on purpose: nothing arrives meanwhile."""
    data = None if body is None else json.dumps(body).encode()
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{ADMIN}{path}", data=data, method=method, headers=headers)
    with urllib.request.urlopen(request, timeout=5) as answer:
        return json.loads(answer.read() or b"null")


@asynccontextmanager
async def parts() -> AsyncIterator[tuple[CtraderBroker, VaultCredentials]]:
    clock, rng = SystemClock(), random.Random(os.getpid())
    demo = f"ws://127.0.0.1:{os.environ['SIM_DEMO']}"
    token_url = f"http://127.0.0.1:{os.environ['SIM_ADMIN']}/apps/token"
    settings = CtraderSettings("sim-client", Secret("sim-secret"), demo_url=demo, live_url=demo, token_url=token_url)
    broker = CtraderBroker(settings, clock, rng)
    database = Database(Secret(os.environ["DATABASE_URL"]))
    await database.open()
    vault = VaultCredentials(
        database,
        vault_of(),
        brokers={BROKER: broker},
        user_keys=UserKeyScheme(),
        clock=clock,
        rng=rng,
        owner=f"process {os.getpid()}",
        times=QUICK,
    )
    try:
        yield broker, vault
    finally:
        await vault.close()
        await broker.close()
        await database.close()


async def known(broker: CtraderBroker, vault: VaultCredentials, way: str) -> Credential:
    """The stored credential. With `in_band` the channel is open afterwards, however the token is liked there."""
    credential = await vault.get(USER, BROKER)
    assert credential is not None
    if way == "in_band":
        try:
            await broker.accounts(credential)
        except BrokerFault as fault:
            if fault.kind is not FaultKind.TOKEN:
                raise
    return credential


# ---------------------------------------------------------------- crash


def tripping(point: str, way: str, refresh: Callable[[Credential], Awaitable[IssuedTokens]]) -> Any:
    """The adapter's refresh with a trip wire at `point`."""

    async def tripped(credential: Credential) -> IssuedTokens:
        if point == "leased":
            die()
        if point == "sent":
            if way == "in_band":
                simulator("POST", "/faults", {"id": "N04"})  # carried out, but no answer comes
            asking = asyncio.ensure_future(refresh(credential))
            while not asking.done() and not simulator("GET", "/counters")["refreshes"]:
                await asyncio.sleep(0)
            die()
        issued = await refresh(credential)
        if point == "answered":
            die()
        if point in ("commit-unsent", "commit-sent"):
            trip_commit(sent=point == "commit-sent")
        return issued

    return tripped


def trip_commit(*, sent: bool) -> None:
    """Die at the next commit: before it leaves, or when it has left and no answer has come."""

    async def execute(self: LimitedConnection, query: str, *arguments: Any, **more: Any) -> str:
        if query == "commit":
            if sent:
                committing = asyncio.ensure_future(asyncpg.Connection.execute(self, query, timeout=5.0))
                for _ in range(3):
                    await asyncio.sleep(0)  # written to the socket, which outlives us
                assert not committing.done()
            die()
        return await asyncpg.Connection.execute(self, query, *arguments, **more)

    LimitedConnection.execute = execute  # type: ignore[method-assign,assignment]


async def crash(point: str, way: str) -> None:
    async with parts() as (broker, vault):
        await vault.put_entered(USER, BROKER, ENTRY)
        simulator("POST", "/users/1/expire")
        credential = await known(broker, vault, way)
        await vault.refresh(USER, BROKER, credential, tripping(point, way, broker.refresh))
        if point == "committed":
            die()
    raise AssertionError(f"{point} was never reached")


# ---------------------------------------------------------------- resume, race


async def resume(way: str) -> None:
    async with parts() as (broker, vault):
        await known(broker, vault, way)
        if point := os.environ.get("DIE_AT"):
            broker.refresh = tripping(point, way, broker.refresh)  # type: ignore[method-assign]
        service = SessionService(
            brokers={BROKER: broker},
            credentials=vault,
            recorder=FakeRecorder(),
            user_keys=UserKeyScheme(),
            clock=SystemClock(),
            rng=random.Random(1),
            standing=Standing("resumed", SystemClock()),
        )
        await service.start_up()
        ends = []
        for _ in range(3):  # a user who tries again must not start a loop either
            view = await service.start(user_id=USER, broker=BROKER, account_id=None, environment=Environment.DEMO)
            async with asyncio.timeout(30):
                while view.status not in SETTLED:
                    view = await service.wait(view, 10.0)
            ends.append([view.status, None if view.reason is None else view.reason.code.value])
        await asyncio.sleep(1.0)  # a loop would show now
        counters = simulator("GET", "/counters")
        attempts = {name: counters[name] for name in ("refreshes", "refreshFailures", "authAttempts")}
        print(json.dumps({"ends": ends, **attempts}), flush=True)
        await service.close()


async def store() -> None:
    async with parts() as (_, vault):
        await vault.put_entered(USER, BROKER, ENTRY)


async def race(moment: float, way: str) -> None:
    async with parts() as (broker, vault):
        credential = await known(broker, vault, way)
        print("ready", flush=True)
        await asyncio.sleep(max(0.0, moment - time.monotonic()))
        renewed = await vault.refresh(USER, BROKER, credential, broker.refresh)
        print(json.dumps({"token": renewed.secrets["accessToken"].reveal()}), flush=True)


def main(arguments: list[str]) -> None:
    match arguments:
        case ["crash", point, way]:
            asyncio.run(crash(point, way))
        case ["resume", way]:
            asyncio.run(resume(way))
        case ["store"]:
            asyncio.run(store())
        case ["race", moment, way]:
            asyncio.run(race(float(moment), way))
        case _:
            raise SystemExit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
