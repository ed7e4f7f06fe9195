"""The general cache on a real Valkey and a real Postgres: expiry, patterns, and tiers that are killed under load."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from random import Random
from typing import Any

import pytest

from bridge.cache.general import GeneralCache
from bridge.cache.store import StoreUnavailable
from bridge.cache.tiers.postgres import PostgresTier
from bridge.cache.tiers.redis import RedisTier
from bridge.cache.tiers.tier import MAX_VALUE, Tier, matcher
from bridge.db.database import Database
from bridge.embedded.postgres import PostgresServer
from bridge.embedded.valkey import ValkeyServer
from bridge.runtime.clock import SystemClock
from core.secret import Secret
from tests.support.databases import make_database, migrate_database
from tests.support.waiting import eventually

pytestmark = pytest.mark.timeout(120)
KEYS = {"a:1", "a:2", "a:[1]", "a:1%", "a:é", "b:1", "a\\:1"}


@pytest.fixture(params=["redis", "postgres"])
async def tier(request: pytest.FixtureRequest, redis_url: str, database_url: str) -> AsyncIterator[Tier]:
    made: Tier
    if request.param == "redis":
        made = RedisTier(Secret(redis_url))
    else:
        database = Database(Secret(database_url))
        await database.open()
        made = PostgresTier(database, rows_kept=50)
    yield made
    await made.close()
    if isinstance(made, PostgresTier):
        await database.close()


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[RedisTier]:
    made = RedisTier(Secret(redis_url))
    yield made
    await made.close()


async def held(tier: Tier) -> set[str]:
    return {key for key in KEYS if await tier.get(key) is not None}


async def test_a_tier_gives_back_value_and_time_left_until_it_is_over(tier: Tier) -> None:
    await tier.set("k", b'{"a":1}', 100)
    found = await tier.get("k")
    assert found is not None
    assert found.value == b'{"a":1}'
    assert 95 < found.left_s <= 100
    await tier.set("k", b"2", 0.2)
    found = await tier.get("k")
    assert found is None or found.value == b"2"

    async def over() -> bool:
        return await tier.get("k") is None

    await eventually(over, within_s=5)
    assert await tier.get("never") is None


PATTERNS = {
    "a:*": {"a:1", "a:2", "a:[1]", "a:1%", "a:é"},
    "a:?": {"a:1", "a:2", "a:é"},
    "*": KEYS,
    "a:[1]": {"a:[1]"},
    "a:[1]*": {"a:[1]"},
    "a:1%*": {"a:1%"},
    "a\\:*": {"a\\:1"},
    "?:1": {"a:1", "b:1"},
}


async def test_a_tier_removes_exactly_what_a_pattern_matches(tier: Tier) -> None:
    for pattern, gone in PATTERNS.items():
        for key in KEYS:
            await tier.set(key, b"1", 100)
        await tier.remove(pattern)
        assert await held(tier) == KEYS - gone, pattern


async def test_a_tier_takes_the_biggest_value_and_the_longest_key(tier: Tier) -> None:
    key, value = "é" * 512, b'"' + b"x" * (MAX_VALUE - 2) + b'"'
    await tier.set(key, value, 100)
    found = await tier.get(key)
    assert found is not None
    assert found.value == value


async def test_postgres_removes_what_has_expired_and_what_is_too_much(database: Database) -> None:
    tier = PostgresTier(database, rows_kept=50)
    for number in range(70):
        await tier.set(f"k{number:02}", b"1", 1000 + number)
    await tier.set("old", b"1", 0.001)

    async def expired() -> bool:
        return await tier.get("old") is None

    await eventually(expired, within_s=5)
    assert await tier.clean() == 21
    rows = await database.fetch("select key from public.bridge_cache order by key")
    assert [row["key"] for row in rows] == [f"k{number:02}" for number in range(20, 70)]
    assert await tier.clean() == 0


async def test_redis_keeps_values_apart_from_everything_else(valkey: ValkeyServer, redis: RedisTier) -> None:
    assert valkey.command("SET", "ctrader_account_1", "record") == b"+OK"
    tier = redis
    for number in range(1200):
        await tier.set(f"k{number}", b"1", 100)
    await tier.remove("*")
    assert valkey.command("DBSIZE") == b":1"
    assert valkey.command("EXISTS", "ctrader_account_1") == b":1"


async def test_a_value_read_belongs_to_the_key_asked_when_others_were_cancelled(redis: RedisTier) -> None:
    tier, rng = redis, Random(5)
    for number in range(20):
        await tier.set(f"k{number}", str(number).encode(), 100)

    async def ask(number: int) -> None:
        found = await tier.get(f"k{number}")
        assert found is not None
        assert found.value == str(number).encode()

    for _ in range(300):
        asked = [asyncio.create_task(ask(rng.randrange(20))) for _ in range(6)]
        for _ in range(rng.randrange(4)):
            await asyncio.sleep(0)
        for each in asked[:3]:
            each.cancel()
        results = await asyncio.gather(*asked, return_exceptions=True)
        assert [each for each in results if not isinstance(each, asyncio.CancelledError | None)] == []


@pytest.mark.parametrize("which", ["redis", "postgres"])
async def test_no_caller_notices_when_a_tier_is_killed_and_restored_under_load(
    valkey_factory: Callable[[], ValkeyServer], postgres_factory: Callable[[], PostgresServer], which: str
) -> None:
    valkey, postgres = valkey_factory(), postgres_factory()
    async with AsyncExitStack() as stack:
        url = await make_database(postgres, "cache")
        await migrate_database(url)
        database = Database(Secret(url))
        await database.open()
        stack.push_async_callback(database.close)
        near, far = RedisTier(Secret(valkey.url)), PostgresTier(database)
        cache = GeneralCache([near, far], clock=SystemClock(), rng=Random(1), entries=50, memory_s=0.05)
        cache.start()
        stack.push_async_callback(cache.close)
        truth: dict[str, int] = {}
        stop = asyncio.Event()
        server: Any = valkey if which == "redis" else postgres

        async def load(worker: int) -> int:
            """Each worker has keys of its own, so that what it reads is either what it wrote last or nothing."""
            rng, rounds = Random(worker), 0
            while not stop.is_set():
                rounds += 1
                key = f"w{worker}:{rng.randrange(20)}"
                if rng.random() < 0.1:
                    pattern = key if rng.random() < 0.5 else f"w{worker}:*"
                    await cache.invalidate(pattern)
                    for gone in [each for each in truth if matcher(pattern).fullmatch(each)]:
                        del truth[gone]
                elif rng.random() < 0.5:
                    await cache.set(key, rounds, 600)
                    truth[key] = rounds
                else:
                    found = await cache.get(key)
                    assert found in (None, truth.get(key)), key
                await asyncio.sleep(0)
            return rounds

        workers = [asyncio.create_task(load(number)) for number in range(8)]

        async def progress(rounds: int) -> None:
            before = cache.stats()["general-l1"].misses
            await eventually(lambda: cache.stats()["general-l1"].misses > before + rounds, within_s=30)

        await progress(200)
        for _ in range(2):
            await asyncio.to_thread(server.kill)
            await eventually(lambda: cache.stats()[f"general-{which}"].failures > 0, within_s=20)
            await progress(200)
            await asyncio.to_thread(server.start)
            await eventually(lambda: cache.counts()["debts"] < 20, within_s=20)
            await progress(200)
        stop.set()
        assert sum(await asyncio.gather(*workers)) > 500
        await eventually(lambda: cache.counts()["debts"] == 0, within_s=20, what="nothing is owed to a tier")
        other = GeneralCache([near if which == "redis" else far], clock=SystemClock(), rng=Random(2))
        for key, value in truth.items():

            async def kept(key: str = key, value: int = value) -> bool:
                """A tier that answers late is a tier that was down; on a busy machine it may be once more."""
                await cache.set(key, value, 600)
                return await other.get(key) == value

            await eventually(kept, within_s=20, what=f"{key} is shared again")
        assert cache.counts()["entries"] <= 50
        assert cache.stats()["general-l1"].evictions > 0
        assert cache.stats()["general-redis"].hits > 0


async def test_a_tier_says_store_unavailable_when_its_table_is_missing(empty_database_url: str) -> None:
    database = Database(Secret(empty_database_url))
    await database.open()
    with pytest.raises(StoreUnavailable):
        await PostgresTier(database).get("k")
    await database.close()
