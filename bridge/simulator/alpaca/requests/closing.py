"""Closing positions, and what may be asked about options that are held. Source: reference/alpaca.md §1.2, §1.6."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from bridge.simulator.alpaca.accounts.account import Account
from bridge.simulator.alpaca.accounts.ledger import Holding
from bridge.simulator.alpaca.accounts.orders import Status
from bridge.simulator.alpaca.market.catalogue import CRYPTO, OPTION, Asset
from bridge.simulator.alpaca.numbers import EXACT, NANO, ZERO, read_decimal
from bridge.simulator.alpaca.refusals import ApiRefusal, malformed, unprocessable
from bridge.simulator.alpaca.requests import placing, replacing
from bridge.simulator.alpaca.requests.checks import check_available
from bridge.simulator.alpaca.trading.desk import Desk
from bridge.simulator.alpaca.views.positions import position_of


def close_position(desk: Desk, account: Account, symbol_or_id: str, query: Mapping[str, str]) -> dict[str, Any]:
    """DELETE /v2/positions/{…}: the market order that closes it, or part of it. Raises ApiRefusal (404, 403, 422)."""
    held = position_of(account, desk.catalogue, symbol_or_id)
    qty, percentage = read_decimal(query, "qty"), read_decimal(query, "percentage")
    if qty is not None and percentage is not None:
        raise malformed("only one of qty and percentage is allowed")
    return _close(desk, account, held.asset, _units(held, qty, percentage))


def close_all(desk: Desk, account: Account, *, cancel_orders: bool) -> list[dict[str, Any]]:
    """DELETE /v2/positions: one row per position; with `cancel_orders` open orders are canceled first, at once."""
    if cancel_orders:
        for order in list(account.open_orders.values()):
            if order.is_final or order.ratio_qty is not None or account.waits_to_replace(order):
                continue
            if order.status is Status.PENDING_REPLACE:
                replacing.drop(desk, account, order)
            else:
                desk.end(account, order, Status.CANCELED, "canceled")
    rows = []
    for held in list(account.ledger.holdings.values()):
        symbol = held.asset.position_symbol
        try:
            body = _close(desk, account, held.asset, abs(held.qty))
            rows.append({"symbol": symbol, "status": 200, "body": body})
        except ApiRefusal as refusal:
            rows.append({"symbol": symbol, "status": refusal.status, "body": refusal.body()})
    return rows


def exercise(desk: Desk, account: Account, symbol_or_id: str) -> dict[str, Any]:
    """POST …/exercise: allowed for long options that are worth it; taken note of, settled by nobody here."""
    return _instruct(desk, account, symbol_or_id)


def do_not_exercise(desk: Desk, account: Account, symbol_or_id: str) -> dict[str, Any]:
    """POST …/do-not-exercise."""
    return _instruct(desk, account, symbol_or_id)


def _instruct(desk: Desk, account: Account, symbol_or_id: str) -> dict[str, Any]:
    held = position_of(account, desk.catalogue, symbol_or_id)
    if held.asset.asset_class != OPTION or held.qty < 0:
        raise unprocessable("only long option positions can be exercised")
    return {}


def _close(desk: Desk, account: Account, asset: Asset, units: Decimal) -> dict[str, Any]:
    check_available(account, asset, units, freed=ZERO)
    return placing.place(
        desk,
        account,
        {
            "symbol": asset.symbol,
            "qty": units,
            "side": "sell" if account.ledger.qty(asset) > 0 else "buy",
            "type": "market",
            "time_in_force": "gtc" if asset.asset_class == CRYPTO else "day",
        },
    )


def _units(held: Holding, qty: Decimal | None, percentage: Decimal | None) -> Decimal:
    whole = abs(held.qty)
    if qty is not None:
        return qty
    if percentage is None:
        return whole
    if percentage > 100:
        raise malformed("percentage must be between 0 and 100")
    share = EXACT.divide(whole * percentage, Decimal(100)).quantize(NANO, context=EXACT)
    return share if held.asset.fractionable else share.to_integral_value(rounding="ROUND_DOWN")
