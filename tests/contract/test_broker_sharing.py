"""Several sessions on one account, leaving it, and what the broker says of itself, at every broker."""

import asyncio

import pytest

from bridge.brokers.base import BrokerFault, FaultKind
from tests.contract.rigs.rig import BrokerRig
from tests.contract.rigs.steps import live, watch
from tests.contract.rigs.watched import WITHIN_S, found
from tests.support.waiting import eventually

ALWAYS = (
    *("requests.sent", "requests.ok", "roundtrip.sum", "roundtrip.count", "roundtrip.le_0.1", "dials"),
    *("fills", "fills_recovered", "lost_events", "reconciles", "accounts", "channels", "frames", "bytes"),
)
"""What every adapter has counted after an account was served, traded on, cut and repaired."""


async def test_sessions_share_one_authorisation_and_mirror_when_they_are_on_one_account(rig: BrokerRig) -> None:
    account = rig.account(1)
    watched = [watch(rig) for _ in range(3)]
    await asyncio.gather(*(one.login() for one in watched))
    assert rig.logins_of(account) == 1
    assert len({id(one.mirror) for one in watched}) == 1
    for one in watched:
        one.mirror.clean()
        one.changes = one.urgent = 0
    rig.open(account, rig.instruments[0])
    await watched[0].true()
    assert all(one.changes >= 1 and one.urgent >= 1 for one in watched)
    await watched[2].knows(found(rig.executions(account), recovered=False))
    rig.cut()
    await asyncio.gather(*(one.lost_once() for one in watched))
    await asyncio.gather(*(one.come_back() for one in watched))
    assert rig.sessions_of(account) == 1
    await watched[2].true()
    assert [len(one.faults) for one in watched] == [1, 1, 1]


async def test_broker_is_left_only_when_the_last_session_ends(rig: BrokerRig) -> None:
    account = rig.account(1)
    one, two = await live(rig), await live(rig)
    await one.session.logout()
    assert one.session.contact_monotonic is None
    assert rig.sessions_of(account) == 1
    rig.open(account, rig.instruments[0])
    await two.true()
    await two.session.logout()
    assert two.session.contact_monotonic is None
    await eventually(lambda: rig.sessions_of(account) == 0, within_s=WITHIN_S)
    assert one.faults == two.faults == []
    again = watch(rig)
    await again.come_back()
    await again.true()
    assert rig.sessions_of(account) == 1


async def test_session_is_told_once_when_it_stays_away_while_another_comes_back(rig: BrokerRig) -> None:
    account = rig.account(1)
    one, two = await live(rig), await live(rig)
    rig.end_account_session(account)
    await one.lost_once()
    await two.lost_once()
    await one.come_back()
    rig.open(account, rig.instruments[0])
    await one.true()
    assert two.session.contact_monotonic is None
    rig.end_account_session(account)
    await eventually(lambda: len(one.faults) == 2, within_s=WITHIN_S)
    assert len(two.faults) == 1


async def test_reconcile_is_refused_when_the_session_is_not_live(rig: BrokerRig) -> None:
    watched = await live(rig)
    assert await watched.session.reconcile() == 0
    await watched.session.logout()
    again = watch(rig, 2)
    for one in (watched, again):
        with pytest.raises(BrokerFault) as refused:
            await one.session.reconcile()
        assert refused.value.kind is FaultKind.TRANSIENT


async def test_health_says_what_is_up(rig: BrokerRig) -> None:
    assert rig.broker.health().state == "idle"
    assert rig.broker.health().channels == 0
    watched = await live(rig)
    health = rig.broker.health()
    assert health.state == "up"
    assert health.channels >= 1
    assert health.last_inbound_at is not None
    assert rig.broker.login_slots(rig.environment) >= 1
    assert rig.broker.reconcile_interval_s(rig.environment) >= 60
    rig.cut()
    await watched.lost_once()
    assert rig.broker.health().state != "up"
    await watched.come_back()
    assert rig.broker.health().state == "up"
    await watched.session.logout()


async def test_counters_have_the_same_names_at_every_broker(rig: BrokerRig) -> None:
    account = rig.account(1)
    watched = await live(rig)
    rig.open(account, rig.instruments[0])
    await watched.true()
    async with rig.lose(account):
        rig.open(account, rig.instruments[1])
    await watched.session.reconcile()
    rig.cut()
    await watched.lost_once()
    rig.open(account, rig.instruments[2])
    await watched.come_back()
    await watched.knows([{**one, "recovered": number > 0} for number, one in enumerate(rig.executions(account))])
    counted = rig.broker.metrics()
    assert [name for name in ALWAYS if not counted.get(name)] == []
    assert any(name.startswith("reconnects.") for name in counted)
    assert all(isinstance(value, int | float) for value in counted.values())
