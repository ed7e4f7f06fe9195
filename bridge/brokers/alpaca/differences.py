"""What a reading changed: which of it no message told of, and which of it must be seen twice. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal

from core.account import AccountMirror, Snapshot
from core.events import Event, OrderChanged, OrderGone, PositionChanged, PositionClosed
from core.orders import Order, OrderStatus, Side


@dataclass(frozen=True, slots=True)
class Contents:
    """What a mirror held: quantities, and of orders what only events change."""

    positions: dict[str, tuple[Side, Decimal]]
    orders: dict[str, tuple[OrderStatus, Decimal, Decimal]]

    @classmethod
    def of(cls, mirror: AccountMirror) -> Contents:
        positions = {key: (each.side, each.units) for key, each in mirror.positions.items()}
        return cls(positions, {key: _told(order) for key, order in mirror.orders.items()})


def lost_events(before: Contents, missing: Iterable[Event]) -> int:
    """How many of the differences an update should have told. Cash, margin, averages in their last digits and stops
    that trail change without any (alpaca.md §2.2), and count as none."""
    lost = 0
    for event in missing:
        match event:
            case PositionChanged(position):
                lost += before.positions.get(position.id) != (position.side, position.units)
            case OrderChanged(order):
                lost += before.orders.get(order.id) != _told(order)
            case PositionClosed() | OrderGone():
                lost += 1
    return lost


def doubtful(mirror: AccountMirror, snapshot: Snapshot) -> bool:
    """Whether a reading removes what nobody closed: believed when another says so too (DESIGN §5, faults.md N23)."""
    positions = {position.id for position in snapshot.positions}
    orders = {order.id for order in snapshot.orders}
    return not (positions >= mirror.positions.keys() and orders >= mirror.orders.keys())


def _told(order: Order) -> tuple[OrderStatus, Decimal, Decimal]:
    return order.status, order.units, order.filled_units
