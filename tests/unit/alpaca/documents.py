"""Documents as the broker sends them, for tests of the Alpaca adapter (reference/alpaca.md §1.3, §2.2)."""

from typing import Any

from bridge.brokers.alpaca.instruments import Assets
from bridge.brokers.alpaca.values import QUOTE_DIGITS
from core.account import AccountMirror, EquityRule

AAPL = "b0b6dd9d-8b9b-48a9-ba46-b9d54906e415"
TIME = "2026-11-20T14:30:00.123456789Z"
TIME_MS = 1_795_185_000_123
NOW = 1_795_185_060_000


def an_order(**fields: Any) -> dict[str, Any]:
    return {
        "id": "o1",
        "client_order_id": "c1",
        "asset_id": AAPL,
        "symbol": "AAPL",
        "asset_class": "us_equity",
        "qty": "10",
        "filled_qty": "0",
        "type": "limit",
        "side": "buy",
        "limit_price": "100",
        "stop_price": None,
        "status": "new",
        "order_class": "",
        "created_at": TIME,
        "updated_at": TIME,
        "legs": None,
    } | fields


def a_fill(execution_id: str | None = "e1", **fields: Any) -> dict[str, Any]:
    order = fields.pop("order", None) or an_order(status="partially_filled", filled_qty="4")
    data = {"event": "partial_fill", "timestamp": TIME, "price": "100", "qty": "4", "position_qty": "4", "order": order}
    return data | ({} if execution_id is None else {"execution_id": execution_id}) | fields


def an_activity(execution_id: str, at: str = TIME, **fields: Any) -> dict[str, Any]:
    return {
        "id": f"20261120093000123::{execution_id}",
        "activity_type": "FILL",
        "transaction_time": at,
        "type": "fill",
        "price": "100",
        "qty": "4",
        "side": "buy",
        "symbol": "AAPL",
        "order_id": "o1",
    } | fields


def a_position(**fields: Any) -> dict[str, Any]:
    return {
        "asset_id": AAPL,
        "symbol": "AAPL",
        "asset_class": "us_equity",
        "qty": "4",
        "side": "long",
        "avg_entry_price": "100",
        "cost_basis": "400",
        "current_price": "101.5",
    } | fields


def an_account(**fields: Any) -> dict[str, Any]:
    return {"id": "acc", "account_number": "PA1", "status": "ACTIVE", "currency": "USD", "cash": "1000"} | fields


def a_mirror(assets: Assets) -> AccountMirror:
    return AccountMirror("demo", "acc", assets.catalogue, QUOTE_DIGITS, EquityRule.VALUE)
