"""The running world with its stores behind bad lines: what the suites of cache and database faults share.

Real processes, six users at one broker, Valkey behind a proxy, and on request Postgres behind a pooler in transaction
mode behind a proxy. A case hurts a store for a while; meanwhile sessions go on, afterwards every record equals the
broker's truth. Invariant of every case: no session was interrupted, and no record promised too much.
"""

import asyncio
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import asyncpg

from bridge.embedded.postgres import PostgresServer
from bridge.embedded.valkey import ValkeyServer
from tests.support.databases import make_database
from tests.support.fault_proxy import FaultProxy, fault_proxy
from tests.support.fault_scene import FaultScene
from tests.support.kill_drill import primary_records
from tests.support.pooler import Pooler, pooler
from tests.support.storm import differences
from tests.support.waiting import eventually
from tests.support.watcher import Watcher
from tests.support.world import World, record_key, running_world

USERS = 6
BACK_S = 8.0  # a look at a store that was away, and a flush, on a busy machine
ANSWERS_S = 0.1  # the loop of a bridge that waits for a store would let its callers wait, too


@dataclass
class StoreScene(FaultScene):
    """`valkey`, `postgres`: the servers themselves; `cache`, `database`: the lines to them. `pool`: between the two."""

    VICTIM: ClassVar[str] = "user-2"

    valkey: ValkeyServer | None = None
    cache: FaultProxy | None = None
    postgres: PostgresServer | None = None
    pool: Pooler | None = None
    database_url: str = ""

    @property
    def line(self) -> FaultProxy:
        assert self.cache is not None
        return self.cache

    @property
    def redis(self) -> ValkeyServer:
        assert self.valkey is not None
        return self.valkey

    def key(self, user: str = "") -> str:
        return record_key(user or self.VICTIM)

    def command(self, *words: str) -> bytes:
        """A command to Valkey itself, past the line."""
        return self.redis.command(*words)

    async def sql(self, statement: str, *arguments: object) -> list[Any]:
        """A statement to Postgres itself, past the pooler."""
        connection = await asyncpg.connect(self.database_url)
        try:
            return list(await connection.fetch(statement, *arguments))
        finally:
            await connection.close()

    async def trade(self) -> None:
        """Something new in every account."""
        for user in self.users:
            path = f"/accounts/{self.world.accounts[user]}"
            await self.world.sim("POST", f"{path}/deposit", {"amount": 7})
            buy = {"symbol": "EURUSD", "side": "buy", "type": "market", "units": 1000}
            placed = await self.world.sim("POST", f"{path}/order", buy)
            await self.world.sim("POST", f"{path}/close", {"positionId": placed["positionId"]}, refusable=True)

    async def health(self) -> Any:
        """Asked more seldom than its rate admits, whatever case came before."""
        while (answer := await self.world.api("GET", "/health"))["_status"] == 429:
            await asyncio.sleep(0.3)  # some of the rate is back then
        return answer

    async def store_is(self, state: str, store: str = "redis", *, within_s: float = 10.0) -> None:
        async def seen() -> bool:
            return bool((await self.health())["stores"][store]["state"] == state)

        await eventually(seen, within_s=within_s, every_s=0.15, what=f"health says that {store} is {state}")

    async def answers_at_once(self, *, seconds: float) -> None:
        """Callers are answered as ever: the event loop waits for no store."""
        took, until = [], time.monotonic() + seconds
        while time.monotonic() < until:
            begun = time.monotonic()
            assert (await self.world.api("GET", "/health/live"))["_status"] == 200
            took.append(time.monotonic() - begun)
            await asyncio.sleep(0.03)  # the pace of a prober
        assert statistics.median(took) < ANSWERS_S, took

    async def primary_equal(self, *, within_s: float = BACK_S) -> None:
        """Every record in Postgres equals the broker's truth."""
        wrong: dict[str, Any] = {}

        async def true() -> bool:
            wrong.clear()
            held = await primary_records(self.database_url, self.users)
            for user in self.users:
                truth = await self.world.sim("GET", f"/truth/{self.world.accounts[user]}")
                if found := differences(held[user], truth):
                    wrong[user] = found
            return not wrong

        await eventually(true, within_s=within_s, every_s=0.1, what=lambda: f"true records in Postgres: {wrong}")


Step = Callable[[StoreScene], Awaitable[None]]


async def run_store_case(scene: StoreScene, hurt: Step, heal: Step | None) -> None:
    """Hurt a store, let the case look, heal it, and ask for what every case must leave behind."""
    await scene.equal(within_s=15)
    await scene.begin()
    try:
        await hurt(scene)
    except BaseException:
        print(scene.world.bridge.output)  # a failed case explains itself
        raise
    finally:
        if heal is not None:
            await heal(scene)
    await scene.equal(within_s=BACK_S)
    if scene.pool is not None:
        await scene.primary_equal()
    await asyncio.sleep(0.1)  # a few more samples
    assert not scene.watcher.violations, "\n".join(scene.watcher.violations)
    assert await scene.metric("bridge_reconnects_total") == 0, "a session was interrupted"
    assert await scene.metric("bridge_internal_errors_total") == 0
    assert await scene.metric("bridge_fenced_total") == 0
    assert await scene.counted("budgetViolations") == 0
    assert scene.world.bridge.returncode is None
    assert (await scene.health())["status"] == "ok"


@asynccontextmanager
async def store_scene(folder: Path, postgres: PostgresServer | None = None) -> AsyncIterator[StoreScene]:
    """Everything running, every account with a position, every record true. With `postgres` that is the primary."""
    async with AsyncExitStack() as stack:
        valkey = stack.enter_context(ValkeyServer())
        line = await stack.enter_async_context(fault_proxy(valkey.port))
        broker = await stack.enter_async_context(fault_proxy())
        env = {
            "REDIS_URL": f"redis://127.0.0.1:{line.port}/0",
            "CTRADER_DEMO_URL": f"ws://127.0.0.1:{broker.port}",
            "LOG_FORMAT": "json",
            "CACHE_FLUSH_INTERVAL": "0.25",
        }
        pool, url = None, ""
        if postgres is not None:
            url = await make_database(postgres)
            pool = await stack.enter_async_context(pooler(url, size=8))
            env["DATABASE_URL"] = pool.url()
        world: World = await stack.enter_async_context(
            running_world(folder, users=USERS, bridge_env=env, bridge_module="tests.support.quick_bridge")
        )
        world = replace(world, valkey=valkey)
        broker.target = world.ports["ctrader"]
        await world.sim("POST", "/prices", {"freeze": True})
        await world.start_all()
        await world.all_live(within_s=30)
        for user in world.users:
            order = {"symbol": "EURUSD", "side": "buy", "type": "market", "units": 3000}
            await world.sim("POST", f"/accounts/{world.accounts[user]}/order", order)
        with Watcher(valkey.url, {user: record_key(user) for user in world.users}, broker) as watcher:
            scene = StoreScene(
                world, watcher, valkey=valkey, cache=line, postgres=postgres, pool=pool, database_url=url
            )
            await scene.equal(within_s=15)
            yield scene
