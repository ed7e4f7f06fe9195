"""What a session costs while prices flow: our bridge against a plain Node bridge and the broker's own Python client.

One broker, one Valkey, the same users, each with two positions; every program is logged in as all of them at once. They
are fed in turns: the same events at the same pace, one a second and user. What counts is processor time per event with
everything that follows from it, above all the record of every user written every two seconds.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from redis.asyncio import Redis

from scripts.benchmarks.crowd import admitted
from scripts.benchmarks.fan_in_arms import (
    MEASURED_CORE,
    Arm,
    cpu_s,
    database_url,
    formed,
    keep_on_core,
    node_bridge,
    official_client,
    our_bridge,
    raise_file_limit,
    shape,
)
from scripts.benchmarks.measure import on_core, rss_kib
from scripts.benchmarks.report import Row, Spread, Target, at_most
from tests.support.waiting import eventually
from tests.support.world import World, record_key, running_world

USERS, QUICK_USERS = 5_000, 1_000
ROUNDS, QUICK_ROUNDS = 5, 3
WINDOW_S, QUICK_WINDOW_S = 6.0, 4.0  # whole flush intervals
WARM_S = 2.0
EVENTS_PER_USER = 1.0  # a second
TAKEN = 0.99  # of what was sent: a socket may be lost and dialled again on a machine under load
LOGIN_RATE = 5_000  # requests a second at the broker, so that logins do not take an hour
SHARED, SOCKETS, NODE, OFFICIAL = "shared", "sockets", "node", "official"
WHY = (
    "not for the prices themselves (--growth: more of them between two flushes cost little more), so for the records "
    "and the wake-ups, whose shares this row does not tell apart"
)

Reading = dict[str, float]


@asynccontextmanager
async def feeding_world(folder: Path, users: int, *, positions: int = 2) -> AsyncIterator[World]:
    """A broker whose prices come from the tap only, and Valkey; its own bridge stays empty."""
    raise_file_limit()
    starting = running_world(
        folder,
        users=users,
        requests_per_second=LOGIN_RATE,
        simulator_arguments=("--prices", "frozen"),
        bridge_env={"API_KEYS": admitted(), "LOG_LEVEL": "WARNING"},
        simulator_module="scripts.benchmarks.feeding",
    )
    async with AsyncExitStack() as stack:
        with on_core(1):  # its processes stay there; what is measured goes to the other
            world = await stack.enter_async_context(starting)
        await world.sim("POST", "/feed/hold", {"users": users, "each": positions})
        yield world


async def measure(quick: bool) -> list[Row]:
    users, rounds = (QUICK_USERS, QUICK_ROUNDS) if quick else (USERS, ROUNDS)
    window_s = QUICK_WINDOW_S if quick else WINDOW_S
    return await compared(users, rounds, window_s)


async def compared(users: int, rounds: int, window_s: float, warm_s: float = WARM_S) -> list[Row]:
    """`window_s` is measured, after `warm_s` in which the program is fed already."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        async with feeding_world(folder, users) as world, AsyncExitStack() as stack:
            arms: list[Arm] = [
                await stack.enter_async_context(our_bridge(world, SHARED, 1, sessions=users)),
                await stack.enter_async_context(node_bridge(world, NODE, 2, folder)),
                await stack.enter_async_context(our_bridge(world, SOCKETS, 3, sessions=users, sockets=True)),
                await stack.enter_async_context(official_client(world, OFFICIAL, folder)),
            ]
            empty = {arm.name: rss_kib(arm.pid) for arm in arms}
            async with asyncio.TaskGroup() as group:
                for arm in arms:
                    group.create_task(_logged_in(arm, users))
            for arm in arms:
                keep_on_core(arm.pid, MEASURED_CORE)
            readings = await _rounds(world, arms, rounds, users, (window_s, warm_s))
            await _same_documents(world, users)
            kib = {arm.name: (rss_kib(arm.pid) - empty[arm.name]) / users for arm in arms}
    return _rows(users, readings, kib)


async def _logged_in(arm: Arm, users: int) -> None:
    await arm.grow(users)
    print(f"{arm.name}: {users} users are logged in", flush=True)


async def _rounds(
    world: World, arms: Sequence[Arm], rounds: int, users: int, times: tuple[float, float]
) -> dict[str, list[Reading]]:
    """Every program in turn, in the other direction every other round; the first round warms up."""
    readings: dict[str, list[Reading]] = {arm.name: [] for arm in arms}
    for number in range(rounds + 1):
        for arm in arms if number % 2 else reversed(arms):
            reading = await fed(world, arm, users, EVENTS_PER_USER, *times)
            if number:
                readings[arm.name].append(reading)
        print(f"round {number} of {rounds}", flush=True)
    for arm in arms:
        await everything_taken(world, arm)
    return readings


async def fed(world: World, arm: Arm, users: int, each: float, window_s: float, warm_s: float = WARM_S) -> Reading:
    """Feed one program `each` events a second and user; its processor time while it is already at work."""
    loop = asyncio.get_running_loop()
    await formed(world, arm, users)
    order = {"arm": arm.name, "perSecond": users * each}
    await world.sim("POST", "/feed", order)
    await asyncio.sleep(warm_s)
    sent, worked, began = (await world.sim("POST", "/feed", order))["sent"], cpu_s(arm.pid), loop.time()
    await asyncio.sleep(window_s)
    worked, took = cpu_s(arm.pid) - worked, loop.time() - began
    events = (await world.sim("POST", "/feed", {"arm": arm.name, "perSecond": 0}))["sent"] - sent
    return {"cpuUs": worked / events * 1e6, "events": events, "tookS": took, "cpuPercent": worked / took * 100}


async def everything_taken(world: World, arm: Arm) -> None:
    """What was sent has arrived: a program that loses events is not cheap but wrong."""

    async def level() -> bool:
        sent = (await world.sim("POST", "/feed", {"arm": arm.name, "perSecond": 0}))["sent"]
        return await arm.events() >= sent * TAKEN

    await eventually(level, within_s=20, every_s=0.2, what=f"{arm.name} has taken what it was sent")


async def _same_documents(world: World, users: int) -> None:
    """Each of the bridges wrote every user's record, and the documents have the same fields."""
    written: list[list[bytes]] = []
    for database in (1, 2, 3):
        async with Redis.from_url(database_url(world, database), protocol=2) as reader:
            found: list[Any] = await reader.mget([record_key(user) for user in world.users])
        if not all(found):
            raise RuntimeError(f"records are missing in database {database}")
        written.append(found)
    for documents in zip(*written, strict=True):
        if len({str(shape(document)) for document in documents}) != 1:
            raise RuntimeError(f"the records differ in their fields: {documents}")


def _rows(users: int, readings: dict[str, list[Reading]], kib: dict[str, float]) -> list[Row]:
    crowd = f"{users:,} sessions at {EVENTS_PER_USER:g} price a second each, 2 positions"
    flush = "records written every 2 s"
    node = "a plain Node bridge (ws, protobufjs, ioredis) with a socket, an object and a write per user"
    bare = "ctrader-open-api in one process, a connection per user, nothing kept or written"
    figure = f"processor time per event, {crowd}, {flush}"
    return [
        _row(f"{figure}; shared channel", readings, (SHARED, NODE), node, at_most(0.4, " ×"), WHY),
        _row(f"{figure}; a socket per session", readings, (SOCKETS, NODE), node),
        _row(f"{figure}; shared channel", readings, (SHARED, OFFICIAL), bare),
        Row(
            figure=f"memory per session while that ran, {users:,} sessions",
            ours=f"shared channel {kib[SHARED]:.1f} KiB, a socket each {kib[SOCKETS]:.1f} KiB",
            compared_with=f"Node {kib[NODE]:.1f} KiB, ctrader-open-api {kib[OFFICIAL]:.1f} KiB",
            ratio=f"{kib[SHARED] / kib[NODE]:.2f} × and {kib[SOCKETS] / kib[NODE]:.2f} × of Node",
            data={"kibPerSession": kib},
        ),
    ]


def _row(
    figure: str,
    readings: dict[str, list[Reading]],
    pair: tuple[str, str],
    theirs: str,
    target: Target | None = None,
    reason: str = "",
) -> Row:
    ours, other = (readings[name] for name in pair)
    ratio = Spread.of([one["cpuUs"] / two["cpuUs"] for one, two in zip(ours, other, strict=True)])
    return Row(
        figure=figure,
        ours=_words(ours),
        compared_with=f"{theirs}: {_words(other)}",
        ratio=ratio.text(2, " ×"),
        target=target,
        value=None if target is None else ratio.median,
        data={"ours": ours, "theirs": other},
        reason=reason,
    )


def _words(readings: list[Reading]) -> str:
    cpu_us = statistics.median(reading["cpuUs"] for reading in readings)
    percent = statistics.median(reading["cpuPercent"] for reading in readings)
    return f"{cpu_us:.1f} µs ({percent:.0f} % of a core)"
