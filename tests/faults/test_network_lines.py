"""The whole system when the lines to a broker are bad: neither end has done anything (reference/faults.md §2.1).

All lines of a broker are in the same trouble; where REST or streams alone are away: `test_network_alpaca_lines.py`.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any, NamedTuple

import pytest
import pytest_asyncio

from tests.support.alpaca_scene import alpaca_scene
from tests.support.ctrader_scene import ctrader_scene
from tests.support.fault_proxy import FaultProxy
from tests.support.fault_scene import ON_THE_WAY, FaultScene, Observed
from tests.support.fault_table import fault

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.slow]

SCENES: dict[str, Callable[..., AbstractAsyncContextManager[FaultScene]]] = {
    "ctrader": ctrader_scene,
    "alpaca": alpaca_scene,
}
AWAY = ON_THE_WAY | {
    *("connection_lost", "connection_limit", "broker_unreachable", "broker_silent", "broker_error"),
    "snapshot_refused",
}
AWAY_S = 3.0
BACK_S = 10.0
MOST_DIALS = 15  # random waits of up to a second between them; without any it would be hundreds


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=list(SCENES))
async def running(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[FaultScene]:
    async with SCENES[request.param](tmp_path_factory.mktemp("lines")) as made:
        yield made


@pytest_asyncio.fixture(loop_scope="module")
async def scene(running: FaultScene) -> AsyncIterator[FaultScene]:
    """The running world with good lines, before and after."""
    await running.equal(within_s=15)
    await running.begin()
    yield running
    for line in running.lines:
        await line.heal()


class Trouble(NamedTuple):
    """What happens to a line. `lasts`: nobody can be live before the line is healed."""

    fault_id: str
    injected: str
    begin: Callable[[FaultProxy], Any]
    lasts: bool = True


async def _refuse(line: FaultProxy) -> None:
    line.refuse()
    line.cut()


async def _ignore(line: FaultProxy) -> None:
    await line.ignore()
    line.cut()


async def _limit(line: FaultProxy, size: int) -> None:
    line.downstream.set(limit_bytes=size)
    line.cut()


async def _do(what: Callable[[], object]) -> None:
    what()


TROUBLES = {
    "reset": Trouble("N01", "the line is reset towards both ends", lambda line: _do(line.cut), lasts=False),
    "reset-towards-us": Trouble(
        "N01", "the line is reset towards us alone", lambda line: _do(lambda: line.cut(server=False)), lasts=False
    ),
    "reset-towards-the-broker": Trouble(
        "N02", "the line ends without a WebSocket close", lambda line: _do(lambda: line.cut(clients=False)), lasts=False
    ),
    "held": Trouble("N03", "the line holds everything back, ends included", lambda line: _do(line.hold)),
    "swallowed": Trouble("N03", "the line swallows both ways", lambda line: _do(lambda: line.set(swallow=True))),
    "one-way": Trouble(
        "N04", "the line swallows what comes", lambda line: _do(lambda: line.downstream.set(swallow=True))
    ),
    "other-way": Trouble(
        "N04", "the line swallows what goes", lambda line: _do(lambda: line.upstream.set(swallow=True))
    ),
    "unanswered": Trouble("N05", "the line is cut, dials are never answered", _ignore),
    "refused": Trouble("N06", "the line is cut, dials are refused", _refuse),
    "trickle": Trouble(
        "N11",
        "the line passes a byte in two seconds and a half",
        lambda line: _do(lambda: line.downstream.set(bytes_per_s=0.4)),
    ),
    **{
        f"cut-after-{size}": Trouble(
            "N12", "every connection ends in the middle of a message", partial(_limit, size=size)
        )
        for size in (1, 150, 400)  # in the upgrade, and in what follows it
    },
}


@pytest.mark.parametrize(
    "trouble",
    [
        pytest.param(each, id=f"{each.fault_id}-{name}", marks=fault(each.fault_id, each.injected))
        for name, each in TROUBLES.items()
    ],
)
async def test_sessions_say_so_and_return_when_the_lines_are_bad(
    scene: FaultScene, trouble: Trouble, observed: Observed
) -> None:
    for line in scene.lines:
        await trouble.begin(line)
    await scene.trade()
    await scene.silence_is_noticed()
    if trouble.lasts:
        await scene.nothing_of_others_changes(AWAY_S)
        assert all(scene.record(user)["status"] != "live" for user in scene.users)
        dials = await scene.metric(f'bridge_broker_counts_total{{broker="{scene.world.broker}",what="dials"')
        assert dials <= MOST_DIALS * scene.SOCKETS * len(scene.users), dials
        scene.held(f"nobody is live while it lasts; at most {MOST_DIALS} dials a socket in {AWAY_S:g} s")
    await scene.trade()
    for line in scene.lines:
        await line.heal()
    await scene.equal(within_s=BACK_S)
    shown = set().union(*(scene.watcher.codes(user) for user in scene.users))
    assert shown <= AWAY, f"unexpected reasons: {shown}"
    await scene.kept_promises()
    for note in scene.notes:
        observed(note)


@pytest.mark.parametrize(
    "faults",
    [
        pytest.param({"latency_s": 0.2, "jitter_s": 0.1}, id="slow"),
        pytest.param({"slice_bytes": 97, "slice_gap_s": 0.0005}, id="sliced"),
        pytest.param({"close_after_s": 1.0}, id="slow-to-close"),
    ],
)
async def test_nothing_happens_when_lines_are_slow_or_cut_into_pieces(
    scene: FaultScene, faults: dict[str, Any]
) -> None:
    for line in scene.lines:
        line.set(**faults)
    await scene.trade(rounds=2)
    await scene.equal(within_s=6)
    await scene.watch_for(2)
    assert await scene.logins() == 0
    assert scene.watcher.statuses(scene.VICTIM) <= {"live"}
    await scene.cut()
    await scene.seen_not_live()
    await scene.equal(within_s=BACK_S)
    await scene.kept_promises()
