"""Positions as GET /v2/positions shows them. Source: reference/alpaca.md §1.3. Reads only.

Works on any copy of an account, so that an older state can be shown.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from bridge.simulator.alpaca.accounts.account import Account
from bridge.simulator.alpaca.accounts.ledger import Holding
from bridge.simulator.alpaca.market.catalogue import Catalogue
from bridge.simulator.alpaca.market.prices import Prices
from bridge.simulator.alpaca.numbers import divided, text
from bridge.simulator.alpaca.refusals import missing


def positions(account: Account, prices: Prices) -> list[dict[str, Any]]:
    """GET /v2/positions."""
    return [position_document(account, held, prices) for held in account.ledger.holdings.values()]


def position_of(account: Account, catalogue: Catalogue, symbol_or_id: str) -> Holding:
    """The position a path names. Raises ApiRefusal (404)."""
    asset = catalogue.find(symbol_or_id)
    held = None if asset is None else account.ledger.holdings.get(asset.id)
    if held is None:
        raise missing("position does not exist")
    return held


def position_document(account: Account, held: Holding, prices: Prices) -> dict[str, Any]:
    """Position of reference §1.3; a short has a negative qty, value and cost."""
    asset = held.asset
    last, before = prices.last_of(asset), prices.last_day[asset.symbol]
    value = held.value(last)
    gain, today = value - held.cost, value - held.day_cost
    available = abs(held.qty) - account.held_for_orders(asset)
    return {
        "asset_id": asset.id,
        "symbol": asset.position_symbol,
        "exchange": asset.exchange,
        "asset_class": asset.asset_class,
        "asset_marginable": asset.marginable,
        "qty": text(held.qty),
        "qty_available": text(available.copy_sign(held.qty)),
        "avg_entry_price": text(held.avg_entry_price),
        "side": held.side,
        "market_value": text(value),
        "cost_basis": text(held.cost),
        "unrealized_pl": text(gain),
        "unrealized_plpc": _share(gain, held.cost),
        "unrealized_intraday_pl": text(today),
        "unrealized_intraday_plpc": _share(today, held.day_cost),
        "current_price": text(last),
        "lastday_price": text(before),
        "change_today": text(divided(last - before, before)),
    }


def _share(gain: Decimal, of: Decimal) -> str:
    return text(divided(gain, abs(of))) if of else "0"
