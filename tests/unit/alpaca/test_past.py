"""What executions made past may not come back by an answer that lags; anything else that is said is believed."""

from decimal import Decimal

import pytest

from bridge.brokers.alpaca.instruments import Assets
from bridge.brokers.alpaca.past import CASH, Past, picture
from core.account import AccountMirror
from core.events import Fill
from core.orders import Side
from core.positions import Position
from tests.unit.alpaca.documents import AAPL, a_mirror

LAG_S = 5.0
FILL = Fill("e1", "o1", AAPL, Side.BUY, Decimal(6), Decimal(100), 0, False)


def holding(units: int, cash: int) -> AccountMirror:
    mirror = a_mirror(Assets())
    set_to(mirror, units, cash)
    return mirror


def set_to(mirror: AccountMirror, units: int, cash: int) -> None:
    side = Side.BUY if units > 0 else Side.SELL
    mirror.positions = {} if not units else {AAPL: Position(AAPL, AAPL, side, Decimal(abs(units)), Decimal(100))}
    mirror.balance = Decimal(cash)


def said(units: int, cash: int) -> dict[str, Decimal]:
    return picture([Position(AAPL, AAPL, Side.BUY, Decimal(units), Decimal(1))] if units else [], Decimal(cash))


@pytest.mark.parametrize(
    ("units", "cash", "lags"),
    [
        (10, 400, False),
        (4, 400, True),
        (10, 1000, True),
        (4, 1000, True),
        (7, 400, False),
        (10, 407, False),  # a deposit of which no message told
        (10, 1007, True),  # the same, in an answer that lags
        (10, 993, True),
        (10, 700, False),
        (10, 940, False),  # more than a deposit may make of it
    ],
)
def test_answer_lags_when_it_shows_what_was_before_an_execution(units: int, cash: int, lags: bool) -> None:
    mirror, past = holding(4, 1000), Past(LAG_S)
    past.note(mirror, [FILL], 100.0)
    set_to(mirror, 10, 400)
    assert past.shown(said(units, cash), mirror, 101.0) is lags
    assert past.shown(said(units, cash), mirror, 104.9) is lags
    assert not past.shown(said(units, cash), mirror, 105.1), "later it is believed"


def test_answer_lags_when_the_first_execution_is_not_in_it() -> None:
    mirror, past = holding(0, 1000), Past(LAG_S)
    past.note(mirror, [FILL], 100.0)
    set_to(mirror, 6, 400)
    assert past.shown(said(0, 400), mirror, 101.0)
    assert not past.shown(said(6, 400), mirror, 101.0)


def test_answer_does_not_lag_when_the_execution_came_while_it_was_made() -> None:
    mirror, past = holding(4, 1000), Past(LAG_S)
    past.note(mirror, [FILL], 100.5)
    set_to(mirror, 10, 400)
    assert not past.shown(said(4, 1000), mirror, 100.0)


def test_answer_does_not_lag_when_what_was_before_has_come_back() -> None:
    mirror, past = holding(4, 1000), Past(LAG_S)
    past.note(mirror, [FILL], 100.0)
    set_to(mirror, 10, 400)
    past.note(mirror, [FILL], 100.5)
    set_to(mirror, 4, 1000)
    assert not past.shown(said(4, 1000), mirror, 101.0)
    assert past.shown(said(10, 400), mirror, 101.0)


def test_picture_has_shorts_as_negative_and_no_cash_when_none_is_told() -> None:
    short = Position(AAPL, AAPL, Side.SELL, Decimal(3), Decimal(1))
    assert picture([short, None], None) == {AAPL: Decimal(-3)}
    assert picture([], Decimal(5)) == {CASH: Decimal(5)}
