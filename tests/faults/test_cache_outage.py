"""The store is killed under load: sessions do not care, memory does not grow, and the newest state arrives after."""

import asyncio
import random
from pathlib import Path
from typing import Any

import pytest

from tests.support.fault_table import fault
from tests.support.storm import differences
from tests.support.waiting import eventually
from tests.support.world import World, running_world

OUTAGE_S = 20.0
BACK_WITHIN_S = 3.0
GROWTH_ALLOWED = 12 * 2**20  # bytes: allocator noise of a Python process under load, not a queue of 20 s of readings


async def rss(world: World) -> int:
    return int((await world.api("GET", "/health"))["process"]["rssBytes"])


async def keep_trading(world: World, rng: random.Random, stop: asyncio.Event) -> int:
    """Deposits, orders, closings and price moves, as fast as one caller can, until told to stop.

    An account holds a few positions at most: memory must not depend on how much a fast machine trades.
    """
    count = 0
    bid = 1.1
    while not stop.is_set():
        account = world.accounts[rng.choice(world.users)]
        await world.sim("POST", f"/accounts/{account}/deposit", {"amount": rng.randint(1, 9999)})
        order = {"symbol": "EURUSD", "side": rng.choice(("buy", "sell")), "type": "market", "units": 1000}
        await world.sim("POST", f"/accounts/{account}/order", order, refusable=True)
        if rng.random() < 0.3:
            await world.sim("POST", f"/accounts/{account}/close", {}, refusable=True)
        bid = round(bid * (1 + rng.uniform(-0.0001, 0.0001)), 5)
        await world.sim("POST", "/prices", {"quotes": {"EURUSD": {"bid": bid, "ask": round(bid + 0.00002, 5)}}})
        count += 3
    return count


@pytest.mark.slow
@pytest.mark.timeout(180)
@fault(
    "C01",
    "killed for 20 s under load of 100 sessions",
    "all stay live, memory grows by less than 12 MiB, newest state within 3 s",
)
async def test_nothing_is_lost_when_the_store_is_killed_for_twenty_seconds_under_load(tmp_path: Path) -> None:
    async with running_world(tmp_path, users=100) as world:
        await world.start_all()
        await world.all_live(within_s=30)
        await world.sim("POST", "/prices", {"freeze": True})
        stop = asyncio.Event()
        load = asyncio.create_task(keep_trading(world, random.Random(3), stop))
        await eventually(lambda: all(world.records()), within_s=10, what="every record in the store")
        await asyncio.to_thread(world.valkey.kill)
        before = await rss(world)

        async def degraded() -> Any:
            health = await world.api("GET", "/health")
            return health["status"] == "degraded" and health["stores"]["redis"]["failures"] > 0

        await eventually(degraded, within_s=5, every_s=0.1, what="health says degraded")
        for _ in range(int(OUTAGE_S)):
            assert await world.live() == len(world.users)
            await asyncio.sleep(1)  # the outage itself: twenty seconds of load without a store
        assert await rss(world) - before < GROWTH_ALLOWED
        stop.set()
        assert await load > 100
        truths = [await world.sim("GET", f"/truth/{world.accounts[user]}") for user in world.users]
        await asyncio.to_thread(world.valkey.start)

        def newest() -> bool:
            pairs = zip(world.records(), truths, strict=True)
            return not any(differences(record, truth) for record, truth in pairs)

        await eventually(newest, within_s=BACK_WITHIN_S, every_s=0.05, what="the newest state of every account")

        async def healthy() -> bool:
            return (await world.api("GET", "/health"))["status"] == "ok"

        await eventually(healthy, within_s=5, every_s=0.1, what="health is ok again")
