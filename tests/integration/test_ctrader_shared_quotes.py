"""Shared quotes over the simulator: one subscription per server and symbol, handed on, and only among equal prices."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any

import pytest

from bridge.brokers.base import ReasonCode
from bridge.brokers.ctrader import checks, faults, upkeep
from bridge.brokers.ctrader.price_classes import LOOKS
from bridge.brokers.ctrader.settings import Quotes
from bridge.brokers.ctrader.shared_quote import SharedQuote
from bridge.simulator.ctrader.requests import spots
from bridge.simulator.ctrader.requests.symbols import symbol_not_found
from core.orders import Side
from protos.ctrader.messages_pb2 import ProtoOASubscribeSpotsReq
from tests.contract.rigs.ctrader import CtraderRig, ctrader_rig
from tests.contract.rigs.watched import WITHIN_S, Watched
from tests.support.waiting import eventually

ALIKE = (1, 7, 13, 19)  # users at the broker "Sim" whose accounts are in USD
FIRST, SECOND, THIRD, FOURTH = (f"a{1_000_000 + 10 * user + 1}" for user in ALIKE)


@asynccontextmanager
async def shared_rig(**changes: Any) -> AsyncIterator[CtraderRig]:
    async with ctrader_rig({"users": 31}, quotes=Quotes.SHARED, **changes) as rig:
        yield rig
        assert rig.violations() == 0
        assert rig.metric("foreign") == 0


def watch(rig: CtraderRig, user: int, account: str | None = None) -> Watched:
    return Watched(rig, rig.credential(user), account or rig.account(user))


async def live(rig: CtraderRig, *users: int) -> list[Watched]:
    """Holders of EURUSD, logged in one after the other."""
    watched = []
    for user in users:
        if not rig.truth(rig.account(user))["positions"]:
            rig.open(rig.account(user), "EURUSD")
        one = watch(rig, user)
        await one.login()
        await one.true()
        watched.append(one)
    return watched


def subscriptions(rig: CtraderRig) -> dict[str, int]:
    found: dict[str, int] = rig.act.counters()["spotSubscriptionsByAccount"]
    return found


async def subscribed(rig: CtraderRig, **accounts: int) -> None:
    wanted = {key.removeprefix("a"): held for key, held in accounts.items()}
    await eventually(
        lambda: subscriptions(rig) == wanted,
        within_s=WITHIN_S,
        what=lambda: f"{subscriptions(rig)} is {wanted}",
    )


async def all_priced(rig: CtraderRig, watched: list[Watched]) -> None:
    """The price moves, and everybody's figures with it."""
    rig.move("EURUSD")
    for one in watched:
        await one.priced()


def metric(rig: CtraderRig, name: str) -> float:
    return rig.broker.metrics().get(name, 0.0)


# ---------------------------------------------------------------- one for all


async def test_one_subscription_serves_all_accounts_of_a_server_when_they_hold_the_same() -> None:
    async with shared_rig() as rig:
        users = range(1, 9)
        for user in users:
            for instrument in rig.instruments:
                rig.open(rig.account(user), instrument, buy=user % 3 != 0)
        watched = [watch(rig, user) for user in users]
        await asyncio.gather(*(one.login() for one in watched))
        for one in watched:
            await one.true()
        symbols = {(one.mirror.broker_title, key) for one in watched for key in one.mirror.quotes}
        assert rig.act.counters()["spotSubscriptions"] == len(symbols)
        assert metric(rig, "quotes_subscriptions") == len(symbols)
        assert metric(rig, "quotes_used") == sum(len(one.mirror.quotes) for one in watched)
        before = rig.act.counters()["spotEvents"]
        rig.move("USDJPY")
        for one in watched:
            await one.true()
        assert rig.act.counters()["spotEvents"] - before == 2  # one for each server
        for step in range(6):  # trading goes on meanwhile
            rig.move(rig.instruments[step % 3])
            done = rig.act.order(
                int(rig.account(1 + step)), symbol=rig.instruments[step % 3], side=Side.SELL, units=Decimal(10_000)
            )
            assert done["positionId"]
        for one in watched:
            await one.true()
            assert await one.session.reconcile() == 0
        await eventually(lambda: metric(rig, "pnl_checks") >= 6, within_s=WITHIN_S)
        assert metric(rig, "pnl_drifts") == metric(rig, "quotes_parted") == 0


async def test_reading_is_due_again_when_a_shared_price_moves_after_each_reading() -> None:
    async with shared_rig() as rig:
        watched = await live(rig, *ALIKE)
        for _ in range(3):
            for one in watched:
                one.mirror.clean()
            heard = [one.changes for one in watched]
            rig.move("EURUSD")
            rig.move("EURUSD")
            for one, before in zip(watched, heard, strict=True):
                await eventually(lambda one=one: one.mirror.dirty, within_s=WITHIN_S)  # type: ignore[misc]
                assert one.changes == before + 1


async def test_accounts_of_another_product_do_not_share_when_their_broker_is_the_same() -> None:
    async with shared_rig() as rig:
        await live(rig, 1)
        netted = watch(rig, 2, "1000022")  # at Sim too, like user 1's
        rig.open("1000022", "EURUSD")
        await netted.login()
        await netted.true()
        assert set(subscriptions(rig)) == {rig.account(1), "1000022"}


async def test_subscription_ends_when_nobody_needs_it_any_more() -> None:
    async with shared_rig() as rig:
        first, second = await live(rig, 1, 7)
        for one in (first, second):
            rig.act.close_all(int(one.session.account_id or ""))
            await one.true()
            if one is first:
                await subscribed(rig, **{FIRST: 1})  # it serves the other still
                await all_priced(rig, [second])
        await subscribed(rig)
        assert first.mirror.quotes == second.mirror.quotes == {}


# ---------------------------------------------------------------- handed on


async def test_next_one_subscribes_before_the_holder_goes_when_it_logs_out(monkeypatch: pytest.MonkeyPatch) -> None:
    withdrawn: list[SharedQuote] = []

    def withdraw(quote: SharedQuote) -> None:
        withdrawn.append(quote)

    monkeypatch.setattr(SharedQuote, "withdraw", withdraw)
    async with shared_rig() as rig:
        watched = await live(rig, *ALIKE)
        await subscribed(rig, **{FIRST: 1})
        await watched[0].session.logout()
        await subscribed(rig, **{SECOND: 1})
        await all_priced(rig, watched[1:])
        assert withdrawn == []
        assert metric(rig, "quotes_handed_on") == 1


async def test_everybody_logs_out_when_all_do_at_once() -> None:
    async with shared_rig() as rig:
        watched = await live(rig, *ALIKE)
        await asyncio.gather(*(one.session.logout() for one in watched))
        await subscribed(rig)
        assert rig.act.counters()["requests"]["ProtoOASubscribeSpotsReq"] == 1
        assert all(rig.sessions_of(rig.account(user)) == 0 for user in ALIKE)


@pytest.mark.parametrize("way", ["disconnected", "revoked", "expired"])
async def test_another_subscribes_at_once_when_the_holders_session_is_ended(way: str) -> None:
    async with shared_rig() as rig:
        watched = await live(rig, *ALIKE)
        match way:
            case "disconnected":
                rig.end_account_session(rig.account(1))
            case "revoked":
                rig.revoke(1)
            case _:
                rig.expire(1)
        await watched[0].lost_once()
        await subscribed(rig, **{SECOND: 1})
        await all_priced(rig, watched[1:])
        stale = watched[0].reading()
        assert stale["unrealizedPnl"] is not None  # its numbers stay as they were
        assert [one.faults for one in watched[1:]] == [[], [], []]


async def test_another_subscribes_when_the_holder_is_disconnected_while_it_logs_in_anew() -> None:
    async with shared_rig() as rig:
        watched = await live(rig, *ALIKE)
        hub = rig.broker._hubs[rig.environment][int(rig.account(1))]
        hub.live = False
        rig.end_account_session(rig.account(1))
        await subscribed(rig, **{SECOND: 1})
        await all_priced(rig, watched[1:])


async def test_prices_go_on_when_the_holder_is_authorised_with_another_token() -> None:
    async with shared_rig() as rig:
        watched = await live(rig, *ALIKE)
        rig.sim.services.hub.invalidate = lambda *args, **kwargs: None  # type: ignore[method-assign]  # says nothing
        await watched[0].refresh()
        await watched[0].come_back()
        await all_priced(rig, watched)
        assert metric(rig, "quotes_subscriptions") == 1


async def test_subscription_is_asked_for_again_when_the_task_that_did_was_cancelled() -> None:
    async with shared_rig() as rig:
        (first,) = await live(rig, 1)
        hub = rig.broker._hubs[rig.environment][int(rig.account(1))]
        channel, asked = hub.channel, asyncio.Event()
        assert channel is not None
        call = channel.call

        async def stuck(request: Any, *others: Any) -> Any:
            if isinstance(request, ProtoOASubscribeSpotsReq):
                asked.set()
                await asyncio.Event().wait()
            return await call(request, *others)

        channel.call = stuck  # type: ignore[assignment,method-assign]
        rig.open(rig.account(1), "GBPUSD")
        await asyncio.wait_for(asked.wait(), WITHIN_S)
        assert hub.upkeep._following is not None
        hub.upkeep._following.cancel()
        channel.call = call  # type: ignore[method-assign]
        await asyncio.wait({hub.upkeep._following})
        rig.deposit(rig.account(1), 5)
        await first.true()


async def test_last_account_is_asked_too_when_all_others_keep_failing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upkeep, "_FOLLOW_DELAYS_S", (0.0, 0.02))
    async with shared_rig() as rig:
        watched = await live(rig, *ALIKE, 25, 31)
        channel = rig.broker._hubs[rig.environment][int(rig.account(1))].channel
        assert channel is not None
        call = channel.call

        async def failing(request: Any, *others: Any) -> Any:
            if isinstance(request, ProtoOASubscribeSpotsReq) and request.ctidTraderAccountId != int(rig.account(31)):
                raise faults.transient(ReasonCode.BROKER_ERROR, "not now")
            return await call(request, *others)

        channel.call = failing  # type: ignore[assignment,method-assign]
        rig.end_account_session(rig.account(1))
        await eventually(lambda: subscriptions(rig) == {rig.account(31): 1}, within_s=WITHIN_S)
        await all_priced(rig, watched[1:])


async def test_no_price_looks_present_while_nobody_can_subscribe_in_the_holders_place() -> None:
    async with shared_rig(market_timeout_s=0.2) as rig:
        watched = await live(rig, *ALIKE)
        refused = rig.act.fault("N28", requests=["ProtoOASubscribeSpotsReq"])
        rig.end_account_session(rig.account(1))
        await watched[0].lost_once()
        for one in watched[1:]:
            await eventually(
                lambda one=one: one.reading()["equity"] is None and one.mirror.dirty,  # type: ignore[misc]
                within_s=WITHIN_S,
            )
        rig.act.clear_faults(refused)
        await all_priced(rig, watched[1:])


async def test_accounts_share_again_when_their_channel_was_cut() -> None:
    async with shared_rig() as rig:
        watched = await live(rig, *ALIKE)
        figures = [one.reading()["unrealizedPnl"] for one in watched]
        rig.cut()
        await asyncio.gather(*(one.lost_once() for one in watched))
        assert [one.reading()["unrealizedPnl"] for one in watched] == figures
        assert metric(rig, "quotes_used") == 0
        await asyncio.gather(*(one.come_back() for one in watched))
        for one in watched:
            await one.true()
        await all_priced(rig, watched)
        assert sum(subscriptions(rig).values()) == 1


async def test_those_who_stay_are_served_when_the_holder_moves_to_another_channel() -> None:
    async with shared_rig(channels=2) as rig:
        watched = await live(rig, *ALIKE)
        assert len(subscriptions(rig)) == 2  # one on each channel
        rig.act.fault("N37", limit=1)
        rig.cut()
        await asyncio.gather(*(one.lost_once() for one in watched))
        await asyncio.gather(*(one.come_back() for one in watched))
        await all_priced(rig, watched)
        assert sum(subscriptions(rig).values()) == 1


async def test_account_that_is_refused_is_served_by_another(monkeypatch: pytest.MonkeyPatch) -> None:
    listed = spots._listed

    def refusing(call: Any, symbol_ids: Any) -> list[int]:
        if call.account.id == int(FIRST[1:]):
            raise symbol_not_found(next(iter(symbol_ids)), call.account.id)
        return listed(call, symbol_ids)

    monkeypatch.setattr(spots, "_listed", refusing)
    async with shared_rig() as rig:
        rig.open(rig.account(1), "EURUSD")
        first = watch(rig, 1)
        await first.login()
        assert first.reading()["equity"] is None
        (second,) = await live(rig, 7)
        await all_priced(rig, [first, second])
        await subscribed(rig, **{SECOND: 1})


# ---------------------------------------------------------------- prices that differ


async def test_account_gets_its_own_subscription_when_the_brokers_figures_differ() -> None:
    async with shared_rig() as rig:
        rig.act.mark_up(int(rig.account(13)), 6, "gold")
        rig.act.mark_up(int(rig.account(19)), 6, "gold")
        watched = await live(rig, 1, 7)
        watched += await live(rig, 13)
        await subscribed(rig, **{FIRST: 1, THIRD: 1})
        watched += await live(rig, 19)
        await subscribed(rig, **{FIRST: 1, THIRD: 1})  # it shares with its like
        await all_priced(rig, watched)
        for one in watched:
            await one.true()
        assert (metric(rig, "quotes_parted"), metric(rig, "quotes_apart"), metric(rig, "quotes_classes")) == (2, 2, 2)
        assert metric(rig, "pnl_drifts") == 2


async def test_most_share_when_it_is_the_first_account_that_differs() -> None:
    async with shared_rig() as rig:
        rig.act.mark_up(int(rig.account(1)), 6)
        watched = await live(rig, *ALIKE)
        await subscribed(rig, **{FIRST: 1, SECOND: 1})
        await all_priced(rig, watched)
        assert metric(rig, "quotes_apart") == 1


async def test_account_finds_its_class_again_when_it_logs_in_anew() -> None:
    async with shared_rig() as rig:
        rig.act.mark_up(int(rig.account(13)), 6)
        watched = await live(rig, 1, 7, 13)
        await subscribed(rig, **{FIRST: 1, THIRD: 1})
        rig.cut()
        await asyncio.gather(*(one.lost_once() for one in watched))
        await asyncio.gather(*(one.come_back() for one in watched))
        for one in watched:
            await one.true()
        assert metric(rig, "quotes_parted") == 1


async def test_account_comes_back_when_its_prices_are_the_common_ones_again() -> None:
    async with shared_rig(quotes_look_every_s=0.0) as rig:
        rig.act.mark_up(int(rig.account(13)), 6)
        watched = await live(rig, 1, 7, 13)
        await subscribed(rig, **{FIRST: 1, THIRD: 1})
        for _ in range(4):
            assert await watched[2].session.reconcile() == 0
        assert metric(rig, "quotes_apart") == 1
        rig.act.mark_up(int(rig.account(13)), 0)
        await watched[2].true()
        for _ in range(3):
            assert metric(rig, "quotes_apart") == 1
            assert await watched[2].session.reconcile() == 0
        await subscribed(rig, **{FIRST: 1})
        await all_priced(rig, watched)
        assert metric(rig, "quotes_returned") == 1


async def test_accounts_leave_a_subscription_that_died_without_a_word() -> None:
    async with shared_rig(quotes_check_every_s=0.0) as rig:
        watched = await live(rig, *ALIKE)
        await eventually(lambda: metric(rig, "pnl_checks") >= 3, within_s=WITHIN_S)
        services, holder = rig.sim.services, int(rig.account(1))
        for connection, authorisation in services.hub.listeners(holder).items():
            services.spots.leave(connection, authorisation)
        rig.move("EURUSD")
        for one in watched[1:]:
            await one.session.reconcile()
        for one in watched[1:]:
            await one.true()
        await all_priced(rig, watched[1:])
        assert metric(rig, "quotes_parted") == 3  # the first of them subscribed, the others joined it


async def test_figures_that_always_differ_cost_a_subscription_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    counted = checks.drift.drifts
    monkeypatch.setattr(checks.drift, "drifts", lambda *figures: None if counted(*figures) is None else 1)
    async with shared_rig(quotes_look_every_s=0.0, quotes_check_every_s=0.0) as rig:
        watched = await live(rig, *ALIKE)
        await eventually(lambda: metric(rig, "quotes_apart") == 3, within_s=WITHIN_S)
        for _ in range(2 * LOOKS):  # prices are equal, so it was not the prices: they come back, and stay
            for one in watched:
                await one.session.reconcile()
        await eventually(lambda: metric(rig, "quotes_apart") == 0, within_s=WITHIN_S)
        await all_priced(rig, watched)
        asked = rig.act.counters()["requests"]["ProtoOASubscribeSpotsReq"]
        for one in watched:
            await one.session.reconcile()
        await eventually(lambda: not rig.broker._pools[rig.environment].channels[0].sharing.checking, within_s=WITHIN_S)
        assert rig.act.counters()["requests"]["ProtoOASubscribeSpotsReq"] == asked
        assert metric(rig, "quotes_parted") == 3


async def test_conversion_prices_are_shared_and_compared_too() -> None:
    async with shared_rig() as rig:
        rig.act.mark_up(int(rig.account(3)), 6)
        users = (1, 3, 5, 7, 9, 11)  # in dollars, yen and euros
        for user in users:
            rig.open(rig.account(user), "USDJPY")
        watched = []
        for user in users:
            watched.append(watch(rig, user))
            await watched[-1].login()
            await watched[-1].true()
        await all_priced(rig, watched)
        assert metric(rig, "quotes_apart") == 1
        assert rig.act.counters()["spotSubscriptions"] == 3  # held, to convert with, and held at other prices
