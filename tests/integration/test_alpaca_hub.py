"""Alpaca accounts over the simulator: what only this broker has, and what its readings, polls and slots promise."""

import asyncio
from decimal import Decimal
from typing import Any

import pytest
from websockets.asyncio.client import connect

from bridge.brokers.base import BrokerFault, FaultKind, ReasonCode
from core.secret import Secret
from tests.contract.rigs.alpaca import AlpacaRig, alpaca_rig
from tests.contract.rigs.steps import live, watch
from tests.contract.rigs.watched import WITHIN_S, Watched, found
from tests.support.waiting import eventually

OPTION = "AAPL350119C00240000"


def metric(rig: AlpacaRig, name: str) -> float:
    return rig.broker.metrics().get(name, 0.0)


def requests(rig: AlpacaRig, route: str) -> int:
    return int(rig.act.counters()["requests"].get(route, 0))


def with_token(rig: AlpacaRig, user: int = 1) -> Watched:
    return Watched(rig, rig.wide_credential(user), rig.account(user))


async def refused(watched: Watched) -> BrokerFault:
    with pytest.raises(BrokerFault) as told:
        await watched.login()
    return told.value


# ---------------------------------------------------------------- the one stream


async def test_slot_is_left_alone_for_as_long_as_asked_when_a_dead_stream_holds_it() -> None:
    async with alpaca_rig({"slot_seconds": 1.0}, slot_wait_s=1.5) as rig:
        watched = await live(rig)
        rig.act.fault("N40", holdSlot=True)
        await watched.lost_once()
        async with asyncio.timeout(WITHIN_S):
            while (fault := await refused(watched)).kind is not FaultKind.THROTTLE:
                await asyncio.sleep(fault.retry_after_s or 0)
        assert fault.reason.code is ReasonCode.CONNECTION_LIMIT
        assert fault.shared
        assert 1.4 < (fault.retry_after_s or 0) <= 1.5
        dials, accounts = rig.dials(), requests(rig, "GET /v2/account")
        for _ in range(20):  # nothing is sent however often a login is tried
            again = await refused(watched)
            assert again.reason.code is ReasonCode.CONNECTION_LIMIT
        assert (rig.dials(), requests(rig, "GET /v2/account")) == (dials, accounts)
        await watched.come_back()
        await watched.true()
        assert rig.act.counters()["refusedSlots"] == 1


async def test_slot_is_free_at_once_when_a_session_ended_by_itself() -> None:
    async with alpaca_rig({"slot_seconds": 60.0}) as rig:
        for _ in range(3):
            watched = await live(rig)
            await watched.session.logout()
        assert rig.act.counters()["refusedSlots"] == 0
        await eventually(lambda: rig.sessions_of(rig.account(1)) == 0, within_s=WITHIN_S)


async def test_refused_stream_is_not_believed_when_rest_says_otherwise() -> None:
    async with alpaca_rig() as rig:
        with rig._fault("LOGIN_REFUSED"):
            watched = watch(rig)
            for _ in range(3):
                fault = await refused(watched)
                assert fault.kind is FaultKind.TRANSIENT
                await asyncio.sleep(fault.retry_after_s or 0)
        await watched.come_back()
        await watched.true()


@pytest.mark.parametrize(("what", "code"), [("keys", "credentials_invalid"), ("tokens", "token_revoked")])
async def test_only_the_user_can_help_when_the_own_credential_was_revoked(what: str, code: str) -> None:
    async with alpaca_rig() as rig:
        by_keys, by_token = watch(rig), with_token(rig)
        await by_keys.login()
        await by_token.login()
        gone, stays = (by_keys, by_token) if what == "keys" else (by_token, by_keys)
        rig.act.revoke(1, what)
        fault = await refused(gone)
        assert (fault.kind, fault.reason.code) == (FaultKind.FATAL_USER, code)
        await stays.come_back()
        rig.open(rig.account(1), "AAPL")
        await stays.true()
        assert all(told.kind is not FaultKind.FATAL_USER for told in stays.faults)


async def test_each_session_is_told_of_its_own_credential_when_the_one_in_use_is_revoked() -> None:
    async with alpaca_rig({"slot_seconds": 60.0}) as rig:
        by_keys, by_token = watch(rig), with_token(rig)
        await by_keys.login()
        await by_token.login()
        rig.sim.services.access.on_revoked.clear()  # the stream itself stays, as a broker may let it
        rig.act.revoke(1, "keys")
        rig.open(rig.account(1), "AAPL")  # what is read after it is refused
        await by_keys.lost_once()
        assert [fault.kind for fault in by_keys.faults] == [FaultKind.FATAL_USER]
        assert [fault.kind for fault in by_token.faults] == [FaultKind.TRANSIENT]
        await by_token.come_back()
        await by_token.true()
        assert rig.act.counters()["refusedSlots"] == 0
        assert by_keys.session.contact_monotonic is None


async def test_other_session_goes_on_with_its_own_credential_when_the_first_leaves() -> None:
    async with alpaca_rig() as rig:
        by_keys, by_token = watch(rig), with_token(rig)
        await by_keys.login()
        await by_token.login()
        assert by_keys.mirror is by_token.mirror
        assert rig.sessions_of(rig.account(1)) == 1
        await by_keys.session.logout()
        rig.sim.services.access.on_revoked.clear()  # the stream itself stays, as a broker may let it
        rig.act.revoke(1, "keys")
        rig.open(rig.account(1), "AAPL")
        await by_token.true()
        assert await by_token.session.reconcile() == 0
        assert by_token.faults == []
        assert metric(rig, "requests.refused") == 0


# ---------------------------------------------------------------- readings


async def test_what_the_stream_said_stays_when_rest_lags_behind_it() -> None:
    async with alpaca_rig() as rig:
        account = rig.account(1)
        watched = await live(rig)
        with rig._fault("N22", accounts=[account], lagSeconds=0.6):
            opened = rig.open(account, "AAPL")
            await eventually(lambda: opened in watched.mirror.positions, within_s=WITHIN_S)
            seen = set()

            def settled() -> bool:
                seen.add(tuple(watched.mirror.positions))
                return metric(rig, "readings.stale") >= 2

            await eventually(settled, within_s=WITHIN_S, every_s=0.005)
            assert seen == {(opened,)}
        await watched.true()
        await watched.knows(found(rig.executions(account), recovered=False))


async def test_execution_counts_once_when_rest_shows_it_before_the_stream() -> None:
    async with alpaca_rig() as rig:
        account = rig.account(1)
        watched = await live(rig)
        with rig._fault("N21", accounts=[account], delaySeconds=0.5):
            rig.open(account, "AAPL")
            await watched.session.reconcile()
            assert metric(rig, "readings.newer") >= 1
            await watched.true()
            await eventually(lambda: metric(rig, "events.fill") == 1, within_s=WITHIN_S)
        await watched.true()
        (fill,) = watched.mirror.fills
        assert fill.recovered
        assert metric(rig, "fills") == metric(rig, "fills_recovered") == 1


async def test_account_is_true_when_it_trades_while_it_is_read_again_and_again() -> None:
    lags = {"order_lag_s": 2.0, "lag_cap_s": 1.0}  # a loop that is late by half a second loses nothing
    async with alpaca_rig({"requests_per_minute": 100_000}, requests_per_minute=90_000, **lags) as rig:
        account = rig.account(1)
        watched = await live(rig)

        async def trade() -> None:
            for number in range(60):
                position = rig.open(account, ("AAPL", "MSFT", "TSLA")[number % 3], buy=number % 2 == 0)
                if number % 4 == 3 and position in {one["id"] for one in rig.truth(account)["positions"]}:
                    rig.close(account, position)
                await asyncio.sleep(0.01)  # the load: a hundred trades a second

        async def read() -> None:
            for _ in range(12):
                await watched.session.reconcile()

        await asyncio.gather(trade(), read())
        await watched.true()
        await eventually(lambda: watched.mirror.confirmed_at_ms is not None, within_s=WITHIN_S)
        assert watched.faults == []
        ids = [fill.execution_id for fill in watched.mirror.fills]
        assert len(set(ids)) == len(ids)
        assert not any(fill.recovered for fill in watched.mirror.fills)
        assert metric(rig, "lost_events") == 0
        assert metric(rig, "fills") == len(rig.executions(account))


async def test_poll_finds_what_was_lost_when_quantities_disagree() -> None:
    async with alpaca_rig(reconcile_s=600.0) as rig:
        account = rig.account(1)
        rig.open(account, "AAPL")
        watched = await live(rig)
        async with rig.lose(account):
            rig.open(account, "MSFT")
        await watched.true()
        assert metric(rig, "poll_disagreements") >= 1
        assert metric(rig, "lost_events") == 1
        assert [fill.recovered for fill in watched.mirror.fills] == [True]


async def test_poll_finds_cash_that_no_message_tells_of() -> None:
    async with alpaca_rig() as rig:
        account = rig.account(1)
        rig.open(account, "AAPL")
        watched = await live(rig)
        rig.act.deposit(account, Decimal("12.34"))
        await watched.true()
        assert metric(rig, "lost_events") == 0


async def test_nothing_is_polled_when_nothing_is_held() -> None:
    async with alpaca_rig() as rig:
        watched = await live(rig)
        before = requests(rig, "GET /v2/positions")
        await asyncio.sleep(1.5)  # the period of polls is one second here
        assert requests(rig, "GET /v2/positions") == before
        assert metric(rig, "polls") == 0
        assert watched.session.contact_monotonic is not None


# ---------------------------------------------------------------- strangers


async def test_execution_is_used_when_the_message_of_its_order_was_lost() -> None:
    async with alpaca_rig() as rig:
        account = rig.account(1)
        watched = await live(rig)
        with rig._fault("N21", accounts=[account], events=["new"]):
            rig.open(account, "AAPL")
            await watched.true()
        await watched.knows(found(rig.executions(account), recovered=False))
        assert metric(rig, "strange_executions") == 1
        assert metric(rig, "foreign_events") == 0
        assert watched.urgent >= 1


async def test_record_never_shows_a_strangers_execution() -> None:
    async with alpaca_rig() as rig:
        account = rig.account(1)
        rig.open(account, "AAPL")
        watched = await live(rig)
        await watched.true()
        before, told = watched.reading(), watched.changes
        rig.foreign(account)
        await eventually(lambda: metric(rig, "foreign_events") == 1, within_s=WITHIN_S)
        assert watched.reading() == before
        assert watched.changes == told
        assert metric(rig, "readings.stale") == 0


async def test_execution_is_found_when_the_broker_cannot_be_asked_whose_it_is() -> None:
    async with alpaca_rig() as rig:
        account = rig.account(1)
        watched = await live(rig)
        with (
            rig._fault("N21", accounts=[account], events=["new"]),
            rig._fault("N10", target="rest", status=500, routes=["GET /v2/orders/{id}"]),
        ):
            rig.open(account, "AAPL")
            await watched.true()
        assert [fill.recovered for fill in watched.mirror.fills] == [True]


# ---------------------------------------------------------------- prices


def quotes(rig: AlpacaRig, **prices: str) -> None:
    for symbol, price in prices.items():
        rig.act.quote(symbol, price=Decimal(price))


async def test_every_price_is_present_when_some_come_by_socket_and_some_by_polls() -> None:
    async with alpaca_rig({"data_symbol_limit": 1}) as rig:
        account = rig.account(1)
        for symbol, units in (("AAPL", "1"), ("MSFT", "1"), ("BTC/USD", "0.1"), (OPTION, "1")):
            rig.act.order(account, symbol=symbol, side="buy", units=Decimal(units))
        watched = await live(rig)
        await eventually(lambda: metric(rig, "feed_errors.405") >= 1, within_s=WITHIN_S)
        quotes(rig, AAPL="230", MSFT="420", **{"BTC/USD": "66000", OPTION: "12"})
        await watched.priced()
        await watched.true()
        assert metric(rig, "events.trade") >= 2
        assert metric(rig, "polls") >= 1


async def test_prices_are_polled_when_somebody_else_has_the_only_data_socket() -> None:
    async with alpaca_rig() as rig:
        url = f"ws://127.0.0.1:{rig.sim.ports.alpaca}/v2/iex"
        async with connect(url, proxy=None) as other:
            await other.send('{"action":"auth","key":"SIMKEY1","secret":"sim-alpaca-secret-1"}')
            account = rig.account(1)
            rig.open(account, "AAPL")
            watched = await live(rig)
            await eventually(lambda: metric(rig, "feed_errors.406") >= 1, within_s=WITHIN_S)
            quotes(rig, AAPL="231")
            await watched.priced()
            assert watched.faults == []
        await eventually(lambda: metric(rig, "price_feeds") == 1, within_s=WITHIN_S)
        quotes(rig, AAPL="232")
        await watched.priced()


async def test_polled_price_is_shown_when_the_data_socket_is_mute() -> None:
    async with alpaca_rig() as rig:
        account = rig.account(1)
        rig.open(account, "AAPL")
        watched = await live(rig)
        await eventually(lambda: metric(rig, "price_feeds") == 1, within_s=WITHIN_S)
        quotes(rig, AAPL="230")
        await watched.priced()
        with rig._fault("MUTE_DATA"):
            quotes(rig, AAPL="240")
            await watched.priced()
        assert watched.faults == []


@pytest.mark.parametrize("fault", ["N10", "N37", "LOGIN_REFUSED"])
async def test_session_lives_when_its_price_stream_cannot_be_had(fault: str) -> None:
    extra: dict[str, Any] = {"target": "stream"} if fault == "N10" else {"stream": "data"}
    async with alpaca_rig() as rig:
        account = rig.account(1)
        rig.open(account, "AAPL")
        watched = await live(rig)  # its own stream is open before the trouble begins
        with rig._fault(fault, **extra):
            rig.act.fault("N01", stream="data", holdSlot=False)
            quotes(rig, AAPL="233")
            await watched.priced()
        assert watched.faults == []


async def test_one_house_feed_prices_every_account_that_holds_the_symbol() -> None:
    house = {"data_key_id": Secret("SIMKEY4"), "data_secret": Secret("sim-alpaca-secret-4")}
    async with alpaca_rig(**house) as rig:
        for user in (1, 2, 3):
            rig.open(rig.account(user), "AAPL")
        watched = [await live(rig, user) for user in (1, 2, 3)]
        await eventually(lambda: metric(rig, "price_feeds") == 1, within_s=WITHIN_S)
        quotes(rig, AAPL="234.56")
        for one in watched:
            await one.priced()
        assert rig.act.counters()["dataStreamsOpened"] == 1
