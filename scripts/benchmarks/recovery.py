"""Back to live: one session whose socket is cut, and all sessions of a channel that is cut.

Single cuts: every session has a socket of its own and each is cut once, so that each cut meets the first step of the
backoff, as in production, where the steps are forgotten after a minute. The clock runs from before the cut is asked for
until an outside reader of Valkey finds a live record that was confirmed after it.
"""

from __future__ import annotations

import asyncio
import random
import time
from typing import Any

import orjson
from redis.asyncio import Redis
from websockets.asyncio.client import connect

from scripts.benchmarks.crowd import crowd, start
from scripts.benchmarks.measure import percentile
from scripts.benchmarks.report import Row, at_most
from tests.support.storm import REQUESTS_TO_LIVE, limit_s
from tests.support.waiting import eventually
from tests.support.world import World, record_key

POLL_S = 0.005
BETWEEN_CUTS_S = 0.35  # below the dial budget of one host
GIVE_UP_S = 30.0
DIALS_PER_SECOND = 5
MASS_RATE = 500  # requests per second at the broker in the mass cut: ten times the real one


async def single_cuts(quick: bool) -> list[Row]:
    cuts = 40 if quick else 200
    env = {"CTRADER_ACCOUNTS_PER_CHANNEL": "1"}
    async with crowd(cuts, requests_per_second=MASS_RATE, env=env) as world:
        await start(world, world.users, live=cuts, within_s=30 + 2 * cuts / DIALS_PER_SECOND)
        took = await _cut_each(world)
        dials = await _bare_dials(world, cuts)
    p99, dial_p99 = percentile(took, 0.99), percentile(dials, 0.99)
    return [
        Row(
            figure=f"back to live after a cut, one session, p99 of {cuts} cuts",
            ours=f"{p99:.2f} s (p50 {percentile(took, 0.5):.2f}, worst {max(took):.2f})",
            compared_with=f"one bare dial of the same broker: p50 {percentile(dials, 0.5) * 1000:.0f} ms, "
            f"p99 {dial_p99 * 1000:.0f} ms",
            ratio=f"{p99 / dial_p99:.0f} × (full jitter up to 1 s included)",
            target=at_most(3, " s"),
            value=p99,
            data={"backS": took, "bareDialS": dials},
        )
    ]


async def _cut_each(world: World) -> list[float]:
    """Reset one socket after the other; recoveries overlap, cuts stay within the dial budget."""
    rng = random.Random(11)
    took: list[float] = []
    async with Redis.from_url(world.valkey.url, protocol=2, max_connections=32) as reader:

        async def one(user: str) -> None:
            cut_ms, began = time.time_ns() // 1_000_000, time.perf_counter()
            await world.sim("POST", "/faults", {"id": "N01", "accounts": [int(world.accounts[user])]})
            while not _back(await reader.get(record_key(user)), cut_ms):
                if time.perf_counter() - began > GIVE_UP_S:
                    raise RuntimeError(f"a session was not back {GIVE_UP_S} s after its cut")
                await asyncio.sleep(POLL_S)
            took.append(time.perf_counter() - began)

        async with asyncio.TaskGroup() as group:
            for user in world.users:
                group.create_task(one(user))
                await asyncio.sleep(rng.uniform(0.5, 1.5) * BETWEEN_CUTS_S)
    return took


def _back(raw: bytes | str | None, cut_ms: int) -> bool:
    record: Any = orjson.loads(raw or b"{}")
    return bool(record["status"] == "live" and record["confirmedAt"] > cut_ms)


async def _bare_dials(world: World, count: int) -> list[float]:
    took: list[float] = []
    for _ in range(count):
        began = time.perf_counter()
        async with connect(f"ws://127.0.0.1:{world.ports['ctrader']}", compression=None, proxy=None):
            took.append(time.perf_counter() - began)
    return took


async def mass_cut(world: World, quick: bool) -> list[Row]:
    """Cut the one channel of all sessions; the bridge allows itself nine tenths of what the broker does."""
    sessions, rate = len(world.users), MASS_RATE * 0.9
    formula = sessions * REQUESTS_TO_LIVE / rate
    before = await world.sim("GET", "/counters")
    took = await all_back_after_cut(world, within_s=3 * limit_s(sessions, rate))
    after = await world.sim("GET", "/counters")
    violations = after["budgetViolations"] - before["budgetViolations"]
    return [
        Row(
            figure=f"{sessions:,} sessions back after the cut of their one channel, broker at {MASS_RATE} requests/s",
            ours=f"{took:.1f} s, {violations} over budget",
            compared_with=f"formula N × R / rate = {formula:.1f} s at {rate:g}/s",
            ratio=f"{took / formula:.2f} ×",
            target=at_most(round(limit_s(sessions, rate), 1), " s"),
            value=took if not violations else float("inf"),
            data={"backS": took, "formulaS": formula, "budgetViolations": violations},
        )
    ]


async def all_back_after_cut(world: World, *, within_s: float) -> float:
    """Cut every channel and wait until all sessions are live again; seconds from before the cut is asked for."""
    sessions = len(world.users)
    began = time.perf_counter()
    await world.sim("POST", "/faults", {"id": "N40"})

    async def noticed() -> bool:
        return await world.live() < sessions

    async def all_back() -> bool:
        return await world.live() == sessions

    await eventually(noticed, within_s=10, what="the cut is noticed")
    await eventually(all_back, within_s=within_s, every_s=0.05, what="all sessions live again")
    return time.perf_counter() - began
