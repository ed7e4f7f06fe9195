"""What happened on an account: executions and money that moved, as /v2/account/activities shows them.

Source: reference/alpaca.md §1.2, §1.3, §2.3. The UUID half of a FILL's id equals the stream's execution_id; times are
rounded to microseconds. Decides on copies of nothing: rows are made once and only filtered and paged here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from bridge.simulator.alpaca.accounts.orders import Order
from bridge.simulator.alpaca.numbers import maybe_text, text
from bridge.simulator.alpaca.refusals import malformed
from bridge.simulator.alpaca.stamps import activity_id, eastern, micro_text, read_time

LARGEST_PAGE = 100
FILL = "FILL"


@dataclass(frozen=True, slots=True)
class Activity:
    """One row; `at_ns` as booked, `row` as sent."""

    kind: str
    at_ns: int
    row: dict[str, Any]


def fill_activity(
    order: Order, execution_id: str, at_ns: int, qty: Decimal, price: Decimal, *, opens_short: bool
) -> Activity:
    """An execution of an order, the order as after it."""
    complete = order.remaining == 0
    asset = order.asset
    if asset is None:
        raise ValueError("an order of many legs is filled leg by leg")
    row = {
        "id": activity_id(at_ns, execution_id),
        "activity_type": FILL,
        "transaction_time": micro_text(at_ns),
        "type": "fill" if complete else "partial_fill",
        "price": text(price),
        "qty": text(qty),
        "side": "sell_short" if opens_short else order.side,
        "symbol": asset.symbol,
        "leaves_qty": text(order.remaining),
        "cum_qty": text(order.filled_qty),
        "order_id": order.id,
        "order_status": "filled" if complete else "partially_filled",
    }
    return Activity(FILL, at_ns, row)


def money_activity(
    kind: str,
    unique: str,
    at_ns: int,
    net_amount: Decimal,
    *,
    symbol: str | None = None,
    qty: Decimal | None = None,
    price: Decimal | None = None,
    description: str = "",
) -> Activity:
    """Anything but an execution: CSD, CSW, FEE, CFEE, DIV …"""
    row = {
        "id": activity_id(at_ns, unique),
        "activity_type": kind,
        "activity_sub_type": "",
        "date": eastern(at_ns).date().isoformat(),
        "created_at": micro_text(at_ns),
        "net_amount": text(net_amount),
        "symbol": symbol or "",
        "qty": maybe_text(qty),
        "price": maybe_text(price),
        "per_share_amount": None,
        "description": description,
        "status": "executed",
        "currency": "USD",
        "cusip": None,
        "group_id": None,
    }
    return Activity(kind, at_ns, row)


def select(
    activities: Sequence[Activity], query: Mapping[str, str], activity_type: str | None = None
) -> list[dict[str, Any]]:
    """Rows that a query names, newest first unless it says asc. Raises ApiRefusal (422) for what it cannot mean."""
    wanted = _kinds(query, activity_type)
    category = query.get("category")
    if category not in (None, "", "trade_activity", "non_trade_activity"):
        raise malformed("category must be trade_activity or non_trade_activity")
    if category and wanted is not None:
        raise malformed("only one of activity_types and category may be given")
    after = _limit(query, "after")
    until = _limit(query, "until")
    day = query.get("date")
    direction = query.get("direction") or "desc"
    if direction not in ("asc", "desc"):
        raise malformed("direction must be asc or desc")
    rows = [
        each
        for each in activities
        if (wanted is None or each.kind in wanted)
        and (not category or (each.kind == FILL) == (category == "trade_activity"))
        and (after is None or each.at_ns > after)
        and (until is None or each.at_ns < until)
        and (not day or eastern(each.at_ns).date().isoformat() == day[:10])
    ]
    if direction == "desc":
        rows.reverse()
    return [each.row for each in _page(rows, query)]


def _kinds(query: Mapping[str, str], activity_type: str | None) -> frozenset[str] | None:
    if activity_type is not None:
        return frozenset({activity_type.upper()})
    names = query.get("activity_types") or query.get("activity_type")
    return frozenset(names.upper().split(",")) if names else None


def _limit(query: Mapping[str, str], name: str) -> int | None:
    value = query.get(name)
    return read_time(value, name) if value else None


def _page(rows: list[Activity], query: Mapping[str, str]) -> list[Activity]:
    size_text = query.get("page_size") or str(LARGEST_PAGE)
    if not size_text.isdecimal() or not 1 <= int(size_text) <= LARGEST_PAGE:
        raise malformed(f"page_size must be 1 to {LARGEST_PAGE}")
    token = query.get("page_token")
    start = 0
    if token:
        ids = [each.row["id"] for each in rows]
        if token not in ids:
            raise malformed("page_token is not valid")
        start = ids.index(token) + 1
    return rows[start : start + int(size_text)]
