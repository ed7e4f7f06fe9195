"""A process whose loop stalls, whose tasks die and whose readers are cancelled: sessions come back by themselves.

One world for all cases: real processes, an independent reader of every record.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from tests.support.fault_proxy import fault_proxy
from tests.support.fault_scene import FaultScene
from tests.support.fault_table import fault
from tests.support.hurt_bridge import CANCEL, MISTAKE, STALLS_S, number
from tests.support.waiting import eventually
from tests.support.watcher import Watcher
from tests.support.world import APP_KEY, record_key, running_world

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(120)]
USERS = 6
BACK_S = 10.0


class Scene(FaultScene):
    """Accounts at cTrader, each with a position."""

    def hurt(self, which: int) -> None:
        self.world.bridge.send(number(which))  # type: ignore[arg-type]

    async def rows(self) -> list[Any]:
        return list((await self.world.api("GET", "/api/sessions?limit=100"))["sessions"])

    async def nobody_is_left_behind(self) -> None:
        """Every session that is not live says when it goes on, or is on its way, or waits for its place."""
        for row in await self.rows():
            on_its_way = row["state"] in ("waiting", "connecting", "authorizing", "syncing", "refreshing")
            assert row["status"] == "live" or row["nextAttemptAt"] is not None or on_its_way, row

    async def well_again(self) -> None:
        await self.equal(within_s=BACK_S)
        await asyncio.sleep(0.1)  # a few more samples
        assert not self.watcher.violations, "\n".join(self.watcher.violations)
        assert self.world.bridge.returncode is None
        assert await self.counted("parallelLogins") == 0  # on one connection ALREADY_LOGGED_IN is no harm


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def scene(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Scene]:
    async with fault_proxy() as line:
        env = {
            "CTRADER_DEMO_URL": f"ws://127.0.0.1:{line.port}",
            "LOG_FORMAT": "json",
            "CACHE_FLUSH_INTERVAL": "0.25",
        }
        folder = tmp_path_factory.mktemp("tasks")
        async with running_world(
            folder, users=USERS, bridge_env=env, bridge_module="tests.support.hurt_bridge"
        ) as world:
            line.target = world.ports["ctrader"]
            await world.sim("POST", "/prices", {"freeze": True})
            await world.start_all()
            await world.all_live(within_s=30)
            order = {"symbol": "EURUSD", "side": "buy", "type": "market", "units": 3000}
            for user in world.users:
                await world.sim("POST", f"/accounts/{world.accounts[user]}/order", order)
            keys = {user: record_key(user) for user in world.users}
            with Watcher(world.valkey.url, keys, line) as watcher:
                yield Scene(world, watcher)


async def begun(scene: Scene) -> None:
    await scene.equal(within_s=15)
    await scene.begin()


@fault("P05", "a callback blocks for 0.2 s", "nobody notices: no stall is said, no session interrupted")
async def test_nothing_happens_when_the_loop_stalls_briefly(scene: Scene) -> None:
    await begun(scene)
    scene.hurt(1)
    await scene.world.api("GET", "/health/live")
    await scene.well_again()
    assert await scene.metric("bridge_loop_stalls_total") == 0
    assert await scene.metric("bridge_reconnects_total") == 0


@fault("P05", "a callback blocks for 2 s", "said once, with the place in the code; every record true within 10 s")
async def test_a_stall_is_said_with_its_place(scene: Scene) -> None:
    await begun(scene)
    said = scene.world.bridge.lines("event loop stalled")
    scene.hurt(2)
    line = await scene.world.bridge.line(lambda text: "event loop stalled" in text and "stalls_here" in text)
    assert json.loads(line)["seconds"] < STALLS_S[2]  # while it lasts, not afterwards
    await scene.well_again()
    assert await scene.metric("bridge_loop_stalls_total") == 1
    assert scene.world.bridge.lines("event loop stalled") == said + 1


@fault("P10", "an exception of our own while a session is looked after", "that session comes back, no other leaves")
async def test_a_mistake_of_ours_costs_one_session_a_retry(scene: Scene) -> None:
    await begun(scene)
    scene.hurt(MISTAKE)

    async def noticed() -> bool:
        await scene.nobody_is_left_behind()
        return await scene.metric("bridge_reconnects_total") == 1

    await eventually(noticed, within_s=BACK_S, every_s=0.1, what="it left and is back")
    await scene.well_again()
    assert await scene.metric("bridge_internal_errors_total") == 1
    assert await scene.metric("bridge_reconnects_total") == 1


@fault("P11", "whatever is under way cancelled, again and again, while all sessions come back", "all live within 10 s")
async def test_no_session_is_stranded_when_logins_and_readers_are_cancelled(scene: Scene) -> None:
    await begun(scene)
    for _ in range(3):
        await scene.fault("N40")  # everything is cut, so that there is something under way
        for _ in range(12):
            scene.hurt(CANCEL)
            await asyncio.sleep(0.03)  # so that each strikes at another moment
        await scene.nobody_is_left_behind()
    await scene.well_again()


@fault("P12", "a stop while whatever is under way is cancelled", "answered within 5 s, nothing of it is left")
async def test_a_stop_ends_in_time_when_everything_is_cancelled_under_it(scene: Scene) -> None:
    await begun(scene)
    user = scene.users[-1]
    body = {"userId": user, "broker": "ctrader"}
    await scene.fault("N40")
    for _ in range(5):
        scene.hurt(CANCEL)
        async with asyncio.timeout(5):
            assert (await scene.world.api("POST", "/api/stop-session", key=APP_KEY, body=body))["_status"] == 202

        async def stopped() -> bool:
            return bool(scene.world.records([user])[0]["status"] == "stopped")

        await eventually(stopped, within_s=5, every_s=0.05, what="the record says so")
        assert (await scene.world.api("POST", "/api/start-session", key=APP_KEY, body=body))["_status"] == 202
        scene.hurt(CANCEL)
    await scene.well_again()
