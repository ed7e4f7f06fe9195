"""A paper account by hand-worked numbers: money, trades, valuations."""

from __future__ import annotations

from dataclasses import replace

import pytest

from core.errors import NotFound
from core.orders import OrderType, Side
from core.paper_account import Close, CloseReason, Figures, Protect, Trade
from core.paper_trader import MarginCall, StopOut
from tests.unit.library.paper_account.support import START_MS, buy, dec, paper, price

NOW = START_MS + 1_000
DAY_MS = 86_400_000


def test_a_valuation_says_what_the_account_is_worth_when_a_position_is_open() -> None:
    account = paper()
    account.apply([buy(100_000)], NOW)
    value = account.valuation()
    assert (value.account_id, value.at_ms, value.currency) == ("hedged-usd", NOW, "USD")
    assert value.balance == dec("3000.00")
    assert value.equity == dec("2994.15"), "2.00 of spread, 3.85 of commission: 35 USD per million of 110,000 USD"
    assert value.used_margin == dec("1100.00")
    assert value.free_margin == dec("1894.15")
    assert value.margin_level == dec("272.20")
    (position,) = value.positions
    assert (position.gross, position.commission, position.swap, position.net) == (
        dec(-2),
        dec("-3.85"),
        0,
        dec("-5.85"),
    )
    assert (position.entry_price, position.current_price) == (dec("1.10002"), dec("1.10000"))
    assert value.unpriced == ()


def test_a_trade_tells_the_round_trip_when_a_position_has_closed_in_parts() -> None:
    account = paper()
    account.apply([buy(100_000)], NOW)
    held = account.positions()[0]
    account.advance(NOW + DAY_MS)  # over a Wednesday's 22:00: three days at 6.00
    account.quote([price("EURUSD", 500)], NOW + DAY_MS)
    account.apply([Close(held.id, dec(40_000))], NOW + DAY_MS + 1)
    account.apply([Close(held.id)], NOW + DAY_MS + 2)
    first, second = account.trades()
    common = {"position_id": held.id, "instrument_id": "EURUSD", "side": Side.BUY, "reason": CloseReason.ORDER}
    assert first == Trade(
        id=71,
        order_id=101,
        units=dec(40_000),
        entry_at_ms=NOW,
        exit_at_ms=NOW + DAY_MS + 1,
        entry_price=dec("1.10002"),
        exit_price=dec("1.10500"),
        gross=dec("199.20"),
        commission=dec("-1.54") + dec("-1.55"),  # two fifths of 3.85; 35 per million of 44,200 USD
        swap=dec("-7.20"),
        net=dec("188.91"),
        balance=dec("3188.91"),
        **common,
    )
    assert (second.units, second.gross, second.commission, second.swap) == (
        dec(60_000),
        dec("298.80"),
        dec("-2.31") + dec("-2.32"),
        dec("-10.80"),
    )
    assert account.figures == Figures(
        cash=dec(3000), gross=dec("498.00"), commission=dec("-7.72"), swap=dec("-18.00"), trades=2, fills=3
    )
    assert account.valuation().balance == account.valuation().equity == dec("3472.28")


@pytest.mark.parametrize(
    ("offset", "reason", "exit_price"),
    [(-150, CloseReason.STOP_LOSS, "1.09850"), (150, CloseReason.TAKE_PROFIT, "1.10150")],
)
def test_a_trade_names_what_ended_it_when_a_protection_was_hit(
    offset: int, reason: CloseReason, exit_price: str
) -> None:
    account = paper()
    account.apply([buy(10_000)], NOW)
    account.apply([Protect(account.positions()[0].id, dec("1.09900"), dec("1.10100"))], NOW)
    account.quote([price("EURUSD", offset)], NOW + 1)
    (trade,) = account.trades()
    assert (trade.reason, trade.exit_price) == (reason, dec(exit_price))


def test_an_account_is_called_and_stopped_out_when_its_margin_level_falls() -> None:
    account = paper()
    account.apply([buy(200_000)], NOW)  # used 2,200.00
    called = account.quote([price("EURUSD", -150)], NOW + 1)
    assert [each.threshold for each in called if isinstance(each, MarginCall)] == []
    called = account.quote([price("EURUSD", -400)], NOW + 2)
    assert [each.threshold for each in called if isinstance(each, MarginCall)] == [dec(100)]
    ended = account.quote([price("EURUSD", -1_000)], NOW + 3)
    assert any(isinstance(each, StopOut) for each in ended)
    assert account.trades()[0].reason is CloseReason.STOP_OUT


def test_a_valuation_says_what_it_cannot_know_when_a_price_is_missing() -> None:
    account = paper("hedged-jpy")
    account.apply([buy(1_000), buy(1_000, "USDJPY")], NOW)
    account.withdraw_price("EURUSD", NOW + 1)
    value = account.valuation()
    euro, dollar = value.positions
    assert value.unpriced == (euro.position_id,)
    assert (euro.net, euro.current_price) == (None, None)
    assert dollar.net is not None
    assert (value.equity, value.unrealized, value.free_margin, value.margin_level) == (None, None, None, None)
    assert value.used_margin == euro.used_margin + dollar.used_margin > 0
    account.quote([price("EURUSD")], NOW + 2)
    assert account.valuation().unpriced == ()


def test_nothing_fills_while_an_instrument_is_closed_and_what_was_passed_fills_at_the_open() -> None:
    account = paper()
    above = replace(buy(), type=OrderType.STOP, stop_price=dec("1.10100"))
    account.apply([above], NOW)
    account.set_open("EURUSD", False, NOW)
    assert account.quote([price("EURUSD", 200)], NOW + 1) == ()
    account.set_open("EURUSD", True, NOW + 2)
    assert [each.entry_price for each in account.positions()] == [dec("1.10202")]


def test_unknown_instruments_raise_when_they_are_named() -> None:
    account = paper()
    for call in (account.withdraw_price, lambda name, at: account.set_open(name, True, at)):
        with pytest.raises(NotFound):
            call("NOPE", NOW)
    with pytest.raises(NotFound):
        account.price("NOPE")
    assert not account.lists("NOPE")


def test_a_rate_walks_the_instruments_at_bid() -> None:
    account = paper()
    assert account.rate("EUR", "EUR") == 1
    assert account.rate("EUR", "USD") == dec("1.10000")
    assert account.rate("EUR", "JPY") == dec("1.10000") * dec("150.000")
    pounds = account.rate("USD", "GBP")
    assert pounds is not None
    assert abs(pounds * dec("1.26700") - 1) < dec("1e-25")
    assert account.rate("EUR", "SEK") is None
    account.withdraw_price("USDJPY", NOW)
    assert account.rate("EUR", "JPY") is None


def test_history_is_bounded_and_sums_are_not() -> None:
    account = paper()
    for turn in range(50):
        account.apply([buy(1_000)], NOW + turn)
        account.apply([Close(account.positions()[0].id)], NOW + turn)
    assert len(account.trades()) == len(account.deals()) == len(account.finished_orders()) == 40
    assert account.figures.trades == 50
    assert account.trades()[-1].balance == account.valuation().balance
