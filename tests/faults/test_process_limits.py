"""A process without file descriptors, short of memory, and with more events than it can handle.

One world for all cases: real processes, an independent reader of every record.
"""

import asyncio
import resource
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from tests.support.fault_scene import FaultScene
from tests.support.fault_table import fault
from tests.support.flooding import Flood
from tests.support.waiting import eventually
from tests.support.watcher import Watcher
from tests.support.world import APP_KEY, OPS_KEY, record_key, running_world

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(120)]
USERS = 6
BACK_S = 12.0
MIB = 2**20
FLOOD_S = 4.0
PER_S = 5_000


class Scene(FaultScene):
    """Accounts at cTrader, each with a position."""

    flood: Flood

    @property
    def pid(self) -> int:
        return self.world.bridge.pid

    def memory(self, name: str) -> int:
        """VmRSS or VmSize, in bytes."""
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))

    @contextmanager
    def limited(self, what: int, value: int) -> Iterator[None]:
        """A limit of the running process, for the time of the block."""
        before = resource.prlimit(self.pid, what)
        resource.prlimit(self.pid, what, (value, before[1]))
        try:
            yield
        finally:
            with suppress(ProcessLookupError):  # it may have ended of it
                resource.prlimit(self.pid, what, before)

    async def trade(self, user: str = "") -> None:
        path = f"/accounts/{self.world.accounts[user or self.VICTIM]}"
        await self.world.sim("POST", f"{path}/deposit", {"amount": 7})

    async def well_again(self) -> None:
        await self.equal(within_s=BACK_S)
        await asyncio.sleep(0.1)  # a few more samples
        assert not self.watcher.violations, "\n".join(self.watcher.violations)
        assert self.world.bridge.returncode is None


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def scene(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Scene]:
    flood = Flood()
    await flood.start()
    env = {
        "CTRADER_DEMO_URL": f"ws://127.0.0.1:{flood.port}",
        "LOG_FORMAT": "json",
        "LOG_LEVEL": "INFO",
        "CACHE_FLUSH_INTERVAL": "0.25",
    }
    folder, module = tmp_path_factory.mktemp("limits"), "tests.support.quick_bridge"
    async with running_world(folder, users=USERS, bridge_env=env, bridge_module=module) as world:
        flood.target = world.ports["ctrader"]
        await world.sim("POST", "/prices", {"freeze": True})
        await world.start_all()
        await world.all_live(within_s=30)
        order = {"symbol": "EURUSD", "side": "buy", "type": "market", "units": 3000}
        for user in world.users:
            await world.sim("POST", f"/accounts/{world.accounts[user]}/order", order)
        keys = {user: record_key(user) for user in world.users}
        with Watcher(world.valkey.url, keys, flood) as watcher:
            made = Scene(world, watcher)
            made.flood = flood
            yield made
    await flood.close()


async def begun(scene: Scene) -> None:
    await scene.equal(within_s=15)
    await scene.begin()


# ------------------------------------------------------------ descriptors


@fault(
    "P14",
    "RLIMIT_NOFILE at what is open, then every connection cut",
    "what is connected goes on; not ready; no dial succeeds; all live and true within 12 s of the limit's end",
)
async def test_what_is_connected_goes_on_when_no_file_descriptor_is_left(scene: Scene) -> None:
    await begun(scene)
    headers = {"Authorization": f"Bearer {OPS_KEY}"}
    async with aiohttp.ClientSession(scene.world.url, headers=headers) as kept:

        async def asked(path: str) -> Any:
            async with kept.get(path) as answer:
                return answer.status, await answer.json(content_type=None)

        assert (await asked("/health/ready"))[0] == 200
        with scene.limited(resource.RLIMIT_NOFILE, 3):  # no new one has so low a number
            status, problem = await asked("/health/ready")
            assert (status, "file descriptor" in problem["detail"]) == (503, True)
            await scene.trade()
            await scene.equal(within_s=8)  # over connections that are there
            with pytest.raises((aiohttp.ClientError, TimeoutError)):
                async with aiohttp.ClientSession(scene.world.url) as new:
                    await new.get("/health/live", timeout=aiohttp.ClientTimeout(total=2))
            await scene.fault("N40")
            await scene.seen_not_live()
            await scene.trade()
            assert (await asked("/health"))[1]["sessions"].get("live") is None
        await scene.well_again()
        assert (await asked("/health/ready"))[0] == 200


# ------------------------------------------------------------ events


@fault(
    "P13",
    "5,000 events a second for one account, for 4 s",
    "memory grows by less than 32 MiB; others' records follow meanwhile; every record true within 12 s",
)
async def test_the_latest_state_is_kept_when_events_flood_in(scene: Scene) -> None:
    await begun(scene)
    before = scene.memory("VmRSS")
    flooding = asyncio.create_task(scene.flood.run(PER_S, FLOOD_S))
    try:
        for user in scene.bystanders[:3]:
            await scene.trade(user)
            await scene.equal(user, within_s=8)
        assert await flooding >= PER_S * FLOOD_S
    finally:
        flooding.cancel()
    assert scene.memory("VmRSS") - before < 32 * MIB
    await scene.well_again()
    assert await scene.metric("bridge_reconnects_total") == 0


# ------------------------------------------------------------ memory


@fault(
    "P04",
    "RLIMIT_AS 48 MiB above what is used, under a flood of events and requests, with the store away",
    "the process lives within the limit, and every record is true within 12 s",
)
async def test_buffers_are_bounded_long_before_memory_runs_out(scene: Scene) -> None:
    await begun(scene)
    with scene.limited(resource.RLIMIT_AS, scene.memory("VmSize") + 48 * MIB):
        with scene.world.valkey.paused():
            flooding = asyncio.create_task(scene.flood.run(PER_S, 2.0))
            body = {"userId": "nobody", "broker": "ctrader"}
            answers = await asyncio.gather(
                *(scene.world.api("POST", "/api/start-session", key=APP_KEY, body=body) for _ in range(500))
            )
            assert {answer["_status"] for answer in answers} <= {409, 429, 503}
            await flooding
            assert scene.world.bridge.returncode is None
        await scene.well_again()


@fault(
    "P04",
    "RLIMIT_AS at what is used, under a flood of requests",
    "it goes on or ends, and nothing looks fresh for too long",
)
async def test_a_process_without_memory_goes_on_or_ends(scene: Scene) -> None:
    """The last case: it may take the process with it."""
    await begun(scene)
    with scene.limited(resource.RLIMIT_AS, scene.memory("VmRSS")):
        for _ in range(20):
            await scene.trade()
            try:
                async with scene.world.http.get(f"{scene.world.url}/openapi.json") as answer:
                    await answer.read()
            except (aiohttp.ClientError, OSError):
                pass  # refused, or gone: both are allowed here
            if scene.world.bridge.returncode is not None:
                break
    await eventually(lambda: _over(scene), within_s=BACK_S, every_s=0.2, what="live and true, or ended")
    assert not scene.watcher.violations, "\n".join(scene.watcher.violations)


async def _over(scene: Scene) -> bool:
    return scene.world.bridge.returncode not in (None, 0) or not await scene.differing()
