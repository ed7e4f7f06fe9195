"""Order documents to our orders, from REST and the trading stream. Pure functions: same document, same result.

Shapes are those of reference/alpaca.md §1.3, states of §8.2. Any field beyond an order's id and status may be missing:
what is known of the order already stands in. Legs are orders of their own, but those of a multi-leg order are not.
Anything absurd raises ProtocolViolation, a word that we do not know UnknownValue, and nothing of it is used.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal

from bridge.brokers.alpaca.activities import SIDES
from bridge.brokers.alpaca.instruments import NOBODY, Assets
from bridge.brokers.alpaca.times import to_ms
from bridge.brokers.alpaca.values import Document, UnknownValue, amount, documents, identity, number, price
from core.errors import ProtocolViolation
from core.events import Event, OrderChanged, OrderGone
from core.orders import Order, OrderStatus, OrderType, Side

_ZERO = Decimal(0)

STATES: dict[str, OrderStatus | None] = {  # None: it works no more
    "new": OrderStatus.WORKING,
    "accepted": OrderStatus.WORKING,
    "pending_new": OrderStatus.WORKING,
    "accepted_for_bidding": OrderStatus.WORKING,
    "pending_review": OrderStatus.WORKING,
    "done_for_day": OrderStatus.WORKING,
    "stopped": OrderStatus.WORKING,
    "suspended": OrderStatus.WORKING,
    "calculated": OrderStatus.WORKING,
    "partially_filled": OrderStatus.PARTIALLY_FILLED,
    "pending_cancel": OrderStatus.PENDING_CANCEL,
    "pending_replace": OrderStatus.PENDING_REPLACE,
    "held": OrderStatus.HELD,
    "filled": None,
    "canceled": None,
    "expired": None,
    "replaced": None,
    "rejected": None,
}
TYPES = {
    "market": OrderType.MARKET,
    "limit": OrderType.LIMIT,
    "stop": OrderType.STOP,
    "stop_limit": OrderType.STOP_LIMIT,
    "trailing_stop": OrderType.TRAILING_STOP,
}


def order_events(source: Document, assets: Assets, known: Mapping[str, Order], at_ms: int = 0) -> list[Event]:
    """What an order document says of the order and of its legs, each as it is now. `at_ms`: when it was said."""
    events: list[Event] = [_order_event(source, assets, known, at_ms)]
    if source.get("legs"):
        events.extend(_order_event(leg, assets, known, at_ms) for leg in legs_of(source))
    return events


def _order_event(source: Document, assets: Assets, known: Mapping[str, Order], at_ms: int) -> Event:
    key, state = order_id(source), order_state(source)
    if state is None:
        return OrderGone(key, to_ms(source.get("updated_at")) or at_ms)
    return OrderChanged(_order(key, state, source, assets, known.get(key), at_ms))


def legs_of(source: Document) -> list[Document]:
    """The legs of an order that are orders of their own: those of a multi-leg order are not."""
    legs = source.get("legs")
    return documents(legs) if legs and source.get("order_class") != "mleg" else []


def order_id(source: Document) -> str:
    """The order's id. Raises ProtocolViolation."""
    found = identity(source, "id")
    if found is None:
        raise ProtocolViolation("an order without an id")
    return found


def order_state(source: Document) -> OrderStatus | None:
    """The state of an order that works, None when it works no more. Raises UnknownValue for any other word."""
    state = source.get("status")
    if type(state) is not str or state not in STATES:
        raise UnknownValue("an order state that is not known")
    return STATES[state]


def order(source: Document, assets: Assets, known: Order | None = None, at_ms: int = 0) -> Order:
    """A working order; what the document does not say is taken from `known`. Raises ProtocolViolation."""
    state = order_state(source)
    if state is None:
        raise ProtocolViolation("an order that works no more")
    return _order(order_id(source), state, source, assets, known, at_ms)


def _order(key: str, state: OrderStatus, source: Document, assets: Assets, known: Order | None, at_ms: int) -> Order:
    filled = amount(source.get("filled_qty"))
    if filled is None:
        filled = known.filled_units if known is not None else _ZERO
    if filled and state is OrderStatus.WORKING:
        state = OrderStatus.PARTIALLY_FILLED
    limit, created, updated = source.get("limit_price"), source.get("created_at"), source.get("updated_at")
    updated_ms = to_ms(updated)
    if limit is not None:
        limit = number(limit) if source.get("order_class") == "mleg" else price(limit)  # a credit is negative
    stop = source.get("stop_price")
    made = Order(
        id=key,
        instrument_id=_instrument_id(source, assets, known),
        side=_side(source, known),
        type=_type(source, known),
        units=_units(source, known, filled),
        filled_units=filled,
        limit_price=limit,
        stop_price=None if stop is None else price(stop),
        status=state,
        created_at_ms=(updated_ms if created == updated else to_ms(created)) or to_ms(source.get("submitted_at")),
        updated_at_ms=updated_ms or at_ms,
        client_order_id=identity(source, "client_order_id"),
    )
    if known is not None:
        _fill_in(made, source, known)
    return made


def _fill_in(made: Order, source: Document, known: Order) -> None:
    """What is missing (not null) in the document stays as it was."""
    if "limit_price" not in source:
        made.limit_price = known.limit_price
    if "stop_price" not in source:
        made.stop_price = known.stop_price
    if made.created_at_ms is None:
        made.created_at_ms = known.created_at_ms
    if made.client_order_id is None:
        made.client_order_id = known.client_order_id
    if not made.updated_at_ms:
        made.updated_at_ms = known.updated_at_ms


def _instrument_id(source: Document, assets: Assets, known: Order | None) -> str:
    if source.get("symbol") or source.get("asset_id") not in (None, "", NOBODY):
        return assets.of_holding(source).id
    if known is not None:
        return known.instrument_id
    return assets.of_legs(documents(source.get("legs") or [])).id


def _side(source: Document, known: Order | None) -> Side:
    said = source.get("side")
    if not said:
        if known is not None:
            return known.side
        if source.get("order_class") == "mleg":
            return Side.BUY  # of the legs together: the broker does not always say
    side = SIDES.get(said) if type(said) is str else None
    if side is None:
        raise UnknownValue("neither buy nor sell")
    return side


def _type(source: Document, known: Order | None) -> OrderType:
    said = source.get("type") or source.get("order_type")
    if not said and known is not None:
        return known.type
    found = TYPES.get(said) if type(said) is str else None
    if found is None:
        raise UnknownValue("an order type that is not known")
    return found


def _units(source: Document, known: Order | None, filled: Decimal) -> Decimal:
    """The quantity; of an order for an amount of money what is filled, the rest is not known."""
    units = amount(source.get("qty"))
    if units is not None:
        return units
    if source.get("notional"):
        return filled
    if known is None:
        raise ProtocolViolation("an order without a quantity")
    return max(known.units, filled)
