"""Amending a working order: the order is checked again as if it had been placed as it is wanted now.

Refused whole or carried out, like every request (`requests`).
"""

from __future__ import annotations

from dataclasses import fields, replace
from decimal import Decimal

from core.orders import OrderType, TimeInForce
from core.paper_trader.events import Operation, OrderReplaced
from core.paper_trader.market import Book
from core.paper_trader.requests import REQUEST_FIELDS, first_refusal, limit_of, no_order, reject, start
from core.paper_trader.resting import trailed
from core.paper_trader.rules import (
    Refusal,
    check_account,
    check_expiry,
    check_prices,
    check_request_protection,
    check_tradable,
    check_units,
)
from core.paper_trader.state import Account, Desk
from core.paper_trader.types import KEEP, ZERO, Code, Order, OrderChanges, OrderRequest


def amend(desk: Desk, account: Account, order_id: int, changes: OrderChanges) -> None:
    """Change a working order."""
    working = account.working.get(order_id)
    if working is None:
        reject(desk, account, Operation.AMEND, no_order(order_id), order_id)
        return
    order = working.order
    book = account.market.book(order.instrument_id)
    wanted = _amended_request(order, changes)
    refusal = first_refusal(
        lambda: check_account(account),
        lambda: check_tradable(book),
        lambda: check_units(book.listing, wanted.units),
        lambda: _above_filled(order, wanted.units),
        lambda: None if order.triggered else check_prices(book, wanted),
        lambda: check_expiry(wanted, desk.now_ms),
        lambda: check_request_protection(book, wanted),
        lambda: _nothing_to_amend(order, _with_request(order, wanted, book)),
    )
    if refusal is not None:
        reject(desk, account, Operation.AMEND, refusal, order_id, None, order.client_order_id, order)
        return
    working.order = replace(_with_request(order, wanted, book), updated_at_ms=desk.now_ms)
    if working.order.type is OrderType.TRAILING_STOP and not working.order.triggered:
        best = working.order.trail_extreme or ZERO  # set when it was placed
        working.order = trailed(working.order, best, book.listing.instrument.price_digits)
    if working.order.expires_at_ms is not None:
        desk.schedule_expiry(working.order.expires_at_ms, account.id, order_id)
    desk.emit(OrderReplaced(account_id=account.id, at_ms=desk.now_ms, order=working.order))
    start(desk, account, working)


def _above_filled(order: Order, units: Decimal) -> Refusal | None:
    if units > order.filled_units:
        return None
    return Refusal(Code.TRADING_BAD_VOLUME, f"{order.filled_units} units are filled already")


def _nothing_to_amend(order: Order, changed: Order) -> Refusal | None:
    return Refusal(Code.INVALID_REQUEST, "Nothing to amend.") if changed == order else None


def _amended_request(order: Order, changes: OrderChanges) -> OrderRequest:
    """The request that would have made the order as it is wanted now."""
    values = {name: getattr(order, name) for name in REQUEST_FIELDS}
    if order.type is OrderType.STOP_LIMIT and order.slippage_points is not None:
        values["limit_price"] = None
    if order.type is OrderType.TRAILING_STOP:
        values["stop_price"] = None
    if order.time_in_force is TimeInForce.DAY:
        values["expires_at_ms"] = None
    values |= {
        each.name: getattr(changes, each.name) for each in fields(changes) if getattr(changes, each.name) is not KEEP
    }
    if changes.expires_at_ms is not KEEP and order.time_in_force in (TimeInForce.GTC, TimeInForce.GTD):
        values["time_in_force"] = TimeInForce.GTC if changes.expires_at_ms is None else TimeInForce.GTD
    return OrderRequest(**values)


def _with_request(order: Order, request: OrderRequest, book: Book) -> Order:
    """The order with an amended request's values."""
    values = {name: getattr(request, name) for name in REQUEST_FIELDS}
    values["limit_price"] = limit_of(request, book)
    if order.type is OrderType.TRAILING_STOP:
        values["stop_price"] = order.stop_price
    if order.time_in_force is TimeInForce.DAY:
        values["expires_at_ms"] = order.expires_at_ms
    return replace(order, **values)
