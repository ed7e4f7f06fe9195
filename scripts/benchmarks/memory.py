"""Memory per session: the slope of resident memory of the real bridge while its sessions grow tenfold.

The bridge serves from one shared channel with two positions per account, prices flowing and Valkey as store. Beside it:
a plain client with one connection, one task and one dict per user, measured by the same slope.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import asdict, dataclass

import psutil

from scripts.benchmarks.children import child
from scripts.benchmarks.crowd import crowd, start
from scripts.benchmarks.measure import rss_kib
from scripts.benchmarks.report import Row, at_most
from tests.support.world import World

SETTLE_S = 8.0  # several flushes and, for most accounts, a renewal
REQUESTS_PER_SECOND = 5000  # so that logins do not take an hour
LIVE_WITHIN_S = 180.0


async def measure(quick: bool) -> list[Row]:
    few, many = (500, 2_000) if quick else (1_000, 10_000)
    ours = await _bridge(few, many)
    fleet_many = many if quick else 5_000
    plain = await _fleet(few, fleet_many)
    small, large = ours
    slope = (large.rss_kib - small.rss_kib) / (many - few)
    plain_slope = (plain[1] - plain[0]) / (fleet_many - few)
    return [
        Row(
            figure=f"memory per session, {few:,} → {many:,} on one channel, 2 positions each, prices flowing",
            ours=f"{slope:.1f} KiB (process {small.rss_kib / 1024:.0f} → {large.rss_kib / 1024:.0f} MiB; "
            f"at {many:,}: {large.events_per_s:,.0f} prices/s, {large.cpu_percent:.0f} % of a core)",
            compared_with=f"a bare connection and a dict per user, {few:,} → {fleet_many:,}: {plain_slope:.1f} KiB",
            ratio=f"{slope / plain_slope:.2f} ×",
            target=at_most(16, " KiB"),
            value=slope,
            data={"sessions": [few, many], "plainRssKib": plain, "plainUsers": [few, fleet_many]}
            | {"readings": [asdict(reading) for reading in ours]},
        )
    ]


@dataclass(frozen=True, slots=True)
class Reading:
    """The serving process at some number of live sessions, over a few seconds of steady work."""

    rss_kib: int
    cpu_percent: float
    events_per_s: float


async def _bridge(few: int, many: int) -> list[Reading]:
    """With few and with many live sessions."""
    async with crowd(many, requests_per_second=REQUESTS_PER_SECOND) as world:
        first = await _grown(world, 0, few)
        return [first, await _grown(world, few, many)]


async def _grown(world: World, have: int, to: int) -> Reading:
    await start(world, world.users[have:to], live=to, within_s=LIVE_WITHIN_S)
    process = psutil.Process(world.bridge.pid)
    worked, sent, began = _cpu_s(process), await _prices_sent(world), time.perf_counter()
    await asyncio.sleep(SETTLE_S)
    took = time.perf_counter() - began
    cpu_percent = (_cpu_s(process) - worked) / took * 100
    events_per_s = (await _prices_sent(world) - sent) / took
    live = await world.live()
    if live < to:
        raise RuntimeError(f"only {live} of {to} sessions stayed live")
    return Reading(rss_kib(world.bridge.pid), cpu_percent, events_per_s)


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


async def _prices_sent(world: World) -> int:
    return int((await world.sim("GET", "/counters"))["spotEvents"])


async def _fleet(few: int, many: int) -> list[int]:
    async with child("fleet_server") as server:
        port = (await server.answer())["port"]
        async with child("fleet_client", str(port)) as fleet:
            await fleet.answer()
            return [int((await fleet.ask(to=users))["rssKib"]) for users in (few, many)]
