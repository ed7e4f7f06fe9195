"""The periodic reconcile: spread, few at a time, holders first, and never in the way of a storm."""

import asyncio

import pytest

from bridge.brokers.base import FaultKind
from tests.support.fake_broker import fault
from tests.unit.sessions.world import World, settle

pytestmark = pytest.mark.looptime


async def _live(world: World, count: int) -> None:
    for number in range(count):
        await world.start(f"user{number}")
    await asyncio.sleep(5)
    assert len(world.broker.live) == count


async def test_each_session_is_reconciled_about_once_per_interval(world: World) -> None:
    world.broker.reconcile_every_s = 100.0
    await world.live()
    for count in range(1, 11):
        await asyncio.sleep(100)
        assert abs(len(world.broker.reconciled) - count) <= 2
    assert world.service.metrics().lost_events == {"fake": len(world.broker.reconciled)}
    assert world.service.metrics().reconciles == {"ok": len(world.broker.reconciled)}


async def test_first_reconcile_comes_within_a_fifth_of_the_interval(world: World) -> None:
    world.broker.reconcile_every_s = 100.0
    await _live(world, 100)
    await asyncio.sleep(80 - 5)
    assert world.broker.reconciled == []
    await asyncio.sleep(20)
    assert 20 < len(world.broker.reconciled) < 80
    await asyncio.sleep(26)
    assert len({account for account, _ in world.broker.reconciled}) == 100


async def test_few_run_at_once_and_holders_go_first_when_many_are_due(world: World) -> None:
    world.broker.reconcile_every_s, world.broker.reconcile_s = 60.0, 5.0
    for number in range(30, 40):
        world.broker.hold_position(f"acc-user{number}")
    world.supervisor._reconciling._rng.uniform = lambda low, high: 1.0  # type: ignore[method-assign]
    await _live(world, 40)
    await asyncio.sleep(60 + 30)
    assert world.broker.most_reconciling == 4
    risks = [risk for _, risk in world.broker.reconciled]
    assert sum(risks[:14]) == 10  # the first four may have been due before any holder was


async def test_none_starts_while_sessions_wait_for_their_login(world: World) -> None:
    world.broker.reconcile_every_s = 50.0
    await _live(world, 20)
    world.broker.slots, world.broker.login_s = 1, 30.0
    for account in list(world.broker.live)[:8]:
        account.lose(fault(FaultKind.ACCOUNT_AUTH_LOST))
    await asyncio.sleep(200)
    assert world.service.metrics().waiting == {("fake", "demo"): 1}
    assert world.broker.reconciled == []
    await asyncio.sleep(60)
    assert len(world.broker.reconciled) >= 12


async def test_session_stays_live_and_tries_again_when_a_reconcile_fails(world: World) -> None:
    world.broker.reconcile_every_s = 50.0
    world.broker.reconcile_fault = fault(FaultKind.THROTTLE)
    await world.live()
    await asyncio.sleep(300)
    assert world.view().state == "live"
    assert world.service.metrics().reconciles["throttle"] >= 4
    assert world.service.metrics().lost_events == {}


async def test_reconcile_is_given_up_when_it_never_ends(world: World) -> None:
    world.broker.reconcile_every_s, world.broker.reconcile_s = 50.0, 1e9
    await world.live()
    await asyncio.sleep(1000)
    assert world.service.metrics().reconciles["transient"] >= 4


async def test_reconcile_ends_with_the_life_it_belongs_to(world: World) -> None:
    world.broker.reconcile_every_s, world.broker.reconcile_s = 50.0, 30.0
    await world.live()
    await asyncio.sleep(61)
    assert world.broker.reconciling == 1
    world.broker.account("acc-u").lose(fault(FaultKind.ACCOUNT_AUTH_LOST))
    await settle()
    assert world.broker.reconciling == 0
    assert (await world.service.wait(world.view(), 5)).state == "live"
    assert world.service.metrics().reconciles == {"cancelled": 1}
    await asyncio.sleep(100)
    assert world.service.metrics().reconciles["ok"] >= 1
