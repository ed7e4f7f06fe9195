"""N sessions back on C channels at the broker's real budget: time, requests over the budget, holders first.

Every channel is cut at once. Half of the accounts hold positions. The big one, at a thousand sessions and more with
trading meanwhile, is ./scripts/storm.
"""

from __future__ import annotations

import time
from typing import Any

from scripts.benchmarks.crowd import crowd, start
from scripts.benchmarks.recovery import all_back_after_cut
from scripts.benchmarks.report import Row, at_most
from tests.support.storm import REQUESTS_TO_LIVE, limit_s
from tests.support.world import World

CHANNELS = 4
REAL_RATE = 50  # requests a second and connection that the broker allows; the bridge keeps to 45
RATE = REAL_RATE * 0.9


async def measure(quick: bool) -> list[Row]:
    return await cut(160 if quick else 600)


async def cut(sessions: int) -> list[Row]:
    """Start that many sessions, cut them all."""
    env = {"CTRADER_CHANNELS": str(CHANNELS)}
    async with crowd(sessions, requests_per_second=REAL_RATE, env=env, holding=0.5) as world:
        await start(world, world.users, live=sessions, within_s=60 + 2 * limit_s(sessions, RATE, CHANNELS))
        return [await _cut(world, sessions)]


async def _cut(world: World, sessions: int) -> Row:
    # an empty account needs no subscription
    requests = sessions // 2 * REQUESTS_TO_LIVE + sessions // 2 * (REQUESTS_TO_LIVE - 1)
    formula, limit = requests / (RATE * CHANNELS), limit_s(sessions, RATE, CHANNELS)
    before = await world.sim("GET", "/counters")
    cut_ms = time.time_ns() // 1_000_000
    took = await all_back_after_cut(world, within_s=3 * limit)
    after = await world.sim("GET", "/counters")
    over = after["budgetViolations"] - before["budgetViolations"]
    order = [entry for entry in after["authOrder"] if entry["atMs"] > cut_ms]
    early = _calm_before_holders(world, order, sessions // 2)
    return Row(
        figure=f"{sessions:,} sessions back after the cut of their {CHANNELS} channels, "
        f"broker at {REAL_RATE} requests/s each",
        ours=f"{took:.1f} s, {over} over budget, {early} empty accounts before holders of their channel",
        compared_with=f"requests / budget = {formula:.1f} s at {RATE:g}/s and channel",
        ratio=f"{took / formula:.2f} ×",
        target=at_most(round(limit, 1), " s"),
        value=took if not over and not early else float("inf"),
        reason=f"in time ({took:.1f} s), but {over} requests over budget and {early} empty accounts before holders"
        if took <= limit
        else "",
        data={"backS": took, "formulaS": formula, "budgetViolations": over, "calmBeforeHolders": early},
    )


def _calm_before_holders(world: World, order: list[dict[str, Any]], holders: int) -> int:
    """How many accounts without positions were authorised before the last one with of the same channel.

    `order` is the broker's own note of what happened.
    """
    at_risk = {world.accounts[user] for user in world.users[:holders]}
    early = 0
    for channel in {entry["connection"] for entry in order}:
        names = [str(entry["accountId"]) for entry in order if entry["connection"] == channel]
        places = [place for place, account in enumerate(names) if account in at_risk]
        early += sum(account not in at_risk for account in names[: places[-1]]) if places else 0
    return early
