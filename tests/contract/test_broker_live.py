"""What happens on an account shows in its record at once, at every broker: orders, executions, balance, prices."""

from tests.contract.rigs.rig import BrokerRig, Trait
from tests.contract.rigs.steps import live
from tests.contract.rigs.watched import WITHIN_S, found
from tests.support.waiting import eventually


async def test_record_follows_when_the_account_changes(rig: BrokerRig) -> None:
    account = rig.account(2)
    watched = await live(rig, 2)
    first = rig.open(account, rig.instruments[0])
    await watched.true()
    second = rig.open(account, rig.instruments[1], buy=False)
    order = rig.place(account, rig.instruments[2])
    await watched.true()
    if Trait.PROTECTION not in rig.lacks:
        rig.protect(account, first)
        await watched.true()
    rig.move(rig.instruments[0])
    rig.move(rig.instruments[1])
    await watched.true()
    rig.cancel(account, order)
    rig.close(account, second)
    rig.close(account, first)
    await watched.true()
    assert watched.mirror.positions == {}
    assert watched.mirror.orders == {}
    assert watched.faults == []
    assert await watched.session.reconcile() == 0


async def test_working_order_is_followed_when_it_is_amended_and_executes_in_part(rig: BrokerRig) -> None:
    account, instrument = rig.account(1), rig.instruments[0]
    watched = await live(rig)
    order = rig.place(account, instrument)
    await watched.true()
    before = watched.mirror.orders[order].limit_price
    order = rig.amend(account, order)
    await watched.true()
    assert list(watched.mirror.orders) == [order]
    assert watched.mirror.orders[order].limit_price != before
    rig.cancel(account, order)
    partly = rig.fill_partly(account, instrument)
    await watched.true()
    held = watched.mirror.orders[partly]
    assert held.status.value == "partially_filled"
    assert 0 < held.filled_units < held.units
    assert len(watched.mirror.positions) == 1
    await watched.knows(found(rig.executions(account), recovered=False))
    rig.cancel(account, partly)
    await watched.true()
    assert watched.mirror.orders == {}
    assert await watched.session.reconcile() == 0


async def test_last_reading_names_what_an_order_waits_for_when_it_was_never_held(rig: BrokerRig) -> None:
    watched = await live(rig)
    readings: list[list[str]] = []

    def read(*, urgent: bool) -> None:
        readings.append([one["symbol"] for one in watched.reading()["orders"].values()])
        watched.mirror.clean()

    watched.changed = read  # type: ignore[method-assign]
    watched.mirror.clean()
    rig.place(rig.account(1), rig.instruments[1])
    wanted = [one["symbol"] for one in rig.truth(rig.account(1))["orders"]]
    await eventually(lambda: readings and readings[-1] == wanted, within_s=WITHIN_S, what="the name is told")


async def test_position_is_followed_when_it_grows_shrinks_and_ends(rig: BrokerRig) -> None:
    account, instrument = rig.account(1), rig.instruments[0]
    watched = await live(rig)
    position = rig.open(account, instrument)
    rig.move(instrument)
    rig.open(account, instrument)  # another position, or more of the same one at another price
    await watched.true()
    assert sum(one.units for one in watched.mirror.positions.values()) > 0
    await watched.knows(found(rig.executions(account), recovered=False))
    rig.close(account, position)
    await watched.true()
    assert await watched.session.reconcile() == 0


async def test_record_follows_when_cash_moves(rig: BrokerRig) -> None:
    account = rig.account(1)
    watched = await live(rig)
    for amount in (500, -250, 1):
        rig.deposit(account, amount)
        await watched.hears_of_cash()
        await watched.true()


async def test_execution_is_known_once_with_its_figures_when_it_happens(rig: BrokerRig) -> None:
    account = rig.account(1)
    watched = await live(rig)
    position = rig.open(account, rig.instruments[0])
    rig.open(account, rig.instruments[1], buy=False)
    rig.move(rig.instruments[0])
    rig.close(account, position)
    await watched.true()
    executed = rig.executions(account)
    assert len(executed) == 3
    await watched.knows(found(executed, recovered=False))
    assert await watched.session.reconcile() == 0
    await watched.knows(found(executed, recovered=False))
    assert rig.broker.metrics()["fills"] == 3
    assert rig.broker.metrics().get("fills_recovered", 0) == 0


async def test_change_is_told_once_until_it_is_read_and_executions_each_time(rig: BrokerRig) -> None:
    account = rig.account(1)
    rig.open(account, rig.instruments[0])
    watched = await live(rig)
    await watched.true()
    watched.mirror.clean()
    watched.changes = watched.urgent = 0
    for _ in range(3):
        rig.move(rig.instruments[0])
    await watched.priced()
    assert watched.changes == 1
    watched.mirror.clean()
    rig.move(rig.instruments[0])
    await watched.priced()
    assert watched.changes == 2
    rig.open(account, rig.instruments[1])
    rig.open(account, rig.instruments[2])
    await watched.true()
    assert watched.urgent >= 2


async def test_prices_stop_when_nothing_is_held_any_more(rig: BrokerRig) -> None:
    account = rig.account(1)
    position = rig.open(account, rig.instruments[0])
    watched = await live(rig)
    await watched.true()
    rig.close(account, position)
    await eventually(
        lambda: watched.mirror.quotes == {}, within_s=WITHIN_S, what="quotes of what is gone are forgotten"
    )
