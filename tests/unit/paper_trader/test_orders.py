"""Order types and times in force: when they trade, at which price, and what is said about it."""

from __future__ import annotations

from typing import Any

import pytest

from core.paper_trader import (
    AccountType,
    Code,
    MarketSettings,
    OrderAccepted,
    OrderCancelled,
    OrderExpired,
    OrderFilled,
    OrderPartiallyFilled,
    OrderRejected,
    OrderReplaced,
    OrderState,
    PositionStatus,
    RequestRejected,
)
from tests.unit.paper_trader.bench import MARKET, Bench, dec, every, kinds, listing, only, order_kinds

MONDAY_NOON = 1704110400000
MONDAY_22H = 1704146400000


@pytest.fixture
def bench() -> Bench:
    made = Bench()
    made.quote("1.10000", "1.10010")
    return made


def test_market_order_fills_at_the_far_side_when_accepted(bench: Bench) -> None:
    events = bench.buy(1000, client_order_id="mine", label="l", comment="c")
    assert kinds(events) == ["OrderAccepted", "OrderFilled"]
    accepted, filled = only(events, OrderAccepted), only(events, OrderFilled)
    assert accepted.position is not None
    assert (accepted.position.status, accepted.position.units) == (PositionStatus.CREATED, 0)
    assert (filled.deal.price, filled.deal.filled_units, filled.deal.completes_order) == (dec("1.1001"), 1000, True)
    assert (filled.order.state, filled.order.client_order_id, filled.order.filled_units) == (
        OrderState.FILLED,
        "mine",
        1000,
    )
    assert filled.position.id == accepted.position.id == filled.order.position_id
    assert (filled.position.label, filled.position.comment) == ("l", "c")
    assert bench.engine.orders("a") == ()
    assert bench.engine.find_order("a", filled.order.id) == filled.order
    assert only(bench.sell(1000), OrderFilled).deal.price == dec("1.1")


@pytest.mark.parametrize(
    ("side", "limit", "resting", "reached"),
    [
        ("buy", "1.09900", ("1.09895", "1.09905"), ("1.09880", "1.09890")),
        ("sell", "1.10100", ("1.10095", "1.10105"), ("1.10120", "1.10130")),
    ],
)
def test_limit_order_fills_at_limit_or_better_when_its_price_comes(
    bench: Bench, side: str, limit: str, resting: tuple[str, str], reached: tuple[str, str]
) -> None:
    assert kinds(bench.place(side, "limit", 1000, limit_price=limit)) == ["OrderAccepted"]
    assert bench.quote(*resting) == []
    deal = only(bench.quote(*reached), OrderFilled).deal
    assert deal.price == dec(reached[1] if side == "buy" else reached[0])
    assert deal.price <= dec(limit) if side == "buy" else deal.price >= dec(limit)


def test_limit_order_fills_at_once_when_it_is_marketable(bench: Bench) -> None:
    events = bench.place("buy", "limit", 1000, limit_price="1.10500")
    assert kinds(events) == ["OrderAccepted", "OrderFilled"]
    assert only(events, OrderFilled).deal.price == dec("1.1001")


@pytest.mark.parametrize(
    ("side", "stop", "gap", "price"),
    [("buy", "1.10100", ("1.10290", "1.10300"), "1.10300"), ("sell", "1.09900", ("1.09700", "1.09710"), "1.09700")],
)
def test_stop_order_fills_at_the_market_when_price_gaps_through(
    bench: Bench, side: str, stop: str, gap: tuple[str, str], price: str
) -> None:
    bench.place(side, "stop", 1000, stop_price=stop)
    filled = only(bench.quote(*gap), OrderFilled)
    assert filled.deal.price == dec(price)
    assert filled.order.triggered
    assert filled.by_server


def test_stop_limit_waits_for_its_limit_when_price_gaps_past_it(bench: Bench) -> None:
    accepted = only(bench.place("buy", "stop_limit", 1000, stop_price="1.10100", slippage_points=10), OrderAccepted)
    assert accepted.order.limit_price == dec("1.10110")
    assert kinds(bench.quote("1.10190", "1.10200")) == ["OrderTriggered"]
    assert bench.quote("1.10105", "1.10115") == []
    assert only(bench.quote("1.10090", "1.10105"), OrderFilled).deal.price == dec("1.10105")


def test_stop_limit_fills_at_once_when_triggered_within_its_limit(bench: Bench) -> None:
    bench.place("sell", "stop_limit", 1000, stop_price="1.09900", limit_price="1.09850")
    assert kinds(bench.quote("1.09860", "1.09870")) == ["OrderFilled"]


def test_market_range_is_cancelled_when_the_price_is_outside(bench: Bench) -> None:
    inside = bench.place("buy", "market_range", 1000, base_price="1.10005", slippage_points=5, tif="ioc")
    assert kinds(inside) == ["OrderAccepted", "OrderFilled"]
    outside = bench.place("buy", "market_range", 1000, base_price="1.10005", slippage_points=4, tif="ioc")
    assert kinds(outside) == ["OrderAccepted", "OrderCancelled"]
    assert only(outside, OrderCancelled).position is None


@pytest.mark.parametrize("side", ["buy", "sell"])
def test_trailing_stop_order_follows_and_fills_when_price_turns(bench: Bench, side: str) -> None:
    order = only(bench.place(side, "trailing_stop", 1000, trail_amount="0.00100"), OrderAccepted).order
    sign = -1 if side == "buy" else 1
    far = dec("1.1001") if side == "buy" else dec("1.1")
    assert order.stop_price == far - sign * dec("0.001")
    moved = only(bench.quote(dec("1.1") + sign * dec("0.005"), dec("1.1001") + sign * dec("0.005")), OrderReplaced)
    assert moved.order.stop_price == far + sign * dec("0.004")
    assert bench.quote(dec("1.1") + sign * dec("0.0045"), dec("1.1001") + sign * dec("0.0045")) == []
    assert kinds(bench.quote("1.1", "1.1001")) == ["OrderFilled"]


def test_trailing_stop_order_in_percent_keeps_its_share_of_the_extreme(bench: Bench) -> None:
    order = only(bench.place("sell", "trailing_stop", 1000, trail_percent="1"), OrderAccepted).order
    assert (order.trail_extreme, order.stop_price) == (dec("1.1"), dec("1.089"))
    moved = only(bench.quote("1.20000", "1.20010"), OrderReplaced).order
    assert (moved.trail_extreme, moved.stop_price) == (dec("1.2"), dec("1.188"))


def test_market_order_walks_the_levels_when_liquidity_is_limited(bench: Bench) -> None:
    bench.quote(asks=[("1.10010", 400), ("1.10020", 700)], bids=[("1.10000", 1000)])
    events = bench.buy(1000)
    assert kinds(events) == ["OrderAccepted", "OrderPartiallyFilled", "OrderFilled", "MarginChanged"]
    assert [(deal.price, deal.filled_units) for deal in bench.engine.deals("a")] == [
        (dec("1.1001"), 400),
        (dec("1.1002"), 600),
    ]
    # (400 × 1.10010 + 600 × 1.10020) / 1000
    assert bench.position().entry_price == dec("1.10016")
    assert only(events, OrderFilled).order.average_price == dec("1.10016")


def test_ioc_rest_is_cancelled_with_position_when_partly_filled(bench: Bench) -> None:
    bench.quote(asks=[("1.10010", 400)])
    events = bench.buy(1000, tif="ioc")
    assert kinds(events) == ["OrderAccepted", "OrderPartiallyFilled", "OrderCancelled"]
    cancelled = only(events, OrderCancelled)
    assert (cancelled.order.filled_units, cancelled.order.state) == (400, OrderState.CANCELLED)
    assert cancelled.position is not None
    assert cancelled.position.units == 400


def test_gtc_market_rest_fills_on_later_quotes_when_liquidity_was_short(bench: Bench) -> None:
    bench.quote(asks=[("1.10010", 400)])
    assert kinds(bench.buy(1000)) == ["OrderAccepted", "OrderPartiallyFilled"]
    (working,) = bench.engine.orders("a")
    assert (working.filled_units, working.position_id) == (400, bench.position().id)
    assert bench.quote(bid="1.09990") == []  # the ask offers nothing new
    assert order_kinds(bench.quote(asks=[("1.10030", 5000)])) == ["OrderFilled"]
    assert bench.position().units == 1000


def test_fok_is_all_or_nothing_when_liquidity_is_limited(bench: Bench) -> None:
    bench.quote(asks=[("1.10010", 400), ("1.10020", 500)])
    assert kinds(bench.buy(1000, tif="fok")) == ["OrderAccepted", "OrderCancelled"]
    assert bench.engine.positions("a") == ()
    refused_by_price = bench.place("buy", "limit", 900, limit_price="1.10015", tif="fok")
    assert kinds(refused_by_price) == ["OrderAccepted", "OrderCancelled"]
    assert order_kinds(bench.buy(900, tif="fok")) == ["OrderAccepted", "OrderPartiallyFilled", "OrderFilled"]


def test_offers_are_used_up_when_orders_take_them(bench: Bench) -> None:
    bench.open("b")
    bench.quote(asks=[("1.10010", 1000)])
    assert kinds(bench.buy(800))[-1] == "OrderFilled"
    assert kinds(bench.buy(800, account="b", tif="ioc"))[-1] == "OrderCancelled"
    assert bench.position("b").units == 200


def test_deals_are_split_when_the_listing_caps_their_size() -> None:
    bench = Bench(listing("EURUSD", max_deal_units=dec(400)))
    bench.quote("1.1", "1.1001")
    bench.buy(1000)
    assert [deal.filled_units for deal in bench.engine.deals("a")] == [400, 400, 200]
    assert bench.position().units == 1000


def test_random_partial_fills_complete_over_quotes_when_the_market_makes_them() -> None:
    bench = Bench(market=MarketSettings(partial_fill_chance=1.0))
    bench.quote("1.1", "1.1001")
    events = bench.place("buy", "limit", 1000, limit_price="1.1001")
    assert kinds(events) == ["OrderAccepted", "OrderPartiallyFilled"]
    for _ in range(40):
        bench.quote("1.1", "1.1001")
    assert bench.position().units == 1000
    assert len(every(bench.trace, OrderPartiallyFilled)) > 1
    assert order_kinds(bench.buy(1000, tif="fok"))[-1] == "OrderFilled"


def test_gtd_order_expires_before_a_quote_of_the_same_moment_could_fill_it(bench: Bench) -> None:
    bench.place("buy", "limit", 1000, limit_price="1.09000", tif="gtd", expires_at_ms=5000)
    assert bench.engine.next_due_ms() == 5000
    bench.now_ms = 4999
    events = bench.quote("1.08", "1.0801")
    assert kinds(events) == ["OrderExpired"]
    expired = only(events, OrderExpired)
    assert (expired.order.state, expired.at_ms, expired.by_server) == (OrderState.EXPIRED, 5000, True)


def test_day_order_expires_when_the_market_day_ends(bench: Bench) -> None:
    bench.advance(MONDAY_NOON)
    order = only(bench.place("buy", "limit", 1000, limit_price="1.09000", tif="day"), OrderAccepted).order
    assert order.expires_at_ms == MONDAY_22H
    assert bench.advance(MONDAY_22H - 1) == []
    assert kinds(bench.advance(MONDAY_22H)) == ["OrderExpired"]


def test_expired_order_shows_its_position_when_partly_filled(bench: Bench) -> None:
    bench.quote(asks=[("1.10010", 400)])
    bench.place("buy", "limit", 1000, limit_price="1.10010", tif="gtd", expires_at_ms=5000)
    expired = only(bench.advance(5000), OrderExpired)
    assert expired.order.filled_units == 400
    assert expired.position == bench.position()


def test_cancel_ends_a_working_order(bench: Bench) -> None:
    order = only(bench.place("buy", "limit", 1000, limit_price="1.09"), OrderAccepted).order
    cancelled = only(bench.cancel(order.id), OrderCancelled)
    assert (cancelled.order.state, cancelled.by_server, cancelled.position) == (OrderState.CANCELLED, False, None)
    assert bench.quote("1.08", "1.0801") == []
    again = only(bench.cancel(order.id), RequestRejected)
    assert (again.code, again.order_id) == (Code.ORDER_NOT_FOUND, order.id)


def test_amend_moves_price_units_and_expiry(bench: Bench) -> None:
    order = only(bench.place("buy", "limit", 1000, limit_price="1.09"), OrderAccepted).order
    replaced = only(
        bench.amend(order.id, limit_price="1.095", units=2000, expires_at_ms=90_000, stop_loss="1.09"), OrderReplaced
    ).order
    assert (replaced.id, replaced.limit_price, replaced.units) == (order.id, dec("1.095"), 2000)
    assert (replaced.time_in_force, replaced.expires_at_ms, replaced.stop_loss) == ("gtd", 90_000, dec("1.09"))
    assert kinds(bench.quote("1.0949", "1.095")) == ["OrderFilled", "ProtectionAccepted"]
    assert bench.position().units == 2000
    assert bench.advance(90_000) == []


def test_amend_fills_at_once_when_the_new_limit_is_marketable(bench: Bench) -> None:
    order = only(bench.place("buy", "limit", 1000, limit_price="1.09"), OrderAccepted).order
    assert kinds(bench.amend(order.id, limit_price="1.2")) == ["OrderReplaced", "OrderFilled"]


def test_amended_expiry_replaces_the_old_one(bench: Bench) -> None:
    order = only(
        bench.place("buy", "limit", 1000, limit_price="1.09", tif="gtd", expires_at_ms=5000), OrderAccepted
    ).order
    bench.amend(order.id, expires_at_ms=9000)
    assert bench.advance(5000) == []
    assert kinds(bench.advance(9000)) == ["OrderExpired"]


def test_amending_a_stop_limit_moves_the_limit_with_the_stop(bench: Bench) -> None:
    order = only(bench.place("buy", "stop_limit", 1000, stop_price="1.10100", slippage_points=10), OrderAccepted).order
    replaced = only(bench.amend(order.id, stop_price="1.10200"), OrderReplaced).order
    assert replaced.limit_price == dec("1.10210")


def test_amending_a_trailing_stop_keeps_its_extreme(bench: Bench) -> None:
    order = only(bench.place("sell", "trailing_stop", 1000, trail_amount="0.00100"), OrderAccepted).order
    bench.quote("1.10500", "1.10510")
    replaced = only(bench.amend(order.id, trail_amount="0.00300"), OrderReplaced).order
    assert (replaced.trail_extreme, replaced.stop_price) == (dec("1.105"), dec("1.102"))


def test_market_order_waits_for_the_open_when_the_market_queues(bench: Bench) -> None:
    queueing = Bench(market=MarketSettings(queue_when_closed=True))
    queueing.quote("1.1", "1.1001")
    queueing.engine.set_open(MARKET, "EURUSD", False, 10)
    assert kinds(queueing.buy(1000)) == ["OrderAccepted"]
    assert kinds(queueing.buy(1000, tif="ioc")) == ["RequestRejected"]
    assert queueing.quote("1.2", "1.2001") == []
    opened = queueing.engine.set_open(MARKET, "EURUSD", True, 20)
    assert only(opened, OrderFilled).deal.price == dec("1.2001")


def test_resting_order_fills_at_the_open_when_price_gapped_past_it_while_closed(bench: Bench) -> None:
    bench.place("sell", "stop", 1000, stop_price="1.09")
    bench.engine.set_open(MARKET, "EURUSD", False, 10)
    assert bench.quote("1.05", "1.0501") == []
    assert only(bench.engine.set_open(MARKET, "EURUSD", True, 20), OrderFilled).deal.price == dec("1.05")


def test_pending_order_is_rejected_when_money_is_short_at_its_time(bench: Bench) -> None:
    order = only(bench.place("buy", "limit", 10_000_000, limit_price="1.09"), OrderAccepted).order
    rejected = only(bench.quote("1.0899", "1.09"), OrderRejected)
    assert (rejected.code, rejected.order.id) == (Code.NOT_ENOUGH_MONEY, order.id)
    assert rejected.order.state is OrderState.REJECTED
    assert bench.engine.orders("a") == ()


def test_netted_order_names_no_position_until_it_fills(bench: Bench) -> None:
    bench.open("n", type=AccountType.NETTED)
    first = bench.buy(1000, account="n")
    assert only(first, OrderAccepted).position is None
    assert only(first, OrderFilled).order.position_id == bench.position("n").id
    second = only(bench.place("buy", "limit", 1000, account="n", limit_price="1.09"), OrderAccepted)
    assert second.position == bench.position("n")


def test_trailing_stop_goes_on_from_the_best_price_it_brings(bench: Bench) -> None:
    events = bench.place("sell", "trailing_stop", 1000, trail_amount="0.001", trail_extreme=dec("1.105"))
    accepted = only(events, OrderAccepted)
    assert (accepted.order.trail_extreme, accepted.order.stop_price) == (dec("1.105"), dec("1.104"))
    assert kinds(events)[1] == "OrderFilled"  # the market at 1.1 is beyond that stop already
    events = bench.place("sell", "trailing_stop", 1000, trail_amount="0.01", trail_extreme=dec("1.105"))
    assert only(events, OrderAccepted).order.stop_price == dec("1.095")
    assert kinds(bench.quote("1.10300", "1.10310")) == []


@pytest.mark.parametrize(
    ("kind", "prices"),
    [
        ("limit", {"limit_price": "1.2", "trail_extreme": dec("1.1")}),
        ("trailing_stop", {"trail_amount": "0.01", "trail_extreme": dec(-1)}),
    ],
)
def test_best_price_brought_along_is_refused_when_it_makes_no_sense(
    bench: Bench, kind: str, prices: dict[str, Any]
) -> None:
    assert kinds(bench.place("sell", kind, 1000, **prices)) == ["RequestRejected"]
