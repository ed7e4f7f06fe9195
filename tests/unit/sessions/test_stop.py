"""Stopping, fencing and draining at every moment leave no task, no login and no record that looks live."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from bridge.brokers.base import FaultKind, ReasonCode, Stage
from core.errors import NotFound, Unavailable
from tests.support import fault_table
from tests.support.fake_broker import fault
from tests.unit.sessions.world import World, key_of, settle

pytestmark = pytest.mark.looptime


async def _start(world: World) -> None:
    await world.start()
    await settle()


async def _queued(world: World) -> None:
    world.broker.slots = 0
    await _start(world)
    assert world.view().state == "waiting"


def _held_at(stage: Stage) -> Callable[[World], Awaitable[None]]:
    async def hold(world: World) -> None:
        world.broker.hold[stage] = asyncio.Event()
        await world.start()
        await asyncio.sleep(1)
        assert world.view().state == stage.value

    return hold


async def _live(world: World) -> None:
    await world.live()


async def _reconciling(world: World) -> None:
    world.broker.reconcile_every_s, world.broker.reconcile_s = 10, 1000
    await world.live()
    await asyncio.sleep(13)
    assert world.broker.reconciling == 1


def _after(kind: FaultKind, state: str) -> Callable[[World], Awaitable[None]]:
    async def lose(world: World) -> None:
        await world.live()
        world.broker.account("acc-u").lose(fault(kind, retry_after_s=30))
        await settle()
        assert world.view().state == state

    return lose


async def _refreshing(world: World) -> None:
    await world.live()
    world.broker.account("acc-u").lose(fault(FaultKind.TOKEN, ReasonCode.TOKEN_EXPIRED))
    await asyncio.sleep(0.2)
    assert world.view().state == "refreshing"


async def _just_started(world: World) -> None:
    await world.start()  # the login task exists, at most, and has not run


MOMENTS = {
    "just started": _just_started,
    "queued": _queued,
    "connecting": _held_at(Stage.CONNECTING),
    "authorizing": _held_at(Stage.AUTHORIZING),
    "syncing": _held_at(Stage.SYNCING),
    "live": _live,
    "reconciling": _reconciling,
    "backoff": _after(FaultKind.TRANSIENT, "backoff"),
    "throttled": _after(FaultKind.THROTTLE, "throttled"),
    "maintenance": _after(FaultKind.MAINTENANCE, "maintenance"),
    "action required": _after(FaultKind.FATAL_USER, "action_required"),
    "refreshing": _refreshing,
}
moments = pytest.mark.parametrize("reach", MOMENTS.values(), ids=MOMENTS.keys())


async def _quiet(world: World) -> None:
    """Nothing runs and nothing happens at the broker any more."""
    await asyncio.sleep(10)
    assert world.tasks == 0
    assert world.broker.live == []
    assert world.broker.logging_in == 0
    assert world.service.metrics().internal_errors == 0
    before = (len(world.broker.logins), len(world.broker.refreshes), len(world.broker.reconciled))
    await asyncio.sleep(7200)
    assert (len(world.broker.logins), len(world.broker.refreshes), len(world.broker.reconciled)) == before


@moments
@fault_table.fault("P12", "stop at every moment of a session", "no task, no login, nothing happens afterwards")
async def test_stop_leaves_nothing_behind(world: World, reach: Callable[[World], Awaitable[None]]) -> None:
    await reach(world)
    (view,) = await world.stop()
    assert (view.state, view.status) == ("stopped", "stopped")
    assert world.statuses()[-1] == "stopped"
    await _quiet(world)
    assert world.statuses()[-1] == "stopped"
    assert [again.state for again in await world.stop()] == ["stopped"]
    made = len(world.broker.accounts_made)
    assert len(world.broker.logouts) == made  # each account session that was made was also logged out


@moments
async def test_session_is_live_again_when_started_right_after_a_stop(
    world: World, reach: Callable[[World], Awaitable[None]]
) -> None:
    await reach(world)
    await world.stop()
    view = await world.start()
    world.broker.slots = 20
    world.broker.hold.clear()
    assert view.status == "starting"
    assert (await world.service.wait(view, 60)).state == "live"
    assert len(world.broker.live) == 1


@moments
async def test_fenced_session_is_dropped_and_never_claimed_back(
    world: World, reach: Callable[[World], Awaitable[None]]
) -> None:
    await reach(world)
    written, marks = len(world.recorder.written[key_of()]), world.recorder.marks
    world.recorder.refuse(key_of())
    await settle()
    view = world.view()
    assert (view.state, view.status) == ("fenced", "fenced")
    assert view.reason is not None
    assert view.reason.code is ReasonCode.FENCED
    await _quiet(world)
    assert (len(world.recorder.written[key_of()]), world.recorder.marks) == (written, marks)
    world.broker.slots = 20
    world.broker.hold.clear()
    assert (await world.service.wait(await world.start(), 60)).state == "live"  # an explicit start claims anew
    assert world.statuses()[-1] == "live"


@moments
async def test_drain_marks_everything_and_ends_what_is_under_way(
    world: World, reach: Callable[[World], Awaitable[None]]
) -> None:
    await reach(world)
    before = asyncio.get_running_loop().time()
    await world.service.drain(2.5)
    assert asyncio.get_running_loop().time() - before <= 2.5
    view = world.view()
    if view.state != "action_required":  # that stays true, whoever serves the session next
        assert (view.state, view.status) == ("draining", "stale")
        assert view.reason is not None
        assert view.reason.code is ReasonCode.DRAINING
        assert world.statuses()[-1] == "stale"
    with pytest.raises(Unavailable):
        await world.start()
    logins = len(world.broker.logins)
    await asyncio.sleep(7200)
    assert len(world.broker.logins) == logins
    assert world.broker.logging_in == 0


@fault_table.fault("P12", "a login that swallows three cancellations, at the end of the process", "the deadline holds")
async def test_drain_keeps_its_deadline_when_a_login_cannot_be_cancelled(world: World) -> None:
    async def stubborn() -> None:
        for _ in range(3):
            try:
                await asyncio.sleep(4)
            except asyncio.CancelledError:
                continue

    world.broker.tell("acc-u", stubborn)
    await world.start()
    await asyncio.sleep(1)
    before = asyncio.get_running_loop().time()
    await world.service.drain(2.5)
    assert asyncio.get_running_loop().time() - before == pytest.approx(2.5)
    await asyncio.sleep(20)


@fault_table.fault("P12", "a login that swallows its cancellation", "stopped at once, and stays so")
async def test_stop_completes_when_a_login_swallows_its_cancellation(world: World) -> None:
    async def stubborn() -> None:
        try:
            await asyncio.sleep(3)
        except asyncio.CancelledError:
            await asyncio.sleep(3)

    world.broker.tell("acc-u", stubborn)
    await world.start()
    await asyncio.sleep(1)
    await world.stop()
    assert world.view().state == "stopped"
    await asyncio.sleep(5)
    assert world.view().state == "stopped"
    assert world.broker.live == []
    assert world.tasks == 0


@fault_table.fault("P12", "a logout that never ends", "stop at once, live again within 14 s")
async def test_logout_that_never_ends_holds_up_neither_stop_nor_the_next_start(world: World) -> None:
    world.broker.logout_s = 1000
    await world.live()
    await world.stop()
    view = await world.start()
    assert (await world.service.wait(view, 4)).state == "waiting"  # the old login must be over first
    assert (await world.service.wait(view, 10)).state == "live"


async def test_stop_of_a_session_never_started_is_not_found(world: World) -> None:
    with pytest.raises(NotFound):
        await world.stop()
    await world.live()
    with pytest.raises(NotFound):
        await world.stop(account_id="other")


async def test_waiters_hear_of_a_stop(world: World) -> None:
    world.broker.hold[Stage.SYNCING] = asyncio.Event()
    view = await world.start()
    waiting = asyncio.create_task(world.service.wait(view, 60))
    await asyncio.sleep(1)
    await world.stop()
    assert (await waiting).state == "stopped"
    assert world.supervisor.machine._waiters == {}


async def test_waiting_ends_with_the_time_and_leaves_nothing(world: World) -> None:
    world.broker.hold[Stage.SYNCING] = asyncio.Event()
    view = await world.start()
    assert (await world.service.wait(view, 0)).state == "waiting"
    assert (await world.service.wait(view, 3)).state == "syncing"
    assert world.supervisor.machine._waiters == {}
