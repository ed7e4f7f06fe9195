"""Replacing an order: a new order with an id of its own takes over, unless the old one is quicker.

Source: reference/alpaca.md §1.4, §8.2. The answer shows the new order; only the stream tells whether it took effect.
The quantity of a replacement is the new total, what is filled already included; the new order has the rest.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal
from typing import Any

from bridge.simulator.alpaca.accounts.account import Account
from bridge.simulator.alpaca.accounts.margin import reservation
from bridge.simulator.alpaca.accounts.orders import Order, Status
from bridge.simulator.alpaca.market.calendar import expiry_ms
from bridge.simulator.alpaca.numbers import ZERO, read_decimal
from bridge.simulator.alpaca.refusals import malformed, unprocessable
from bridge.simulator.alpaca.requests import checks
from bridge.simulator.alpaca.requests.entry import TIMES_IN_FORCE
from bridge.simulator.alpaca.requests.entry_rules import ALLOWED_TIMES, check_exits, check_minimum, check_price
from bridge.simulator.alpaca.trading.desk import Desk

PRICE_OF_TYPE = {
    "market": (),
    "limit": ("limit_price",),
    "stop": ("stop_price",),
    "stop_limit": ("limit_price", "stop_price"),
    "trailing_stop": ("trail",),
}


def replace_order(desk: Desk, account: Account, order: Order, body: Mapping[str, Any], delay_ms: int) -> dict[str, Any]:
    """PATCH /v2/orders/{id}: the new order's document. Raises ApiRefusal (422, 403)."""
    _check_state(account, order)
    changes = _read_changes(order, body)
    client_order_id = body.get("client_order_id") or None
    if client_order_id is not None and not isinstance(client_order_id, str):
        raise malformed("client_order_id must be a string")
    checks.check_client_id(account, client_order_id)
    created_ns = desk.stamp()
    newer = replace(
        order,
        **changes,
        id=desk.stamps.new_uuid(),
        client_order_id=client_order_id or desk.stamps.new_uuid(),
        created_ns=created_ns,
        updated_ns=created_ns,
        status=Status.ACCEPTED,
        filled_qty=ZERO,
        filled_value=ZERO,
        filled_ns=None,
        replaces=order.id,
        replacement=None,
        engine_id=None,
        legs=list(order.legs),
    )
    newer.target = newer.qty
    if "time_in_force" in changes:
        newer.expires_ms = expiry_ms(newer.time_in_force, desk.now_ms, extended_hours=newer.extended_hours)
    if order.opens and order.asset is not None:
        newer.reserved = checks.unit_reserve(
            desk, order.asset, newer.type, newer.side, newer.limit_price, newer.stop_price
        )
    _check_sibling(account, order, newer)
    _check_means(desk, account, order, newer)
    desk.file(account, newer)
    order.replacement = newer.id
    answer = desk.document(account, newer, nested=True)
    desk.await_effect(account, order, Status.PENDING_REPLACE, delay_ms)
    return answer


def take_effect(desk: Desk, account: Account, order: Order) -> None:
    """The moment of truth: the new order takes over, or is rejected because the old one has ended."""
    newer = account.orders[order.replacement or ""]
    if order.is_final:
        desk.move(account, newer, Status.REJECTED, "rejected")
        return
    rest = (newer.qty or ZERO) - order.filled_qty
    if order.role in ("take_profit", "stop_loss"):
        rest = order.remaining  # the other exit may have shrunk it meanwhile
    if rest <= 0:
        desk.move(account, newer, Status.REJECTED, "rejected")
        order.replacement = None
        alive = Status.PARTIALLY_FILLED if order.filled_qty else Status.NEW
        desk.move(account, order, alive, "order_replace_rejected")
        return
    _take_over_group(account, order, newer)
    newer.qty = newer.target = rest
    newer.hwm, newer.triggered = order.hwm, order.triggered
    order.replaced_by = newer.id
    desk.end(account, order, Status.REPLACED, "replaced")
    desk.begin(account, newer)


def drop(desk: Desk, account: Account, order: Order) -> None:
    """End an order that waits for its replacement, and the replacement with it."""
    newer = account.orders[order.replacement or ""]
    desk.pending.pop(order.id, None)
    desk.end(account, order, Status.CANCELED, "canceled")
    desk.move(account, newer, Status.REJECTED, "rejected")


def _check_state(account: Account, order: Order) -> None:
    if order.is_final:
        raise unprocessable(f'order is already in "{order.status.value}" state')
    if order.status is Status.PENDING_CANCEL:
        raise unprocessable("order pending cancel")
    if order.status is Status.PENDING_REPLACE:
        raise unprocessable("order pending replace")
    if order.status not in (Status.NEW, Status.PARTIALLY_FILLED):
        raise unprocessable(f"cannot replace order in {order.status.value} status")
    if order.notional is not None:
        raise unprocessable("notional orders cannot be replaced")
    if order.asset is None or order.ratio_qty is not None:
        raise unprocessable("multi-leg orders cannot be replaced")


def _read_changes(order: Order, body: Mapping[str, Any]) -> dict[str, Any]:
    """Fields that really differ. Raises ApiRefusal when there are none or they do not belong to the order."""
    wanted: dict[str, Any] = {}
    for name in ("qty", "limit_price", "stop_price", "trail"):
        value = read_decimal(body, name)
        if value is None:
            continue
        if name != "qty" and name not in PRICE_OF_TYPE[order.type]:
            raise unprocessable(f"{order.type} orders must not have {name}")
        wanted[_field(order, name)] = value
    force = body.get("time_in_force") or None
    if force is not None:
        if force not in TIMES_IN_FORCE:
            raise malformed("invalid time_in_force")
        wanted["time_in_force"] = force
    changes = {name: value for name, value in wanted.items() if getattr(order, name) != value}
    if not changes:
        raise unprocessable("order parameters are not changed")
    _check_changes(order, changes)
    return changes


def _field(order: Order, name: str) -> str:
    if name != "trail":
        return name
    return "trail_price" if order.trail_price is not None else "trail_percent"


def _check_changes(order: Order, changes: dict[str, Any]) -> None:
    asset = order.asset
    if asset is None:
        raise ValueError("orders of many legs are not replaced")
    for name in ("limit_price", "stop_price", "trail_price"):
        check_price(asset, name, changes.get(name))
    if changes.get("time_in_force", order.time_in_force) not in ALLOWED_TIMES[asset.asset_class]:
        raise unprocessable("invalid time_in_force")
    if "time_in_force" in changes and (order.order_class or changes["time_in_force"] not in ("day", "gtc", "ioc")):
        raise unprocessable("time_in_force cannot be changed to this")
    qty = changes.get("qty")
    if qty is None:
        return
    if order.role in ("take_profit", "stop_loss"):
        raise unprocessable("the quantity of an exit follows its group")
    if qty <= order.filled_qty:
        raise unprocessable("qty must be greater than filled_qty")
    if qty != qty.to_integral_value() and asset.asset_class != "crypto":
        raise unprocessable("qty of a replacement must be a whole number")


def _check_sibling(account: Account, order: Order, newer: Order) -> None:
    """An exit's new price stays on its side of the other exit, and of what may replace that."""
    if order.role not in ("take_profit", "stop_loss"):
        return
    entry_side = "sell" if order.side == "buy" else "buy"
    for other in account.group_of(order):
        for each in (other, account.open_orders.get(other.replacement or "")):
            if each is not None and each.role != order.role:
                profit, loss = (newer, each) if order.role == "take_profit" else (each, newer)
                check_exits(entry_side, None, profit.limit_price, loss.stop_price)


def _check_means(desk: Desk, account: Account, order: Order, newer: Order) -> None:
    """Money or units for what the new order needs beyond the old one."""
    asset = order.asset
    if asset is None or newer.qty is None:
        return
    rest: Decimal = newer.qty - order.filled_qty
    check_minimum(asset, newer.qty * (newer.limit_price or desk.price_for(asset, newer.side)))
    if newer.opens:
        if rest * newer.reserved > reservation(order):
            checks.check_funds(desk, account, asset, rest * newer.reserved, freed=reservation(order))
    elif rest > order.remaining:
        checks.check_available(account, asset, rest, freed=order.remaining)


def _take_over_group(account: Account, order: Order, newer: Order) -> None:
    """The new order stands where the old one stood; exits follow an entry's new quantity."""
    change = (newer.qty or ZERO) - (order.qty or ZERO)
    for leg_id in order.legs:
        leg = account.orders[leg_id]
        leg.parent = newer.id
        if order.role == "entry" and leg.qty is not None and not leg.is_final:
            leg.qty = leg.target = leg.qty + change
    if order.parent is not None:
        parent = account.orders[order.parent]
        parent.legs = [newer.id if leg == order.id else leg for leg in parent.legs]
