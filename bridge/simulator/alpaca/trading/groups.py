"""Brackets, oco and oto: what the members of a group owe each other.

Source: reference/alpaca.md §1.4. Exits are held until the entry is completely filled; a filled exit cancels the other,
a partly filled one shrinks it; an entry or exit that ends without being filled takes the group with it.
Invariant: what the exits of a group can still trade is never more than the entry bought.
"""

from __future__ import annotations

from bridge.simulator.alpaca.accounts.account import Account
from bridge.simulator.alpaca.accounts.orders import Order, Status
from bridge.simulator.alpaca.trading.desk import Desk


def after_fill(desk: Desk, account: Account, order: Order) -> None:
    """An order of a group traded."""
    others = account.group_of(order)
    if order.role == "entry":
        if order.status is Status.FILLED:
            for leg in others:
                if leg.status is Status.HELD:
                    desk.begin(account, leg)
        return
    for other in others:
        if order.status is Status.FILLED:
            desk.end(account, other, Status.CANCELED, "canceled")
        else:
            _shrink(desk, account, other, order)
    give_way(desk, account, order)


def after_end(desk: Desk, account: Account, order: Order) -> None:
    """An order of a group was canceled, has expired or was rejected: the rest of the group goes too."""
    for other in account.group_of(order):
        desk.end(account, other, Status.CANCELED, "canceled")


def give_way(desk: Desk, account: Account, order: Order) -> None:
    """Once a stop is triggered its rest trades at any price: the take-profit stops working beside it, or one price
    could fill both."""
    if order.role == "stop_loss" and order.triggered:
        for other in account.group_of(order):
            desk.unroute(account, other)


def has_given_way(account: Account, order: Order) -> bool:
    """Whether this take-profit's stop is triggered."""
    others = account.group_of(order) if order.role == "take_profit" else []
    return any(other.role == "stop_loss" and other.triggered for other in others)


def _shrink(desk: Desk, account: Account, other: Order, traded: Order) -> None:
    """Leave the other exit no more than what is left to exit."""
    if other.qty is None or other.remaining <= traded.remaining:
        return
    working = other.engine_id is not None
    if not desk.unroute(account, other):
        return
    other.qty = other.target = other.filled_qty + traded.remaining
    at_ns = desk.stamp()
    other.updated_ns = at_ns
    if other.status is not Status.PENDING_NEW:  # else nobody has heard of it yet
        desk.announce(account, other, "restated", at_ns)
    if working:
        desk.route(account, other)
