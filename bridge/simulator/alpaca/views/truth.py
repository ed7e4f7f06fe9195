"""What the broker itself believes of an account, in the record's field names (DESIGN §6).

Everything comes from the simulator's own ledger and rules. It must never use the mirror's arithmetic, or one mistake
would pass on both sides.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from bridge.simulator.alpaca.accounts.account import PAPER, Account
from bridge.simulator.alpaca.accounts.ledger import Holding
from bridge.simulator.alpaca.accounts.orders import Order, Status
from bridge.simulator.alpaca.numbers import CENT, EXACT, cents
from bridge.simulator.alpaca.trading.desk import Desk
from core.money import json_number

SHOWN = {
    Status.HELD: "held",
    Status.PENDING_CANCEL: "pending_cancel",
    Status.PENDING_REPLACE: "pending_replace",
    Status.PARTIALLY_FILLED: "partially_filled",
}


def truth_of(desk: Desk, account: Account) -> dict[str, Any]:
    """The record's money, positions and orders."""
    now = desk.figures(account)
    positions = [_position(desk, held) for held in account.ledger.holdings.values()]
    profit = sum((_profit(desk, held) for held in account.ledger.holdings.values()), Decimal(0))
    level = EXACT.divide(now.equity * 100, now.initial).quantize(CENT, context=EXACT) if now.initial else None
    return {
        "broker": "alpaca",
        "environment": "demo" if account.environment == PAPER else "live",
        "accountId": account.id,
        "login": account.number,
        "currency": account.currency,
        "moneyDigits": 2,
        "leverage": now.multiplier,
        "canTrade": account.can_trade,
        "balance": json_number(now.cash),
        "equity": json_number(now.equity),
        "unrealizedPnl": json_number(profit),
        "usedMargin": json_number(now.initial),
        "freeMargin": json_number(now.equity - now.initial),
        "marginLevel": json_number(level),
        "positions": positions,
        "orders": [_order(account, each) for each in account.open_orders.values() if each.ratio_qty is None],
    }


def _profit(desk: Desk, held: Holding) -> Decimal:
    return cents(held.value(desk.prices.last_of(held.asset)) - held.cost)


def _position(desk: Desk, held: Holding) -> dict[str, Any]:
    last = desk.prices.last_of(held.asset)
    return {
        "id": held.asset.id,
        "symbol": held.asset.symbol,
        "side": "buy" if held.qty > 0 else "sell",
        "units": json_number(abs(held.qty)),
        "lots": None,
        "priceDigits": held.asset.price_digits(last),
        "entryPrice": json_number(held.avg_entry_price),
        "currentPrice": json_number(last),
        "stopLoss": None,
        "takeProfit": None,
        "swap": 0,
        "commission": 0,
        "unrealizedPnl": json_number(_profit(desk, held)),
        "usedMargin": None,
        "openedAt": None,
    }


def _order(account: Account, order: Order) -> dict[str, Any]:
    legs = [account.orders[leg].asset for leg in order.legs]
    symbol = (
        order.asset.symbol if order.asset is not None else " + ".join(leg.symbol for leg in legs if leg is not None)
    )
    units = order.qty if order.qty is not None else order.filled_qty
    return {
        "id": order.id,
        "symbol": symbol,
        "side": order.side or "buy",
        "type": order.type,
        "units": json_number(units),
        "filledUnits": json_number(order.filled_qty),
        "limitPrice": json_number(order.limit_price),
        "stopPrice": json_number(order.stop_price),
        "stopLoss": None,
        "takeProfit": None,
        "status": SHOWN.get(order.status, "working"),
        "createdAt": order.created_ns // 1_000_000,
    }
