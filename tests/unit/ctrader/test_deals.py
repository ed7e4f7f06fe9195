"""Executions of an account: each once, bounded memory, and when some are owed."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.brokers.ctrader import normalize
from bridge.brokers.ctrader.deals import REMEMBERED_DEALS, DealBook
from core.errors import ProtocolViolation
from core.events import AccountChanged, BalanceChanged, Event, Fill, OrderGone, PositionClosed
from core.orders import Side
from protos.ctrader import model_pb2 as e

T = 1_732_341_600_000


def a_fill(number: int, at_ms: int = T, *, recovered: bool = False) -> Fill:
    return Fill(str(number), "9", "1", Side.BUY, Decimal(1000), Decimal("1.1"), at_ms, recovered)


def a_deal(**changes: object) -> e.ProtoOADeal:
    """4,000 of 10,000 EURUSD sold at an average of two levels."""
    deal = e.ProtoOADeal(
        dealId=11,
        orderId=9,
        positionId=7,
        volume=1_000_000,
        filledVolume=400_000,
        symbolId=1,
        createTimestamp=T,
        executionTimestamp=T + 7,
        executionPrice=1.084125,
        tradeSide=e.SELL,
        dealStatus=e.PARTIALLY_FILLED,
    )
    for name, value in changes.items():
        setattr(deal, name, value)
    return deal


# ---------------------------------------------------------------- one deal


def test_deal_becomes_a_fill_with_exact_units_price_and_its_own_time() -> None:
    fill = normalize.fill(a_deal(), recovered=False)
    assert fill == Fill("11", "9", "1", Side.SELL, Decimal(4000), Decimal("1.084125"), T + 7, recovered=False)
    assert normalize.fill(a_deal(tradeSide=e.BUY), recovered=True) == Fill(
        "11", "9", "1", Side.BUY, Decimal(4000), Decimal("1.084125"), T + 7, recovered=True
    )


@pytest.mark.parametrize("status", [e.REJECTED, e.INTERNALLY_REJECTED, e.ERROR, e.MISSED])
def test_no_fill_when_the_deal_executed_nothing(status: int) -> None:
    assert normalize.fill(a_deal(dealStatus=status), recovered=False) is None
    assert normalize.fill(a_deal(filledVolume=0), recovered=False) is None
    unpriced = a_deal()
    unpriced.ClearField("executionPrice")
    assert normalize.fill(unpriced, recovered=False) is None


@pytest.mark.parametrize(
    "absurd",
    [
        {"filledVolume": -1},
        {"executionPrice": float("nan")},
        {"executionPrice": -1.0},
        {"executionPrice": 0.0},
        {"executionTimestamp": 1},
    ],
)
def test_deal_is_refused_when_it_is_absurd(absurd: dict[str, object]) -> None:
    with pytest.raises(ProtocolViolation):
        normalize.fill(a_deal(**absurd), recovered=False)


# ---------------------------------------------------------------- once each


def test_fill_is_new_once_when_it_is_told_again_or_found_again() -> None:
    book = DealBook()
    assert book.note(a_fill(1))
    assert not book.note(a_fill(1))
    assert not book.note(a_fill(1, recovered=True))
    assert book.note(a_fill(2, recovered=True))
    assert not book.note(a_fill(2))


def test_found_fill_is_not_ours_when_it_happened_before_the_first_look() -> None:
    book = DealBook()
    book.compared((), None, T)
    assert not book.note(a_fill(1, T - 1, recovered=True))
    assert book.note(a_fill(2, T - 1))  # told live: the broker's clock may be behind
    assert book.note(a_fill(3, T, recovered=True))


@given(st.lists(st.integers(0, 3 * REMEMBERED_DEALS), max_size=4 * REMEMBERED_DEALS))
def test_nothing_is_noted_twice_when_more_is_told_than_remembered(numbers: list[int]) -> None:
    book = DealBook()
    noted = [number for number in numbers if book.note(a_fill(number, T + number))]
    assert len(noted) == len(set(noted))


def test_all_are_noted_when_they_come_in_their_order_however_many() -> None:
    book = DealBook()
    assert all(book.note(a_fill(number, T + number)) for number in range(5 * REMEMBERED_DEALS))
    assert not any(book.note(a_fill(number, T + number)) for number in range(5 * REMEMBERED_DEALS))
    assert len(book._known or ()) == REMEMBERED_DEALS


# ---------------------------------------------------------------- what is owed


@pytest.mark.parametrize("missing", [PositionClosed("7"), OrderGone("9"), BalanceChanged(Decimal(5), 3)])
def test_deals_are_owed_since_the_last_reading_when_something_was_missing(missing: Event) -> None:
    book = DealBook()
    book.compared((missing,), None, T)
    assert book.owed_since_ms is None  # the first reading: nothing was followed before it
    book.compared((), T, T + 10)
    assert book.owed_since_ms is None
    book.compared((missing,), T + 10, T + 20)
    assert book.owed_since_ms == T + 10
    book.compared((missing,), T + 20, T + 30)
    assert book.owed_since_ms == T + 10  # not settled yet: from the earlier one


def test_no_deals_are_owed_when_only_the_terms_of_the_account_changed() -> None:
    book = DealBook()
    book.compared((), None, T)
    book.compared((AccountChanged(leverage=Decimal(50)),), T, T + 10)
    assert book.owed_since_ms is None
