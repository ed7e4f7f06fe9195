"""cTrader accounts over the simulator: what only this broker has, and what its budget and order of recovery promise."""

import asyncio
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from bridge.brokers.base import BrokerAccount, BrokerFault, Environment, FaultKind, ReasonCode
from bridge.simulator.ctrader import RefreshVariant
from core.orders import OrderType, Side, TimeInForce
from core.paper_trader import Level, OrderChanges
from tests.contract.rigs.ctrader import CtraderRig, ctrader_rig
from tests.contract.rigs.watched import WITHIN_S, Watched
from tests.support.waiting import eventually

UNITS = Decimal(10_000)
LISTING = "ProtoOAGetAccountListByAccessTokenReq"


def watch(rig: CtraderRig, user: int, account: str | None = None) -> Watched:
    return Watched(rig, rig.credential(user), account or rig.account(user))


async def live(rig: CtraderRig, *users: int) -> list[Watched]:
    watched = [watch(rig, user) for user in users]
    await asyncio.gather(*(one.login() for one in watched))
    return watched


def requests(rig: CtraderRig) -> Counter[str]:
    return Counter(rig.act.counters()["requests"])


# ---------------------------------------------------------------- what the account does


async def test_pending_orders_are_followed_when_they_are_amended_filled_and_cut_short() -> None:
    async with ctrader_rig() as rig:
        (one,) = await live(rig, 1)
        account = int(rig.account(1))
        quote = rig.act.quotes()["servers"]["Sim-demo"]["EURUSD"]
        bid, ask = Decimal(str(quote["bid"])), Decimal(str(quote["ask"]))
        stop = rig.act.order(
            account, symbol="EURUSD", side=Side.BUY, units=UNITS, type=OrderType.STOP, stop_price=ask + Decimal("0.001")
        )
        both = rig.act.order(
            account,
            symbol="EURUSD",
            side=Side.SELL,
            units=UNITS,
            type=OrderType.STOP_LIMIT,
            stop_price=bid - Decimal("0.01"),
            slippage_points=20,
        )
        await one.true()
        rig.act.amend(account, int(both["orderId"]), OrderChanges(stop_price=bid - Decimal("0.02")))
        await one.true()
        rig.act.quote("EURUSD", bid=bid + Decimal("0.002"), ask=ask + Decimal("0.002"), server="Sim-demo")
        await one.true()
        assert str(stop["orderId"]) not in one.mirror.orders
        assert len(one.mirror.positions) == 1
        # an order that fills in part, the rest is cancelled with the executed part
        bids = [Level(bid, Decimal(4_000))]
        rig.act.quote("EURUSD", bids=bids, asks=[Level(ask, Decimal(4_000))], server="Sim-demo")
        rig.act.order(
            account, symbol="EURUSD", side=Side.SELL, units=UNITS, type=OrderType.MARKET, time_in_force=TimeInForce.IOC
        )
        await one.true()
        assert sorted(position.units for position in one.mirror.positions.values()) == [4_000, 10_000]
        assert await one.session.reconcile() == 0


async def test_position_is_followed_when_its_stop_trails_and_is_hit() -> None:
    async with ctrader_rig() as rig:
        (one,) = await live(rig, 1)
        account = int(rig.account(1))
        position = int(rig.open(rig.account(1), "EURUSD"))
        quote = rig.act.quotes()["servers"]["Sim-demo"]["EURUSD"]
        bid, ask = Decimal(str(quote["bid"])), Decimal(str(quote["ask"]))
        rig.act.protect(account, position, stop_loss=bid - Decimal("0.0050"), trailing=True)
        await one.true()
        before = one.mirror.positions[str(position)].stop_loss
        up = Decimal("0.0100")
        rig.act.quote("EURUSD", bid=bid + up, ask=ask + up, server="Sim-demo")
        await one.true()
        after = one.mirror.positions[str(position)].stop_loss
        assert before is not None
        assert after is not None
        assert after - before == up
        rig.act.quote("EURUSD", bid=bid, ask=ask, server="Sim-demo")
        await one.true()
        assert one.mirror.positions == {}
        assert one.mirror.orders == {}


async def test_netted_yen_account_is_followed_when_its_position_flips() -> None:
    async with ctrader_rig() as rig:
        one = watch(rig, 2, "1000022")
        await one.login()
        assert (one.mirror.currency, one.mirror.money_digits) == ("JPY", 0)
        for side, units in (
            (Side.BUY, 20_000),
            (Side.BUY, 5_000),
            (Side.SELL, 40_000),
            (Side.SELL, 7_000),
            (Side.BUY, 22_000),
        ):
            rig.act.order(1_000_022, symbol="EURUSD", side=side, units=Decimal(units))
            await one.true()
        assert one.mirror.positions == {}
        assert await one.session.reconcile() == 0


async def test_terms_and_bonus_are_followed_when_the_broker_changes_them() -> None:
    async with ctrader_rig() as rig:
        (one,) = await live(rig, 1)
        rig.open(rig.account(1), "USDJPY")
        await one.true()
        rig.act.change_terms(int(rig.account(1)), leverage=Decimal(50))
        await one.true()
        assert one.mirror.leverage == 50
        rig.act.bonus(int(rig.account(1)), Decimal(100))
        await one.true()
        assert await one.session.reconcile() == 0


async def test_live_account_is_served_by_the_live_host() -> None:
    async with ctrader_rig() as rig:
        rig.environment = Environment.LIVE  # type: ignore[misc]
        one = Watched(rig, rig.credential(1, environment="live"), rig.account_elsewhere(1))
        await one.login()
        await one.true()
        rig.open(rig.account_elsewhere(1), "EURUSD")
        await one.true()


# ---------------------------------------------------------------- budget and order


async def test_reference_data_is_read_once_per_server_when_many_accounts_log_in() -> None:
    async with ctrader_rig({"users": 20}) as rig:
        for user in range(1, 21):
            for instrument in rig.instruments:
                rig.open(rig.account(user), instrument)
        watched = await live(rig, *range(1, 21))
        for one in watched:
            await one.true()
        asked = requests(rig)
        assert asked["ProtoOAAssetListReq"] == 2  # the odd users' broker and the even users'
        assert asked["ProtoOASymbolsListReq"] == 2
        assert asked["ProtoOASymbolByIdReq"] <= 4
        assert asked["ProtoOASymbolsForConversionReq"] <= 2 * 3 * 2  # servers x deposit currencies x quote currencies


async def test_return_costs_three_requests_and_a_fourth_for_holders_when_a_channel_was_cut() -> None:
    async with ctrader_rig() as rig:
        rig.open(rig.account(2), "EURUSD")
        watched = await live(rig, 1, 2, 3)
        before = requests(rig)
        rig.cut()
        await asyncio.gather(*(one.lost_once() for one in watched))
        await asyncio.gather(*(one.come_back() for one in watched))
        for one in watched:
            await one.true()
        spent = requests(rig) - before
        del spent["ProtoOAVersionReq"]
        assert spent == {
            "ProtoOAApplicationAuthReq": 1,
            "ProtoOAAccountAuthReq": 3,
            "ProtoOATraderReq": 3,
            "ProtoOAReconcileReq": 3,
            "ProtoOASubscribeSpotsReq": 1,
        }


async def test_no_account_list_is_asked_for_when_the_grant_has_it_kept() -> None:
    async with ctrader_rig() as rig:
        learnt = await rig.broker.accounts(rig.credential(1))
        assert rig.broker.known_accounts(rig.credential(1)) == tuple(learnt)
        before = requests(rig)
        kept = replace(rig.credential(2), accounts=(BrokerAccount(rig.account(2), Environment.DEMO, "5002"),))
        one = Watched(rig, kept, rig.account(2))
        await one.login()
        await one.true()
        rig.cut()
        await one.lost_once()
        await one.come_back()
        assert LISTING not in requests(rig) - before
        assert rig.broker.known_accounts(kept) == ()


async def test_kept_account_list_does_not_let_anybody_join_an_account_that_others_use() -> None:
    async with ctrader_rig() as rig:
        (owner,) = await live(rig, 1)
        stale = replace(rig.credential(2), accounts=(BrokerAccount(rig.account(1), Environment.DEMO),))
        thief = Watched(rig, stale, rig.account(1))
        with pytest.raises(BrokerFault) as refused:
            await thief.login()
        assert refused.value.reason.code is ReasonCode.ACCOUNT_NOT_COVERED
        await owner.session.logout()
        with pytest.raises(BrokerFault) as refused:  # alone there, the broker itself refuses the token
            await Watched(rig, stale, rig.account(1)).login()
        assert refused.value.reason.code is ReasonCode.ACCOUNT_NOT_COVERED


async def test_account_list_is_asked_for_when_the_kept_one_lacks_the_account() -> None:
    async with ctrader_rig() as rig:
        old = replace(rig.credential(1), accounts=(BrokerAccount("7", Environment.DEMO),))
        one = Watched(rig, old, rig.account(1))
        await one.login()
        await one.true()
        assert rig.account(1) in [each.account_id for each in rig.broker.known_accounts(old)]


async def test_accounts_at_risk_are_authorised_first_when_all_come_back_at_once() -> None:
    users = range(1, 31)
    holders = set(range(2, 31, 3))
    patient = {"auth_timeout_s": 10.0, "snapshot_timeout_s": 15.0, "market_timeout_s": 15.0}
    async with ctrader_rig({"users": 30, "requests_per_second": 50}, requests_per_second=45, **patient) as rig:
        for user in holders:
            rig.open(rig.account(user), "EURUSD")
        watched = [watch(rig, user) for user in users]
        await asyncio.gather(*(one.login() for one in watched))
        rig.cut()
        await asyncio.gather(*(one.lost_once() for one in watched))
        start = len(rig.act.counters()["authOrder"])
        await asyncio.sleep(max(one.faults[-1].retry_after_s or 0 for one in watched))
        async with asyncio.timeout(30):
            await asyncio.gather(
                *(one.session.login(one.credential, at_risk=bool(one.mirror.positions)) for one in watched)
            )
        order = [int(entry["accountId"]) for entry in rig.act.counters()["authOrder"][start:]]
        first = {(account - 1_000_001) // 10 for account in order[: len(holders)]}
        assert len(order) == len(users)
        assert first == holders
        assert rig.violations() == 0


@pytest.mark.parametrize(("changes", "connections"), [({"accounts_per_channel": 1}, 4), ({"channels": 2}, 2), ({}, 1)])
async def test_accounts_are_spread_over_channels_as_configured(changes: Mapping[str, Any], connections: int) -> None:
    async with ctrader_rig(**changes) as rig:
        watched = await live(rig, 1, 2, 3, 4)
        again = watch(rig, 1)
        await again.login()
        assert rig.act.counters()["connections"] == connections
        assert rig.broker.health().channels == connections
        assert again.mirror is watched[0].mirror
        assert rig.act.counters()["parallelLogins"] == 0
        for one in watched:
            rig.deposit(one.session.account_id or "", 5)
            await one.true()


async def test_accounts_move_together_when_the_broker_allows_fewer_connections() -> None:
    async with ctrader_rig(channels=3) as rig:
        watched = await live(rig, 1, 2, 3)
        rig.act.fault("N37", limit=1)
        rig.cut()
        await asyncio.gather(*(one.lost_once() for one in watched))
        await asyncio.gather(*(one.come_back() for one in watched))
        for one in watched:
            await one.true()
        assert rig.act.counters()["connections"] == 1


# ---------------------------------------------------------------- tokens and maintenance


@pytest.mark.parametrize("variant", list(RefreshVariant))
async def test_one_refresh_is_enough_when_a_token_serves_several_accounts(variant: RefreshVariant) -> None:
    async with ctrader_rig({"refresh_variant": variant}) as rig:
        watched = [watch(rig, 2), watch(rig, 2, "1000022")]
        for one in watched:
            await one.login()
        rig.act.fault("N30", accounts=[1_000_021, 1_000_022])
        for one in watched:
            assert (await one.lost_once()).kind is FaultKind.TOKEN
        await watched[0].refresh()
        watched[1].credential = watched[0].credential
        await asyncio.gather(*(one.come_back() for one in watched))
        await asyncio.sleep(0.3)  # the window for late words: either outcome is judged below
        for one in watched:
            if len(one.faults) > 1:  # a late word about the old token may cost a login, never another refresh
                assert one.faults[-1].kind is FaultKind.ACCOUNT_AUTH_LOST
                await one.come_back()
            await one.true()
        assert rig.refreshes() == 1


@pytest.mark.parametrize("variant", list(RefreshVariant))
async def test_session_stays_true_when_its_token_is_refreshed_under_it(variant: RefreshVariant) -> None:
    async with ctrader_rig({"refresh_variant": variant}) as rig:
        (one,) = await live(rig, 1)
        await one.refresh()
        await one.come_back()
        await asyncio.sleep(0.2)  # the window for late words: it may be lost once more
        await one.come_back()
        rig.deposit(rig.account(1), 5)
        await one.true()
        assert rig.refreshes() == 1


async def test_late_word_about_the_old_token_costs_a_login_and_no_refresh() -> None:
    async with ctrader_rig() as rig:
        (one,) = await live(rig, 1)
        rig.expire(1)
        await one.lost_once()
        await one.refresh()
        await one.come_back()
        rig.act.fault("N30", expire=False, reason="access token was refreshed")
        await eventually(lambda: len(one.faults) == 2, within_s=WITHIN_S)
        assert one.faults[-1].kind is FaultKind.ACCOUNT_AUTH_LOST
        await one.come_back()
        await one.true()
        assert rig.refreshes() == 1


def quiet_renewal(rig: CtraderRig) -> None:
    """The broker renews user 1's token and tells nobody."""
    rig.sim.services.hub.invalidate = lambda *args, **kwargs: None  # type: ignore[method-assign]


async def test_account_is_authorised_with_the_new_token_when_the_broker_says_nothing() -> None:
    async with ctrader_rig() as rig:
        (one,) = await live(rig, 1)
        quiet_renewal(rig)
        await one.refresh()
        await one.come_back()
        assert rig.logins_of(rig.account(1)) == 2
        await one.come_back()
        assert rig.logins_of(rig.account(1)) == 2
        await one.true()


async def test_session_with_a_good_token_comes_back_when_it_shares_a_login_with_a_spent_one() -> None:
    async with ctrader_rig() as rig:
        spent, good = await live(rig, 1), await live(rig, 1)
        quiet_renewal(rig)
        rotation = rig.sim.services.tokens.refresh("sim-refresh-1", rig.sim.services.clock.now_ms())
        assert rotation is not None
        good[0].credential = rig.credential(1)
        assert good[0].credential != spent[0].credential
        await good[0].session.login(good[0].credential, at_risk=False)
        rig.cut()
        for one in (spent[0], good[0]):
            await one.lost_once()
        await asyncio.sleep(good[0].faults[-1].retry_after_s or 0)
        results = await asyncio.gather(
            *(one.session.login(one.credential, at_risk=False) for one in (spent[0], good[0])), return_exceptions=True
        )
        assert isinstance(results[0], BrokerFault)
        assert results[0].kind is FaultKind.TOKEN
        assert results[1] is None
        await good[0].true()


async def test_snapshot_is_read_again_when_too_much_happened_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bridge.brokers.ctrader.hub.BUFFER_CAP", 3)
    async with ctrader_rig() as rig:
        one = watch(rig, 1)
        rig.act.fault("N22", delaySeconds=0.3, trade=False)
        login = asyncio.ensure_future(one.login())
        await eventually(lambda: rig.sessions_of(rig.account(1)) == 1, within_s=WITHIN_S)
        await eventually(lambda: requests(rig)["ProtoOAReconcileReq"] == 1, within_s=WITHIN_S)
        for _ in range(4):
            rig.open(rig.account(1), "EURUSD")
        await login
        await one.true()
        assert rig.broker.metrics()["buffer_overflows"] == 1


async def test_own_profit_is_checked_against_the_brokers_and_a_drift_is_counted() -> None:
    async with ctrader_rig() as rig:
        for user in (1, 2, 3):
            for instrument in rig.instruments:
                rig.open(rig.account(user), instrument, buy=user != 2)
        watched = await live(rig, 1, 2, 3)
        for one in watched:
            await one.true()
            assert await one.session.reconcile() == 0
        assert rig.broker.metrics()["pnl_checks"] == 3
        assert "pnl_drifts" not in rig.broker.metrics()
        quote = next(iter(watched[0].mirror.quotes.values()))
        assert quote.bid is not None
        quote.bid += 500  # as if a price had been mixed up
        await watched[0].session.reconcile()
        assert rig.broker.metrics()["pnl_drifts"] >= 1


@pytest.mark.parametrize("code", ["CH_ACCESS_TOKEN_INVALID", "OA_AUTH_TOKEN_EXPIRED", "ACCESS_DENIED"])
async def test_refusal_of_a_refresh_is_final(code: str) -> None:
    async with ctrader_rig() as rig:
        (one,) = await live(rig, 1)
        rig.act.fault("N31", code=code)
        await one.lost_once()
        with pytest.raises(BrokerFault) as refused:
            await one.refresh()
        assert refused.value.kind is FaultKind.FATAL_USER
        assert refused.value.reason.code is ReasonCode.TOKEN_REVOKED


async def test_one_login_probes_for_all_when_a_broker_server_was_under_maintenance() -> None:
    async with ctrader_rig() as rig:
        watched = [watch(rig, user) for user in (1, 3)]
        other = watch(rig, 2)
        fault = rig.act.fault("N27", variant="absent", accounts=[int(rig.account(1)), int(rig.account(3))])

        async def told(one: Watched) -> BrokerFault:
            with pytest.raises(BrokerFault) as refused:
                await one.login()
            return refused.value

        first = await told(watched[0])
        assert first.kind is FaultKind.MAINTENANCE
        await other.login()  # another broker's accounts on the same channel are not held up
        for _ in range(2):
            before = effects(rig, fault)
            wait_s = (await told(watched[1])).retry_after_s
            assert wait_s is not None
            await asyncio.sleep(wait_s + 0.01)
            results = await asyncio.gather(*(told(one) for one in watched * 5))
            assert {result.kind for result in results} == {FaultKind.MAINTENANCE}
            assert effects(rig, fault) == before + 1
        rig.act.clear_faults(fault)
        await asyncio.gather(*(one.come_back() for one in watched))
        for one in watched:
            await one.true()


def effects(rig: CtraderRig, fault: int) -> int:
    return next(int(active["effects"]) for active in rig.act.active_faults() if active["number"] == fault)


async def test_login_gives_up_when_the_broker_keeps_denying_the_authorisation_it_gave() -> None:
    async with ctrader_rig() as rig:
        one = watch(rig, 1)
        # The broker says yes and forgets it at once.
        rig.sim.services.hub.authorise = lambda connection, authorisation: None  # type: ignore[method-assign]
        with pytest.raises(BrokerFault) as refused:
            await one.login()
        assert refused.value.kind is FaultKind.TRANSIENT
        assert rig.logins_of(rig.account(1)) == 3


async def test_others_are_not_held_up_when_one_account_is_slow_to_authorise() -> None:
    async with ctrader_rig() as rig:
        rig.act.fault("N42", accounts=[int(rig.account(1))], delaySeconds=None)
        slow = asyncio.ensure_future(watch(rig, 1).login())
        others = await live(rig, 2, 3, 4)
        assert not slow.done()
        for one in others:
            await one.true()
        with pytest.raises(BrokerFault):
            await slow


async def test_attempts_are_bounded_when_the_connection_keeps_flapping() -> None:
    async with ctrader_rig(backoff_first_s=0.2, backoff_cap_s=5.0) as rig:
        (one,) = await live(rig, 1)
        rig.act.fault("N41", upSeconds=0.05)
        before = rig.dials()
        with pytest.raises(TimeoutError):
            await keep_coming_back(one, for_s=4.0)
        assert rig.dials() - before <= 12
        rig.act.clear_faults()
        await one.come_back(within_s=30)
        await one.true()


async def keep_coming_back(one: Watched, *, for_s: float) -> None:
    async with asyncio.timeout(for_s):
        while True:
            await one.lost_once()
            one.faults.clear()
            await one.come_back(within_s=60)


async def test_symbol_is_described_again_when_the_broker_changes_it() -> None:
    async with ctrader_rig() as rig:
        rig.open(rig.account(1), "EURUSD")
        (one,) = await live(rig, 1)
        await one.true()
        before = requests(rig)["ProtoOASymbolByIdReq"]
        rig.act.change_symbol("EURUSD")
        await eventually(lambda: requests(rig)["ProtoOASymbolByIdReq"] > before, within_s=WITHIN_S)
        await one.true()


async def test_prices_are_known_at_once_when_the_broker_still_has_the_subscription(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of a login that failed after it had subscribed, say. It would not send the price before that changes."""
    async with ctrader_rig() as rig:
        account = rig.account(1)
        rig.open(account, "EURUSD")
        services, server = rig.sim.services, "Sim-demo"
        authorise = services.hub.authorise
        symbol = services.world.servers[server].by_name["EURUSD"].id

        def with_subscription(connection: Any, authorisation: Any) -> None:
            authorise(connection, authorisation)
            authorisation.spots[symbol] = False
            services.spots.join(connection, authorisation, server, symbol)

        monkeypatch.setattr(services.hub, "authorise", with_subscription)
        (one,) = await live(rig, 1)
        await one.priced()
        assert rig.act.counters()["errors"]["ALREADY_SUBSCRIBED"] == 1
