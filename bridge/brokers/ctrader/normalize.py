"""Broker messages to our facts. Pure functions: same message, same result.

Scales are those of reference/ctrader.md §4.1, the meaning of the eleven execution types of §4.3. Anything absurd (a
negative volume, a price that is no number, a time in 1970) raises ProtocolViolation: the message is then not used at
all and its account reconciles. Protection orders show as the position's stop loss and take profit, never as orders.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, Context, Decimal

from core.account import Snapshot
from core.errors import ProtocolViolation
from core.events import (
    AccountChanged,
    BalanceChanged,
    Event,
    Execution,
    Fill,
    MarginChanged,
    OrderChanged,
    OrderGone,
    PositionChanged,
    PositionClosed,
    StopLossMoved,
)
from core.money import from_minor
from core.orders import Order, OrderStatus, OrderType, Side
from core.positions import Position
from protos.ctrader import messages_pb2, model_pb2

EARLIEST_MS = 946_684_800_000  # 2000-01-01
LATEST_MS = 4_102_444_800_000  # 2100-01-01
MAX_RAW_VOLUME = 10**15
MAX_PRICE = 1e9
DEFAULT_MONEY_DIGITS = 2
_PRICE_CONTEXT = Context(prec=34, rounding=ROUND_HALF_EVEN)

_ORDER_TYPES = {
    model_pb2.MARKET: OrderType.MARKET,
    model_pb2.LIMIT: OrderType.LIMIT,
    model_pb2.STOP: OrderType.STOP,
    model_pb2.MARKET_RANGE: OrderType.MARKET_RANGE,
    model_pb2.STOP_LIMIT: OrderType.STOP_LIMIT,
}
_PENDING_TYPES = frozenset({model_pb2.LIMIT, model_pb2.STOP, model_pb2.STOP_LIMIT})
_FILLS = frozenset({model_pb2.ORDER_FILLED, model_pb2.ORDER_PARTIAL_FILL})
_STAYS = frozenset({model_pb2.ORDER_ACCEPTED, model_pb2.ORDER_REPLACED, model_pb2.ORDER_PARTIAL_FILL})
_ENDS = frozenset(
    {model_pb2.ORDER_FILLED, model_pb2.ORDER_CANCELLED, model_pb2.ORDER_EXPIRED, model_pb2.ORDER_REJECTED}
)
_EXECUTED = frozenset({model_pb2.FILLED, model_pb2.PARTIALLY_FILLED})
_NO_POSITION = frozenset({model_pb2.ORDER_REJECTED, model_pb2.ORDER_CANCEL_REJECTED})


@dataclass(frozen=True, slots=True)
class Scales:
    """What a message may leave unsaid: the account's money digits, and the price digits of a symbol (None unknown)."""

    money_digits: int
    price_digits: Callable[[int], int | None]


# ---------------------------------------------------------------- whole messages


def execution(event: messages_pb2.ProtoOAExecutionEvent, scales: Scales) -> Execution:
    """What one execution event changes (ctrader.md §4.3)."""
    kind = event.executionType
    events: list[Event] = []
    at_ms = _event_time(event)
    if event.HasField("order"):
        events.extend(_order_events(kind, event.order, scales, at_ms))
    if event.HasField("position") and kind not in _NO_POSITION:
        events.extend(_position_events(event.position, scales, at_ms))
    balance = _balance(event, scales)
    if balance is not None:
        events.append(balance)
    urgent = kind in _FILLS or balance is not None
    return Execution(tuple(events), _dedupe_key(event, at_ms) if events else None, urgent)


def trader(message: model_pb2.ProtoOATrader, currency: str | None, broker_title: str | None) -> Execution:
    """Account settings and balance of a trader entity. `currency` is the name of its deposit asset, if known."""
    digits = money_digits(message)
    account = AccountChanged(
        currency=currency,
        money_digits=digits,
        leverage=Decimal(message.leverageInCents).scaleb(-2) if message.HasField("leverageInCents") else None,
        can_trade=message.accessRights == model_pb2.FULL_ACCESS,
        login=str(message.traderLogin) if message.HasField("traderLogin") else None,
        broker_title=broker_title,
    )
    version = message.balanceVersion if message.HasField("balanceVersion") else None
    return Execution((account, BalanceChanged(from_minor(message.balance, digits), version)), urgent=True)


def snapshot(
    message: model_pb2.ProtoOATrader,
    reconcile: messages_pb2.ProtoOAReconcileRes,
    scales: Scales,
    currency: str | None,
    broker_title: str | None,
) -> Snapshot:
    """One complete reading of an account."""
    account, balance = trader(message, currency, broker_title).events
    if not isinstance(account, AccountChanged) or not isinstance(balance, BalanceChanged):
        raise ProtocolViolation("trader entity without account or balance")
    positions = tuple(position(one, scales) for one in reconcile.position if _is_open(one))
    orders = tuple(order(one, scales) for one in reconcile.order if is_working(one))
    return Snapshot(account, balance, positions, orders)


def margin_changed(message: messages_pb2.ProtoOAMarginChangedEvent, scales: Scales) -> Execution:
    digits = message.moneyDigits if message.HasField("moneyDigits") else scales.money_digits
    return Execution((MarginChanged(str(message.positionId), from_minor(message.usedMargin, digits)),))


def trailing_stop_changed(
    message: messages_pb2.ProtoOATrailingSLChangedEvent, symbol_id: int | None, scales: Scales
) -> Execution:
    """The broker moved a trailing stop; `symbol_id` of the position, for its price digits."""
    _time(message.utcLastUpdateTimestamp)
    digits = None if symbol_id is None else scales.price_digits(symbol_id)
    return Execution((StopLossMoved(str(message.positionId), _price(message.stopPrice, digits)),))


# ---------------------------------------------------------------- entities


def position(message: model_pb2.ProtoOAPosition, scales: Scales) -> Position:
    """An open position. Its entry price is an average and keeps the digits that the broker sends."""
    data = message.tradeData
    digits = message.moneyDigits if message.HasField("moneyDigits") else scales.money_digits
    price_digits = scales.price_digits(data.symbolId)
    if not message.HasField("price"):
        raise ProtocolViolation("open position without a price")
    return Position(
        id=str(message.positionId),
        instrument_id=str(data.symbolId),
        side=_side(data.tradeSide),
        units=units(data.volume),
        entry_price=_price(message.price, None),
        stop_loss=_optional_price(message.stopLoss, price_digits),
        take_profit=_optional_price(message.takeProfit, price_digits),
        swap=from_minor(message.swap, digits),
        commission=from_minor(message.commission, digits),
        used_margin=from_minor(message.usedMargin, digits) if message.HasField("usedMargin") else None,
        opened_at_ms=_time(data.openTimestamp) or None,
        updated_at_ms=_time(message.utcLastUpdateTimestamp),
    )


def order(message: model_pb2.ProtoOAOrder, scales: Scales) -> Order:
    """A working order."""
    data = message.tradeData
    digits = scales.price_digits(data.symbolId)
    filled = units(message.executedVolume)
    return Order(
        id=str(message.orderId),
        instrument_id=str(data.symbolId),
        side=_side(data.tradeSide),
        type=_ORDER_TYPES[message.orderType],
        units=units(data.volume),
        filled_units=filled,
        limit_price=_optional_price(message.limitPrice, digits),
        stop_price=_optional_price(message.stopPrice, digits),
        stop_loss=_optional_price(message.stopLoss, digits),
        take_profit=_optional_price(message.takeProfit, digits),
        status=OrderStatus.PARTIALLY_FILLED if filled else OrderStatus.WORKING,
        created_at_ms=_time(data.openTimestamp) or None,
        updated_at_ms=_time(message.utcLastUpdateTimestamp),
        client_order_id=_text(message.clientOrderId),
    )


def fill(message: model_pb2.ProtoOADeal, *, recovered: bool) -> Fill | None:
    """What a deal executed; None when it executed nothing or names no price. Its price may be an average over several
    levels and keeps the digits that the broker sends."""
    if message.dealStatus not in _EXECUTED or not message.filledVolume or not message.HasField("executionPrice"):
        return None
    return Fill(
        execution_id=str(message.dealId),
        order_id=str(message.orderId),
        instrument_id=str(message.symbolId),
        side=_side(message.tradeSide),
        units=units(message.filledVolume),
        price=_price(message.executionPrice, None),
        at_ms=_time(message.executionTimestamp),
        recovered=recovered,
    )


def is_working(message: model_pb2.ProtoOAOrder) -> bool:
    """True for orders that wait in the book: not protection, not closing, not a market order on its way."""
    return message.orderStatus == model_pb2.ORDER_STATUS_ACCEPTED and _may_work(message)


def units(raw_volume: int) -> Decimal:
    """Hundredths of a unit to units."""
    if not 0 <= raw_volume <= MAX_RAW_VOLUME:
        raise ProtocolViolation("volume out of range")
    return Decimal(raw_volume).scaleb(-2)


def money_digits(message: model_pb2.ProtoOATrader) -> int:
    """Digits of a trader's money; two when the broker does not say (ctrader.md §4.1)."""
    return message.moneyDigits if message.HasField("moneyDigits") else DEFAULT_MONEY_DIGITS


def no_digits(_: int) -> int | None:
    """The price digits of any symbol while nothing is described."""
    return None


def product(message: model_pb2.ProtoOATrader) -> str:
    """What a trader entity says of terms that brokers price differently; equal for accounts of one product."""
    return f"{message.accountType}.{int(message.swapFree)}.{int(message.isLimitedRisk)}"


# ---------------------------------------------------------------- parts of an execution event


def _order_events(kind: int, message: model_pb2.ProtoOAOrder, scales: Scales, at_ms: int) -> list[Event]:
    if not _may_work(message):
        return []
    if kind in _ENDS:
        return [OrderGone(str(message.orderId), _time(message.utcLastUpdateTimestamp) or at_ms)]
    if kind in _STAYS and message.orderStatus == model_pb2.ORDER_STATUS_ACCEPTED:
        return [OrderChanged(order(message, scales))]
    return []


def _may_work(message: model_pb2.ProtoOAOrder) -> bool:
    if message.orderType == model_pb2.STOP_LOSS_TAKE_PROFIT or message.closingOrder:
        return False
    return message.orderType in _PENDING_TYPES or message.timeInForce == model_pb2.MARKET_ON_OPEN


def _position_events(message: model_pb2.ProtoOAPosition, scales: Scales, at_ms: int) -> list[Event]:
    if _is_open(message):
        return [PositionChanged(position(message, scales), margin_known=message.HasField("usedMargin"))]
    closed = message.positionStatus == model_pb2.POSITION_STATUS_CLOSED
    if closed or (message.positionStatus == model_pb2.POSITION_STATUS_OPEN and message.tradeData.volume == 0):
        return [PositionClosed(str(message.positionId), _time(message.utcLastUpdateTimestamp) or at_ms)]
    return []  # created but not filled, or failed: nothing is open


def _is_open(message: model_pb2.ProtoOAPosition) -> bool:
    return message.positionStatus == model_pb2.POSITION_STATUS_OPEN and message.tradeData.volume != 0


def _balance(event: messages_pb2.ProtoOAExecutionEvent, scales: Scales) -> BalanceChanged | None:
    if event.HasField("deal") and event.deal.HasField("closePositionDetail"):
        closed = event.deal.closePositionDetail
        digits = closed.moneyDigits if closed.HasField("moneyDigits") else scales.money_digits
        version = closed.balanceVersion if closed.HasField("balanceVersion") else None
        return BalanceChanged(from_minor(closed.balance, digits), version)
    if event.HasField("depositWithdraw"):
        cash = event.depositWithdraw
        digits = cash.moneyDigits if cash.HasField("moneyDigits") else scales.money_digits
        version = cash.balanceVersion if cash.HasField("balanceVersion") else None
        return BalanceChanged(from_minor(cash.balance, digits), version)
    return None


def _event_time(event: messages_pb2.ProtoOAExecutionEvent) -> int:
    if event.HasField("deal"):
        return _time(event.deal.executionTimestamp)
    if event.HasField("order"):
        return _time(event.order.utcLastUpdateTimestamp)
    if event.HasField("depositWithdraw"):
        return _time(event.depositWithdraw.changeBalanceTimestamp)
    return _time(event.position.utcLastUpdateTimestamp) if event.HasField("position") else 0


def _dedupe_key(event: messages_pb2.ProtoOAExecutionEvent, at_ms: int) -> str:
    """The same message has the same key. Two amendments within a millisecond differ in their content."""
    subject = event.deal.dealId if event.HasField("deal") else event.order.orderId
    content = zlib.crc32(event.SerializeToString(deterministic=True))
    return f"{event.executionType}.{subject}.{at_ms}.{content:x}"


# ---------------------------------------------------------------- values


def _side(value: int) -> Side:
    return Side.BUY if value == model_pb2.BUY else Side.SELL


def _time(value_ms: int) -> int:
    """A time in Unix ms; 0 means that none was given."""
    if value_ms != 0 and not EARLIEST_MS <= value_ms < LATEST_MS:
        raise ProtocolViolation("time out of range")
    return value_ms


def _price(value: float, digits: int | None) -> Decimal:
    """An absolute price as the shortest decimal that means the same double; with `digits`, without noise past them.

    An average (`digits` None) may have any number of decimals: it is taken as it is.
    """
    if not math.isfinite(value) or not 0 < value < MAX_PRICE:
        raise ProtocolViolation("price out of range")
    price = Decimal(repr(value))
    exponent = price.as_tuple().exponent
    if digits is not None and isinstance(exponent, int) and -exponent > digits:
        price = price.quantize(Decimal(1).scaleb(-digits), context=_PRICE_CONTEXT)
        if not price:
            raise ProtocolViolation("price too small to be one")
    return price


def _optional_price(value: float, digits: int | None) -> Decimal | None:
    """Absent reads as 0, and a present 0 means none too."""
    return None if value == 0 else _price(value, digits)


def _text(value: str | bytes) -> str | None:
    return value if isinstance(value, str) and value else None
