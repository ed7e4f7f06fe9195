"""Connections that end or fall silent, at every broker: it is told, nothing stale looks fresh, and all is repaired."""

import asyncio

import pytest

from bridge.brokers.base import BrokerFault, FaultKind, ReasonCode
from core.valuation import needed_quotes
from tests.contract.rigs.rig import BrokerRig
from tests.contract.rigs.steps import live
from tests.contract.rigs.watched import WITHIN_S, Watched, found
from tests.support.waiting import eventually


async def test_session_is_lost_and_true_again_when_the_connection_is_cut(rig: BrokerRig) -> None:
    account = rig.account(1)
    gone = rig.open(account, rig.instruments[0])
    kept = rig.open(account, rig.instruments[1])
    watched = await live(rig)
    await watched.true()
    rig.cut()
    fault = await watched.lost_once()
    assert fault.shared
    assert fault.kind is FaultKind.TRANSIENT
    assert watched.session.contact_monotonic is None
    assert watched.mirror.positions.keys() == {gone, kept}  # the last known numbers stay
    rig.close(account, gone)
    rig.deposit(account, 7)
    new = rig.place(account, rig.instruments[2])
    await watched.come_back()
    await watched.true()
    assert list(watched.mirror.positions) == [kept]
    assert list(watched.mirror.orders) == [new]
    assert len(watched.faults) == 1


async def test_executions_during_a_cut_are_found_and_told_as_such(rig: BrokerRig) -> None:
    account = rig.account(1)
    gone = rig.open(account, rig.instruments[1])
    watched = await live(rig)
    old = len(rig.executions(account))
    rig.open(account, rig.instruments[0])
    seen = found(rig.executions(account)[old:], recovered=False)
    await watched.knows(seen)
    rig.cut()
    await watched.lost_once()
    rig.close(account, gone)
    rig.close(account, rig.open(account, rig.instruments[2]))  # a round trip leaves no position to tell of it
    missed = found(rig.executions(account)[old + 1 :], recovered=True)
    assert len(missed) == 3
    await watched.come_back()
    await watched.knows(seen + missed)
    rig.open(account, rig.instruments[0])
    last = found(rig.executions(account)[old + 4 :], recovered=False)
    await watched.knows(seen + missed + last)
    await watched.true()
    assert rig.broker.metrics()["fills"] == 5
    assert rig.broker.metrics()["fills_recovered"] == 3


async def test_executions_are_found_each_once_when_one_cut_follows_another(rig: BrokerRig) -> None:
    account = rig.account(1)
    watched = await live(rig)
    for _ in range(3):
        rig.cut()
        await watched.lost_once()
        watched.faults.clear()
        rig.close(account, rig.open(account, rig.instruments[0]))
        rig.open(account, rig.instruments[1])
        await watched.come_back()
    await watched.knows(found(rig.executions(account), recovered=True))
    await watched.true()


async def test_prices_from_before_a_cut_are_gone_when_nothing_needs_them_any_more(rig: BrokerRig) -> None:
    account = rig.account(1)
    rig.open(account, rig.instruments[0])
    gone = rig.open(account, rig.instruments[1])
    watched = await live(rig)
    await watched.true()
    rig.cut()
    await watched.lost_once()
    rig.close(account, gone)
    await watched.come_back()
    await watched.true()
    assert watched.mirror.quotes.keys() == needed_quotes(watched.mirror)


async def test_many_come_back_without_a_violation_when_everything_is_cut(rig: BrokerRig) -> None:
    watched = [await live(rig, user) for user in (1, 2, 3, 4)]
    for _ in range(3):
        rig.cut()
        await asyncio.gather(*(one.lost_once() for one in watched))
        await asyncio.gather(*(one.come_back() for one in watched))
        for one in watched:
            await one.true()
            one.faults.clear()
    assert rig.broker.health().state == "up"


async def test_session_comes_back_when_nobody_was_let_in_for_a_while(rig: BrokerRig) -> None:
    watched = await live(rig)
    async with rig.outage():
        await watched.lost_once()
        with pytest.raises(BrokerFault) as refused:
            await watched.login()
        assert refused.value.kind is FaultKind.TRANSIENT
        rig.open(rig.account(1), rig.instruments[0])
    await watched.come_back()
    await watched.true()
    await watched.knows(found(rig.executions(rig.account(1)), recovered=True))


async def test_dead_connection_is_noticed_and_looks_no_fresher_when_the_peer_falls_silent(rig: BrokerRig) -> None:
    watched = await live(rig)
    async with rig.silence():
        heard = watched.session.contact_monotonic
        assert heard is not None
        later: set[float] = set()

        def lost() -> bool:
            if watched.session.contact_monotonic is not None:
                later.add(watched.session.contact_monotonic)
            return bool(watched.faults)

        await eventually(lost, within_s=rig.detection_s, what="the silence is noticed")
        assert watched.faults[0].reason.code in (ReasonCode.BROKER_SILENT, ReasonCode.CONNECTION_LOST)
        assert max(later) <= heard + 0.1  # at most what was on its way already
        assert watched.session.contact_monotonic is None
    await watched.come_back()
    await watched.true()


async def test_contact_advances_when_the_connection_is_quiet(rig: BrokerRig) -> None:
    watched = await live(rig)
    for _ in range(3):
        last = watched.session.contact_monotonic
        assert last is not None
        await eventually(
            lambda last=last: (watched.session.contact_monotonic or 0) > last,  # type: ignore[misc]
            within_s=rig.detection_s,
            what="something is heard",
        )
    assert watched.faults == []


async def test_only_that_account_is_lost_when_the_broker_ends_its_session(rig: BrokerRig) -> None:
    one, two = await live(rig, 1), await live(rig, 2)
    rig.end_account_session(rig.account(1))
    fault = await one.lost_once()
    assert fault.kind in (FaultKind.ACCOUNT_AUTH_LOST, FaultKind.TRANSIENT)
    assert one.session.contact_monotonic is None
    await one.come_back()
    await one.true()
    assert two.faults == []
    assert rig.logins_of(rig.account(2)) == 1


async def test_logout_never_raises_when_the_connection_is_gone(rig: BrokerRig) -> None:
    watched = await live(rig)
    rig.cut()
    await watched.session.logout()
    await watched.session.logout()
    never = Watched(rig, rig.credential(2), rig.account(2))
    await never.session.logout()
    assert never.session.mirror is None


async def test_nothing_is_heard_any_more_when_the_broker_is_closed(rig: BrokerRig) -> None:
    watched = await live(rig)
    await rig.broker.close()
    await eventually(lambda: rig.sessions_of(rig.account(1)) == 0, within_s=WITHIN_S)
    assert watched.faults == []  # whoever closes it knows
