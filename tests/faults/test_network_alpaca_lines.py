"""The whole system when some of the lines to Alpaca are bad: REST, streams and prices apart (faults.md §2.1)."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.support.alpaca_scene import OPTION, VICTIM, AlpacaScene, alpaca_scene
from tests.support.fault_scene import ON_THE_WAY, SEEN_WITHIN_S
from tests.support.fault_table import fault
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
        await line.heal()


async def comes_back(scene: AlpacaScene, *, codes: frozenset[str]) -> None:
    await scene.equal(within_s=BACK_S)
    assert scene.watcher.codes(VICTIM) <= ON_THE_WAY | codes, scene.watcher.codes(VICTIM)
    await scene.kept_promises()


REST_AWAY = "every session live, executions shown within 2 s, old prices are not shown"
NOBODY_LIVE = "nobody is live while it lasts; all equal within 10 s after it"


@pytest.mark.parametrize(
    "how",
    [
        pytest.param("down", marks=fault("N06", "Alpaca: REST refuses every dial, the streams are well", REST_AWAY)),
        pytest.param("half-open", marks=fault("N03", "Alpaca: REST is half-open, the streams are well", REST_AWAY)),
    ],
)
async def test_session_stays_live_and_true_when_only_rest_is_away(scene: AlpacaScene, how: str) -> None:
    """The stream tells of executions and orders; prices that nobody renews are not shown, and nobody's session ends."""
    if how == "down":
        scene.rest.refuse()
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
    await scene.rest.heal()
    await comes_back(scene, codes=frozenset())


@fault("N06", "Alpaca: the trading stream refuses every dial, REST is well", NOBODY_LIVE)
async def test_nobody_is_live_by_rest_alone_when_the_stream_is_away(scene: AlpacaScene) -> None:
    scene.stream.refuse()
    scene.stream.cut()
    await scene.seen_not_live()
    await scene.trade()
    await scene.watch_for(3)
    assert all(scene.watcher.records[user]["status"] != "live" for user in scene.users)
    await scene.stream.heal()
    await comes_back(scene, codes=AWAY)


@fault("N03", "Alpaca: REST is half-open after a cut", NOBODY_LIVE)
async def test_nothing_becomes_live_when_rest_is_away_after_a_cut(scene: AlpacaScene) -> None:
    scene.rest.hold()
    await scene.cut()
    await scene.seen_not_live()
    await scene.trade()
    await scene.watch_for(3)
    assert all(scene.watcher.records[user]["status"] != "live" for user in scene.users)
    scene.rest.let_go()
    await comes_back(scene, codes=AWAY)
