"""`GET /account` under load, against a bare handler that answers with as many bytes, asked in turn."""

from __future__ import annotations

import asyncio
import random
import time

from scripts.benchmarks.children import child
from scripts.benchmarks.crowd import CALLERS
from scripts.benchmarks.measure import percentile
from scripts.benchmarks.report import Row, at_most
from tests.support.world import World

CLIENTS = 4
PAUSE_S = 0.01


async def measure(world: World, quick: bool) -> list[Row]:
    return await read(world, turns=100 if quick else 500)


async def read(world: World, *, turns: int) -> list[Row]:
    """A few clients at once, each asking for any user's account and then the bare handler, with a short pause."""
    ours: list[float] = []
    bare: list[float] = []
    size = len(await _get(world, f"{world.url}/account", world.users[0], 0))
    async with child("bare_http", str(size)) as handler:
        bare_url = f"http://127.0.0.1:{(await handler.answer())['port']}/account"

        async def client(number: int) -> None:
            rng = random.Random(number)
            for turn in range(turns):
                user = rng.choice(world.users)
                for url, took in ((f"{world.url}/account", ours), (bare_url, bare)):
                    began = time.perf_counter()
                    await _get(world, url, user, number + CLIENTS * turn)
                    took.append((time.perf_counter() - began) * 1000)
                await asyncio.sleep(rng.uniform(0, 2 * PAUSE_S))

        async with asyncio.TaskGroup() as group:
            for number in range(CLIENTS):
                group.create_task(client(number))
    p99, bare_p99 = percentile(ours, 0.99), percentile(bare, 0.99)
    return [
        Row(
            figure=f"GET /account, p99, {len(world.users):,} sessions, {CLIENTS} clients",
            ours=f"{p99:.1f} ms (p50 {percentile(ours, 0.5):.1f}, worst {max(ours):.1f}, n {len(ours)})",
            compared_with=f"a bare aiohttp handler in an idle process, {size:,} bytes too: p99 {bare_p99:.1f} ms "
            f"(p50 {percentile(bare, 0.5):.1f})",
            ratio=f"{p99 / bare_p99:.1f} ×",
            target=at_most(20, " ms"),
            value=p99,
            data={"oursMs": ours, "bareMs": bare},
        )
    ]


async def _get(world: World, url: str, user: str, turn: int) -> bytes:
    headers = {"Authorization": f"Bearer {CALLERS[turn % len(CALLERS)]}", "X-User-Id": user}
    async with world.http.get(url, params={"broker": "ctrader"}, headers=headers) as answer:
        body = await answer.read()
        if answer.status != 200:
            raise RuntimeError(f"{url}: {answer.status} {body[:200]!r}")
        return body
