"""The whole system when the lines to Alpaca are bad, and when the wall clock is: REST, streams and prices apart.

The relays of the scene make the trouble, so both ends behave as they do when a network is to blame.
"""

import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.support.alpaca_scene import EMPTY, OPTION, VICTIM, AlpacaScene, alpaca_scene
from tests.support.fault_scene import ON_THE_WAY, SEEN_WITHIN_S
from tests.support.quick_bridge import ALPACA_WAITS as WAITS
from tests.support.quick_bridge import HOUR_MS
from tests.support.relay import now_ms
from tests.support.waiting import eventually

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.slow]

BUSY = frozenset({"connection_lost", "connection_limit"})
AWAY = BUSY | {"broker_unreachable", "broker_silent", "broker_error"}
BACK_S = 10.0


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[AlpacaScene]:
    async with alpaca_scene(tmp_path_factory.mktemp("lines")) as made:
        yield made


@pytest_asyncio.fixture(loop_scope="module")
async def scene(running: AlpacaScene) -> AsyncIterator[AlpacaScene]:
    """The running world with good lines, before and after."""
    await running.equal(within_s=15)
    await running.begin()
    yield running
    for line in (running.rest, running.stream, running.prices):
        line.let_go()
        line.delay_s, line.down = 0.0, False


async def comes_back(
    scene: AlpacaScene, *, codes: frozenset[str], within_s: float = BACK_S, besides: str = "-"
) -> None:
    await scene.equal(within_s=within_s)
    violations = [each for each in scene.watcher.violations if not each.startswith(besides)]
    assert not violations, "\n".join(violations)
    assert scene.watcher.codes(VICTIM) <= ON_THE_WAY | codes, scene.watcher.codes(VICTIM)
    assert await scene.counted("budgetViolations") == 0
    await scene.judged()


async def test_session_returns_when_the_line_of_the_stream_is_cut(scene: AlpacaScene) -> None:
    assert scene.stream.cut()
    await scene.seen_not_live()
    await scene.trade()
    await comes_back(scene, codes=BUSY)


async def test_silence_is_noticed_when_the_line_of_the_stream_is_half_open(scene: AlpacaScene) -> None:
    scene.stream.hold()
    await scene.trade()
    await scene.silence_is_noticed()
    await scene.watch_for(2)
    scene.stream.let_go()
    await comes_back(scene, codes=AWAY)


async def test_nobody_looks_fresh_when_all_lines_are_half_open(scene: AlpacaScene) -> None:
    for line in (scene.rest, scene.stream, scene.prices):
        line.hold()
    await scene.trade()
    await scene.silence_is_noticed()
    await scene.watch_for(9)  # past the horizon: the watcher holds every record against it
    assert all(scene.watcher.records[user]["status"] != "live" for user in scene.users)
    for line in (scene.rest, scene.stream, scene.prices):
        line.let_go()
    await comes_back(scene, codes=AWAY)


async def test_session_returns_when_all_lines_were_down_for_a_while(scene: AlpacaScene) -> None:
    for line in (scene.rest, scene.stream, scene.prices):
        line.down = True
        line.cut()
    await scene.seen_not_live()
    await scene.trade()
    await scene.watch_for(3)
    assert all(scene.watcher.records[user]["status"] != "live" for user in scene.users)
    for line in (scene.rest, scene.stream, scene.prices):
        line.down = False
    await comes_back(scene, codes=AWAY)


@pytest.mark.parametrize("how", ["down", "half-open"])
async def test_session_stays_live_and_true_when_only_rest_is_away(scene: AlpacaScene, how: str) -> None:
    """The stream tells of executions and orders; prices that nobody renews are not shown, and nobody's session ends."""
    if how == "down":
        scene.rest.down = True
        scene.rest.cut()
    else:
        scene.rest.hold()
    await scene.trade()
    held = await scene.holdings()
    await eventually(lambda: scene.shown() == held, within_s=SEEN_WITHIN_S, what="executions are shown at once")
    option = next(row["id"] for row in scene.record()["positions"] if row["symbol"] == OPTION)
    await eventually(
        lambda: next(row for row in scene.record()["positions"] if row["id"] == option)["currentPrice"] is None,
        within_s=8,
        what="a price that nobody renews is not shown",
    )
    assert scene.watcher.statuses(VICTIM) <= {"live"}, scene.watcher.seen[VICTIM]
    scene.rest.down = False
    scene.rest.let_go()
    await comes_back(scene, codes=frozenset())


async def test_nobody_is_live_by_rest_alone_when_the_stream_is_away(scene: AlpacaScene) -> None:
    scene.stream.down = True
    scene.stream.cut()
    await scene.seen_not_live()
    await scene.trade()
    await scene.watch_for(3)
    assert all(scene.watcher.records[user]["status"] != "live" for user in scene.users)
    scene.stream.down = False
    await comes_back(scene, codes=AWAY)


async def test_nothing_becomes_live_when_rest_is_away_after_a_cut(scene: AlpacaScene) -> None:
    scene.rest.hold()
    await scene.cut()
    await scene.seen_not_live()
    await scene.trade()
    await scene.watch_for(3)
    assert all(scene.watcher.records[user]["status"] != "live" for user in scene.users)
    scene.rest.let_go()
    await comes_back(scene, codes=AWAY)


async def test_nothing_happens_when_the_lines_are_slow(scene: AlpacaScene) -> None:
    for line in (scene.rest, scene.stream, scene.prices):
        line.delay_s = 0.2
    await scene.trade(rounds=2)
    await scene.equal(VICTIM, within_s=6)
    await scene.watch_for(3)
    assert await scene.counted("tradingStreamsOpened") == 0
    assert scene.watcher.statuses(VICTIM) <= {"live"}
    await comes_back(scene, codes=frozenset())


async def test_sessions_stay_and_executions_are_found_when_the_wall_clock_steps(scene: AlpacaScene) -> None:
    """An hour ahead, back again, an hour behind: timers, budgets and gap repair do not go by it."""
    bridge, watcher = scene.world.bridge, scene.watcher
    holders = [user for user in scene.users if user != EMPTY]  # renewed often; the other's record when it is due

    async def shows(ahead_ms: int) -> None:
        minute = 60_000
        await eventually(
            lambda: all(abs(scene.record(user)["asOf"] - now_ms() - ahead_ms) < minute for user in holders),
            within_s=10,
            what="the records go by the new time",
        )
        watcher.ahead_ms = ahead_ms

    for number, ahead_ms in ((signal.SIGUSR1, HOUR_MS), (signal.SIGUSR2, 0), (signal.SIGUSR2, -HOUR_MS)):
        watcher.ahead_ms = max(watcher.ahead_ms, ahead_ms)
        opened = await scene.counted("tradingStreamsOpened")
        bridge.send(number)
        await scene.trade()
        await scene.equal(within_s=6)
        await shows(ahead_ms)
        assert await scene.counted("tradingStreamsOpened") == opened, "a step of the clock is no reason to reconnect"
        await scene.cut()
        await scene.trade(rounds=2)
        await scene.equal(within_s=6)
        await scene.judged()
    bridge.send(signal.SIGUSR1)
    watcher.ahead_ms = 0
    await shows(0)
    # a record that is not live keeps the time it had by the wrong clock until it is written anew
    await comes_back(scene, codes=frozenset({"connection_lost"}), besides=EMPTY)


async def test_silence_and_a_killed_process_stop_looking_fresh_in_time_with_the_timers_of_production(
    tmp_path: Path,
) -> None:
    """Nothing shortened: a peer that falls silent, then a bridge that is killed, which nobody can tell the reader."""
    production = {"ALPACA_POLL_SECONDS": "10", "CACHE_FLUSH_INTERVAL": "1"}
    async with alpaca_scene(tmp_path, users=2, bridge_module="bridge", slot_s=0.05, **production) as scene:
        await scene.begin()
        await scene.fault("N03", stream="trading")
        await scene.seen_not_live(within_s=10 + SEEN_WITHIN_S)
        await scene.end_faults()
        await scene.equal(within_s=8)

        scene.world.bridge.send(signal.SIGKILL)
        killed_ms = now_ms()
        await scene.world.bridge.ended()
        await eventually(
            lambda: now_ms() >= max(scene.record(user)["staleAfter"] for user in scene.users),
            within_s=10 + WAITS["ping_s"],
            what="no record looks fresh any more",
        )
        assert now_ms() - killed_ms <= 10_000
        assert not scene.watcher.violations, "\n".join(scene.watcher.violations)
