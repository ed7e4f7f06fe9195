"""The whole system, durable, when time does what it should not: clocks that jump, a loop that stalls, a frozen process.

Sessions are owned under a short lease, so that a lease that goes by the wrong clock, or outlives a freeze, would show.
"""

import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager

import pytest
import pytest_asyncio

from bridge.embedded.postgres import PostgresServer
from tests.support.alpaca_scene import alpaca_scene
from tests.support.ctrader_scene import ctrader_scene
from tests.support.databases import make_database, migrate_database
from tests.support.fault_proxy import now_ms
from tests.support.fault_scene import FaultScene, Observed
from tests.support.fault_table import fault
from tests.support.measures import read_metrics
from tests.support.quick_bridge import HOUR_MS, STALL_S
from tests.support.waiting import eventually

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.slow]

LEASE_S = 3.0
IDLE_S = 3.0  # of silence, and cTrader cuts a client off
FROZEN_S = 4.0
BACK_S = 10.0
MINUTE_MS = 60_000

SCENES: dict[str, Callable[..., AbstractAsyncContextManager[FaultScene]]] = {
    "ctrader": ctrader_scene,
    "alpaca": alpaca_scene,
}


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=list(SCENES))
async def running(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, postgres: PostgresServer
) -> AsyncIterator[FaultScene]:
    url = await make_database(postgres)
    await migrate_database(url)
    more = {"simulator_arguments": ("--idle-seconds", str(IDLE_S))} if request.param == "ctrader" else {}
    env = {"DATABASE_URL": url, "LEASE_TTL": str(LEASE_S)}
    async with SCENES[request.param](tmp_path_factory.mktemp("clocks"), **more, **env) as made:
        yield made


@pytest_asyncio.fixture(loop_scope="module")
async def scene(running: FaultScene) -> FaultScene:
    await running.equal(within_s=15)
    await running.begin()
    return running


@fault("N38", "the wall clock of the process jumps an hour ahead, back, an hour behind")
async def test_sessions_and_leases_stay_and_executions_are_found_when_the_wall_clock_jumps(
    scene: FaultScene, observed: Observed
) -> None:
    bridge, watcher = scene.world.bridge, scene.watcher
    fences = {user: scene.record(user)["fence"] for user in scene.users}

    async def shows(ahead_ms: int) -> None:
        await eventually(
            lambda: abs(scene.record()["asOf"] - now_ms() - ahead_ms) < MINUTE_MS,
            within_s=10,
            what="what is written goes by the new time",
        )
        watcher.ahead_ms = ahead_ms

    for number, ahead_ms in ((signal.SIGUSR1, HOUR_MS), (signal.SIGUSR2, 0), (signal.SIGUSR2, -HOUR_MS)):
        watcher.ahead_ms = max(watcher.ahead_ms, ahead_ms)
        logins = await scene.logins()
        bridge.send(number)
        await scene.trade()
        await scene.equal(within_s=6)
        await shows(ahead_ms)
        await scene.watch_for(LEASE_S / 2)  # a lease by this clock would be renewed, and be gone
        assert await scene.logins() == logins, "a jump of the clock is no reason to reconnect"
        await scene.cut()
        await scene.trade()
        await scene.equal(within_s=6)
        await scene.judged()
    bridge.send(signal.SIGUSR1)
    watcher.ahead_ms = 0
    await scene.trade()
    await shows(0)
    await scene.equal(within_s=BACK_S)
    assert {user: scene.record(user)["fence"] for user in scene.users} == fences
    # a record that is not written meanwhile keeps the time that it had by the other clock
    violations = [each for each in watcher.violations if "although nothing was sent" not in each]
    assert not violations, "\n".join(violations)
    observed("no reconnect, no fence changed; equal within 6 s also after a cut; every execution known once")


@fault("N25", f"the event loop does nothing for {STALL_S:g} s, the broker cuts after {IDLE_S:g} s")
async def test_sessions_return_and_the_stall_is_named_when_the_loop_stood_still(
    scene: FaultScene, observed: Observed
) -> None:
    bridge, before = scene.world.bridge, (await read_metrics(scene.world))["bridge_loop_stalls_total"]
    lines = bridge.lines("event loop stalled")
    scene.watcher.ahead_ms = round(STALL_S * 1000)  # what comes during the stall is read, and its time noted, after it
    bridge.send(signal.SIGWINCH)
    await scene.trade()
    await eventually(
        lambda: bridge.lines("event loop stalled") > lines,
        within_s=STALL_S + 2,
        what="the stall is told while it lasts",
    )
    await scene.equal(within_s=STALL_S + BACK_S)
    assert (await read_metrics(scene.world))["bridge_loop_stalls_total"] == before + 1
    if "idleCutoffs" in scene.before:
        assert await scene.counted("idleCutoffs") >= 1
        assert await scene.logins() >= 1
    await scene.kept_promises()
    scene.watcher.ahead_ms = 0
    observed(f"told with its stack while it lasts, counted once; all equal within {STALL_S + BACK_S:g} s")


@fault("N39", f"SIGSTOP for {FROZEN_S:g} s at a lease of {LEASE_S:g} s, SIGCONT")
async def test_sessions_are_true_again_when_the_process_was_frozen_beyond_its_lease(
    scene: FaultScene, observed: Observed
) -> None:
    fences = {user: scene.record(user)["fence"] for user in scene.users}
    scene.world.bridge.send(signal.SIGSTOP)
    try:
        await scene.trade()
        await scene.watch_for(FROZEN_S)  # past the lease; the watcher holds every record against its horizon
    finally:
        scene.world.bridge.send(signal.SIGCONT)
    await scene.equal(within_s=BACK_S)
    await scene.trade()
    await scene.equal(within_s=BACK_S)
    assert all(scene.record(user)["fence"] >= fences[user] for user in scene.users)
    await scene.kept_promises()
    observed(f"nothing looks fresh beyond its horizon; all equal within {BACK_S:g} s")
