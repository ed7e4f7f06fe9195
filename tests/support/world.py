"""The whole system as separate processes: Valkey, the simulator, the bridge, and a caller with keys.

Everything goes through the doors that users have: environment variables, the HTTP API, the admin API of the simulator
and the store. Invariant: when the block ends, no process is left.
"""

import asyncio
import hashlib
import hmac
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import aiohttp
from dotenv import dotenv_values

from bridge.embedded.surroundings import free_port
from bridge.embedded.valkey import ValkeyServer
from tests.support.canaries import assert_clean, plant, secrets_of, stored_in_postgres, stored_in_redis
from tests.support.processes import BridgeProcess, bridge_process
from tests.support.waiting import eventually

API_KEY_SECRET = "only-for-tests-0123456789abcdefghij"
APP_KEY = "app.app-key-of-the-tests-0123456789"
OPS_KEY = "ops.ops-key-of-the-tests-0123456789"
plant(API_KEY_SECRET, APP_KEY.partition(".")[2], OPS_KEY.partition(".")[2])


def api_keys() -> str:
    """The value of API_KEYS that admits APP_KEY and OPS_KEY (DESIGN §11)."""

    def entry(key: str, scope: str) -> str:
        digest = hmac.new(API_KEY_SECRET.encode(), key.encode(), hashlib.sha256).hexdigest()
        return f"{key.partition('.')[0]}:{scope}:{digest}"

    return f"{entry(APP_KEY, 'app')},{entry(OPS_KEY, 'ops')}"


def record_key(user_id: str, broker: str = "ctrader") -> str:
    """Where a user's default account is in the store, as a reader computes it."""
    return f"{broker}_account_{hashlib.sha256(user_id.encode()).hexdigest()}"


@dataclass(slots=True)
class World:
    """Handles on the running parts. `users` are `user-1` … `user-n`; `accounts` those of each at the world's broker."""

    valkey: ValkeyServer
    simulator: BridgeProcess
    bridge: BridgeProcess
    http: aiohttp.ClientSession
    ports: Mapping[str, int]
    url: str
    users: Sequence[str]
    accounts: dict[str, str] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)  # of the bridge, to start it once more
    broker: str = "ctrader"

    async def sim(self, method: str, path: str, body: object = None, *, refusable: bool = False) -> Any:
        """Call the simulator's admin API. `refusable`: the broker may refuse the trade (409)."""
        async with self.http.request(method, f"http://127.0.0.1:{self.ports['admin']}/sim{path}", json=body) as answer:
            text = await answer.text()
            if refusable and answer.status == 409:
                return None
            assert answer.status < 300, f"{method} /sim{path} {body}: {answer.status} {text}"
            return json.loads(text) if text else None

    async def api(self, method: str, path: str, *, key: str = OPS_KEY, body: object = None, user: str = "") -> Any:
        """Call the bridge's API; the status is added to the answer as `_status`."""
        headers = {"Authorization": f"Bearer {key}"} | ({"X-User-Id": user} if user else {})
        async with self.http.request(method, f"{self.url}{path}", json=body, headers=headers) as answer:
            assert_clean(f"{answer.headers} {await answer.text()}", f"the answer to {method} {path}", answer=True)
            data = await answer.json(content_type=None)
            return {**data, "_status": answer.status}

    def at(self, broker: str, users: Sequence[str]) -> "World":
        """The same parts, seen from another broker."""
        return replace(self, broker=broker, users=users, accounts={})

    async def broker_sim(self, method: str, path: str, body: object = None, **more: bool) -> Any:
        """Call an admin route that is this broker's own: counters, faults, prices."""
        return await self.sim(method, f"/{self.broker}{path}", body, **more)

    async def start(self, user: str, **more: object) -> Any:
        """Start a session, waiting out the rate limit as a well-behaved caller does."""
        body = {"userId": user, "broker": self.broker, **more}
        while (answer := await self.api("POST", "/api/start-session", key=APP_KEY, body=body))["_status"] == 429:
            await asyncio.sleep(0.5)  # some of the budget is back then
        assert answer["_status"] == 202, answer
        return answer

    async def start_all(self, *, at_once: int = 16) -> None:
        """Start every user's session and remember the accounts."""
        gate = asyncio.Semaphore(at_once)

        async def one(user: str) -> None:
            async with gate:
                self.accounts[user] = str((await self.start(user, environment="demo"))["accountId"])

        async with asyncio.TaskGroup() as group:
            for user in self.users:
                group.create_task(one(user))

    async def live(self) -> int:
        """How many sessions are live, by /health."""
        return (await self.api("GET", "/health"))["sessions"].get("live", 0)

    async def ready(self) -> None:
        """Wait until the bridge serves."""

        async def ready() -> bool:
            assert self.bridge.returncode is None, self.bridge.output
            try:
                return (await self.api("GET", "/health/ready"))["_status"] == 200
            except aiohttp.ClientConnectionError:
                return False

        await eventually(ready, within_s=30, every_s=0.05, what="the bridge is ready")

    async def all_live(self, *, within_s: float) -> None:
        async def enough() -> bool:
            return await self.live() == len(self.users)

        await eventually(enough, within_s=within_s, every_s=0.1, what="all sessions live")

    async def search_stores(self) -> None:
        """No secret may be in what was stored."""
        also = secrets_of(self.env)
        if self.valkey.running:
            assert_clean(stored_in_redis(self.valkey.url), "what is in Redis", also=also)
        if url := self.env.get("DATABASE_URL"):
            assert_clean(await stored_in_postgres(url), "what is in Postgres", also=also)

    def records(self, users: Sequence[str] | None = None) -> list[Any]:
        """The users' records as they stand in the store (None where nothing is)."""
        import redis  # the plain synchronous client: an independent reader

        with redis.Redis.from_url(self.valkey.url) as client:
            raw = client.mget([record_key(user, self.broker) for user in users or self.users])
        return [None if item is None else json.loads(item) for item in raw]


@asynccontextmanager
async def running_world(
    folder: Path,
    *,
    users: int,
    requests_per_second: int = 500,
    simulator_arguments: Sequence[str] = (),
    bridge_env: Mapping[str, str] | None = None,
    bridge_module: str = "bridge",
    simulator_module: str = "bridge",
) -> AsyncIterator[World]:
    """Start everything and stop it again. The bridge keeps to 90 % of the broker's limit, as in production."""
    async with AsyncExitStack() as stack:
        valkey = stack.enter_context(ValkeyServer())
        http = await stack.enter_async_context(
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30), connector=aiohttp.TCPConnector(limit=64))
        )
        simulator = await stack.enter_async_context(
            bridge_process(
                *("simulate", "--free-ports", "--seed", "7", "--users", str(users)),
                *("--cert-dir", str(folder / "certs"), "--requests-per-second", str(requests_per_second)),
                *("--credentials", str(folder / "credentials.json"), "--env", str(folder / "bridge.env")),
                *simulator_arguments,
                module=simulator_module,
            )
        )
        ports = json.loads(await simulator.line(lambda line: line.startswith("{"), within_s=60))
        port = free_port()
        env = {
            "PORT": str(port),
            "HOST": "127.0.0.1",
            "REDIS_URL": valkey.url,
            "API_KEY_SECRET": API_KEY_SECRET,
            "API_KEYS": api_keys(),
            **{name: value for name, value in dotenv_values(folder / "bridge.env").items() if value is not None},
            "PUBLIC_URL": f"http://127.0.0.1:{port}",
            "CTRADER_REQUESTS_PER_SECOND": str(round(requests_per_second * 0.9)),
            "CTRADER_HISTORY_REQUESTS_PER_SECOND": str(max(1, round(requests_per_second * 0.08))),
            **(bridge_env or {}),
        }
        bridge = await stack.enter_async_context(bridge_process("serve", env=env, module=bridge_module))
        names = [f"user-{number}" for number in range(1, users + 1)]
        world = World(valkey, simulator, bridge, http, ports, f"http://127.0.0.1:{port}", names, env=env)
        await world.ready()
        try:
            yield world
        except BaseException:
            print(world.simulator.output, world.bridge.output)  # a failed run explains itself
            raise
        await world.search_stores()
