"""Placing, cancelling and closing: what clients ask for, refused whole or carried out.

Source: reference/alpaca.md §1.2, §1.4, §8.2. The answer to a placed order is the order as at that moment (pending_new,
or accepted when it must wait); what happens to it next is told by the stream, possibly before the answer is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from bridge.simulator.alpaca.accounts.account import Account
from bridge.simulator.alpaca.accounts.orders import Order, Status
from bridge.simulator.alpaca.market.calendar import expiry_ms
from bridge.simulator.alpaca.market.catalogue import Asset
from bridge.simulator.alpaca.numbers import ZERO
from bridge.simulator.alpaca.refusals import ApiRefusal, forbidden, unprocessable
from bridge.simulator.alpaca.requests import checks
from bridge.simulator.alpaca.requests.entry import Entry, read_entry
from bridge.simulator.alpaca.requests.entry_rules import check_entry
from bridge.simulator.alpaca.trading.desk import Desk


def place(desk: Desk, account: Account, body: Mapping[str, Any]) -> dict[str, Any]:
    """POST /v2/orders. Raises ApiRefusal (422, 403)."""
    entry = read_entry(body, desk.catalogue)
    check_entry(entry)
    return enter(desk, account, entry)


def enter(desk: Desk, account: Account, entry: Entry) -> dict[str, Any]:
    """Check an order against the account, take it, and start it; its document as at the time of taking."""
    if account.configurations.suspend_trade:
        raise forbidden("new orders are rejected by user request")
    checks.check_client_id(account, entry.client_order_id)
    order, members = _build_mleg(desk, account, entry) if entry.legs else _build(desk, account, entry)
    for each in (order, *members):
        desk.file(account, each)
    if not desk.may_work(order):
        order.status = Status.ACCEPTED
    answer = desk.document(account, order, nested=True)
    desk.begin(account, order)
    for member in members:
        if order.order_class == "oco":
            _begin_unless_over(desk, account, member)
        elif order.order_class != "mleg" and member.status is Status.HELD and not member.is_final:
            desk.announce(account, member, "held", desk.stamp())
    return answer


def cancel(desk: Desk, account: Account, order: Order, delay_ms: int) -> None:
    """DELETE /v2/orders/{id}: takes effect later. Raises ApiRefusal (422)."""
    if order.is_final:
        raise unprocessable(f'order is already in "{order.status.value}" state')
    if order.status is Status.PENDING_CANCEL:
        raise unprocessable("order pending cancel")
    if order.status is Status.PENDING_REPLACE or account.waits_to_replace(order):
        raise unprocessable("order pending replace")
    if order.ratio_qty is not None:
        raise unprocessable("a leg of a multi-leg order cannot be canceled")
    order.cancel_requested_ns = desk.stamp()
    desk.await_effect(account, order, Status.PENDING_CANCEL, delay_ms)


def cancel_all(desk: Desk, account: Account, delay_ms: int) -> list[dict[str, Any]]:
    """DELETE /v2/orders: one row of id and HTTP status per open order."""
    rows = []
    for order in list(account.open_orders.values()):
        if order.ratio_qty is not None or order.status is Status.PENDING_CANCEL:
            continue
        try:
            cancel(desk, account, order, delay_ms)
            rows.append({"id": order.id, "status": 200})
        except ApiRefusal as refusal:
            rows.append({"id": order.id, "status": refusal.status})
    return rows


def _begin_unless_over(desk: Desk, account: Account, order: Order) -> None:
    if not order.is_final:
        desk.begin(account, order)


def _build(desk: Desk, account: Account, entry: Entry) -> tuple[Order, list[Order]]:
    """The order and the exits of its group."""
    asset = entry.asset
    if asset is None:
        raise ValueError("only orders of many legs have no asset")
    verdict = checks.check_order(desk, account, asset, entry)
    order = _new_order(desk, entry, asset, entry.client_order_id)
    order.opens, order.position_intent, order.reserved = verdict.opens, verdict.position_intent, verdict.reserved
    if not entry.order_class:
        return order, []
    order.group = order.id
    order.role = "take_profit" if entry.order_class == "oco" else "entry"
    exits = _exits(desk, order, entry, asset)
    order.legs = [each.id for each in exits]
    return order, exits


def _exits(desk: Desk, parent: Order, entry: Entry, asset: Asset) -> list[Order]:
    """Take-profit (limit) and stop-loss (stop, or stop limit) orders; an oco's take-profit is the parent itself."""
    exits = []
    side = entry.side if entry.order_class == "oco" else ("sell" if entry.side == "buy" else "buy")
    common = replace(
        entry, side=side, notional=None, limit_price=None, stop_price=None, trail_price=None, trail_percent=None
    )
    if entry.take_profit is not None and entry.order_class != "oco":
        profit = replace(common, type="limit", limit_price=entry.take_profit)
        exits.append((profit, "take_profit"))
    if entry.stop_loss is not None:
        kind = "stop" if entry.stop_loss_limit is None else "stop_limit"
        loss = replace(common, type=kind, stop_price=entry.stop_loss, limit_price=entry.stop_loss_limit)
        exits.append((loss, "stop_loss"))
    orders = []
    for each, role in exits:
        order = _new_order(desk, each, asset, None)
        order.group, order.role, order.parent = parent.id, role, parent.id
        order.opens, order.position_intent = False, f"{side}_to_close"
        order.status = Status.PENDING_NEW if entry.order_class == "oco" else Status.HELD
        orders.append(order)
    return orders


def _build_mleg(desk: Desk, account: Account, entry: Entry) -> tuple[Order, list[Order]]:
    """The order of many legs and its legs."""
    reserved = checks.check_legs(desk, account, entry)
    order = _new_order(desk, entry, None, entry.client_order_id)
    order.reserved = reserved
    legs = []
    for leg in entry.legs:
        qty = (entry.qty or ZERO) * leg.ratio
        single = replace(entry, side=leg.side, qty=qty, limit_price=None)
        each = _new_order(desk, replace(single, type="market"), leg.asset, None)
        each.ratio_qty, each.parent, each.position_intent = leg.ratio, order.id, leg.position_intent
        each.opens = leg.position_intent.endswith("open")
        each.expires_ms = None
        legs.append(each)
    order.legs = [each.id for each in legs]
    return order, legs


def _new_order(desk: Desk, entry: Entry, asset: Asset | None, client_order_id: str | None) -> Order:
    created_ns = desk.stamp()
    return Order(
        id=desk.stamps.new_uuid(),
        client_order_id=client_order_id or desk.stamps.new_uuid(),
        asset=asset,
        side=entry.side,
        type=entry.type,
        time_in_force=entry.time_in_force,
        created_ns=created_ns,
        updated_ns=created_ns,
        order_class=entry.order_class,
        qty=entry.qty,
        target=entry.qty,
        notional=entry.notional,
        limit_price=entry.limit_price,
        stop_price=entry.stop_price,
        trail_price=entry.trail_price,
        trail_percent=entry.trail_percent,
        extended_hours=entry.extended_hours,
        expires_ms=expiry_ms(entry.time_in_force, desk.now_ms, extended_hours=entry.extended_hours),
    )
