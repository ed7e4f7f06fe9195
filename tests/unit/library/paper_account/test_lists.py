"""Lists of requests and prices: carried out whole, or refused with the field, the row and the rule."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from core.orders import OrderType, Side
from core.paper_account import Amend, Cancel, Close, PaperAccount, PaperTerms, Price, Protect, Refused
from core.paper_trader import (
    Access,
    AccountSettings,
    EngineSettings,
    MarketSettings,
    OrderAccepted,
    OrderChanges,
    OrderRejected,
)
from tests.unit.library.paper_account.support import START_MS, buy, dec, limit, listings, paper, price

NOW = START_MS + 1_000
NAN, MINUS = Decimal("NaN"), Decimal(-1)


def refused(account: PaperAccount, rows: list[Any]) -> tuple[str | None, int | None, str]:
    """What a list is refused for; it changes nothing."""
    before = account.to_plain()
    with pytest.raises(Refused) as caught:
        account.apply(rows, NOW)
    assert account.to_plain() == before
    return caught.value.field, caught.value.row, caught.value.rule


@pytest.mark.parametrize(
    ("bad", "field", "rule"),
    [
        (buy(name="NOPE"), "instrument_id", "known"),
        (replace(buy(), units=NAN), "units", "number"),
        (replace(buy(), units=1000), "units", "number"),
        (replace(buy(), units=MINUS), "units", "positive"),
        (replace(buy(), units=Decimal("1e13")), "units", "size"),
        (replace(buy(), side="buy"), "side", "kind"),
        (replace(buy(), type="market"), "type", "kind"),
        (replace(buy(), label=7), "label", "kind"),
        (replace(buy(), position_id="7"), "position_id", "number"),
        (replace(buy(), relative_stop_loss=dec("0.000001")), "relative_stop_loss", "digits"),
        (limit("1.100001"), "limit_price", "digits"),
        (limit("1.1", stop_loss=Decimal("Infinity")), "stop_loss", "number"),
        (Amend(100, OrderChanges(limit_price=NAN)), "limit_price", "number"),
        (Amend(100, None), "request", "kind"),
        (Cancel("100"), "order_id", "number"),
        (Close(50, NAN), "units", "number"),
        (Close(True), "position_id", "number"),
        (Protect(50, stop_loss=Decimal(0)), "stop_loss", "positive"),
        (Protect(50, dec("1.0"), None, 1), "trailing", "kind"),
        ("buy", "request", "kind"),
        (None, "request", "kind"),
    ],
)
def test_a_list_is_refused_whole_when_a_row_has_a_fault_of_form(bad: Any, field: str, rule: str) -> None:
    assert refused(paper(), [buy(), limit("1.09"), bad, buy()]) == (field, 2, rule)


@pytest.mark.parametrize(
    ("bad", "field", "rule"),
    [
        (buy(10_000_000), "units", "NOT_ENOUGH_MONEY"),
        (limit("1.2", 10_000_000), "units", "NOT_ENOUGH_MONEY"),
        (limit("1.09", stop_loss=dec("1.095")), "stop_loss", "TRADING_BAD_STOPS"),
        (limit("1.09", take_profit=dec("1.05")), "take_profit", "TRADING_BAD_STOPS"),
        (
            replace(limit("1"), type=OrderType.STOP, limit_price=None, stop_price=dec("1")),
            "stop_price",
            "TRADING_BAD_PRICES",
        ),
        (replace(buy(), limit_price=dec("1.1")), "request", "INVALID_REQUEST"),
        (replace(buy(), expires_at_ms=NOW + 5), "expires_at_ms", "TRADING_BAD_EXPIRATION_DATE"),
        (replace(buy(), units=dec("0.5")), "units", "TRADING_BAD_VOLUME"),
        (Amend(99, OrderChanges(units=dec(5))), "order_id", "ORDER_NOT_FOUND"),
        (Amend(100, OrderChanges(stop_price=dec("1.05"))), "stop_price", "TRADING_BAD_PRICES"),
        (Cancel(99), "order_id", "ORDER_NOT_FOUND"),
        (Close(49), "position_id", "POSITION_NOT_FOUND"),
        (Protect(49, dec("1.05")), "position_id", "POSITION_NOT_FOUND"),
    ],
)
def test_a_list_is_refused_whole_when_the_broker_refuses_a_row(bad: Any, field: str, rule: str) -> None:
    account = paper()
    above = replace(limit("1"), type=OrderType.STOP, limit_price=None, stop_price=dec("1.15"))
    account.apply([above], NOW)
    assert refused(account, [buy(), buy(name="USDJPY"), bad, buy()]) == (field, 2, rule)


def test_an_order_accepted_and_rejected_at_once_refuses_its_list_when_money_is_short() -> None:
    account = paper()
    assert refused(account, [limit("1.2", 100_000), limit("1.2", 250_000)]) == ("units", 1, "NOT_ENOUGH_MONEY")
    account.apply([limit("1.2", 100_000)], NOW)
    assert [each.units for each in account.positions()] == [100_000]


def test_an_order_that_rested_is_rejected_by_an_event_when_money_is_short_later() -> None:
    account = paper()
    account.apply([limit("1.095", 10_000_000)], NOW)
    events = account.quote([price("EURUSD", -1_000)], NOW + 1)
    assert [type(each) for each in events] == [OrderRejected]


def test_an_amendment_stands_when_the_order_it_changed_then_fails_for_want_of_money() -> None:
    account = paper()
    account.apply([limit("1.09500", 10_000_000)], NOW)
    events = account.apply([Amend(account.orders()[0].id, OrderChanges(limit_price=dec("1.2"))), buy()], NOW)
    assert any(isinstance(each, OrderRejected) for each in events)
    assert account.orders() == ()
    assert [each.units for each in account.positions()] == [1_000]


def test_a_list_is_carried_out_in_order_when_every_row_is_sound() -> None:
    account = paper()
    events = account.apply([buy(), limit("1.09"), replace(buy(2_000, "USDJPY"), side=Side.SELL)], NOW)
    assert [each.order.units for each in events if isinstance(each, OrderAccepted)] == [1_000, 1_000, 2_000]
    first = account.positions()[0]
    account.apply([Close(first.id, dec(400)), Protect(first.id, dec("1.05")), Cancel(account.orders()[0].id)], NOW)
    assert [each.units for each in account.positions()] == [600, 2_000]
    assert account.positions()[0].stop_loss == dec("1.05")
    assert account.orders() == ()
    assert account.apply([], NOW) == ()


def test_a_refused_list_leaves_time_where_it_was_when_swap_falls_due_before_it() -> None:
    account = paper()
    account.apply([buy(100_000)], NOW)
    due = account.next_due_ms()
    assert due is not None
    with pytest.raises(Refused):
        account.apply([Cancel(1)], due + 5)
    assert account.at_ms == NOW
    assert account.positions()[0].swap == 0
    account.apply([limit("1.0")], due + 5)
    assert account.positions()[0].swap < 0


@pytest.mark.parametrize(
    ("bad", "field", "rule"),
    [
        (Price("NOPE", dec(1), dec(1)), "instrument_id", "known"),
        (Price("EURUSD", NAN, dec(1)), "bid", "number"),
        (Price("EURUSD", dec(1), 1.0), "ask", "number"),  # type: ignore[arg-type]
        (Price("EURUSD", dec(0), dec(1)), "bid", "positive"),
        (Price("EURUSD", dec("1.000001"), dec("1.1")), "bid", "digits"),
        (Price("EURUSD", dec("1.1"), dec("1.0")), "bid", "crossed"),
        (("EURUSD", 1, 1), "price", "kind"),
    ],
)
def test_prices_are_refused_whole_when_a_row_is_none(bad: Any, field: str, rule: str) -> None:
    account = paper()
    before = account.to_plain()
    with pytest.raises(Refused) as caught:
        account.quote([price("EURUSD", 5), bad], NOW)
    assert (caught.value.field, caught.value.row, caught.value.rule) == (field, 1, rule)
    assert account.to_plain() == before


@pytest.mark.parametrize("delta", [dec(0), dec("0.001"), NAN, 5, dec(-4_000), Decimal("1e20")])
def test_cash_is_refused_when_it_is_no_amount_or_not_there(delta: Any) -> None:
    account = paper()
    before = account.to_plain()
    with pytest.raises(Refused) as caught:
        account.move_cash(delta, NOW)
    assert caught.value.field == "delta"
    assert account.to_plain() == before


@pytest.mark.parametrize("now_ms", [-1, 1.5, True, None])
def test_a_time_is_refused_when_it_is_no_whole_number(now_ms: Any) -> None:
    account = paper()
    for call in (account.advance, lambda at: account.apply([], at), lambda at: account.quote([], at)):
        with pytest.raises(Refused, match="now_ms"):
            call(now_ms)


@pytest.mark.parametrize(
    ("change", "field", "rule"),
    [
        ({"account_id": ""}, "account_id", "present"),
        ({"listings": ()}, "listings", "present"),
        ({"listings": (*listings(), listings()[0])}, "listings", "unique"),
        ({"market": MarketSettings(partial_fill_chance=float("nan"))}, "market.partial_fill_chance", "range"),
        ({"engine": EngineSettings(history_limit=0)}, "engine.history_limit", "range"),
    ],
)
def test_an_account_is_not_opened_when_its_terms_are_impossible(change: Any, field: str, rule: str) -> None:
    terms = PaperTerms(account_id="a", listings=listings(), account=AccountSettings(currency="USD"))
    with pytest.raises(Refused) as caught:
        PaperAccount(replace(terms, **change), NOW)
    assert (caught.value.field, caught.value.rule) == (field, rule)


def test_requests_are_refused_with_the_brokers_code_when_the_account_is_read_only() -> None:
    assert refused(paper(access=Access.READ_ONLY), [buy()]) == ("account_id", 0, "TRADING_NOT_ALLOWED")
