"""Memory per session: the slope of resident memory of the real bridge while its sessions grow tenfold.

The bridge serves from one shared channel with two positions per account, prices flowing and Valkey as store. Beside it:
a plain client with one connection, one task and one dict per user, measured by the same slope.
"""

from __future__ import annotations

import asyncio

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
    slope = (ours[1] - ours[0]) / (many - few)
    plain_slope = (plain[1] - plain[0]) / (fleet_many - few)
    return [
        Row(
            figure=f"memory per session, {few:,} → {many:,} on one channel, 2 positions each, prices flowing",
            ours=f"{slope:.1f} KiB (process {ours[0] / 1024:.0f} → {ours[1] / 1024:.0f} MiB)",
            compared_with=f"a bare connection and a dict per user, {few:,} → {fleet_many:,}: {plain_slope:.1f} KiB",
            ratio=f"{slope / plain_slope:.2f} ×",
            target=at_most(16, " KiB"),
            value=slope,
            data={"rssKib": ours, "sessions": [few, many], "plainRssKib": plain, "plainUsers": [few, fleet_many]},
        )
    ]


async def _bridge(few: int, many: int) -> list[int]:
    """Resident KiB with few and with many live sessions."""
    async with crowd(many, requests_per_second=REQUESTS_PER_SECOND) as world:
        first = await _grown(world, 0, few)
        return [first, await _grown(world, few, many)]


async def _grown(world: World, have: int, to: int) -> int:
    await start(world, world.users[have:to], live=to, within_s=LIVE_WITHIN_S)
    await asyncio.sleep(SETTLE_S)
    live = await world.live()
    if live < to:
        raise RuntimeError(f"only {live} of {to} sessions stayed live")
    return rss_kib(world.bridge.pid)


async def _fleet(few: int, many: int) -> list[int]:
    async with child("fleet_server") as server:
        port = (await server.answer())["port"]
        async with child("fleet_client", str(port)) as fleet:
            await fleet.answer()
            return [int((await fleet.ask(to=users))["rssKib"]) for users in (few, many)]
