"""Broker messages to facts, by hand-worked messages: the eleven execution types, scales, and what must be refused."""

import math
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.brokers.ctrader import normalize
from bridge.brokers.ctrader.normalize import Scales
from core.account import AccountMirror
from core.errors import ProtocolViolation
from core.events import (
    AccountChanged,
    BalanceChanged,
    MarginChanged,
    OrderChanged,
    OrderGone,
    PositionChanged,
    PositionClosed,
    StopLossMoved,
)
from core.instruments import Catalogue
from core.orders import OrderStatus, OrderType, Side
from protos.ctrader import messages_pb2 as m
from protos.ctrader import model_pb2 as e

T = 1_732_341_600_000
DIGITS = {1: 5, 2: 3}
SCALES = Scales(2, DIGITS.get)


def a_position(**changes: object) -> e.ProtoOAPosition:
    """10,000 EURUSD bought at 1.0841; swap -0.12, commission -0.35, margin 120.00."""
    position = e.ProtoOAPosition(
        positionId=7,
        tradeData=e.ProtoOATradeData(symbolId=1, volume=1_000_000, tradeSide=e.BUY, openTimestamp=T),
        positionStatus=e.POSITION_STATUS_OPEN,
        swap=-12,
        price=1.0841,
        utcLastUpdateTimestamp=T + 5,
        commission=-35,
        usedMargin=12_000,
        moneyDigits=2,
    )
    for name, value in changes.items():
        setattr(position, name, value)
    return position


def an_order(kind: int = e.LIMIT, **changes: object) -> e.ProtoOAOrder:
    """10,000 EURUSD to sell at 1.1."""
    order = e.ProtoOAOrder(
        orderId=9,
        tradeData=e.ProtoOATradeData(symbolId=1, volume=1_000_000, tradeSide=e.SELL, openTimestamp=T),
        orderType=kind,
        orderStatus=e.ORDER_STATUS_ACCEPTED,
        utcLastUpdateTimestamp=T + 6,
        limitPrice=1.1,
        timeInForce=e.GOOD_TILL_CANCEL,
    )
    for name, value in changes.items():
        setattr(order, name, value)
    return order


def a_deal(**changes: object) -> e.ProtoOADeal:
    deal = e.ProtoOADeal(
        dealId=11,
        orderId=9,
        positionId=7,
        volume=1_000_000,
        filledVolume=1_000_000,
        symbolId=1,
        createTimestamp=T,
        executionTimestamp=T + 7,
        tradeSide=e.SELL,
        dealStatus=e.FILLED,
    )
    for name, value in changes.items():
        setattr(deal, name, value)
    return deal


def closing(balance: int = 1_234_567, version: int = 42, digits: int | None = 2) -> e.ProtoOAClosePositionDetail:
    detail = e.ProtoOAClosePositionDetail(
        entryPrice=1.0841, grossProfit=5400, swap=-12, commission=-70, balance=balance, balanceVersion=version
    )
    if digits is not None:
        detail.moneyDigits = digits
    return detail


def event(kind: int, **parts: object) -> m.ProtoOAExecutionEvent:
    return m.ProtoOAExecutionEvent(ctidTraderAccountId=1, executionType=kind, **parts)  # type: ignore[arg-type]


def facts(message: m.ProtoOAExecutionEvent) -> tuple[object, ...]:
    return normalize.execution(message, SCALES).events


# ---------------------------------------------------------------- scales


def test_position_is_scaled_when_everything_is_given() -> None:
    position = normalize.position(a_position(stopLoss=1.07, takeProfit=1.1), SCALES)
    assert position.id == "7"
    assert position.instrument_id == "1"
    assert position.side is Side.BUY
    assert position.units == 10_000
    assert position.entry_price == Decimal("1.0841")
    assert (position.stop_loss, position.take_profit) == (Decimal("1.07"), Decimal("1.1"))
    assert (position.swap, position.commission) == (Decimal("-0.12"), Decimal("-0.35"))
    assert position.used_margin == Decimal(120)
    assert (position.opened_at_ms, position.updated_at_ms) == (T, T + 5)


@pytest.mark.parametrize(
    ("digits", "swap", "margin"), [(0, -12, 12_000), (3, Decimal("-0.012"), 12), (8, -12e-8, None)]
)
def test_money_follows_the_digits_of_its_message_when_they_are_given(digits: int, swap: object, margin: object) -> None:
    position = normalize.position(a_position(moneyDigits=digits), SCALES)
    assert position.swap == Decimal(str(swap)) if digits == 8 else position.swap == swap
    if margin is not None:
        assert position.used_margin == margin


def test_money_follows_the_account_when_the_message_does_not_say() -> None:
    message = a_position()
    message.ClearField("moneyDigits")
    assert normalize.position(message, Scales(0, DIGITS.get)).swap == -12
    assert normalize.position(message, Scales(2, DIGITS.get)).swap == Decimal("-0.12")


@pytest.mark.parametrize("average", ["1.084105", "1.08458285714286"])
def test_entry_price_keeps_its_digits_when_it_is_an_average(average: str) -> None:
    position = normalize.position(a_position(price=float(average)), SCALES)
    assert position.entry_price == Decimal(average)


def test_stop_is_cut_to_the_symbol_digits_when_the_double_carries_noise() -> None:
    position = normalize.position(a_position(stopLoss=1.0700000000000003, takeProfit=0.0), SCALES)
    assert position.stop_loss == Decimal("1.07000")
    assert position.take_profit is None


def test_margin_is_unknown_when_the_message_has_none() -> None:
    message = a_position()
    message.ClearField("usedMargin")
    assert normalize.position(message, SCALES).used_margin is None
    change = facts(event(e.SWAP, position=message))[0]
    assert isinstance(change, PositionChanged)
    assert change.margin_known is False


# ---------------------------------------------------------------- the eleven execution types


@pytest.mark.parametrize(
    ("kind", "type_", "price"),
    [
        (e.LIMIT, OrderType.LIMIT, "limit"),
        (e.STOP, OrderType.STOP, "stop"),
        (e.STOP_LIMIT, OrderType.STOP_LIMIT, "both"),
    ],
)
def test_accepted_adds_a_working_order_when_it_is_pending(kind: int, type_: OrderType, price: str) -> None:
    order = an_order(kind, clientOrderId="mine", stopLoss=1.2, takeProfit=1.0)
    if price != "limit":
        order.stopPrice = 1.15
    change = facts(event(e.ORDER_ACCEPTED, order=order))[0]
    assert isinstance(change, OrderChanged)
    assert change.order.type is type_
    assert change.order.side is Side.SELL
    assert change.order.units == 10_000
    assert change.order.limit_price == Decimal("1.1")
    assert change.order.stop_price == (None if price == "limit" else Decimal("1.15"))
    assert (change.order.stop_loss, change.order.take_profit) == (Decimal("1.2"), Decimal(1))
    assert change.order.status is OrderStatus.WORKING
    assert change.order.client_order_id == "mine"
    assert (change.order.created_at_ms, change.order.updated_at_ms) == (T, T + 6)


def test_accepted_changes_nothing_when_it_is_a_market_order_with_a_created_position() -> None:
    created = a_position(positionStatus=e.POSITION_STATUS_CREATED)
    created.ClearField("price")
    assert facts(event(e.ORDER_ACCEPTED, order=an_order(e.MARKET, timeInForce=e.IMMEDIATE_OR_CANCEL))) == ()
    assert facts(event(e.ORDER_ACCEPTED, order=an_order(e.MARKET_RANGE), position=created)) == ()


def test_accepted_adds_no_order_when_it_closes_a_position() -> None:
    assert facts(event(e.ORDER_ACCEPTED, order=an_order(e.LIMIT, closingOrder=True))) == ()


def test_accepted_sets_protection_on_the_position_when_it_is_a_protection_order() -> None:
    order = an_order(e.STOP_LOSS_TAKE_PROFIT, positionId=7)
    changes = facts(event(e.ORDER_ACCEPTED, order=order, position=a_position(stopLoss=1.07)))
    assert len(changes) == 1
    assert isinstance(changes[0], PositionChanged)
    assert changes[0].position.stop_loss == Decimal("1.07")


def test_filled_removes_the_order_and_opens_the_position_when_complete() -> None:
    order = an_order(orderStatus=e.ORDER_STATUS_FILLED, executedVolume=1_000_000)
    execution = normalize.execution(event(e.ORDER_FILLED, order=order, deal=a_deal(), position=a_position()), SCALES)
    gone, opened = execution.events
    assert gone == OrderGone("9", T + 6)
    assert isinstance(opened, PositionChanged)
    assert opened.margin_known
    assert execution.urgent


def test_filled_closes_and_pays_when_the_deal_closes() -> None:
    deal = a_deal()
    deal.closePositionDetail.CopyFrom(closing())
    closed = a_position(positionStatus=e.POSITION_STATUS_CLOSED)
    changes = facts(event(e.ORDER_FILLED, order=an_order(e.MARKET, closingOrder=True), deal=deal, position=closed))
    assert changes == (PositionClosed("7", T + 5), BalanceChanged(Decimal("12345.67"), 42))


@pytest.mark.parametrize(("digits", "balance"), [(0, 1_234_567), (None, Decimal("12345.67")), (3, Decimal("1234.567"))])
def test_balance_follows_the_digits_of_the_closing_detail(digits: int | None, balance: object) -> None:
    deal = a_deal()
    deal.closePositionDetail.CopyFrom(closing(digits=digits))
    assert facts(event(e.ORDER_FILLED, deal=deal)) == (BalanceChanged(Decimal(balance), 42),)  # type: ignore[arg-type]


def test_filled_closes_the_position_when_its_volume_is_gone() -> None:
    empty = a_position()
    empty.tradeData.volume = 0
    assert facts(event(e.ORDER_FILLED, deal=a_deal(), position=empty)) == (PositionClosed("7", T + 5),)


def test_partial_fill_keeps_the_order_when_it_is_pending() -> None:
    order = an_order(executedVolume=400_000)
    change, opened = facts(event(e.ORDER_PARTIAL_FILL, order=order, deal=a_deal(), position=a_position()))
    assert isinstance(change, OrderChanged)
    assert change.order.filled_units == 4_000
    assert change.order.status is OrderStatus.PARTIALLY_FILLED
    assert isinstance(opened, PositionChanged)


def test_replaced_replaces_a_pending_order() -> None:
    change = facts(event(e.ORDER_REPLACED, order=an_order(limitPrice=1.2)))[0]
    assert isinstance(change, OrderChanged)
    assert change.order.limit_price == Decimal("1.2")


def test_replaced_moves_protection_when_it_is_a_protection_order() -> None:
    order = an_order(e.STOP_LOSS_TAKE_PROFIT, positionId=7)
    changes = facts(event(e.ORDER_REPLACED, order=order, position=a_position(takeProfit=1.2)))
    assert [type(change) for change in changes] == [PositionChanged]


def test_cancelled_removes_the_order() -> None:
    order = an_order(orderStatus=e.ORDER_STATUS_CANCELLED)
    assert facts(event(e.ORDER_CANCELLED, order=order)) == (OrderGone("9", T + 6),)


def test_cancelled_keeps_the_executed_part_when_the_rest_could_not_be_filled() -> None:
    order = an_order(orderStatus=e.ORDER_STATUS_CANCELLED, executedVolume=400_000)
    gone, opened = facts(event(e.ORDER_CANCELLED, order=order, position=a_position()))
    assert gone == OrderGone("9", T + 6)
    assert isinstance(opened, PositionChanged)


def test_cancelled_drops_protection_only_when_the_position_lives_on() -> None:
    order = an_order(e.STOP_LOSS_TAKE_PROFIT, orderStatus=e.ORDER_STATUS_CANCELLED, positionId=7)
    changes = facts(event(e.ORDER_CANCELLED, order=order, position=a_position()))
    assert [type(change) for change in changes] == [PositionChanged]
    closed = a_position(positionStatus=e.POSITION_STATUS_CLOSED)
    assert facts(event(e.ORDER_CANCELLED, order=order, position=closed)) == (PositionClosed("7", T + 5),)


def test_expired_and_rejected_remove_the_order() -> None:
    expired = an_order(orderStatus=e.ORDER_STATUS_EXPIRED)
    assert facts(event(e.ORDER_EXPIRED, order=expired)) == (OrderGone("9", T + 6),)
    rejected = an_order(orderStatus=e.ORDER_STATUS_REJECTED)
    message = event(e.ORDER_REJECTED, order=rejected, position=a_position(), errorCode="NOT_ENOUGH_MONEY")
    assert facts(message) == (OrderGone("9", T + 6),)


def test_cancel_rejected_changes_nothing() -> None:
    assert facts(event(e.ORDER_CANCEL_REJECTED, order=an_order(), position=a_position(), errorCode="X")) == ()


def test_swap_updates_the_position_when_there_is_no_order() -> None:
    change = facts(event(e.SWAP, position=a_position(swap=-99)))[0]
    assert isinstance(change, PositionChanged)
    assert change.position.swap == Decimal("-0.99")


def cash(**changes: object) -> e.ProtoOADepositWithdraw:
    message = e.ProtoOADepositWithdraw(
        operationType=e.BALANCE_DEPOSIT,
        balanceHistoryId=3,
        balance=100_500,
        delta=500,
        changeBalanceTimestamp=T,
        balanceVersion=8,
        moneyDigits=2,
    )
    for name, value in changes.items():
        setattr(message, name, value)
    return message


def test_deposit_sets_the_balance_and_is_urgent() -> None:
    execution = normalize.execution(event(e.DEPOSIT_WITHDRAW, depositWithdraw=cash()), SCALES)
    assert execution.events == (BalanceChanged(Decimal(1005), 8),)
    assert execution.urgent


def test_bonus_changes_nothing_of_the_mirror() -> None:
    bonus = e.ProtoOABonusDepositWithdraw(
        operationType=e.BONUS_DEPOSIT,
        bonusHistoryId=1,
        managerBonus=100,
        managerDelta=100,
        ibBonus=0,
        ibDelta=0,
        changeBonusTimestamp=T,
    )
    execution = normalize.execution(event(e.BONUS_DEPOSIT_WITHDRAW, bonusDepositWithdraw=bonus), SCALES)
    assert execution.events == ()
    assert execution.dedupe_key is None


# ---------------------------------------------------------------- other messages


def a_trader(**changes: object) -> e.ProtoOATrader:
    trader = e.ProtoOATrader(
        ctidTraderAccountId=1,
        balance=1_234_567,
        balanceVersion=5,
        depositAssetId=3,
        leverageInCents=10_000,
        traderLogin=5_001_234,
        moneyDigits=2,
    )
    for name, value in changes.items():
        setattr(trader, name, value)
    return trader


def test_trader_gives_settings_and_balance() -> None:
    account, balance = normalize.trader(a_trader(), "EUR", "Sim").events
    assert account == AccountChanged("EUR", 2, Decimal(100), True, "5001234", "Sim")
    assert balance == BalanceChanged(Decimal("12345.67"), 5)


@pytest.mark.parametrize("rights", [e.CLOSE_ONLY, e.NO_TRADING, e.NO_LOGIN])
def test_account_cannot_trade_when_its_rights_are_cut(rights: int) -> None:
    account = normalize.trader(a_trader(accessRights=rights), None, None).events[0]
    assert isinstance(account, AccountChanged)
    assert account.can_trade is False


def test_yen_balance_is_whole_when_the_account_has_no_digits() -> None:
    trader = a_trader(moneyDigits=0)
    assert normalize.trader(trader, "JPY", None).events[1] == BalanceChanged(Decimal(1_234_567), 5)


def test_snapshot_holds_open_positions_and_working_orders_only() -> None:
    content = m.ProtoOAReconcileRes(
        ctidTraderAccountId=1,
        position=[a_position(), a_position(positionId=8, positionStatus=e.POSITION_STATUS_CREATED)],
        order=[
            an_order(),
            an_order(e.STOP_LOSS_TAKE_PROFIT, orderId=10),
            an_order(e.STOP_LOSS_TAKE_PROFIT, orderId=11, timeInForce=e.MARKET_ON_OPEN),
            an_order(e.MARKET, orderId=12, closingOrder=True),
            an_order(e.MARKET, orderId=13, timeInForce=e.MARKET_ON_OPEN),
            an_order(e.STOP, orderId=14, executedVolume=1, stopPrice=1.0),
        ],
    )
    snapshot = normalize.snapshot(a_trader(), content, SCALES, "USD", "Sim")
    assert [position.id for position in snapshot.positions] == ["7"]
    assert [(order.id, order.type) for order in snapshot.orders] == [
        ("9", OrderType.LIMIT),
        ("13", OrderType.MARKET),
        ("14", OrderType.STOP),
    ]


def test_margin_and_trailing_stop_are_small_changes() -> None:
    margin = m.ProtoOAMarginChangedEvent(ctidTraderAccountId=1, positionId=7, usedMargin=999, moneyDigits=1)
    assert normalize.margin_changed(margin, SCALES).events == (MarginChanged("7", Decimal("99.9")),)
    trailing = m.ProtoOATrailingSLChangedEvent(
        ctidTraderAccountId=1, positionId=7, orderId=1, stopPrice=1.0800000000000001, utcLastUpdateTimestamp=T
    )
    assert normalize.trailing_stop_changed(trailing, 1, SCALES).events == (StopLossMoved("7", Decimal("1.08")),)


# ---------------------------------------------------------------- duplicates


def mirror() -> AccountMirror:
    return AccountMirror("demo", "1", Catalogue())


def test_message_is_applied_once_when_it_comes_twice() -> None:
    held = mirror()
    message = event(e.DEPOSIT_WITHDRAW, depositWithdraw=cash())
    assert held.apply(normalize.execution(message, SCALES), T)
    assert not held.apply(normalize.execution(message, SCALES), T)
    assert held.balance == 1005


def test_two_amendments_both_count_when_they_fall_into_one_millisecond() -> None:
    first = normalize.execution(event(e.ORDER_REPLACED, order=an_order(limitPrice=1.2)), SCALES)
    second = normalize.execution(event(e.ORDER_REPLACED, order=an_order(limitPrice=1.3)), SCALES)
    assert first.dedupe_key != second.dedupe_key
    held = mirror()
    held.apply(first, T)
    held.apply(second, T)
    assert held.orders["9"].limit_price == Decimal("1.3")


def test_fill_before_acceptance_ends_in_the_same_state_when_events_are_reordered() -> None:
    accepted = normalize.execution(event(e.ORDER_ACCEPTED, order=an_order(utcLastUpdateTimestamp=T)), SCALES)
    filled_order = an_order(orderStatus=e.ORDER_STATUS_FILLED, utcLastUpdateTimestamp=T + 9)
    filled = normalize.execution(
        event(e.ORDER_FILLED, order=filled_order, deal=a_deal(), position=a_position()), SCALES
    )
    held = mirror()
    held.apply(filled, T)
    held.apply(accepted, T)
    assert held.orders == {}
    assert list(held.positions) == ["7"]


# ---------------------------------------------------------------- the absurd

ABSURD = [
    pytest.param(event(e.SWAP, position=a_position(price=math.nan)), id="nan-price"),
    pytest.param(event(e.SWAP, position=a_position(price=math.inf)), id="infinite-price"),
    pytest.param(event(e.SWAP, position=a_position(price=-1.0)), id="negative-price"),
    pytest.param(event(e.SWAP, position=a_position(swap=10**18)), id="huge-money"),
    pytest.param(event(e.SWAP, position=a_position(moneyDigits=99)), id="absurd-digits"),
    pytest.param(event(e.SWAP, position=a_position(utcLastUpdateTimestamp=1)), id="1970"),
    pytest.param(event(e.SWAP, position=a_position(utcLastUpdateTimestamp=4_102_444_800_000)), id="2100"),
    pytest.param(event(e.ORDER_ACCEPTED, order=an_order(limitPrice=math.nan)), id="nan-limit"),
    pytest.param(event(e.ORDER_ACCEPTED, order=an_order(executedVolume=-5)), id="negative-filled"),
    pytest.param(event(e.DEPOSIT_WITHDRAW, depositWithdraw=cash(balance=-(10**17))), id="huge-balance"),
]


def _negative_volume() -> m.ProtoOAExecutionEvent:
    position = a_position()
    position.tradeData.volume = -100
    return event(e.SWAP, position=position)


@pytest.mark.parametrize("message", [*ABSURD, pytest.param(_negative_volume(), id="negative-volume")])
def test_message_is_refused_whole_when_a_value_is_absurd(message: m.ProtoOAExecutionEvent) -> None:
    with pytest.raises(ProtocolViolation):
        normalize.execution(message, SCALES)


def test_open_position_is_refused_when_it_has_no_price() -> None:
    message = a_position()
    message.ClearField("price")
    with pytest.raises(ProtocolViolation):
        normalize.position(message, SCALES)


@given(st.floats(), st.integers(-(2**63), 2**63 - 1), st.integers(-(2**63), 2**63 - 1))
def test_numbers_are_finite_and_bounded_when_the_broker_sends_anything(price: float, volume: int, money: int) -> None:
    message = a_position(price=price, swap=money)
    message.tradeData.volume = volume
    try:
        position = normalize.position(message, SCALES)
    except ProtocolViolation:
        return
    assert position.entry_price.is_finite()
    assert position.entry_price > 0
    assert float(position.entry_price) == pytest.approx(price, rel=1e-9, abs=1e-12)
    assert 0 <= position.units < 10**14
    assert abs(position.swap) < 10**15
