"""Positions: closing, reducing, flipping, protection, trailing, and what the deals say."""

from __future__ import annotations

import pytest

from core.paper_trader import (
    AccountType,
    BalanceChanged,
    MarginChanged,
    OrderAccepted,
    OrderCancelled,
    OrderFilled,
    OrderPartiallyFilled,
    OrderRole,
    OrderState,
    PositionStatus,
    ProtectionAccepted,
    ProtectionCancelled,
    ProtectionReplaced,
    TrailingStopMoved,
)
from tests.unit.paper_trader.bench import MARKET, Bench, dec, every, kinds, listing, only


@pytest.fixture
def bench() -> Bench:
    made = Bench()
    made.quote("1.10000", "1.10010")
    return made


def test_full_close_says_accepted_filled_balance_and_ends_protection(bench: Bench) -> None:
    bench.buy(1000, relative_stop_loss="0.01")
    events = bench.close(bench.position().id)
    assert kinds(events) == ["OrderAccepted", "OrderFilled", "BalanceChanged", "ProtectionCancelled"]
    accepted, filled = only(events, OrderAccepted), only(events, OrderFilled)
    assert accepted.order.role is OrderRole.CLOSE
    assert accepted.position is not None
    assert accepted.position.status is PositionStatus.OPEN
    assert (filled.position.status, filled.position.units, filled.position.used_margin) == (PositionStatus.CLOSED, 0, 0)
    assert filled.deal.close is not None
    assert filled.deal.close.balance == only(events, BalanceChanged).balance == bench.truth().balance == dec("9999.90")
    assert filled.deal.close.balance_version == bench.truth().balance_version == 2
    assert bench.engine.orders("a", protections=True) == ()


def test_partial_close_resizes_margin_and_protection(bench: Bench) -> None:
    bench.buy(1000, relative_stop_loss="0.01")
    events = bench.close(bench.position().id, 400)
    assert kinds(events) == ["OrderAccepted", "OrderFilled", "BalanceChanged", "MarginChanged", "ProtectionReplaced"]
    assert only(events, MarginChanged).used_margin == dec("6.60")
    assert only(events, ProtectionReplaced).order.units == 600


def test_close_rest_is_cancelled_when_liquidity_is_short(bench: Bench) -> None:
    bench.buy(1000)
    bench.quote(bids=[("1.1", 300)])
    events = bench.close(bench.position().id)
    assert kinds(events)[-1] == "OrderCancelled"
    assert bench.position().units == 700


def test_hedged_order_adds_to_a_position_when_it_names_it(bench: Bench) -> None:
    bench.buy(1000)
    first = bench.position()
    bench.quote("1.10200", "1.10210")
    events = bench.buy(1000, position_id=first.id)
    assert only(events, OrderFilled).position.id == first.id
    assert (bench.position().units, bench.position().entry_price) == (2000, dec("1.1011"))
    assert only(events, MarginChanged).used_margin == dec("22.02")


def test_hedged_order_reduces_a_position_when_it_names_it(bench: Bench) -> None:
    bench.buy(1000)
    first = bench.position()
    assert only(bench.sell(400, position_id=first.id), OrderFilled).deal.close is not None
    assert bench.position().units == 600


def test_tied_orders_are_cancelled_when_their_position_closes(bench: Bench) -> None:
    bench.buy(1000)
    tied = only(
        bench.place("sell", "limit", 600, limit_price="1.2", position_id=bench.position().id), OrderAccepted
    ).order
    events = bench.close(bench.position().id)
    assert only(events, OrderCancelled).order.id == tied.id


def test_reducing_order_never_opens_the_other_side_when_its_position_shrank(bench: Bench) -> None:
    bench.buy(1000)
    position = bench.position()
    bench.place("sell", "limit", 1000, limit_price="1.2", position_id=position.id)
    bench.close(position.id, 700)
    events = bench.quote("1.2", "1.2001")
    assert kinds(events) == ["OrderPartiallyFilled", "BalanceChanged", "OrderCancelled"]
    assert only(events, OrderPartiallyFilled).deal.filled_units == 300
    assert bench.engine.positions("a") == ()


def test_reducing_order_leaves_the_offers_it_cannot_use(bench: Bench) -> None:
    bench.open("b")
    bench.buy(1000)
    bench.place("sell", "limit", 1000, limit_price="1.2", position_id=bench.position().id)
    bench.close(bench.position().id, 700)
    bench.quote(bids=[("1.2", 1000)], asks=[("1.2", 1000)])
    assert only(bench.sell(1000, account="b", tif="ioc"), OrderPartiallyFilled).deal.filled_units == 700


def test_fok_that_lost_part_of_its_position_trades_nothing(bench: Bench) -> None:
    bench.buy(1000)
    bench.place("sell", "stop", 1000, stop_price="1.09", tif="fok", position_id=bench.position().id)
    bench.close(bench.position().id, 700)
    assert kinds(bench.quote("1.09", "1.0901")) == ["OrderCancelled"]
    assert bench.position().units == 300


def test_later_fills_leave_protection_that_was_changed_meanwhile(bench: Bench) -> None:
    bench.quote(asks=[("1.1001", 400)])
    bench.place("buy", "limit", 1000, limit_price="1.1001", stop_loss="1.09")
    bench.protect(bench.position().id, stop_loss="1.095")
    bench.quote(asks=[("1.1001", 9999)])
    assert (bench.position().units, bench.position().stop_loss) == (1000, dec("1.095"))


def test_netted_addition_sets_the_leg_it_names_and_keeps_the_other() -> None:
    bench = Bench(type=AccountType.NETTED)
    bench.quote("1.10000", "1.10010")
    bench.buy(1000, stop_loss="1.09")
    bench.buy(1000, take_profit="1.12")
    assert (bench.position().stop_loss, bench.position().take_profit) == (dec("1.09"), dec("1.12"))
    (protection,) = bench.engine.orders("a", protections=True)
    assert protection.units == 2000


def test_rest_of_an_opening_order_ends_when_its_position_closes(bench: Bench) -> None:
    bench.quote(asks=[("1.1001", 400)])
    bench.place("buy", "limit", 1000, limit_price="1.1001")
    events = bench.close(bench.position().id)
    assert only(events, OrderCancelled).order.filled_units == 400
    assert bench.engine.orders("a") == ()


def test_netted_flip_closes_one_position_and_opens_another() -> None:
    bench = Bench(type=AccountType.NETTED)
    bench.quote("1.10000", "1.10010")
    bench.buy(1000, relative_stop_loss="0.01")
    old = bench.position()
    events = bench.sell(3000, relative_stop_loss="0.02")
    assert kinds(events) == [
        "OrderAccepted",
        "OrderPartiallyFilled",
        "BalanceChanged",
        "OrderFilled",
        "ProtectionCancelled",
        "ProtectionAccepted",
    ]
    closing, opening = only(events, OrderPartiallyFilled), only(events, OrderFilled)
    assert (closing.position.id, closing.position.status, closing.deal.filled_units) == (
        old.id,
        PositionStatus.CLOSED,
        1000,
    )
    assert (opening.position.side, opening.position.units, opening.deal.close) == ("sell", 2000, None)
    assert opening.position.id != old.id
    assert bench.position().stop_loss == dec("1.12")


def test_netted_reduction_keeps_the_entry_price_and_protection_prices() -> None:
    bench = Bench(type=AccountType.NETTED)
    bench.quote("1.10000", "1.10010")
    bench.buy(1000, relative_stop_loss="0.01", relative_take_profit="0.02")
    before = bench.position()
    events = bench.sell(400)
    assert bench.position().entry_price == before.entry_price
    assert (bench.position().stop_loss, bench.position().take_profit) == (dec("1.0901"), dec("1.1201"))
    assert only(events, ProtectionReplaced).order.units == 600


def test_protection_of_a_pending_order_appears_when_it_fills(bench: Bench) -> None:
    bench.place("sell", "limit", 1000, limit_price="1.105", stop_loss="1.11", take_profit="1.1")
    events = bench.quote("1.10510", "1.10520")
    assert kinds(events) == ["OrderFilled", "ProtectionAccepted"]
    protection = only(events, ProtectionAccepted)
    assert (protection.order.stop_price, protection.order.limit_price) == (dec("1.11"), dec("1.1"))
    assert (protection.order.stop_loss, protection.order.take_profit) == (None, None)
    assert protection.order.role is OrderRole.PROTECTION
    assert (protection.position.stop_loss, protection.position.protection_order_id) == (
        dec("1.11"),
        protection.order.id,
    )
    assert bench.engine.orders("a") == ()
    assert bench.engine.orders("a", protections=True) == (protection.order,)


@pytest.mark.parametrize(
    ("side", "quote", "price"),
    [
        ("buy", ("1.08950", "1.08960"), "1.0895"),  # gap through the stop: at the market
        ("buy", ("1.12050", "1.12060"), "1.1205"),  # past the target: better than asked
        ("sell", ("1.11050", "1.11060"), "1.1106"),
        ("sell", ("1.07900", "1.07910"), "1.0791"),
    ],
)
def test_hit_protection_closes_at_the_closing_side(bench: Bench, side: str, quote: tuple[str, str], price: str) -> None:
    bench.place(side, "market", 1000, relative_stop_loss="0.01", relative_take_profit="0.02")
    protection_id = bench.position().protection_order_id
    events = bench.quote(*quote)
    assert kinds(events) == ["OrderFilled", "BalanceChanged"]
    filled = only(events, OrderFilled)
    assert (filled.order.id, filled.order.role, filled.order.state) == (
        protection_id,
        OrderRole.PROTECTION,
        OrderState.FILLED,
    )
    assert (filled.deal.price, filled.by_server) == (dec(price), True)
    assert bench.engine.positions("a") == ()


def test_long_protection_ignores_the_ask_and_short_protection_the_bid(bench: Bench) -> None:
    bench.buy(1000, relative_stop_loss="0.001")  # stop 1.0991 on the bid
    bench.sell(1000, relative_stop_loss="0.002")  # stop 1.1020 on the ask
    assert bench.quote("1.09920", "1.10190") == []
    assert [event.position.side for event in every(bench.quote("1.0991", "1.1019"), OrderFilled)] == ["buy"]
    assert [event.position.side for event in every(bench.quote("1.0991", "1.1020"), OrderFilled)] == ["sell"]


def test_stop_loss_keeps_closing_when_liquidity_is_short(bench: Bench) -> None:
    bench.buy(1000, relative_stop_loss="0.01")
    hit = bench.quote(bids=[("1.09", 300)], asks=[("1.0901", 9999)])
    assert kinds(hit) == ["OrderPartiallyFilled", "BalanceChanged", "MarginChanged"]
    assert bench.position().units == 700
    (order,) = bench.engine.orders("a", protections=True)
    assert (order.units, order.filled_units, order.remaining_units) == (1000, 300, 700)
    # the price has recovered, but a triggered stop goes on
    assert kinds(bench.quote("1.1", "1.1001")) == ["OrderFilled", "BalanceChanged"]


def test_take_profit_waits_for_its_price_again_when_liquidity_was_short(bench: Bench) -> None:
    bench.buy(1000, relative_take_profit="0.01")
    bench.quote(bids=[("1.1101", 300)], asks=[("1.1102", 9999)])
    assert bench.position().units == 700
    assert bench.quote("1.11", "1.1101") == []
    assert kinds(bench.quote("1.1101", "1.1102")) == ["OrderFilled", "BalanceChanged"]


def test_protect_replaces_both_legs_and_removes_what_is_left_out(bench: Bench) -> None:
    bench.buy(1000)
    position_id = bench.position().id
    first = only(bench.protect(position_id, stop_loss="1.09", take_profit="1.12"), ProtectionAccepted)
    second = only(bench.protect(position_id, take_profit="1.13"), ProtectionReplaced)
    assert second.order.id == first.order.id
    assert (second.position.stop_loss, second.position.take_profit) == (None, dec("1.13"))
    assert bench.quote("1.05", "1.0501") == []
    third = only(bench.protect(position_id), ProtectionCancelled)
    assert (third.by_server, third.position.take_profit, third.position.protection_order_id) == (False, None, None)
    assert bench.engine.finished_orders("a")[-1].state is OrderState.CANCELLED


def test_trailing_stop_of_a_short_follows_the_ask_down(bench: Bench) -> None:
    bench.sell(1000)
    bench.protect(bench.position().id, stop_loss="1.10110", trailing=True)
    moved = only(bench.quote("1.09800", "1.09810"), TrailingStopMoved)
    assert (moved.stop_price, moved.position.stop_loss) == (dec("1.0991"), dec("1.0991"))
    assert moved.order_id == bench.position().protection_order_id
    assert bench.quote("1.09890", "1.09900") == []
    assert kinds(bench.quote("1.09900", "1.09910")) == ["OrderFilled", "BalanceChanged"]


def test_trailing_stop_from_the_order_starts_at_the_fill(bench: Bench) -> None:
    bench.place("buy", "limit", 1000, limit_price="1.09", relative_stop_loss="0.001", trailing_stop_loss=True)
    bench.quote("1.0899", "1.09")
    assert bench.position().trailing_stop_loss
    # stop 1.08900 is 0.00090 below the bid 1.08990
    assert only(bench.quote("1.0999", "1.1"), TrailingStopMoved).stop_price == dec("1.099")


def test_trailing_step_is_void_when_the_same_quote_replaced_the_stop_before_it() -> None:
    bench = Bench(type=AccountType.NETTED)
    bench.quote("1.10000", "1.10010")
    bench.sell(1000, stop_loss="1.11", trailing_stop_loss=True)
    bench.place("sell", "stop", 1000, stop_price="1.095", stop_loss="1.1", trailing_stop_loss=True)
    assert kinds(bench.quote("1.0949", "1.0950")) == ["OrderFilled", "MarginChanged", "ProtectionReplaced"]
    assert bench.position().stop_loss == dec("1.1")


def test_stop_loss_fires_at_once_when_the_fill_is_beyond_it_already(bench: Bench) -> None:
    bench.place("buy", "stop", 1000, stop_price="1.101", stop_loss="1.1005")
    bench.engine.set_open(MARKET, "EURUSD", False, 50)
    bench.quote("1.1", "1.2")
    events = bench.engine.set_open(MARKET, "EURUSD", True, 60)
    assert kinds(events) == ["OrderFilled", "ProtectionAccepted", "OrderFilled", "BalanceChanged"]


def test_position_survives_a_gap_of_quotes_when_prices_are_withdrawn(bench: Bench) -> None:
    bench.buy(1000, relative_stop_loss="0.01")
    bench.engine.withdraw_quote(MARKET, "EURUSD", 100)
    truth = bench.truth()
    assert (truth.equity, truth.unrealized_pnl, truth.free_margin, truth.margin_level) == (None, None, None, None)
    assert (truth.used_margin, truth.positions[0].current_price) == (dec("11.00"), None)
    assert kinds(bench.close(bench.position().id)) == ["RequestRejected"]
    assert bench.quote(ask="1.1001") == []
    assert bench.truth().equity is None
    bench.quote(bid="1.1")
    assert bench.truth().equity == dec("9999.90")


def test_conversion_missing_leaves_pnl_unknown_but_price_known() -> None:
    bench = Bench(listing("USDJPY"), listing("EURJPY"), listing("EURUSD"), currency="USD")
    for name, price in (("USDJPY", "150"), ("EURJPY", "165"), ("EURUSD", "1.1")):
        bench.quote(price, price, name=name)
    bench.buy(1000, "EURJPY")
    bench.engine.withdraw_quote(MARKET, "USDJPY", 100)
    (position,) = bench.truth().positions
    assert (position.current_price, position.unrealized_pnl, position.gross_pnl) == (dec(165), None, None)
    assert bench.truth().equity is None


def test_deal_carries_rates_for_history(bench: Bench) -> None:
    bench.buy(1000)
    bench.close(bench.position().id)
    opening, closing = bench.engine.deals("a")
    assert (opening.close, opening.margin_rate, opening.base_to_usd_rate) == (None, dec("1.1"), dec("1.1"))
    assert closing.close is not None
    assert (closing.close.entry_price, closing.close.quote_to_deposit_rate) == (dec("1.1001"), 1)
    assert [opening.id, closing.id] == [1, 2]
