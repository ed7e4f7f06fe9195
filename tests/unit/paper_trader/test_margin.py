"""Margin, margin calls and stop-out, and that quotes cost only what they can set off."""

from __future__ import annotations

from dataclasses import replace

import pytest

from core.paper_trader import (
    Access,
    AccountType,
    Code,
    Commission,
    CommissionKind,
    MarginCall,
    MarginChanged,
    MarginTotal,
    OrderAccepted,
    RequestRejected,
    StopOut,
    StopOutOrder,
    SwapCharged,
)
from core.paper_trader import engine as engine_module
from core.paper_trader.settings import Swap, SwapKind
from core.paper_trader.stop_out import check_margin
from core.paper_trader.swap import next_daily_ms, swap_days
from tests.unit.paper_trader.bench import MARKET, Bench, dec, every, kinds, listing, only


@pytest.mark.parametrize(("total", "used"), [(MarginTotal.SUM, 33), (MarginTotal.MAX, 22), (MarginTotal.NET, 11)])
def test_opposite_margins_add_up_as_the_account_says(total: MarginTotal, used: int) -> None:
    bench = Bench(margin_total=total)
    bench.quote("1.1", "1.1001")
    bench.buy(2000)
    bench.sell(1000)
    assert bench.truth().used_margin == used


def test_margin_follows_the_lower_leverage_or_the_own_fraction() -> None:
    bench = Bench(listing("EURUSD", max_leverage=dec(20)), listing("GBPUSD", margin_fraction=dec("0.5")))
    bench.quote("1.1", "1.1001")
    bench.quote("1.25", "1.2501", name="GBPUSD")
    bench.buy(1000)
    bench.buy(1000, "GBPUSD")
    assert [each.used_margin for each in bench.engine.positions("a")] == [dec(55), dec(625)]


def test_margins_change_when_leverage_does() -> None:
    bench = Bench()
    bench.quote("1.1", "1.1001")
    bench.buy(1000)
    changed = bench.engine.change_account("a", 50, leverage=dec(50))
    assert only(changed, MarginChanged).used_margin == dec("22.00")
    terms = replace(bench.engine.listing(MARKET, "EURUSD"), max_leverage=dec(10))
    assert only(bench.engine.change_listing(MARKET, terms, 60), MarginChanged).used_margin == dec("110.00")


def test_margin_stays_at_the_opening_rate_when_price_moves() -> None:
    bench = Bench()
    bench.quote("1.1", "1.1001")
    bench.buy(1000)
    bench.quote("1.2", "1.2001")
    assert bench.truth().used_margin == dec("11.00")


def test_order_is_taken_up_to_the_last_free_cent_and_no_further() -> None:
    bench = Bench(deposit="1100.00")
    bench.quote("1.1", "1.1")
    assert bench.engine.expected_margin("a", "EURUSD", dec(100_001), "buy") == dec("1100.01")
    assert only(bench.buy(100_001), RequestRejected).code is Code.NOT_ENOUGH_MONEY
    assert kinds(bench.buy(100_000))[1] == "OrderFilled"


def test_netted_reversal_is_weighed_by_what_remains() -> None:
    bench = Bench(deposit="1100.00", type=AccountType.NETTED)
    bench.quote("1.1", "1.1")
    bench.buy(100_000)
    assert bench.engine.expected_margin("a", "EURUSD", dec(100_000), "sell") == 0
    assert only(bench.sell(200_001), RequestRejected).code is Code.NOT_ENOUGH_MONEY
    assert kinds(bench.sell(200_000))[-1] == "OrderFilled"


@pytest.mark.parametrize(
    ("order", "first"), [(StopOutOrder.MOST_MARGIN_FIRST, "EURUSD"), (StopOutOrder.MOST_LOSING_FIRST, "GBPUSD")]
)
def test_stop_out_closes_one_by_one_in_the_accounts_order(order: StopOutOrder, first: str) -> None:
    bench = Bench(listing("EURUSD"), listing("GBPUSD"), deposit=1000, stop_out_order=order)
    bench.quote("1.1", "1.1")
    bench.quote("1.25", "1.25", name="GBPUSD")
    bench.buy(50_000)  # margin 550
    bench.buy(30_000, "GBPUSD")  # margin 375
    # total 925, stop-out at equity 462.50; the pound loses 540 -> 460
    events = bench.quote("1.232", "1.232", name="GBPUSD")
    assert kinds(events) == ["StopOut", "OrderAccepted", "OrderFilled", "BalanceChanged"]
    assert only(events, StopOut).margin_level == dec("49.73")
    accepted = only(events, OrderAccepted)
    assert (accepted.order.is_stop_out, accepted.by_server, accepted.order.instrument_id) == (True, True, first)
    assert len(bench.engine.positions("a")) == 1


def test_stop_out_waits_for_the_open_when_its_market_is_closed() -> None:
    bench = Bench(listing("EURUSD"), deposit=1000)
    bench.quote("1.1", "1.1")
    bench.buy(90_000)
    bench.engine.set_open(MARKET, "EURUSD", False, 50)
    assert bench.quote("1.08", "1.08") == []
    assert kinds(bench.engine.set_open(MARKET, "EURUSD", True, 60))[0] == "StopOut"
    assert bench.truth().balance == dec("-800.00")


def test_stop_out_is_noticed_when_prices_come_back() -> None:
    bench = Bench(deposit=1000)
    bench.quote("1.1", "1.1")
    bench.buy(90_000)
    bench.engine.withdraw_quote(MARKET, "EURUSD", 50)
    bench.cash(1)  # looked at while nothing can be valued
    assert kinds(bench.quote("1.08", "1.08"))[0] == "StopOut"


def test_stop_out_goes_on_with_later_quotes_when_liquidity_was_short() -> None:
    bench = Bench(deposit=1000)
    bench.quote("1.1", "1.1")
    bench.buy(90_000)
    first = bench.quote(bids=[("1.08", 1000)], asks=[("1.08", 9_000_000)])
    assert kinds(first).count("StopOut") >= 1
    assert bench.position().units == 89_000
    assert kinds(bench.quote(bids=[("1.081", 900_000)], asks=[("1.081", 900_000)]))[0] == "StopOut"
    assert bench.engine.positions("a") == ()


def test_read_only_account_is_not_stopped_out_until_it_may_trade() -> None:
    bench = Bench(deposit=1000)
    bench.quote("1.1", "1.1")
    bench.buy(90_000)
    bench.engine.change_account("a", 50, access=Access.READ_ONLY)
    assert bench.quote("1.08", "1.08") == []
    assert kinds(bench.engine.change_account("a", 60, access=Access.FULL))[:2] == ["AccountChanged", "StopOut"]


def test_stop_out_sees_conversion_rates_move() -> None:
    bench = Bench(listing("USDJPY"), listing("GBPUSD"), currency="JPY", money_digits=0, deposit=150_000)
    bench.quote("150.000", "150.000", name="USDJPY")
    bench.quote("1.25", "1.25", name="GBPUSD")
    bench.buy(50_000, "GBPUSD")  # margin 93750 JPY, stop-out at equity 46875
    assert bench.quote("1.23640", "1.23640", name="GBPUSD") == []  # -680 USD = -102000: equity 48000
    events = bench.quote("151.700", "151.700", name="USDJPY")  # -680 USD = -103156: equity 46844
    assert kinds(events)[0] == "StopOut"


def test_margin_calls_come_once_per_threshold_and_pause() -> None:
    bench = Bench(deposit=1000, margin_call_levels=(dec(100), dec(80)), stop_out_level=dec(10))
    bench.quote("1.1", "1.1")
    bench.buy(90_000)  # margin 990
    calls = every(bench.quote("1.0998", "1.0998"), MarginCall)  # equity 982
    assert [(call.threshold, call.margin_level) for call in calls] == [(dec(100), dec("99.19"))]
    assert every(bench.quote("1.0997", "1.0997"), MarginCall) == []
    assert [call.threshold for call in every(bench.quote("1.0970", "1.0970"), MarginCall)] == [dec(80)]
    bench.quote("1.2", "1.2")  # recovered
    assert every(bench.quote("1.0997", "1.0997"), MarginCall) == []  # below 100 % again, but within the pause
    bench.quote("1.2", "1.2")
    bench.tick(bench.now_ms + 600_000)
    assert [call.threshold for call in every(bench.quote("1.0997", "1.0997"), MarginCall)] == [dec(100)]


def test_bad_luck_on_commission_is_counted_in_equity() -> None:
    bench = Bench(listing("EURUSD", commission=Commission(CommissionKind.PER_LOT_USD, dec(10))))
    bench.quote("1.1", "1.1")
    bench.buy(100_000)
    assert (bench.truth().balance, bench.truth().equity) == (dec(10_000), dec(9_990))


def test_swap_free_account_and_owed_days() -> None:
    monday_noon = 1704110400000
    day = 86_400_000
    bench = Bench(
        listing("EURJPY", swap=Swap(SwapKind.POINTS, dec("-10"), dec(0))), listing("EURUSD"), listing("USDJPY")
    )
    bench.open("free", swap_free=True)
    bench.advance(monday_noon)
    for name, price in (("EURJPY", "165"), ("EURUSD", "1.1"), ("USDJPY", "150")):
        bench.quote(price, price, name=name)
    bench.buy(15_000, "EURJPY")
    bench.buy(15_000, "EURJPY", account="free")
    bench.engine.withdraw_quote(MARKET, "USDJPY", bench.now_ms)
    assert bench.advance(monday_noon + day) == []  # Monday's swap cannot be converted: owed
    bench.quote("150", "150", name="USDJPY")
    charged = every(bench.advance(monday_noon + 2 * day), SwapCharged)
    # two days × 15000 × 10 × 0.001 = 300 JPY / 150 = 2.00
    assert [(event.account_id, event.amount) for event in charged] == [("a", dec("-2.00"))]
    assert bench.position("free").swap == 0


def test_swap_calendar() -> None:
    wednesday_22h = 1704319200000
    terms = Swap(SwapKind.PIPS, dec(1), dec(1))
    day = 86_400_000
    assert [swap_days(terms, wednesday_22h + offset * day) for offset in range(-2, 5)] == [1, 1, 3, 1, 1, 0, 0]
    always = replace(terms, at_weekends=True, triple_weekday=None)
    assert [swap_days(always, wednesday_22h + offset * day) for offset in range(-2, 5)] == [1] * 7
    assert next_daily_ms(wednesday_22h - 1, 22 * 60) == wednesday_22h
    assert next_daily_ms(wednesday_22h, 22 * 60) == wednesday_22h + day


def test_quotes_look_at_no_account_that_is_far_from_trouble(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[str] = []

    def counting(desk: object, account: object) -> None:
        looked.append(account.id)  # type: ignore[attr-defined]
        check_margin(desk, account)  # type: ignore[arg-type]

    bench = Bench()
    bench.quote("1.1", "1.1001")
    for number in range(50):
        bench.open(f"rich-{number}")
        bench.buy(10_000, account=f"rich-{number}")
    bench.open("poor", 120)
    bench.buy(10_000, account="poor")  # margin 110, stop-out at equity 55
    monkeypatch.setattr(engine_module, "check_margin", counting)
    for points in range(66):
        bench.quote(dec("1.1") - dec(points) / 10_000, dec("1.1001") - dec(points) / 10_000)
    assert set(looked) == {"poor"}
    assert [event.account_id for event in every(bench.trace, StopOut)] == ["poor"]
    assert bench.truth("poor").balance <= 55
