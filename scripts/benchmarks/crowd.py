"""Many users on the real thing: simulator, bridge and Valkey as separate processes, every account with two positions.

Sessions are started through the HTTP API by as many callers as it takes (each key keeps to its own rate limit).
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from tests.support.waiting import eventually
from tests.support.world import API_KEY_SECRET, World, api_keys, running_world

CALLERS = tuple(f"caller{number}.key-of-a-measuring-caller-{number:04d}" for number in range(20))
HELD = ("EURUSD", "USDJPY")
POSTS_AT_ONCE = 16
STARTS_AT_ONCE = 48


def admitted() -> str:
    """API_KEYS with our callers beside the usual two."""
    digests = (hmac.new(API_KEY_SECRET.encode(), key.encode(), hashlib.sha256).hexdigest() for key in CALLERS)
    ours = (f"{key.partition('.')[0]}:app:{digest}" for key, digest in zip(CALLERS, digests, strict=True))
    return ",".join((api_keys(), *ours))


@asynccontextmanager
async def crowd(
    users: int,
    *,
    requests_per_second: int,
    speed: float = 1.0,
    env: Mapping[str, str] | None = None,
    holding: float = 1.0,
    bridge_module: str = "bridge",
) -> AsyncIterator[World]:
    """A running world whose users, or the first `holding` share of them, hold two positions; no session is started."""
    with tempfile.TemporaryDirectory() as folder:
        async with running_world(
            Path(folder),
            users=users,
            requests_per_second=requests_per_second,
            simulator_arguments=("--speed", str(speed)),
            bridge_env={"API_KEYS": admitted(), "LOG_LEVEL": "WARNING", **(env or {})},
            bridge_module=bridge_module,
        ) as world:
            await _open_positions(world, world.users[: round(users * holding)])
            yield world


async def _open_positions(world: World, users: Sequence[str]) -> None:
    """Two market orders on the first account of these users; note which account that is of every one."""
    for row in (await world.sim("GET", "/accounts"))["accounts"]:
        world.accounts.setdefault(row["userId"], row["accountId"])
    gate = asyncio.Semaphore(POSTS_AT_ONCE)

    async def order(user: str, symbol: str) -> None:
        body = {"symbol": symbol, "side": "buy", "type": "market", "units": 1000}
        async with gate:
            await world.sim("POST", f"/accounts/{world.accounts[user]}/order", body)

    async with asyncio.TaskGroup() as group:
        for user in users:
            for symbol in HELD:
                group.create_task(order(user, symbol))


async def start(world: World, users: Sequence[str], *, live: int, within_s: float, broker: str = "ctrader") -> None:
    """Start these users' sessions and wait until `live` sessions are live."""
    gate = asyncio.Semaphore(STARTS_AT_ONCE)

    async def one(place: int, user: str) -> None:
        body = {"userId": user, "broker": broker}

        async def accepted() -> bool:
            answer = await world.api("POST", "/api/start-session", key=CALLERS[place % len(CALLERS)], body=body)
            if answer["_status"] not in (202, 429, 503):  # 503: for now; the first reading of a long file takes a while
                raise RuntimeError(f"a session was not started: {answer}")
            return bool(answer["_status"] == 202)

        async with gate:
            await eventually(accepted, within_s=within_s, every_s=0.2, what="the start is accepted")

    async with asyncio.TaskGroup() as group:
        for place, user in enumerate(users):
            group.create_task(one(place, user))

    async def enough() -> bool:
        return await world.live() >= live

    await eventually(enough, within_s=within_s, every_s=0.1, what=f"{live} sessions live")
