"""Several paper accounts: prices for all, totals in one currency, kept as one."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from core.errors import Conflict, NotFound
from core.orders import TimeInForce
from core.paper_account import PaperAccount, PaperTerms, Portfolio, Price, Refused
from core.paper_trader import AccountSettings, OrderAccepted
from tests.unit.library.paper_account.support import START_MS, again, buy, dec, limit, listings, paper, price

NOW = START_MS + 1_000
KINDS = ("hedged-usd", "netted-eur", "hedged-jpy")


def portfolio() -> Portfolio:
    return Portfolio(paper(kind) for kind in KINDS)


def lonely(currency: str = "CHF") -> PaperAccount:
    """An account with money and one instrument, which has no price yet."""
    terms = PaperTerms(account_id="lonely", listings=listings()[3:4], account=AccountSettings(currency=currency))
    account = PaperAccount(terms, START_MS)
    account.move_cash(dec(883), START_MS)
    return account


def test_totals_are_in_one_currency_when_rates_are_known() -> None:
    held = portfolio()
    total = held.valuation("USD")
    assert total.balance == dec("8966.67"), "3,000.00 + 3,000 × 1.10000 + 400,000 ÷ 150.000"
    assert (total.equity, total.unrealized, total.used_margin) == (dec("8966.67"), 0, 0)
    assert held.valuation("JPY", money_digits=0).balance == 400_000 + 450_000 + 495_000
    held.apply("netted-eur", [buy(10_000)], NOW)
    total, own = held.valuation("USD"), held.account("netted-eur").valuation()
    assert own.unrealized is not None
    assert total.unrealized == round(own.unrealized * dec("1.1"), 2) < 0
    assert total.used_margin == round(own.used_margin * dec("1.1"), 2) > 0
    assert total.balance is not None
    assert total.equity is not None
    assert total.equity == total.balance + total.unrealized
    assert total.free_margin == total.equity - total.used_margin
    assert [each.account_id for each in total.accounts] == list(KINDS)
    assert repr(again(total)) == repr(total)


def test_totals_are_unknown_and_say_why_when_a_rate_or_a_price_is_missing() -> None:
    held = Portfolio([lonely()])
    total = held.valuation("USD")
    assert (total.balance, total.equity, total.unrealized, total.used_margin) == (None, None, 0, 0)
    assert total.unconverted == ("lonely",)
    assert held.valuation("CHF").balance == 883
    held.quote([price("USDCHF")], NOW)
    assert held.valuation("USD").balance == 1000
    held.apply("lonely", [buy(100, "USDCHF")], NOW)
    held.account("lonely").withdraw_price("USDCHF", NOW)
    total = held.valuation("CHF")
    assert (total.balance, total.equity, total.unpriced) == (883, None, ("lonely",))


def test_another_account_lends_its_rate_when_the_own_instruments_give_none() -> None:
    held = Portfolio([lonely(), paper()])
    assert held.valuation("USD").balance == 4000, "883 ÷ 0.88300 by the other's prices"
    held.account("lonely").quote([Price("USDCHF", dec("0.5"), dec("0.5"))], NOW)
    assert held.valuation("USD").balance == 3000 + 1766, "its own price first"
    turned = Portfolio(reversed(held.accounts()))
    assert turned.valuation("USD").balance == 3000 + 1766, "whoever was added first"
    assert (turned.rate("CHF", "USD"), held.rate("CHF", "USD")) == (held.account("hedged-usd").rate("CHF", "USD"), 2)


def test_prices_reach_every_account_that_lists_the_instrument() -> None:
    held = Portfolio([*portfolio().accounts(), lonely()])
    for kind in KINDS:
        held.apply(kind, [limit("1.09900")], NOW)
    events = held.quote([price("EURUSD", -200), price("USDCHF", 7)], NOW + 1)
    assert list(dict.fromkeys(each.account_id for each in events)) == list(KINDS)
    assert all(len(held.account(kind).positions()) == 1 for kind in KINDS)
    assert held.account("lonely").price("USDCHF") == price("USDCHF", 7)


def test_prices_change_no_account_when_one_row_is_refused() -> None:
    coarse = replace(listings()[0], instrument=replace(listings()[0].instrument, price_digits=4))
    terms = PaperTerms(account_id="coarse", listings=(coarse,), account=AccountSettings(currency="USD"))
    held = Portfolio([PaperAccount(terms, START_MS), paper(), lonely()])
    before = held.to_plain()
    cases: list[tuple[Any, str]] = [
        (price("EURUSD", 1), "digits"),
        (Price("NOPE", dec(1), dec(1)), "known"),
        (Price("USDCHF", dec(2), dec(1)), "crossed"),
    ]
    for bad, rule in cases:
        with pytest.raises(Refused) as caught:
            held.quote([price("GBPUSD", 3), bad], NOW)
        assert (caught.value.row, caught.value.rule) == (1, rule)
        assert held.to_plain() == before


def test_time_passes_for_every_account() -> None:
    held = portfolio()
    for kind in KINDS:
        held.apply(kind, [buy(10_000)], NOW)
    due = held.next_due_ms()
    assert due is not None
    held.advance(due)
    assert all(held.account(kind).positions()[0].swap < 0 for kind in KINDS)
    assert held.valuation("USD").at_ms == due
    ends = limit("1.05", time_in_force=TimeInForce.GTD, expires_at_ms=due + 7)
    held.apply("netted-eur", [ends], due)
    assert held.next_due_ms() == due + 7
    assert Portfolio().next_due_ms() is None
    assert Portfolio().valuation("USD").equity == 0


def test_a_portfolio_restored_goes_on_as_the_original() -> None:
    held = portfolio()
    for kind in KINDS:
        held.apply(kind, [buy(10_000, trailing_stop_loss=True, relative_stop_loss=dec("0.001")), limit("1.09")], NOW)
    other = Portfolio.from_plain(json.loads(json.dumps(held.to_plain())))
    for turn in range(40):
        rows = [price("EURUSD", (turn * 137) % 500 - 250), price("USDJPY", turn)]
        assert other.quote(rows, NOW + turn * 3_600_000) == held.quote(rows, NOW + turn * 3_600_000)
    assert other.to_plain() == held.to_plain()
    assert all(held.account(kind).trades() for kind in KINDS)


def test_an_account_has_one_name_in_a_portfolio() -> None:
    held = portfolio()
    with pytest.raises(Conflict):
        held.add(paper())
    plain = held.to_plain()
    plain["accounts"].append(plain["accounts"][0])
    with pytest.raises(Refused, match="unique"):
        Portfolio.from_plain(plain)
    assert held.remove("hedged-usd").id == "hedged-usd"
    with pytest.raises(NotFound):
        held.account("hedged-usd")


def test_requests_for_one_account_leave_the_others_alone() -> None:
    held = portfolio()
    before = [held.account(kind).to_plain() for kind in KINDS[1:]]
    events = held.apply(KINDS[0], [buy()], NOW)
    assert any(isinstance(each, OrderAccepted) for each in events)
    assert [held.account(kind).to_plain() for kind in KINDS[1:]] == before
