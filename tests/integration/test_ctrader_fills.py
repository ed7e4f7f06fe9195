"""Executions of cTrader accounts over the simulator: each once, and those that no live message told of are found."""

import asyncio
from collections import Counter
from decimal import Decimal

from bridge.runtime.clock import SystemClock
from core.events import Fill
from core.orders import OrderType, Side, TimeInForce
from core.paper_trader import Level
from tests.contract.rigs.ctrader import CtraderRig, ctrader_rig
from tests.contract.rigs.watched import WITHIN_S, Watched
from tests.support.waiting import eventually


def executed(rig: CtraderRig, account: str, *, recovered: bool = False) -> list[Fill]:
    """What the engine itself says that it executed, oldest first."""
    held = rig.sim.services.world.account(int(account))
    return [
        Fill(
            str(one.id),
            str(one.order_id),
            one.instrument_id,
            one.side,
            one.filled_units,
            one.price,
            one.executed_at_ms,
            recovered,
        )
        for one in rig.sim.services.world.engine.deals(held.key)
    ]


async def live(rig: CtraderRig, user: int = 1) -> Watched:
    watched = Watched(rig, rig.credential(user), rig.account(user))
    await watched.login()
    return watched


async def all_found(rig: CtraderRig, watched: Watched, wanted: list[Fill]) -> None:
    await eventually(lambda: len(watched.mirror.fills) >= len(wanted), within_s=WITHIN_S, what="all executions known")
    assert sorted(watched.mirror.fills, key=lambda one: int(one.execution_id)) == wanted


def searches(rig: CtraderRig) -> int:
    return int(rig.sim.actions.counters()["requests"].get("ProtoOADealListReq", 0))


async def searched(rig: CtraderRig, number: int) -> None:
    await eventually(lambda: rig.broker.metrics().get("deal_searches") == number, within_s=WITHIN_S)


async def test_execution_is_noted_once_with_its_exact_figures_when_it_happens_live() -> None:
    async with ctrader_rig() as rig:
        account = rig.account(1)
        watched = await live(rig)
        quote = rig.act.quotes()["servers"]["Sim-demo"]["EURUSD"]
        bid, ask = Decimal(str(quote["bid"])), Decimal(str(quote["ask"]))
        async with rig.duplicate():
            position = rig.open(account, "USDJPY")
            # an order that executes at two prices, the rest of it is cancelled
            asks = [Level(ask, Decimal(4_000)), Level(ask + Decimal("0.0001"), Decimal(4_000))]
            rig.act.quote("EURUSD", bids=[Level(bid, Decimal(9_000))], asks=asks, server="Sim-demo")
            rig.act.order(
                int(account),
                symbol="EURUSD",
                side=Side.BUY,
                units=Decimal(10_000),
                type=OrderType.MARKET,
                time_in_force=TimeInForce.IOC,
            )
            rig.close(account, position)
            await watched.true()
            wanted = executed(rig, account)
            assert len(wanted) >= 3
            await all_found(rig, watched, wanted)
        assert rig.broker.metrics()["fills"] == len(wanted)
        assert rig.broker.metrics().get("fills_recovered", 0) == 0
        assert searches(rig) == 0


async def test_execution_is_no_find_when_it_was_told_while_the_snapshot_was_on_its_way() -> None:
    async with ctrader_rig() as rig:
        account = rig.account(1)
        watched = Watched(rig, rig.credential(1), account)
        async with rig.late_snapshot(account):
            await watched.login()
        await eventually(lambda: len(rig.truth(account)["positions"]) == 1, within_s=WITHIN_S)
        await watched.true()
        await all_found(rig, watched, executed(rig, account))


async def test_executions_during_a_cut_are_found_when_the_account_is_back() -> None:
    async with ctrader_rig() as rig:
        account = rig.account(1)
        rig.open(account, "GBPUSD")  # before anybody looked: not ours to tell
        await asyncio.sleep(0.002)  # the engine's clock has whole milliseconds
        watched = await live(rig)
        before = len(executed(rig, account))
        gone = rig.open(account, "EURUSD")
        await all_found(rig, watched, executed(rig, account)[before:])
        rig.cut()
        await watched.lost_once()
        rig.close(account, gone)
        rig.close(account, rig.open(account, "USDJPY"))  # a round trip: no position tells of it afterwards
        await watched.come_back()
        wanted = executed(rig, account)[before : 1 + before] + executed(rig, account, recovered=True)[1 + before :]
        await all_found(rig, watched, wanted)
        rig.open(account, "EURUSD")
        wanted += executed(rig, account)[-1:]
        await all_found(rig, watched, wanted)
        await searched(rig, 1)
        metrics = rig.broker.metrics()
        assert (metrics["fills"], metrics["fills_recovered"]) == (5, 3)
        assert len(watched.mirror.fills) == 5


async def test_round_trip_during_a_cut_is_found_when_only_the_balance_tells_of_it() -> None:
    async with ctrader_rig() as rig:
        account = rig.account(1)
        watched = await live(rig)
        rig.cut()
        await watched.lost_once()
        rig.close(account, rig.open(account, "EURUSD"))
        await watched.come_back()
        await all_found(rig, watched, executed(rig, account, recovered=True))


async def test_nothing_is_asked_when_nothing_happened_during_a_cut() -> None:
    async with ctrader_rig() as rig:
        rig.open(rig.account(1), "EURUSD")
        watched = await live(rig)
        rig.cut()
        await watched.lost_once()
        await watched.come_back()
        assert await watched.session.reconcile() == 0
        assert searches(rig) == 0
        assert watched.mirror.fills == ()


async def test_lost_executions_are_found_by_the_reconcile() -> None:
    async with ctrader_rig() as rig:
        account = rig.account(1)
        watched = await live(rig)
        async with rig.lose(account):
            rig.open(account, "EURUSD")
            rig.close(account, rig.open(account, "USDJPY"))
        assert await watched.session.reconcile() > 0
        await all_found(rig, watched, executed(rig, account, recovered=True))


async def test_unreadable_execution_is_found_by_the_repair() -> None:
    async with ctrader_rig() as rig:
        account = rig.account(1)
        watched = await live(rig)
        async with rig.unknown_values(account):
            rig.open(account, "EURUSD")
            await watched.true()
        await all_found(rig, watched, executed(rig, account, recovered=True))


async def test_executions_are_found_when_history_lags_and_comes_in_pages() -> None:
    world = {"history_lag_s": 0.2, "deals_page": 2}
    async with ctrader_rig(world) as rig:
        account = rig.account(1)
        watched = await live(rig)
        rig.cut()
        await watched.lost_once()
        for _ in range(4):
            rig.close(account, rig.open(account, "EURUSD"))
            await asyncio.sleep(0.002)  # no more than a page within a millisecond
        await watched.come_back()
        assert watched.mirror.fills == ()
        await all_found(rig, watched, executed(rig, account, recovered=True))


async def test_no_login_waits_for_the_search_when_many_accounts_owe() -> None:
    users = range(1, 13)
    world = {"users": 12, "history_requests_per_second": 5}
    async with ctrader_rig(world, history_requests_per_second=4, history_lag_s=0.0) as rig:
        watched = [await live(rig, user) for user in users]
        held = [rig.open(rig.account(user), "EURUSD") for user in users]
        for one in watched:
            await one.true()
        rig.cut()
        await asyncio.gather(*(one.lost_once() for one in watched))
        for user in (1, 2, 3, 4, 5, 6):
            rig.close(rig.account(user), held[user - 1])  # these hold nothing any more
        for user in (7, 8, 9, 10, 11, 12):
            rig.open(rig.account(user), "GBPUSD")
        began = SystemClock().monotonic()
        await asyncio.gather(*(one.come_back() for one in watched))
        took = SystemClock().monotonic() - began
        answered = rig.broker.metrics().get("deal_searches", 0)
        assert answered < 12, f"the searches of twelve accounts take two seconds and more, the logins took {took}"
        await eventually(lambda: rig.broker.metrics().get("deal_searches") == 12, within_s=WITHIN_S)
        for one in watched:
            assert Counter(fill.recovered for fill in one.mirror.fills) == {False: 1, True: 1}
        assert rig.violations() == 0
