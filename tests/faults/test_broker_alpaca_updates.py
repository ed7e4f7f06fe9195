"""The whole system against trade updates that are wrong, strange, doubled, shuffled or lost (reference/faults.md §2.1).

The stream stays open in all of these: sessions stay live, and what they show is repaired while the fault is still on.
"""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.support.alpaca_scene import COUNT, QUIET, VICTIM, AlpacaScene, alpaca_scene
from tests.support.fault_scene import Case, Observed, parameters, run_case
from tests.support.quick_bridge import ALPACA_WAITS as WAITS
from tests.support.waiting import eventually

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.slow]

NONE: frozenset[str] = frozenset()
ABSURD = ("negative_qty", "nan_price", "inf_price", "huge_money", "not_a_number", "year_1970", "year_2100")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def scene(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[AlpacaScene]:
    async with alpaca_scene(tmp_path_factory.mktemp("updates")) as made:
        yield made


# ------------------------------------------------------------ what must be seen while a fault acts


async def converges(scene: AlpacaScene) -> None:
    """Repaired by the reading that follows, well before the periodic reconcile, and live all the time."""
    await scene.trade(rounds=2)
    await scene.bystander_trades()
    await scene.equal(VICTIM, within_s=5)  # held back for up to 1.5 s, then read, and read again
    assert scene.watcher.statuses(VICTIM) <= {"live"}


async def repaired_without_being_told(scene: AlpacaScene) -> None:
    """Nothing tells of what was lost: a poll or the periodic reconcile finds it."""
    await scene.trade(rounds=2)  # so that a fill is among those that are lost, however the fills come in parts
    await scene.bystander_trades()
    await scene.equal(VICTIM, within_s=1.2 * WAITS["reconcile_s"] + 2)
    assert scene.watcher.statuses(VICTIM) <= {"live"}
    assert await scene.metric(COUNT % "fills_recovered") > 0
    scene.held("lost executions are found")


async def late_updates(scene: AlpacaScene) -> None:
    """Found by reading before they come; when they come at last they change nothing."""
    await scene.trade()
    await scene.equal(VICTIM, within_s=1.2 * WAITS["reconcile_s"] + 2)
    await scene.watch_for(3)
    await scene.equal(VICTIM, within_s=2)
    assert scene.watcher.statuses(VICTIM) <= {"live"}


async def doubled_after_a_cut(scene: AlpacaScene) -> None:
    """The newest updates come once more after each login."""
    await scene.trade()
    await scene.fault("N01", stream="trading", accounts=[scene.victim_account], holdSlot=False)
    await scene.seen_not_live(VICTIM)
    await scene.trade()
    await scene.equal(VICTIM, within_s=5)


async def lost_and_cut(scene: AlpacaScene) -> None:
    """Executions that no message told of, before and during a cut."""
    await scene.trade()
    await scene.fault("N01", stream="trading", accounts=[scene.victim_account], holdSlot=False)
    await scene.trade()
    await scene.equal(VICTIM, within_s=6)
    assert await scene.metric(COUNT % "fills_recovered") > 0
    scene.held("lost executions are found")


async def foreign_is_counted(scene: AlpacaScene) -> None:
    """Dropped, counted as a security event, and in nobody's record."""
    with scene.watcher.untouched(*scene.users):
        await scene.fault("N18", symbol="MSFT")  # somebody holds it, others do not
        await eventually(
            lambda: scene.metric(COUNT % "foreign_events"), within_s=2, every_s=0.05, what="foreign events counted"
        )
        await scene.watch_for(1)
    assert all(row["units"] != 777 for row in scene.record(QUIET)["positions"])
    scene.held("counted; nobody's record changed")
    await scene.trade()
    await scene.equal(within_s=4)
    assert await scene.counted("tradingStreamsOpened") == 0


CASES = [
    *(
        Case("N15", {"field": field, "variant": variant}, converges, aimed=True, codes=NONE, name=f"{field}-{variant}")
        for field in ("event", "status", "type", "side")
        for variant in ("unknown", "missing")
    ),
    *(Case("N17", {"variant": each, "count": 6}, converges, aimed=True, codes=NONE, name=each) for each in ABSURD),
    Case("N18", during=foreign_is_counted, codes=NONE),
    Case("N19", during=converges, aimed=True, codes=NONE),
    Case("N19", {"afterListen": True}, doubled_after_a_cut, codes=frozenset({"connection_lost"}), name="after-login"),
    Case("N20", during=converges, aimed=True, codes=NONE),
    Case("N20", {"window": 12, "waitSeconds": 1.5}, converges, aimed=True, codes=NONE, name="wide"),
    Case("N21", {"every": 1}, repaired_without_being_told, aimed=True, codes=NONE),
    Case("N21", {"events": ["fill", "partial_fill"]}, repaired_without_being_told, aimed=True, codes=NONE, name="fill"),
    Case("N21", {"every": 3}, repaired_without_being_told, aimed=True, codes=NONE, name="some"),
    Case("N21", {"delaySeconds": 3}, late_updates, aimed=True, codes=NONE, name="late"),
    Case("N21", {}, lost_and_cut, codes=frozenset({"connection_lost"}), name="and-cut"),
]


@pytest.mark.parametrize("case", parameters(AlpacaScene, CASES))
async def test_records_stay_true_when_updates_are_not(scene: AlpacaScene, case: Case, observed: Observed) -> None:
    await run_case(scene, case, observed)
