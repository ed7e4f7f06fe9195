"""What cannot be believed, at every broker: unknown and absurd values, doubled and lost events, bad snapshots."""

import asyncio

import pytest

from bridge.brokers.base import BrokerFault, FaultKind
from tests.contract.rigs.rig import BrokerRig, Trait
from tests.contract.rigs.steps import live, needs, watch
from tests.contract.rigs.watched import WITHIN_S, Watched, found
from tests.support.waiting import eventually


async def reconciled(watched: Watched) -> bool:
    return await watched.session.reconcile() == 0


# ---------------------------------------------------------------- values


async def test_account_repairs_itself_when_events_hold_unknown_values(rig: BrokerRig) -> None:
    account = rig.account(1)
    watched = await live(rig)
    async with rig.unknown_values(account):
        rig.open(account, rig.instruments[0])
        rig.place(account, rig.instruments[1])
        await watched.true()
    assert rig.metric("quarantined") > 0
    assert watched.faults == []
    await eventually(lambda: len(watched.mirror.fills) == 1, within_s=WITHIN_S)
    assert watched.executions()[0]["id"] == rig.executions(account)[0]["id"]


async def test_account_repairs_itself_when_values_are_absurd(rig: BrokerRig) -> None:
    account = rig.account(1)
    watched = await live(rig)
    for variant in rig.absurdities:
        async with rig.absurd_values(account, variant):
            position = rig.open(account, rig.instruments[0])
            await watched.true()
        rig.close(account, position)
        await watched.true()
    assert watched.faults == []


async def test_login_waits_for_a_sane_snapshot_when_the_first_is_absurd(rig: BrokerRig) -> None:
    account = rig.account(1)
    rig.open(account, rig.instruments[0])
    watched = watch(rig)
    async with rig.absurd_snapshot(account):
        with pytest.raises(BrokerFault) as refused:
            await watched.login()
    assert refused.value.kind is FaultKind.TRANSIENT
    assert watched.session.mirror is None
    await watched.come_back()
    await watched.true()


async def test_nothing_changes_when_unknown_messages_or_garbage_come(rig: BrokerRig) -> None:
    account = rig.account(1)
    rig.open(account, rig.instruments[0])
    watched = await live(rig)
    await watched.true()
    before = watched.reading()
    rig.unknown_messages()
    rig.garbage()
    await eventually(lambda: rig.metric("unknown") >= 3, within_s=WITHIN_S)
    await eventually(lambda: rig.metric("garbage") >= 1, within_s=WITHIN_S)
    assert watched.reading() == before
    rig.open(account, rig.instruments[1])
    await watched.true()
    assert watched.faults == []


# ---------------------------------------------------------------- order and number of events


async def test_state_is_the_same_when_events_come_twice(rig: BrokerRig) -> None:
    account = rig.account(1)
    watched = await live(rig)
    async with rig.duplicate():
        position = rig.open(account, rig.instruments[0])
        order = rig.place(account, rig.instruments[1])
        await watched.true()
        rig.cancel(account, order)
        rig.close(account, position)
        await watched.true()
        rig.end_account_session(account)
        await watched.lost_once()
        await watched.come_back()  # old events are repeated after the login
        await watched.true()
        assert await watched.session.reconcile() == 0
        rig.open(account, rig.instruments[2])
        await watched.true()
        await watched.knows(found(rig.executions(account), recovered=False))
    assert rig.broker.metrics()["fills"] == 3


async def test_state_converges_when_events_are_reordered(rig: BrokerRig) -> None:
    account = rig.account(1)
    watched = await live(rig)
    async with rig.reorder():
        for _ in range(5):
            position = rig.open(account, rig.instruments[0])
            order = rig.place(account, rig.instruments[1])
            if Trait.PROTECTION not in rig.lacks:
                rig.protect(account, position)
            rig.cancel(account, order)
            rig.close(account, position)
            rig.open(account, rig.instruments[2])
    await eventually(lambda: reconciled(watched), within_s=WITHIN_S)
    await watched.true()
    assert rig.broker.metrics()["fills"] == len(rig.executions(account))


async def test_reconcile_repairs_and_counts_when_events_were_lost(rig: BrokerRig) -> None:
    account = rig.account(1)
    position = rig.open(account, rig.instruments[0])
    watched = await live(rig)
    await watched.true()
    old = len(rig.executions(account))
    async with rig.lose(account):
        rig.close(account, position)
        rig.open(account, rig.instruments[1])
        rig.deposit(account, 3)
    lost = await watched.session.reconcile()
    assert lost > 0
    assert rig.metric("lost") == lost
    await watched.true()
    await watched.knows(found(rig.executions(account)[old:], recovered=True))
    assert await watched.session.reconcile() == 0


# ---------------------------------------------------------------- snapshots


@pytest.mark.parametrize("variant", ["empty", "short"])
async def test_positions_stay_when_one_snapshot_is_broken(rig: BrokerRig, variant: str) -> None:
    account = rig.account(1)
    for instrument in rig.instruments:
        rig.open(account, instrument)
    watched = await live(rig)
    await watched.true()
    sizes: set[int] = set()
    watched.changed = lambda *, urgent: sizes.add(len(watched.mirror.positions))  # type: ignore[method-assign]
    watched.mirror.clean()
    async with rig.broken_snapshot(account, variant):
        assert await watched.session.reconcile() == 0
    assert sizes <= {len(rig.instruments)}
    await watched.true()


async def test_session_stays_when_a_reconcile_is_refused(rig: BrokerRig) -> None:
    account = rig.account(1)
    rig.open(account, rig.instruments[0])
    watched = await live(rig)
    async with rig.broken_snapshot(account, "error"):
        with pytest.raises(BrokerFault) as refused:
            await watched.session.reconcile()
    assert refused.value.kind is FaultKind.TRANSIENT
    assert watched.faults == []
    await watched.true()


async def test_empty_snapshot_is_asked_again_when_an_account_comes_back(rig: BrokerRig) -> None:
    account = rig.account(1)
    rig.open(account, rig.instruments[0])
    watched = await live(rig)
    await watched.true()
    async with rig.broken_snapshot(account, "empty"):
        rig.cut()
        await watched.lost_once()
        await watched.come_back()
        assert len(watched.mirror.positions) == 1
    await watched.true()


async def test_trade_is_kept_when_it_happens_while_the_snapshot_is_on_its_way(rig: BrokerRig) -> None:
    account = rig.account(1)
    watched = watch(rig)
    async with rig.late_snapshot(account):
        await watched.login()
    await eventually(lambda: len(rig.truth(account)["positions"]) == 1, within_s=WITHIN_S)
    await watched.true()
    async with rig.late_snapshot(account):
        assert await watched.session.reconcile() >= 0
    await watched.true()
    assert len(rig.executions(account)) == 2
    await watched.knows(found(rig.executions(account), recovered=False))


async def test_nothing_told_is_taken_back_when_what_is_read_lags_behind(rig: BrokerRig) -> None:
    needs(rig, Trait.LAGGING_READS)
    account = rig.account(1)
    kept = rig.open(account, rig.instruments[1])
    order = rig.place(account, rig.instruments[2])
    watched = await live(rig)
    await watched.true()
    held: list[set[str]] = []

    def look(*, urgent: bool) -> None:
        held.append({*watched.mirror.positions, *watched.mirror.orders})
        watched.mirror.clean()

    watched.changed = look  # type: ignore[method-assign]
    watched.mirror.clean()
    async with rig.lagging(account):
        new = rig.open(account, rig.instruments[0])
        await eventually(lambda: held and new in held[-1], within_s=WITHIN_S, what="it is told")
        held.clear()
        rig.close(account, kept)
        await eventually(lambda: held and held[-1] == {new, order}, within_s=WITHIN_S, what="its end is told")
        held.clear()
        await watched.session.reconcile()
        await watched.true()
        assert all(one == {new, order} for one in held)
        rig.cancel(account, order)
        await eventually(lambda: held and held[-1] == {new}, within_s=WITHIN_S, what="the order's end is told")
        held.clear()
        await watched.session.reconcile()
        watched.mirror.mark_dirty()
        await watched.true()
        assert held
    await watched.session.reconcile()
    await watched.true()
    assert all(one == {new} for one in held)
    await watched.knows(found(rig.executions(account)[1:], recovered=False))


async def test_events_count_at_once_when_a_reconcile_is_under_way(rig: BrokerRig) -> None:
    account = rig.account(1)
    watched = await live(rig)
    async with rig.late_snapshot(account):
        reconciling = asyncio.ensure_future(watched.session.reconcile())
        await eventually(lambda: len(watched.mirror.positions) == 1, within_s=WITHIN_S, every_s=0.001)
        assert not reconciling.done()
        assert await reconciling == 0
    await watched.true()
