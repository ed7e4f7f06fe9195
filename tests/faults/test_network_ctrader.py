"""The whole system when the connection to cTrader is in trouble that the broker causes (reference/faults.md §2.1, §3).

While a fault acts and after it, an independent watcher holds every record against DESIGN §6; afterwards every session
is live and every record equals the broker's own truth, within a stated time. Horizons are those of production.
"""

import itertools
from collections.abc import AsyncIterator
from functools import partial

import pytest
import pytest_asyncio

from tests.support.ctrader_scene import COUNT, CtraderScene, ctrader_scene
from tests.support.fault_scene import Case, Observed, parameters, run_case
from tests.support.quick_bridge import WAITS
from tests.support.waiting import eventually

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.slow]

MIB = 2**20
LATER_S = 2


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def scene(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[CtraderScene]:
    async with ctrader_scene(tmp_path_factory.mktemp("network")) as made:
        yield made


async def lost_and_read_again(scene: CtraderScene) -> None:
    """Said once for all, and afterwards every account is read whole."""
    confirmed = {user: scene.record(user)["confirmedAt"] for user in scene.users}
    await scene.all_notice()
    await scene.said_once()
    await eventually(
        lambda: all(scene.record(user)["confirmedAt"] > confirmed[user] for user in scene.users),
        within_s=6,
        what="every account is read again",
    )
    scene.held("every account read again")


async def silence_is_noticed(scene: CtraderScene) -> None:
    await scene.trade()
    await scene.silence_is_noticed()


async def cut_and_trade(scene: CtraderScene) -> None:
    await scene.cut()
    await scene.all_notice()


async def refused_meanwhile(scene: CtraderScene) -> None:
    """Nobody gets in; the attempts are few and each later than the broker allows; nobody's user is to blame."""
    await cut_and_trade(scene)
    await scene.watch_for(3)
    assert await scene.metric(COUNT % "dials") <= 12, "dials in three seconds, at a cap of one second between them"
    assert all("action_required" not in scene.watcher.statuses(user) for user in scene.users)
    scene.held("at most 12 dials in 3 s; nobody's user is asked")


async def dials_wait(scene: CtraderScene) -> None:
    """A refused upgrade with Retry-After is never repeated sooner."""
    await scene.cut()
    await scene.seen_not_live()
    await scene.watch_for(3.5)
    dials = await scene.dials()
    assert dials
    assert all(later - earlier >= 1000 * LATER_S for earlier, later in itertools.pairwise(dials)), dials
    scene.held(f"no two dials within the {LATER_S} s of Retry-After")


async def no_growth(scene: CtraderScene) -> None:
    """The connection ends, and memory stays."""
    before = (await scene.world.api("GET", "/health"))["process"]["rssBytes"]
    await scene.seen_not_live()
    await scene.watch_for(1)
    after = (await scene.world.api("GET", "/health"))["process"]["rssBytes"]
    assert after - before < 32 * MIB
    scene.held("memory grows by less than 32 MiB")


async def no_echo(scene: CtraderScene) -> None:
    """One heartbeat a second as ever, and none in answer."""
    await scene.watch_for(2.5)
    assert 2 <= await scene.counted("heartbeatsReceived") <= 4
    assert await scene.counted("faults", "HeartbeatOdd") >= 2
    scene.held("no heartbeat but our own")
    await scene.nothing_happens()


async def no_heartbeats(scene: CtraderScene) -> None:
    """Silence in between is answered by probes: longer than any of them the session stays."""
    await scene.watch_for(2 * (WAITS["probe_after_s"] + WAITS["probe_timeout_s"]))
    assert all(scene.watcher.statuses(user) <= {"live"} for user in scene.users)
    await scene.nothing_happens()


async def flaps(scene: CtraderScene, most: int) -> None:
    await scene.watch_for(4)
    assert await scene.counted("connectionsOpened") <= most
    scene.held(f"at most {most} dials in 4 s")


async def many_cut(scene: CtraderScene) -> None:
    """Those at risk log in first, and nobody is refused."""
    await scene.all_notice()
    await scene.equal(within_s=4)
    order = (await scene.counters())["authOrder"]
    first = {row["accountId"] for row in order[-len(scene.users) : -1]}
    assert first == {scene.world.accounts[user] for user in scene.users if scene.record(user)["positions"]}
    assert not sum((await scene.counters())["errors"].values()) - sum(scene.before["errors"].values())
    scene.held("holders log in first, none refused")


CASES = [
    Case("N01", during=lost_and_read_again),
    *(Case("N02", {"code": code}, during=lost_and_read_again, name=str(code)) for code in (1000, 1001, 1012)),
    Case("N03", during=silence_is_noticed),
    Case("N04", {"newConnections": True}, during=silence_is_noticed, back_s=14),
    Case("N10", {"status": 429, "retryAfter": LATER_S}, during=dials_wait, name="429"),
    Case("N10", {"status": 503, "retryAfter": LATER_S}, during=dials_wait, name="503-later"),
    *(
        Case("N10", {"status": status}, during=refused_meanwhile, name="html" if status == 200 else str(status))
        for status in (200, 401, 403, 503)
    ),
    Case("N11", {"bytesPerSecond": 1}, during=silence_is_noticed, back_s=14),
    Case("N12", {"message": "ProtoOAReconcileRes"}, during=cut_and_trade),
    *(
        Case("N13", {"variant": variant}, during=no_growth, name=variant)
        for variant in ("announced", "real", "compressed")
    ),
    Case("N26", {"variant": "echo"}, during=no_echo, name="echo"),
    Case("N26", {"variant": "mute"}, during=no_heartbeats, name="mute"),
    Case("N40", during=many_cut),
    Case("N41", {"upSeconds": 0.4}, during=partial(flaps, most=6)),  # eight without backoff
    Case("DROP_AFTER_REQUEST", {"requests": ["ProtoOAReconcileReq"]}, during=cut_and_trade, of="N01"),
]


@pytest.mark.parametrize("case", parameters(CtraderScene, CASES))
async def test_records_stay_true_and_sessions_return_when_the_connection_is_in_trouble(
    scene: CtraderScene, case: Case, observed: Observed
) -> None:
    await run_case(scene, case, observed)
