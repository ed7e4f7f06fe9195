"""Engine values to cTrader messages: scales, enums and required fields, and nothing else.

Scales (reference/ctrader.md §4.1): money in minor units with moneyDigits beside it, volume in 0.01 units, relative
distances in 1/100000, order and position prices as doubles.
"""

from __future__ import annotations

from decimal import Decimal

from bridge.simulator.ctrader.world import Account
from core.money import to_minor
from core.orders import OrderType, Side, TimeInForce
from core.paper_trader import (
    Access,
    AccountType,
    AccountView,
    Deal,
    MarginTotal,
    Order,
    OrderRole,
    OrderState,
    Position,
    PositionStatus,
    StopOutOrder,
)
from protos.ctrader import model_pb2 as o

SIDES = {Side.BUY: o.BUY, Side.SELL: o.SELL}
ORDER_TYPES = {
    OrderType.MARKET: o.MARKET,
    OrderType.LIMIT: o.LIMIT,
    OrderType.STOP: o.STOP,
    OrderType.STOP_LIMIT: o.STOP_LIMIT,
    OrderType.MARKET_RANGE: o.MARKET_RANGE,
}
TIMES_IN_FORCE = {
    TimeInForce.GTC: o.GOOD_TILL_CANCEL,
    TimeInForce.GTD: o.GOOD_TILL_DATE,
    TimeInForce.IOC: o.IMMEDIATE_OR_CANCEL,
    TimeInForce.FOK: o.FILL_OR_KILL,
}
ORDER_STATES = {
    OrderState.ACCEPTED: o.ORDER_STATUS_ACCEPTED,
    OrderState.FILLED: o.ORDER_STATUS_FILLED,
    OrderState.REJECTED: o.ORDER_STATUS_REJECTED,
    OrderState.EXPIRED: o.ORDER_STATUS_EXPIRED,
    OrderState.CANCELLED: o.ORDER_STATUS_CANCELLED,
}
POSITION_STATES = {
    PositionStatus.CREATED: o.POSITION_STATUS_CREATED,
    PositionStatus.OPEN: o.POSITION_STATUS_OPEN,
    PositionStatus.CLOSED: o.POSITION_STATUS_CLOSED,
}
ACCESS_RIGHTS = {
    Access.FULL: o.FULL_ACCESS,
    Access.CLOSE_ONLY: o.CLOSE_ONLY,
    Access.READ_ONLY: o.NO_TRADING,
    Access.DISABLED: o.NO_LOGIN,
}
ACCOUNT_TYPES = {AccountType.HEDGED: o.HEDGED, AccountType.NETTED: o.NETTED}
MARGIN_TOTALS = {MarginTotal.SUM: o.SUM, MarginTotal.MAX: o.MAX, MarginTotal.NET: o.NET}
STOP_OUT_ORDERS = {
    StopOutOrder.MOST_MARGIN_FIRST: o.MOST_MARGIN_USED_FIRST,
    StopOutOrder.MOST_LOSING_FIRST: o.MOST_LOSING_FIRST,
}


def volume(units: Decimal) -> int:
    """Units to 0.01 units."""
    return int(units * 100)


def price(value: Decimal | None) -> float | None:
    """A price as the double that travels."""
    return None if value is None else float(value)


def relative(distance: Decimal | None) -> int | None:
    """A price distance in 1/100000."""
    return None if distance is None else int(distance.scaleb(5))


def rate(value: Decimal | None) -> float | None:
    return None if value is None else float(value)


def trader(account: Account, view: AccountView) -> o.ProtoOATrader:
    """The trader entity of an account."""
    terms = view.settings
    digits = account.money_digits
    return o.ProtoOATrader(
        ctidTraderAccountId=account.id,
        balance=to_minor(view.balance, digits),
        balanceVersion=view.balance_version,
        managerBonus=to_minor(view.bonus, digits),
        ibBonus=0,
        nonWithdrawableBonus=0,
        accessRights=ACCESS_RIGHTS[terms.access],
        depositAssetId=account.server.assets[account.currency],
        swapFree=terms.swap_free,
        leverageInCents=int(terms.leverage * 100),
        totalMarginCalculationType=MARGIN_TOTALS[terms.margin_total],
        maxLeverage=500,
        frenchRisk=False,
        traderLogin=account.login,
        accountType=ACCOUNT_TYPES[terms.type],
        brokerName=account.server.rules.name,
        registrationTimestamp=account.registered_ms,
        isLimitedRisk=False,
        moneyDigits=digits,
        fairStopOut=False,
        stopOutStrategy=STOP_OUT_ORDERS[terms.stop_out_order],
    )


def position(account: Account, held: Position) -> o.ProtoOAPosition:
    digits = account.money_digits
    return o.ProtoOAPosition(
        positionId=held.id,
        tradeData=o.ProtoOATradeData(
            symbolId=int(held.instrument_id),
            volume=volume(held.units),
            tradeSide=SIDES[held.side],
            openTimestamp=held.opened_at_ms,
            label=held.label,
            guaranteedStopLoss=False,
            comment=held.comment,
            closeTimestamp=held.closed_at_ms,
        ),
        positionStatus=POSITION_STATES[held.status],
        swap=to_minor(held.swap, digits),
        price=price(held.entry_price),
        stopLoss=price(held.stop_loss),
        takeProfit=price(held.take_profit),
        utcLastUpdateTimestamp=held.updated_at_ms,
        commission=to_minor(held.commission, digits),
        marginRate=rate(held.margin_rate),
        mirroringCommission=0,
        guaranteedStopLoss=False,
        usedMargin=to_minor(held.used_margin, digits),
        moneyDigits=digits,
        trailingStopLoss=held.trailing_stop_loss,
    )


def order(placed: Order) -> o.ProtoOAOrder:
    protects = placed.role is OrderRole.PROTECTION
    return o.ProtoOAOrder(
        orderId=placed.id,
        tradeData=o.ProtoOATradeData(
            symbolId=int(placed.instrument_id),
            volume=volume(placed.units),
            tradeSide=SIDES[placed.side],
            openTimestamp=placed.created_at_ms,
            label=placed.label,
            guaranteedStopLoss=False,
            comment=placed.comment,
        ),
        orderType=o.STOP_LOSS_TAKE_PROFIT if protects else ORDER_TYPES[placed.type],
        orderStatus=ORDER_STATES[placed.state],
        expirationTimestamp=placed.expires_at_ms,
        executionPrice=price(placed.average_price),
        executedVolume=volume(placed.filled_units),
        utcLastUpdateTimestamp=placed.updated_at_ms,
        baseSlippagePrice=price(placed.base_price),
        slippageInPoints=placed.slippage_points,
        closingOrder=placed.role is not OrderRole.TRADE,
        limitPrice=price(placed.limit_price),
        stopPrice=price(placed.stop_price),
        stopLoss=price(placed.stop_loss),
        takeProfit=price(placed.take_profit),
        clientOrderId=placed.client_order_id,
        timeInForce=TIMES_IN_FORCE[placed.time_in_force],
        positionId=placed.position_id,
        relativeStopLoss=relative(placed.relative_stop_loss),
        relativeTakeProfit=relative(placed.relative_take_profit),
        isStopOut=placed.is_stop_out,
        trailingStopLoss=placed.trailing_stop_loss,
    )


def deal(account: Account, done: Deal) -> o.ProtoOADeal:
    digits = account.money_digits
    message = o.ProtoOADeal(
        dealId=done.id,
        orderId=done.order_id,
        positionId=done.position_id,
        volume=volume(done.units),
        filledVolume=volume(done.filled_units),
        symbolId=int(done.instrument_id),
        createTimestamp=done.created_at_ms,
        executionTimestamp=done.executed_at_ms,
        utcLastUpdateTimestamp=done.executed_at_ms,
        executionPrice=price(done.price),
        tradeSide=SIDES[done.side],
        dealStatus=o.FILLED if done.completes_order else o.PARTIALLY_FILLED,
        marginRate=rate(done.margin_rate),
        commission=to_minor(done.commission, digits),
        baseToUsdConversionRate=rate(done.base_to_usd_rate),
        moneyDigits=digits,
    )
    if done.close is not None:
        message.closePositionDetail.CopyFrom(
            o.ProtoOAClosePositionDetail(
                entryPrice=float(done.close.entry_price),
                grossProfit=to_minor(done.close.gross_profit, digits),
                swap=to_minor(done.close.swap, digits),
                commission=to_minor(done.close.commission, digits),
                balance=to_minor(done.close.balance, digits),
                quoteToDepositConversionRate=float(done.close.quote_to_deposit_rate),
                closedVolume=volume(done.close.closed_units),
                balanceVersion=done.close.balance_version,
                moneyDigits=digits,
                pnlConversionFee=0,
            )
        )
    return message
