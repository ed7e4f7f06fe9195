"""The account itself: trader, snapshot, margins, unrealized P&L, margin calls, leverage tiers.

Source: reference/ctrader.md §4.2 and §4.3. The snapshot holds open positions and working orders; protection orders
only on request, with the stop loss in stopPrice and the take profit in limitPrice.
"""

from __future__ import annotations

from decimal import Decimal

from google.protobuf.message import Message

from bridge.simulator.ctrader import translate
from bridge.simulator.ctrader.desk import margin_call
from bridge.simulator.ctrader.refusals import Refused
from bridge.simulator.ctrader.requests.call import Call, Handlers
from core.money import to_minor
from core.orders import Side
from protos.ctrader import messages_pb2 as m
from protos.ctrader import model_pb2 as o

# Leverage tiers by id; ProtoOASymbol.leverageId points here. Tier volumes are USD in cents, leverage in cents.
LEVERAGE_FOREX = 1
LEVERAGE_LIMITED = 2
UNLIMITED_VOLUME = 10**15


def trader(call: Call[m.ProtoOATraderReq]) -> Message:
    view = call.services.world.engine.account(call.account.key)
    return m.ProtoOATraderRes(ctidTraderAccountId=call.account.id, trader=translate.trader(call.account, view))


def reconcile(call: Call[m.ProtoOAReconcileReq]) -> Message:
    engine, account = call.services.world.engine, call.account
    orders = engine.orders(account.key, protections=call.request.returnProtectionOrders)
    return m.ProtoOAReconcileRes(
        ctidTraderAccountId=account.id,
        position=[translate.position(account, held) for held in engine.positions(account.key)],
        order=[translate.order(placed) for placed in orders],
    )


def expected_margin(call: Call[m.ProtoOAExpectedMarginReq]) -> Message:
    account = call.account
    symbol = account.server.symbols.get(call.request.symbolId)
    if symbol is None:
        raise Refused("SYMBOL_NOT_FOUND", f"Symbol not found with id {call.request.symbolId}", account_id=account.id)
    margins = []
    for raw in call.request.volume:
        sides = [
            call.services.world.engine.expected_margin(account.key, symbol.instrument_id, Decimal(raw) / 100, side)
            for side in (Side.BUY, Side.SELL)
        ]
        if sides[0] is None or sides[1] is None:
            raise Refused("NO_QUOTES", "No quotes", account_id=account.id)
        buy, sell = (to_minor(margin, account.money_digits) for margin in sides if margin is not None)
        margins.append(o.ProtoOAExpectedMargin(volume=raw, buyMargin=buy, sellMargin=sell))
    return m.ProtoOAExpectedMarginRes(ctidTraderAccountId=account.id, margin=margins, moneyDigits=account.money_digits)


def unrealized_pnl(call: Call[m.ProtoOAGetPositionUnrealizedPnLReq]) -> Message:
    account = call.account
    truth = call.services.world.engine.account_truth(account.key)
    digits = account.money_digits
    return m.ProtoOAGetPositionUnrealizedPnLRes(
        ctidTraderAccountId=account.id,
        positionUnrealizedPnL=[
            o.ProtoOAPositionUnrealizedPnL(
                positionId=each.position.id,
                grossUnrealizedPnL=to_minor(each.gross_pnl, digits),
                netUnrealizedPnL=to_minor(each.unrealized_pnl, digits),
            )
            for each in truth.positions
            if each.gross_pnl is not None and each.unrealized_pnl is not None
        ],
        moneyDigits=digits,
    )


def margin_calls(call: Call[m.ProtoOAMarginCallListReq]) -> Message:
    levels = call.services.world.engine.account(call.account.key).settings.margin_call_levels
    return m.ProtoOAMarginCallListRes(
        marginCall=[margin_call(index, float(level), call.account.registered_ms) for index, level in enumerate(levels)]
    )


def update_margin_call(call: Call[m.ProtoOAMarginCallUpdateReq]) -> None:
    account, engine = call.account, call.services.world.engine
    wanted = call.request.marginCall
    levels = list(engine.account(account.key).settings.margin_call_levels)
    index = wanted.marginCallType - o.MARGIN_LEVEL_THRESHOLD_1
    levels[index] = Decimal(str(wanted.marginLevelThreshold))
    events = engine.change_account(account.key, call.now_ms, margin_call_levels=tuple(levels))
    call.reply(m.ProtoOAMarginCallUpdateRes())
    update = m.ProtoOAMarginCallUpdateEvent(
        ctidTraderAccountId=account.id, marginCall=margin_call(index, wanted.marginLevelThreshold, call.now_ms)
    )
    call.services.hub.publish(account.id, update)
    call.services.desk.deliver(events)


def dynamic_leverage(call: Call[m.ProtoOAGetDynamicLeverageByIDReq]) -> Message:
    limits = {symbol.terms.max_leverage for symbol in call.account.server.symbols.values() if symbol.terms.max_leverage}
    leverage = {LEVERAGE_FOREX: 500} | {LEVERAGE_LIMITED + limit: limit for limit in limits}
    found = leverage.get(call.request.leverageId)
    if found is None:
        raise Refused("ENTITY_NOT_FOUND", f"Leverage not found with id {call.request.leverageId}")
    return m.ProtoOAGetDynamicLeverageByIDRes(
        ctidTraderAccountId=call.account.id,
        leverage=o.ProtoOADynamicLeverage(
            leverageId=call.request.leverageId,
            tiers=[o.ProtoOADynamicLeverageTier(volume=UNLIMITED_VOLUME, leverage=found * 100)],
        ),
    )


def leverage_id(max_leverage: int | None) -> int:
    """The tier list of a symbol with that cap."""
    return LEVERAGE_FOREX if max_leverage is None else LEVERAGE_LIMITED + max_leverage


HANDLERS: Handlers = {
    o.PROTO_OA_TRADER_REQ: trader,
    o.PROTO_OA_RECONCILE_REQ: reconcile,
    o.PROTO_OA_EXPECTED_MARGIN_REQ: expected_margin,
    o.PROTO_OA_GET_POSITION_UNREALIZED_PNL_REQ: unrealized_pnl,
    o.PROTO_OA_MARGIN_CALL_LIST_REQ: margin_calls,
    o.PROTO_OA_MARGIN_CALL_UPDATE_REQ: update_margin_call,
    o.PROTO_OA_GET_DYNAMIC_LEVERAGE_REQ: dynamic_leverage,
}
