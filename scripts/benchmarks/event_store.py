"""From the broker's own doing to the record in the store, by an outside reader's eyes.

The clock starts before the simulator is told to act (its admin HTTP is part of the time) and stops when a plain reader
of Valkey finds the new content. Urgent: deposits and fills. Others: a price move, for which the flush interval decides.
"""

from __future__ import annotations

import asyncio
import random
import re
import time
from collections.abc import Callable
from typing import Any

import orjson
from redis.asyncio import Redis

from scripts.benchmarks.measure import percentile
from scripts.benchmarks.report import Row, at_most
from tests.support.world import OPS_KEY, World, record_key

POLL_S = 0.002
GIVE_UP_S = 10.0
INTERVAL_S = 2.0  # the default of CACHE_FLUSH_INTERVAL
WATCHED = 100  # records watched for a price move
_BUCKET = re.compile(r'^bridge_flush_seconds_bucket\{(.*)le="([^"]+)"(.*)\} (\S+)$', re.MULTILINE)


async def measure(world: World, quick: bool) -> list[Row]:
    return await watched(world, urgent_events=60 if quick else 200, price_moves=3 if quick else 10)


async def watched(world: World, *, urgent_events: int, price_moves: int) -> list[Row]:
    rng = random.Random(5)
    async with Redis.from_url(world.valkey.url, protocol=2) as reader:
        urgent = await _urgent(world, reader, rng, urgent_events)
        single = await _round_trips(reader, 500)
        moves = await _moves(world, reader, rng, price_moves)
    writes = await _store_writes_p99(world)
    single_p99 = percentile(single, 0.99)
    sessions = f"{len(world.users):,} sessions"
    compared = f"one awaited SET: p50 {percentile(single, 0.5):.1f} ms, p99 {single_p99:.1f} ms"
    urgent_p99 = percentile(urgent, 0.99)
    return [
        Row(
            figure=f"deposit or fill → record in the store, p99, {sessions}",
            ours=f"{urgent_p99:.0f} ms (p50 {percentile(urgent, 0.5):.0f}, worst {max(urgent):.0f}, n {len(urgent)})",
            compared_with=compared,
            ratio=f"{urgent_p99 / single_p99:.0f} ×",
            target=at_most(150, " ms"),
            value=urgent_p99,
            data={"urgentMs": urgent, "setMs": single},
        ),
        Row(
            figure=f"price move → records in the store, worst, {sessions}",
            ours=f"{max(moves) / 1000:.2f} s (p50 {percentile(moves, 0.5) / 1000:.2f} s, n {len(moves)})",
            compared_with="the flush interval of 2 s ± 10 %",
            ratio=f"{max(moves) / 1000 / INTERVAL_S:.2f} ×",
            target=at_most(2.3, " s"),
            value=max(moves) / 1000,
            data={"movesMs": moves},
        ),
        Row(
            figure=f"one write to the store (up to 500 records), p99, {sessions}",
            ours=f"≤ {writes:g} ms (by the bridge's own histogram)",
            compared_with=compared,
            ratio=f"≤ {writes / single_p99:.1f} ×",
            target=at_most(100, " ms"),
            value=writes,
        ),
    ]


async def _urgent(world: World, reader: Redis, rng: random.Random, count: int) -> list[float]:
    """Deposits and market orders in turn, one at a time, at odd moments of the flush interval."""
    took: list[float] = []
    for number in range(count):
        user = rng.choice(world.users)
        path = f"/accounts/{world.accounts[user]}"
        before = await _read(reader, user)
        began = time.perf_counter()
        if number % 2:
            await world.sim("POST", f"{path}/deposit", {"amount": rng.randint(100, 99_999)})
            arrived = _balance_differs(before)
        else:
            await world.sim(
                "POST", f"{path}/order", {"symbol": "EURUSD", "side": "buy", "type": "market", "units": 1000}
            )
            arrived = _more_positions(before)
        await _until(reader, user, arrived, began)
        took.append((time.perf_counter() - began) * 1000)
        await asyncio.sleep(rng.uniform(0.0, 0.1))
    return took


def _balance_differs(before: Any) -> Callable[[Any], bool]:
    return lambda record: record["balance"] != before["balance"]


def _more_positions(before: Any) -> Callable[[Any], bool]:
    return lambda record: len(record["positions"]) > len(before["positions"])


async def _read(reader: Redis, user: str) -> Any:
    return orjson.loads(await reader.get(record_key(user)) or b"{}")


async def _until(reader: Redis, user: str, arrived: Callable[[Any], bool], began: float) -> None:
    while not arrived(await _read(reader, user)):
        if time.perf_counter() - began > GIVE_UP_S:
            raise RuntimeError(f"the record did not show the change within {GIVE_UP_S} s")
        await asyncio.sleep(POLL_S)


async def _round_trips(client: Redis, count: int) -> list[float]:
    """The comparison: one plain SET after the other, each awaited, while the bridge is at work."""
    document = b"x" * 1000
    took: list[float] = []
    for _ in range(count):
        began = time.perf_counter()
        await client.set("plain", document)
        took.append((time.perf_counter() - began) * 1000)
        await asyncio.sleep(POLL_S)
    return took


async def _moves(world: World, reader: Redis, rng: random.Random, count: int) -> list[float]:
    """Freeze the walk, then move EURUSD at moments spread over the flush interval; time every watched record."""
    await world.sim("POST", "/prices", {"freeze": True})
    keys = [record_key(user) for user in rng.sample(list(world.users), min(WATCHED, len(world.users)))]
    took: list[float] = []
    for step in range(count):
        await asyncio.sleep(INTERVAL_S * (1 + step / count))  # the last one ended with a flush: go through its interval
        bid = round(1.0801 + step / 1000, 5)
        began = time.perf_counter()
        await world.sim("POST", "/prices", {"quotes": {"EURUSD": {"bid": bid, "ask": round(bid + 0.0001, 5)}}})
        waiting = keys
        while waiting:
            if time.perf_counter() - began > GIVE_UP_S:
                raise RuntimeError(f"{len(waiting)} records did not show the new price within {GIVE_UP_S} s")
            documents = [orjson.loads(raw or b"{}") for raw in await reader.mget(waiting)]
            late = [key for key, document in zip(waiting, documents, strict=True) if not _shows(document, bid)]
            took += [(time.perf_counter() - began) * 1000] * (len(waiting) - len(late))
            waiting = late
            await asyncio.sleep(POLL_S * 5)
    await world.sim("POST", "/prices", {"freeze": False})
    return took


def _shows(document: Any, bid: float) -> bool:
    return all(row["currentPrice"] == bid for row in document["positions"] if row["symbol"] == "EURUSD")


async def _store_writes_p99(world: World) -> float:
    """Upper bound in ms of the bucket in which the 99th percentile of the bridge's own flush timings lies."""
    async with world.http.get(f"{world.url}/metrics", headers={"Authorization": f"Bearer {OPS_KEY}"}) as answer:
        text = await answer.text()
    buckets = [(float(bound), float(number)) for _, bound, _, number in _BUCKET.findall(text)]
    if not buckets:
        raise RuntimeError("the bridge shows no bridge_flush_seconds")
    total = max(number for _, number in buckets)
    return min(bound for bound, number in buckets if number >= 0.99 * total) * 1000
