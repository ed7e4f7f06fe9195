"""Limits, at every broker: requests stay within them, and who is told to wait waits as long as told."""

import asyncio

import pytest

from bridge.brokers.base import BrokerFault, FaultKind
from tests.contract.rigs.rig import BrokerRig
from tests.contract.rigs.steps import live, watch
from tests.contract.rigs.watched import WITHIN_S, Watched, found
from tests.support.waiting import eventually


async def refused(watched: Watched) -> BrokerFault:
    with pytest.raises(BrokerFault) as refusal:
        await watched.login()
    return refusal.value


async def test_budget_is_kept_when_many_requests_are_made_at_once(rig: BrokerRig) -> None:
    watched = [await live(rig, user) for user in (1, 2, 3, 4)]
    rounds = [one.session.reconcile() for _ in range(150) for one in watched]
    assert await asyncio.gather(*rounds) == [0] * 600  # the rig checks that no limit was exceeded


async def test_budget_is_kept_when_an_account_trades_without_a_pause(rig: BrokerRig) -> None:
    account = rig.account(1)
    watched = await live(rig)
    for _ in range(30):
        rig.close(account, rig.open(account, rig.instruments[0]))
        await asyncio.sleep(0.01)  # what is told is worked on in between
    await watched.true()
    assert watched.faults == []
    newest = found(rig.executions(account), recovered=False)[-len(watched.mirror.fills) :]
    assert watched.executions() == newest
    assert rig.broker.metrics()["fills"] == 60


async def test_login_is_told_to_wait_and_gets_in_afterwards_when_the_broker_throttles(rig: BrokerRig) -> None:
    watched = watch(rig)
    async with rig.throttle():
        fault = await refused(watched)
    assert fault.kind is FaultKind.THROTTLE
    assert fault.retry_after_s is not None
    assert fault.retry_after_s > 0
    await watched.come_back()
    await watched.true()


async def test_session_stays_and_is_true_afterwards_when_the_broker_throttles(rig: BrokerRig) -> None:
    account = rig.account(1)
    watched = await live(rig)
    async with rig.throttle():
        rig.open(account, rig.instruments[0])
        await eventually(lambda: len(watched.mirror.positions) == 1, within_s=WITHIN_S, what="the stream goes on")
        with pytest.raises(BrokerFault) as refusal:
            async with asyncio.timeout(WITHIN_S):
                await watched.session.reconcile()
        assert refusal.value.kind is FaultKind.THROTTLE
    assert watched.faults == []
    await eventually(lambda: reconciled(watched), within_s=WITHIN_S)
    await watched.true()


async def reconciled(watched: Watched) -> bool:
    try:
        await watched.session.reconcile()
    except BrokerFault as fault:
        return fault.kind is not FaultKind.THROTTLE  # still held back
    return True


async def test_maintenance_is_told_with_its_end(rig: BrokerRig) -> None:
    watched = watch(rig)
    async with rig.maintenance(120):
        for told in (await refused(watched), await refused(watched)):
            assert told.kind is FaultKind.MAINTENANCE
            assert told.retry_after_s is not None
            assert 100 < told.retry_after_s <= 120


async def test_nobody_dials_when_the_broker_said_when_to_come_back(rig: BrokerRig) -> None:
    watched = await live(rig)
    async with rig.maintenance(60):
        rig.cut()
        await watched.lost_once()

        async def told() -> bool:
            return (await refused(watched)).kind is FaultKind.MAINTENANCE

        await eventually(told, within_s=WITHIN_S)
        dials = rig.dials()
        for _ in range(5):
            fault = await refused(watched)
            assert fault.retry_after_s is not None
            assert 50 < fault.retry_after_s <= 60
        assert rig.dials() == dials
