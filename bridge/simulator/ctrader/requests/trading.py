"""Orders for real: new order, cancel, amend, amend stop loss and take profit, close.

None of the five has an answer of its own: the engine's events are the answer, the first of them with the request's
clientMsgId; a refusal is an order error event (reference/ctrader.md §3, §4.3). The rules checked here are those of the
cTrader API itself; volumes, stops, money and market state are the engine's business.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from google.protobuf.message import Message

from bridge.simulator.ctrader.catalogue import ListedSymbol
from bridge.simulator.ctrader.refusals import OrderRefused
from bridge.simulator.ctrader.requests.call import Call, Handlers
from core.orders import OrderType, Side, TimeInForce
from core.paper_trader import KEEP, Event, OrderChanges, OrderRequest
from protos.ctrader import messages_pb2 as m
from protos.ctrader import model_pb2 as o

ORDER_TYPES = {
    o.MARKET: OrderType.MARKET,
    o.LIMIT: OrderType.LIMIT,
    o.STOP: OrderType.STOP,
    o.STOP_LIMIT: OrderType.STOP_LIMIT,
    o.MARKET_RANGE: OrderType.MARKET_RANGE,
}
TIMES_IN_FORCE = {
    o.GOOD_TILL_DATE: TimeInForce.GTD,
    o.GOOD_TILL_CANCEL: TimeInForce.GTC,
    o.IMMEDIATE_OR_CANCEL: TimeInForce.IOC,
    o.FILL_OR_KILL: TimeInForce.FOK,
}
_IMMEDIATE = (OrderType.MARKET, OrderType.MARKET_RANGE)
LARGEST_PRICE = 10**9
_TEXT_LIMITS = {"comment": 512, "label": 100, "clientOrderId": 50}


def new_order(call: Call[m.ProtoOANewOrderReq]) -> None:
    request, account = call.request, call.account
    _may_trade(call)
    symbol = account.server.symbols.get(request.symbolId)
    if symbol is None:
        raise OrderRefused("SYMBOL_NOT_FOUND", f"Symbol not found with id {request.symbolId}", account.id)
    order_type = ORDER_TYPES.get(request.orderType)
    if order_type is None:
        raise _invalid(call, "Order type is not allowed")
    if order_type in _IMMEDIATE and (request.HasField("stopLoss") or request.HasField("takeProfit")):
        raise _invalid(call, "SL/TP in absolute values are allowed only for order types: [LIMIT, STOP, STOP_LIMIT]")
    for field, limit in _TEXT_LIMITS.items():
        if len(getattr(request, field)) > limit:
            raise _invalid(call, f"{field} is longer than {limit}")
    wanted = OrderRequest(
        instrument_id=symbol.instrument_id,
        side=Side.BUY if request.tradeSide == o.BUY else Side.SELL,
        type=order_type,
        units=Decimal(request.volume) / 100,
        time_in_force=_time_in_force(call, order_type),
        limit_price=_price(call, symbol, "limitPrice"),
        stop_price=_price(call, symbol, "stopPrice"),
        base_price=_price(call, symbol, "baseSlippagePrice"),
        slippage_points=request.slippageInPoints if request.HasField("slippageInPoints") else None,
        expires_at_ms=request.expirationTimestamp or None,
        stop_loss=_price(call, symbol, "stopLoss"),
        take_profit=_price(call, symbol, "takeProfit"),
        relative_stop_loss=_relative(call, symbol, "relativeStopLoss", "stop loss"),
        relative_take_profit=_relative(call, symbol, "relativeTakeProfit", "take profit"),
        trailing_stop_loss=request.trailingStopLoss,
        position_id=request.positionId or None,
        client_order_id=request.clientOrderId or None,
        label=request.label or None,
        comment=request.comment or None,
    )
    _deliver(call, call.services.world.engine.place(account.key, wanted, call.now_ms))


def cancel_order(call: Call[m.ProtoOACancelOrderReq]) -> None:
    _may_trade(call)
    _deliver(call, call.services.world.engine.cancel(call.account.key, call.request.orderId, call.now_ms))


def amend_order(call: Call[m.ProtoOAAmendOrderReq]) -> None:
    """Fields left out stay as they are."""
    request, account, engine = call.request, call.account, call.services.world.engine
    _may_trade(call)
    order = engine.find_order(account.key, request.orderId)
    if order is None:
        raise OrderRefused(
            "ORDER_NOT_FOUND", f"Order not found with id {request.orderId}", account.id, order_id=request.orderId
        )
    symbol = call.services.world.symbol(account, order.instrument_id)
    given: dict[str, Any] = {}
    if request.HasField("volume"):
        given["units"] = Decimal(request.volume) / 100
    if request.HasField("slippageInPoints"):
        given["slippage_points"] = request.slippageInPoints
    if request.HasField("expirationTimestamp"):
        given["expires_at_ms"] = request.expirationTimestamp or None
    if request.HasField("trailingStopLoss"):
        given["trailing_stop_loss"] = request.trailingStopLoss
    prices = {
        "limit_price": _price(call, symbol, "limitPrice"),
        "stop_price": _price(call, symbol, "stopPrice"),
        "stop_loss": _price(call, symbol, "stopLoss"),
        "take_profit": _price(call, symbol, "takeProfit"),
        "relative_stop_loss": _relative(call, symbol, "relativeStopLoss", "stop loss"),
        "relative_take_profit": _relative(call, symbol, "relativeTakeProfit", "take profit"),
    }
    given |= {name: KEEP if price is None else price for name, price in prices.items()}
    _deliver(call, engine.amend(account.key, request.orderId, OrderChanges(**given), call.now_ms))


def amend_position(call: Call[m.ProtoOAAmendPositionSLTPReq]) -> None:
    """Full replacement: a leg left out is removed."""
    request, account, engine = call.request, call.account, call.services.world.engine
    _may_trade(call)
    held = next((each for each in engine.positions(account.key) if each.id == request.positionId), None)
    if held is None:
        raise OrderRefused(
            "POSITION_NOT_FOUND",
            f"Position not found with id {request.positionId}",
            account.id,
            position_id=request.positionId,
        )
    symbol = call.services.world.symbol(account, held.instrument_id)
    stop_loss, take_profit = _price(call, symbol, "stopLoss"), _price(call, symbol, "takeProfit")
    if {stop_loss, take_profit, held.stop_loss, held.take_profit} == {None}:
        raise _invalid(call, "Nothing to amend.")
    events = engine.protect(
        account.key,
        request.positionId,
        call.now_ms,
        stop_loss=stop_loss,
        take_profit=take_profit,
        trailing_stop_loss=request.trailingStopLoss,
    )
    _deliver(call, events)


def close_position(call: Call[m.ProtoOAClosePositionReq]) -> None:
    _may_trade(call)
    units = Decimal(call.request.volume) / 100
    events = call.services.world.engine.close(call.account.key, call.request.positionId, units, call.now_ms)
    _deliver(call, events)


def _deliver(call: Call[Message], events: list[Event]) -> None:
    call.services.desk.deliver(events, call.connection, call.client_msg_id, call.account.id)


def _may_trade(call: Call[Message]) -> None:
    if not call.authorisation.trade:
        raise OrderRefused("TRADING_NOT_ALLOWED", "Trading is not allowed by the token's scope", call.account.id)


def _invalid(call: Call[Message], text: str) -> OrderRefused:
    return OrderRefused("INVALID_REQUEST", text, call.account.id)


def _time_in_force(call: Call[m.ProtoOANewOrderReq], order_type: OrderType) -> TimeInForce:
    """Market orders take IOC unless FOK is asked for, whatever the request's default says."""
    wanted = TIMES_IN_FORCE.get(call.request.timeInForce)
    if wanted is None:
        raise _invalid(call, "Time in force is not supported")
    if order_type in _IMMEDIATE:
        return TimeInForce.FOK if wanted is TimeInForce.FOK else TimeInForce.IOC
    return wanted


def _price(call: Call[Any], symbol: ListedSymbol, field: str) -> Decimal | None:
    """An absolute price without float noise, None when absent. Raises OrderRefused for too many digits."""
    if not call.request.HasField(field):
        return None
    value = Decimal(repr(getattr(call.request, field)))
    digits = symbol.terms.digits
    if not value.is_finite() or abs(value) > LARGEST_PRICE:
        raise _invalid(call, f"Order price = {value} is out of range")
    if value != round(value, digits):
        raise _invalid(call, f"Order price = {value} has more digits than symbol allows. Allowed {digits} digits")
    return value


def _relative(call: Call[Any], symbol: ListedSymbol, field: str, name: str) -> Decimal | None:
    """A distance in 1/100000 as a price distance, None when absent. Raises OrderRefused for too many digits."""
    if not call.request.HasField(field):
        return None
    raw = getattr(call.request, field)
    if raw <= 0 or raw % 10 ** (5 - symbol.terms.digits):
        raise _invalid(call, f"Relative {name} has invalid precision")
    return Decimal(raw).scaleb(-5)


HANDLERS: Handlers = {
    o.PROTO_OA_NEW_ORDER_REQ: new_order,
    o.PROTO_OA_CANCEL_ORDER_REQ: cancel_order,
    o.PROTO_OA_AMEND_ORDER_REQ: amend_order,
    o.PROTO_OA_AMEND_POSITION_SLTP_REQ: amend_position,
    o.PROTO_OA_CLOSE_POSITION_REQ: close_position,
}
