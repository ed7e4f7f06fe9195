"""Accounts whose balance is cash: market values, cost, multipliers, the account's margin, remembered fills."""

from decimal import Decimal

import pytest

from core.account import REMEMBERED_FILLS, AccountMirror, EquityRule, Snapshot
from core.events import AccountChanged, BalanceChanged, Execution, Fill, PositionChanged, PositionClosed
from core.instruments import Catalogue, Instrument
from core.orders import Side
from core.positions import Position
from core.reconcile import rebuild
from core.valuation import value_account

NOW = 1_732_341_700_000


def mirror(rule: EquityRule = EquityRule.VALUE, cash: str = "1000.005") -> AccountMirror:
    catalogue = Catalogue()
    catalogue.instruments["A"] = Instrument("A", "AAPL", 2, "AAPL", "USD")
    catalogue.instruments["O"] = Instrument("O", "AAPL OPTION", 2, "AAPL", "USD", multiplier=Decimal(100))
    m = AccountMirror("demo", "1", catalogue, quote_digits=9, equity_rule=rule, currency="USD")
    m.balance = Decimal(cash)
    return m


def hold(m: AccountMirror, key: str, side: Side, units: str, entry: str, cost: str | None, price: str) -> None:
    m.positions[key] = Position(
        key, key, side, Decimal(units), Decimal(entry), cost=None if cost is None else Decimal(cost)
    )
    raw = int(Decimal(price).scaleb(9))
    m.set_quote(key, raw, raw)


def test_equity_is_cash_and_market_values_when_the_balance_is_cash() -> None:
    m = mirror()
    hold(m, "A", Side.BUY, "3", "10", None, "12.005")  # worth 36.015, cost 30
    hold(m, "O", Side.SELL, "2", "1.5", None, "1.25")  # worth -250, sold for 300
    value = value_account(m)
    assert value.positions["A"].market_value == Decimal("36.015")
    assert value.positions["O"].market_value == Decimal("-250")
    assert value.positions["A"].unrealized_pnl == Decimal("6.02")  # 6.015: half to even
    assert value.positions["O"].unrealized_pnl == Decimal("50.00")
    assert value.unrealized_pnl == Decimal("56.02")
    assert value.equity == Decimal("786.02")  # 1000.005 + 36.015 - 250 = 786.020, rounded once


def test_equity_is_balance_and_profit_when_positions_are_held_on_margin() -> None:
    m = mirror(EquityRule.PROFIT, cash="1000.00")
    hold(m, "A", Side.BUY, "3", "10", None, "12.005")
    value = value_account(m)
    assert value.equity == Decimal("1006.02")
    assert value.positions["A"].market_value is None


def test_the_cost_that_the_broker_says_wins_when_the_entry_price_is_rounded() -> None:
    m = mirror()
    hold(m, "A", Side.BUY, "3", "33.33", "100", "33.34")
    assert value_account(m).positions["A"].unrealized_pnl == Decimal("0.02")  # not 0.03
    hold(m, "A", Side.SELL, "3", "33.33", "100", "33.34")
    assert value_account(m).positions["A"].unrealized_pnl == Decimal("-0.02")


def test_totals_are_not_known_when_one_price_is_missing() -> None:
    m = mirror()
    m.used_margin = Decimal("10")
    hold(m, "A", Side.BUY, "3", "10", None, "12")
    m.positions["O"] = Position("O", "O", Side.BUY, Decimal(1), Decimal(1))
    value = value_account(m)
    assert (value.unrealized_pnl, value.equity, value.free_margin, value.margin_level) == (None, None, None, None)
    assert value.used_margin == Decimal("10")


def test_the_margin_of_the_account_counts_when_no_position_has_its_own() -> None:
    m = mirror(cash="900")
    hold(m, "A", Side.BUY, "10", "10", None, "10")
    m.apply(Execution((AccountChanged(used_margin=Decimal("250")),)), NOW)
    value = value_account(m)
    assert (value.used_margin, value.free_margin, value.margin_level) == (Decimal(250), Decimal("750.00"), Decimal(400))


def test_the_margin_of_the_account_survives_a_rebuild_when_the_snapshot_says_none() -> None:
    m = mirror()
    snapshot = Snapshot(AccountChanged(currency="USD", used_margin=Decimal(7)), BalanceChanged(Decimal(1)), (), ())
    rebuild(m, snapshot, (), NOW)
    assert m.used_margin == Decimal(7)
    assert m.equity_rule is EquityRule.VALUE


def test_a_changed_cost_is_a_difference_when_reconciled() -> None:
    m = mirror()
    hold(m, "A", Side.BUY, "3", "33.33", "100", "33.34")
    changed = Position("A", "A", Side.BUY, Decimal(3), Decimal("33.33"), cost=Decimal("101"))
    snapshot = Snapshot(AccountChanged(), BalanceChanged(Decimal("1000.005")), (changed,), ())
    assert rebuild(m, snapshot, (), NOW) == [PositionChanged(changed, margin_known=False)]
    assert m.positions["A"].cost == Decimal(101)


def test_fills_are_kept_newest_last_and_bounded_when_noted() -> None:
    m = mirror()
    for number in range(REMEMBERED_FILLS + 5):
        m.note_fill(Fill(str(number), "o", "A", Side.BUY, Decimal(1), Decimal(1), NOW + number))
    assert [fill.execution_id for fill in m.fills] == [str(number) for number in range(5, REMEMBERED_FILLS + 5)]


def test_a_position_without_versions_may_be_held_anew_when_it_was_closed() -> None:
    m = mirror()
    held = Position("A", "A", Side.BUY, Decimal(1), Decimal(10))
    for _ in range(2):
        assert m.apply(Execution((PositionChanged(held),)), NOW)
        assert m.apply(Execution((PositionClosed("A"),)), NOW)
    assert not m.positions


@pytest.mark.parametrize("side", list(Side))
def test_one_unit_stands_for_a_hundred_when_the_instrument_says_so(side: Side) -> None:
    m = mirror(cash="0")
    hold(m, "O", side, "1", "2.00", None, "2.50")
    sign = 1 if side is Side.BUY else -1
    assert value_account(m).unrealized_pnl == sign * Decimal("50.00")
    assert value_account(m).equity == sign * Decimal("250.00")
