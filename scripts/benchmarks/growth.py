"""How cost grows: processor time and memory of the bridge over users, positions, price events and flush intervals.

One broker that feeds prices on command, one bridge on a shared channel; over users the plain Node bridge beside it,
fed in turn. One thing is varied at a time, the others stay at the base. Nothing is judged here.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scripts.benchmarks.fan_in import fed, feeding_world
from scripts.benchmarks.fan_in_arms import MEASURED_CORE, Arm, keep_on_core, node_bridge, our_bridge
from scripts.benchmarks.measure import rss_kib
from tests.support.world import World

Point = dict[str, float]
Line = list[Point]


@dataclass(frozen=True, slots=True)
class Plan:
    """What is varied, and the base of everything that is not. Events are price events per user and second."""

    users: Sequence[int]
    positions: Sequence[int]
    events: Sequence[float]
    intervals_s: Sequence[float]
    window_s: float
    base_users: int
    base_positions: int = 2
    base_events: float = 1.0
    warm_s: float = 2.0
    events_at_intervals: float = 4.0  # so that every flush finds every user changed, but for the shortest


FULL = Plan((250, 500, 1000, 2000, 4000), (2, 4, 8, 16), (0.25, 1, 4, 16), (0.25, 0.5, 1, 2, 4), 8.0, 1000)
QUICK = Plan((100, 400), (2, 6), (1, 8), (0.5, 2), 4.0, 200)


async def measure(*, quick: bool) -> dict[str, Any]:
    return await along(QUICK if quick else FULL)


async def along(plan: Plan) -> dict[str, Any]:
    """Everything that is measured, as lines of points; `x` is what is varied."""
    if min(plan.positions) < plan.base_positions or list(plan.positions) != sorted(plan.positions):
        raise ValueError("positions only become more, from the base on")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        async with feeding_world(folder, max(*plan.users, plan.base_users), positions=plan.base_positions) as world:
            users = await _over_users(plan, world, folder)
            positions, events = await _over_content(plan, world)
            intervals = await _over_intervals(plan, world)
    base = {"users": plan.base_users, "positions": plan.base_positions, "eventsPerUser": plan.base_events}
    return {
        "base": base | {"flushIntervalS": 2.0},
        "atIntervals": {"positions": plan.positions[-1], "eventsPerUser": plan.events_at_intervals},
        "series": {"users": users, "positions": {"ours": positions}, "events": {"ours": events}}
        | {"intervals": {"ours": intervals}},
    }


async def _over_users(plan: Plan, world: World, folder: Path) -> dict[str, Line]:
    lines: dict[str, Line] = {"ours": [], "node": []}
    async with AsyncExitStack() as stack:
        ours = our_bridge(world, "ours", 1, sessions=plan.users[-1])
        arms: list[Arm] = [await stack.enter_async_context(ours)]
        arms.append(await stack.enter_async_context(node_bridge(world, "node", 2, folder)))
        for users in plan.users:
            for arm in arms:
                await _grown(world, arm, users)
            for arm in arms:
                lines[arm.name].append(await _point(plan, world, arm, users, users, plan.base_events))
    return lines


async def _over_content(plan: Plan, world: World) -> tuple[Line, Line]:
    """Over events first: positions only become more."""
    users = plan.base_users
    async with our_bridge(world, "content", 3, sessions=users) as arm:
        await _grown(world, arm, users)
        events = [await _point(plan, world, arm, each, users, each) for each in plan.events]
        positions = []
        for each in plan.positions:
            await _hold(world, users, each)
            positions.append(await _point(plan, world, arm, each, users, plan.base_events))
    return positions, events


async def _over_intervals(plan: Plan, world: World) -> Line:
    """With as many positions as there are by now, the most of the plan: what a flush costs is then easy to see."""
    users, line = plan.base_users, []
    for place, seconds in enumerate(plan.intervals_s):
        name = f"every {seconds:g} s"
        env = {"CACHE_FLUSH_INTERVAL": f"{seconds:g}"}
        async with our_bridge(world, name, 4 + place, sessions=users, **env) as arm:
            await _grown(world, arm, users)
            line.append(await _point(plan, world, arm, seconds, users, plan.events_at_intervals))
    return line


async def _grown(world: World, arm: Arm, users: int) -> None:
    await arm.grow(users)
    keep_on_core(arm.pid, MEASURED_CORE)


async def _hold(world: World, users: int, each: int) -> None:
    await world.sim("POST", "/feed/hold", {"users": users, "each": each})


async def _point(plan: Plan, world: World, arm: Arm, x: float, users: int, each: float) -> Point:
    reading = await fed(world, arm, users, each, plan.window_s, plan.warm_s)
    memory = {"rssMib": rss_kib(arm.pid) / 1024}
    return {"x": x, "cpuPercent": reading["cpuPercent"], "cpuUs": reading["cpuUs"], **memory}


HEADINGS = {
    "users": "users",
    "positions": "positions per user",
    "events": "price events per user and second",
    "intervals": "flush interval in s",
}


def show(document: dict[str, Any]) -> None:
    """The points as a table."""
    print("| varied | of | value | % of a core | µs per event | memory MiB |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, lines in document["series"].items():
        for of, line in lines.items():
            for at in line:
                figures = f"{at['cpuPercent']:.1f} | {at['cpuUs']:.1f} | {at['rssMib']:.0f}"
                print(f"| {HEADINGS[name]} | {of} | {at['x']:g} | {figures} |")
