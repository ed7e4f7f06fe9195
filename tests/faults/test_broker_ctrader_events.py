"""The whole system when what cTrader says is wrong, strange, doubled, shuffled, lost or late (faults.md §2.1).

The connection stays in most of these: what records show is repaired while the fault is still on.
"""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.support.ctrader_scene import COUNT, VICTIM, CtraderScene, ctrader_scene
from tests.support.fault_scene import Case, Observed, parameters, run_case
from tests.support.quick_bridge import WAITS
from tests.support.waiting import eventually

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.slow]

RECONCILED_S = 1.2 * WAITS["reconcile_floor_s"] + 2
ABSURD = ("negative_volume", "nan_price", "inf_price", "huge_money", "year_1970", "year_2100")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def scene(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[CtraderScene]:
    async with ctrader_scene(tmp_path_factory.mktemp("events")) as made:
        yield made


async def converges(scene: CtraderScene) -> None:
    """Wrong or missing events are repaired while the fault is still on, well before the periodic reconcile."""
    await scene.trade()
    await scene.equal(VICTIM, within_s=3.5)


async def quarantined(scene: CtraderScene) -> None:
    await converges(scene)
    assert await scene.metric(COUNT % "quarantined") > 0
    scene.held("counted, not used")


async def absurd_is_not_shown(scene: CtraderScene) -> None:
    """The watcher holds every record against sanity and strict JSON."""
    await scene.trade(rounds=3)
    scene.held("no absurd value in any record, all strict JSON")


async def mutated(scene: CtraderScene) -> None:
    """Bytes of valid messages changed: the process and everybody else go on."""
    await scene.trade(rounds=2)
    await scene.bystander_trades()


async def garbage_is_counted(scene: CtraderScene) -> None:
    await scene.nothing_happens()
    assert await scene.metric(COUNT % "garbage_frames") >= 3
    scene.held("counted")


async def repaired_by_reconcile(scene: CtraderScene) -> None:
    await scene.trade()
    await scene.equal(VICTIM, within_s=RECONCILED_S)
    assert await scene.metric("bridge_lost_events_total") > 0
    scene.held("the loss is counted")


async def late_events(scene: CtraderScene) -> None:
    """Found by reading before they come; when they come at last they change nothing."""
    await scene.trade()
    await scene.equal(VICTIM, within_s=RECONCILED_S)
    await scene.watch_for(3)
    await scene.equal(VICTIM, within_s=2)


async def after_a_login(scene: CtraderScene) -> None:
    """The same once more after an account's login: what came before it comes again, or was lost."""
    await scene.trade()
    await scene.fault("N33", accounts=[scene.victim])
    await scene.seen_not_live(VICTIM)
    await scene.trade()
    await scene.equal(VICTIM, within_s=4)


async def found_in_pages(scene: CtraderScene) -> None:
    """Executions that no message told of are read from history, one a page."""
    await scene.fault("N21", accounts=[scene.victim])
    await scene.trade(rounds=2)
    await scene.equal(VICTIM, within_s=RECONCILED_S)
    made = 6  # two rounds: an opening, an opening the other way, a closing each
    await eventually(
        lambda: _recovered(scene, made), within_s=12, every_s=0.1, what="all executions are found in history"
    )
    scene.held("all of them found, to the last page")


async def _recovered(scene: CtraderScene, made: int) -> bool:
    return await scene.metric(COUNT % "fills_recovered") >= made


async def foreign_is_counted(scene: CtraderScene) -> None:
    """Dropped, counted as a security event, and in nobody's record."""
    with scene.watcher.untouched(*scene.users):
        await scene.fault("N18")
        await eventually(lambda: scene.metric(COUNT % "foreign_events"), within_s=2, what="foreign events counted")
        await scene.watch_for(0.5)
    scene.held("counted; nobody's record changed")
    await scene.nothing_happens()


async def cut_and_trade(scene: CtraderScene) -> None:
    await scene.cut()
    await scene.all_notice()


async def traded_while_read(scene: CtraderScene) -> None:
    """The periodic reconcile of a live account meets an old snapshot: nothing that was told is taken back."""
    held = _held(scene)
    await eventually(lambda: _held(scene) > held, within_s=RECONCILED_S, every_s=0.02, what="the trade is shown")
    await scene.positions_stay(1.0, live=True)


def _held(scene: CtraderScene) -> set[str]:
    return {row["id"] for row in scene.record()["positions"]}


async def snapshot_is_doubted(scene: CtraderScene) -> None:
    """The next snapshot after a cut is broken: positions may not vanish on its word."""
    await scene.cut()
    await scene.seen_not_live(VICTIM)
    await scene.positions_stay(2.5)


async def live_snapshot_is_doubted(scene: CtraderScene) -> None:
    """The same while live: the periodic reconcile meets the broken snapshot."""
    await scene.positions_stay(1.2 * WAITS["reconcile_floor_s"] + 1, live=True)
    assert await scene.counted("faults", "BrokenSnapshot") == 1


CASES = [
    Case("N24", {"rows": 2}, during=found_in_pages),  # first: history is short
    Case("N14", {"mode": "random", "count": 3}, during=garbage_is_counted, name="three"),
    Case("N14", {"mode": "random", "count": 40}, during=CtraderScene.all_notice, name="forty"),
    Case("N14", {"mode": "mutated", "count": 6}, during=mutated, name="mutated"),
    *(
        Case("N15", {"variant": variant}, during=quarantined, aimed=True, name=variant)
        for variant in ("unknown", "missing")
    ),
    Case("N16", {"variant": "type", "count": 20}, during=CtraderScene.nothing_happens, name="type"),
    Case("N16", {"variant": "fields", "count": 20}, during=CtraderScene.nothing_happens, name="fields"),
    *(
        Case("N17", {"variant": variant, "count": 3}, during=absurd_is_not_shown, aimed=True, name=variant)
        for variant in ABSURD
    ),
    Case("N18", during=foreign_is_counted),
    Case("N19", during=converges, aimed=True),
    Case("N19", {"afterAuth": True}, during=after_a_login, aimed=True, name="after-login"),
    Case("N20", during=converges, aimed=True),
    Case("N20", {"window": 12, "waitSeconds": 1.5}, during=converges, aimed=True, name="wide"),
    Case("N21", {"every": 1}, during=repaired_by_reconcile, aimed=True, name="all"),
    Case("N21", {"every": 3}, during=repaired_by_reconcile, aimed=True, name="some"),
    Case("N21", {"delaySeconds": 3}, during=late_events, aimed=True, name="late"),
    Case("N21", {"every": 1}, during=after_a_login, aimed=True, name="and-login"),
    Case("N22", during=cut_and_trade, name="login"),
    Case("N22", {"delaySeconds": 0.5}, during=traded_while_read, name="live", aimed=True),
    *(
        Case("N23", {"variant": variant}, during=snapshot_is_doubted, name=variant)
        for variant in ("empty", "short", "error")
    ),
    *(
        Case("N23", {"variant": variant}, during=live_snapshot_is_doubted, name=f"{variant}-live", aimed=True)
        for variant in ("empty", "short", "error")
    ),
]


@pytest.mark.parametrize("case", parameters(CtraderScene, CASES))
async def test_records_stay_true_when_what_is_said_is_not(scene: CtraderScene, case: Case, observed: Observed) -> None:
    await run_case(scene, case, observed)
