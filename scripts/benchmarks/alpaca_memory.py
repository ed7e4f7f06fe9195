"""Memory per Alpaca session: the slope of resident memory of the real bridge while its sessions grow fivefold.

Each session has a trading stream and a data stream of its own, two positions and flowing prices; the simulator is
another process. Beside it, on other users of the same simulator: one `TradingStream` of `alpaca-py` per user.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Sequence
from pathlib import Path

import aiohttp

from scripts.benchmarks.children import child
from scripts.benchmarks.crowd import admitted, start
from scripts.benchmarks.measure import rss_kib
from scripts.benchmarks.report import Row
from tests.support.official_client import alpaca_py_python
from tests.support.world import World, running_world

SETTLE_S = 8.0  # several flushes and price polls
LIVE_WITHIN_S = 180.0
HELD = ("AAPL", "MSFT")
ORDERS_AT_ONCE = 16


async def measure(quick: bool) -> list[Row]:
    few, many = (50, 150) if quick else (50, 250)
    python = await asyncio.to_thread(alpaca_py_python)
    with tempfile.TemporaryDirectory() as folder:
        async with running_world(
            Path(folder),
            users=2 * many,
            bridge_env={"API_KEYS": admitted(), "LOG_LEVEL": "WARNING"},
        ) as world:
            url = f"127.0.0.1:{world.ports['alpaca']}"
            await _open_positions(f"http://{url}", range(1, many + 1))
            ours = [await _grown(world, 0, few), await _grown(world, few, many)]
            async with child("alpaca_py_fleet", f"ws://{url}/stream", str(many + 1), python=python) as fleet:
                await fleet.answer()
                plain = [int((await fleet.ask(to=users))["rssKib"]) for users in (few, many)]
    slope, plain_slope = ((large - small) / (many - few) for small, large in (ours, plain))
    return [
        Row(
            figure=f"memory per Alpaca session, {few} → {many}, a trading and a data stream and 2 positions each",
            ours=f"{slope:.0f} KiB (process {ours[0] / 1024:.0f} → {ours[1] / 1024:.0f} MiB)",
            compared_with=f"alpaca-py, a TradingStream per user and no account: {plain_slope:.0f} KiB",
            ratio=f"{slope / plain_slope:.2f} ×",
            data={"sessions": [few, many], "rssKib": ours, "plainRssKib": plain},
        )
    ]


async def _grown(world: World, have: int, to: int) -> int:
    """Resident memory of the bridge with `to` live sessions, in KiB."""
    await start(world, world.users[have:to], live=to, within_s=LIVE_WITHIN_S, broker="alpaca")
    await asyncio.sleep(SETTLE_S)
    live = await world.live()
    if live < to:
        raise RuntimeError(f"only {live} of {to} sessions stayed live")
    return rss_kib(world.bridge.pid)


async def _open_positions(url: str, users: Sequence[int]) -> None:
    """Two market orders on every user's paper account."""
    gate = asyncio.Semaphore(ORDERS_AT_ONCE)

    async def order(user: int, symbol: str) -> None:
        headers = {"APCA-API-KEY-ID": f"SIMKEY{user}", "APCA-API-SECRET-KEY": f"sim-alpaca-secret-{user}"}
        body = {"symbol": symbol, "side": "buy", "type": "market", "qty": "10", "time_in_force": "day"}
        async with gate, trading.post("/v2/orders", json=body, headers=headers):
            pass

    async with aiohttp.ClientSession(url, raise_for_status=True) as trading, asyncio.TaskGroup() as group:
        for user in users:
            for symbol in HELD:
                group.create_task(order(user, symbol))
