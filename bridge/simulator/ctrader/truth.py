"""What the broker itself believes of an account, in the record's field names (DESIGN §6).

Everything comes from the engine's own truth; the mirror's arithmetic must never be used here, or one mistake would
pass on both sides.
"""

from __future__ import annotations

from typing import Any

from bridge.simulator.ctrader.world import Account, World
from core.money import json_number
from core.paper_trader import Order, PositionTruth


def truth_of(world: World, account: Account) -> dict[str, Any]:
    """The record's money, positions and orders; `balanceVersion` and `bonus` besides."""
    truth = world.engine.account_truth(account.key)
    return {
        "broker": "ctrader",
        "environment": "live" if account.live else "demo",
        "accountId": str(account.id),
        "login": str(account.login),
        "brokerTitle": account.server.rules.title,
        "currency": truth.currency,
        "moneyDigits": truth.money_digits,
        "leverage": json_number(truth.leverage),
        "balance": json_number(truth.balance),
        "equity": json_number(truth.equity),
        "unrealizedPnl": json_number(truth.unrealized_pnl),
        "usedMargin": json_number(truth.used_margin),
        "freeMargin": json_number(truth.free_margin),
        "marginLevel": json_number(truth.margin_level),
        "positions": [_position(world, account, each) for each in truth.positions],
        "orders": [_order(world, account, each) for each in truth.orders],
        "balanceVersion": truth.balance_version,
        "bonus": json_number(truth.bonus),
    }


def _position(world: World, account: Account, valued: PositionTruth) -> dict[str, Any]:
    held = valued.position
    terms = world.symbol(account, held.instrument_id).terms
    return {
        "id": str(held.id),
        "symbol": terms.name,
        "side": held.side.value,
        "units": json_number(held.units),
        "lots": json_number(held.units / terms.lot),
        "priceDigits": terms.digits,
        "entryPrice": json_number(held.entry_price),
        "currentPrice": json_number(valued.current_price),
        "stopLoss": json_number(held.stop_loss),
        "takeProfit": json_number(held.take_profit),
        "swap": json_number(held.swap),
        "commission": json_number(held.commission),
        "unrealizedPnl": json_number(valued.unrealized_pnl),
        "usedMargin": json_number(held.used_margin),
        "openedAt": held.opened_at_ms,
    }


def _order(world: World, account: Account, order: Order) -> dict[str, Any]:
    return {
        "id": str(order.id),
        "symbol": world.symbol(account, order.instrument_id).terms.name,
        "side": order.side.value,
        "type": order.type.value,
        "units": json_number(order.units),
        "filledUnits": json_number(order.filled_units),
        "limitPrice": json_number(order.limit_price),
        "stopPrice": json_number(order.stop_price),
        "stopLoss": json_number(order.stop_loss),
        "takeProfit": json_number(order.take_profit),
        "status": "partially_filled" if order.filled_units else "working",
        "createdAt": order.created_at_ms,
    }
