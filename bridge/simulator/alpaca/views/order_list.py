"""Orders as GET /v2/orders filters, pages and nests them. Source: reference/alpaca.md §1.2. Reads only.

Works on any copy of an account, so that an older state can be shown.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bridge.simulator.alpaca.accounts.account import Account
from bridge.simulator.alpaca.accounts.orders import Order
from bridge.simulator.alpaca.market.catalogue import Asset, Catalogue
from bridge.simulator.alpaca.refusals import malformed
from bridge.simulator.alpaca.stamps import read_time
from bridge.simulator.alpaca.trading.desk import Desk

LARGEST_LIST, DEFAULT_LIST = 500, 50


def orders(desk: Desk, account: Account, query: Mapping[str, str]) -> list[dict[str, Any]]:
    """GET /v2/orders. With `nested` an exit is shown in its parent when that is in the answer, else by itself."""
    nested = query.get("nested", "false").lower() == "true"
    rows = _select(desk.catalogue, account, query)
    if nested:
        shown = {leg for order in rows for leg in order.legs}
        rows = [order for order in rows if order.id not in shown]
    return [desk.document(account, order, nested=nested) for order in rows[: _limit(query)]]


def _select(catalogue: Catalogue, account: Account, query: Mapping[str, str]) -> list[Order]:
    status = query.get("status") or "open"
    if status not in ("open", "closed", "all"):
        raise malformed("status must be open, closed or all")
    direction = query.get("direction") or "desc"
    if direction not in ("asc", "desc"):
        raise malformed("direction must be asc or desc")
    after, until = _moment(query, "after"), _moment(query, "until")
    later_than, earlier_than = _cursor(account, query, "after_order_id"), _cursor(account, query, "before_order_id")
    if (later_than or earlier_than) and (after or until or (later_than and earlier_than)):
        raise malformed("before_order_id, after_order_id and after/until exclude each other")
    symbols = {asset for each in _words(query, "symbols") if (asset := catalogue.find(each)) is not None}
    classes, side = _words(query, "asset_class"), query.get("side")
    pool = account.open_orders if status == "open" else account.orders
    found = [
        order
        for order in pool.values()
        if order.ratio_qty is None
        and (status != "closed" or order.is_final)
        and (after is None or order.created_ns > after)
        and (until is None or order.created_ns < until)
        and (later_than is None or order.created_ns > later_than)
        and (earlier_than is None or order.created_ns < earlier_than)
        and (not query.get("symbols") or any(asset in symbols for asset in _assets(account, order)))
        and (not side or order.side == side)
        and (not classes or any(asset.asset_class in classes for asset in _assets(account, order)))
    ]
    return found if direction == "asc" else found[::-1]


def _assets(account: Account, order: Order) -> list[Asset]:
    every = [order, *(account.orders[leg] for leg in order.legs)]
    return [each.asset for each in every if each.asset is not None]


def _limit(query: Mapping[str, str]) -> int:
    written = query.get("limit") or str(DEFAULT_LIST)
    if not written.isdecimal() or not 1 <= int(written) <= LARGEST_LIST:
        raise malformed(f"limit must be 1 to {LARGEST_LIST}")
    return int(written)


def _moment(query: Mapping[str, str], name: str) -> int | None:
    return read_time(query[name], name) if query.get(name) else None


def _cursor(account: Account, query: Mapping[str, str], name: str) -> int | None:
    if not query.get(name):
        return None
    order = account.orders.get(query[name])
    if order is None:
        raise malformed(f"{name} is not a known order")
    return order.created_ns


def _words(query: Mapping[str, str], name: str) -> list[str]:
    return [word.strip() for word in query.get(name, "").split(",") if word.strip()]
