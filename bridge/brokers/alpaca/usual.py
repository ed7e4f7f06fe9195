"""The direct way from a frame to facts, for trade updates that look as nearly all do. Pure.

Only a short cut: `facts` says what `updates.read` and `updates.facts` would say of the same frame, or None, and then
those are asked. None for whatever is not plain: multi-leg orders and legs, fields that are missing or null where nearly
always something stands, numbers that are no strings, unknown words, assets and executed orders, executions known
already or overtaken, absurd values. Fields that nobody reads are skipped over, whatever stands in them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import msgspec

from bridge.brokers.alpaca import holding
from bridge.brokers.alpaca.activities import SIDES
from bridge.brokers.alpaca.instruments import Assets
from bridge.brokers.alpaca.orders import STATES, TYPES
from bridge.brokers.alpaca.times import to_ms
from bridge.brokers.alpaca.updates import FILLS, SAY_ALL, Facts
from bridge.brokers.alpaca.values import amount_in, is_id, number_in, price_in
from core.account import AccountMirror
from core.errors import ProtocolViolation
from core.events import BalanceChanged, Event, Execution, Fill, OrderChanged, OrderGone, PositionChanged, PositionClosed
from core.instruments import Instrument
from core.orders import Order, OrderStatus


class _Order(msgspec.Struct, gc=False):
    """reference/alpaca.md §1.3"""

    id: str
    client_order_id: str
    created_at: str
    updated_at: str
    asset_id: str
    symbol: str
    qty: str
    filled_qty: str
    order_class: str
    type: str
    side: str
    status: str
    limit_price: str | None
    stop_price: str | None
    legs: None


class _Update(msgspec.Struct, gc=False):
    """reference/alpaca.md §2.2"""

    event: str
    timestamp: str
    order: _Order
    execution_id: str = ""
    price: str = ""
    qty: str = ""
    position_qty: str = ""
    position_qtys: Any = msgspec.UNSET


class _Message(msgspec.Struct, gc=False):
    stream: Literal["trade_updates"]
    data: _Update


_decode = msgspec.json.Decoder(_Message).decode


def facts(
    frame: bytes | bytearray | memoryview, mirror: AccountMirror, assets: Assets, is_known: Callable[[str], bool]
) -> tuple[str, Facts] | None:
    """The event's name and what it changes on this mirror; None when the general way must be taken."""
    try:
        update = _decode(frame).data
        event, order = update.event, update.order
        state, instrument = STATES[order.status], assets.catalogue.instruments[order.asset_id]
        if event not in SAY_ALL or order.symbol != instrument.name or order.order_class == "mleg":
            return None
        at_ms = to_ms(update.timestamp)
        updated_ms = at_ms if order.updated_at == update.timestamp else to_ms(order.updated_at)
        if at_ms is None or updated_ms is None:
            return None
        if order.id not in mirror.orders and not (event not in FILLS and is_id(order.id)):
            return None
        about = OrderGone(order.id, updated_ms) if state is None else _changed(order, state, instrument.id, updated_ms)
        if event in FILLS:
            done = _executed(update, about, instrument, at_ms, mirror, is_known)
            return None if done is None else (event, done)
        return event, Facts(Execution((about,)))
    except (msgspec.DecodeError, ProtocolViolation, KeyError, UnicodeDecodeError, RecursionError):
        return None


def _changed(source: _Order, state: OrderStatus, instrument_id: str, updated_ms: int) -> OrderChanged:
    """Raises ProtocolViolation or KeyError for what is not plain."""
    units, filled = amount_in(source.qty), amount_in(source.filled_qty)
    created_ms = updated_ms if source.created_at == source.updated_at else to_ms(source.created_at)
    limit, stop, own_id = source.limit_price, source.stop_price, source.client_order_id
    if units is None or filled is None or created_ms is None or not is_id(own_id):
        raise ProtocolViolation("not plain")
    order = Order(  # by position: by name would cost as much again
        source.id,
        instrument_id,
        SIDES[source.side],
        TYPES[source.type],
        units,
        filled,
        None if limit is None else price_in(limit),
        None if stop is None else price_in(stop),
        None,
        None,
        OrderStatus.PARTIALLY_FILLED if filled and state is OrderStatus.WORKING else state,
        created_ms,
        updated_ms,
        own_id,
    )
    return OrderChanged(order)


def _executed(
    update: _Update,
    about: Event,
    instrument: Instrument,
    at_ms: int,
    mirror: AccountMirror,
    is_known: Callable[[str], bool],
) -> Facts | None:
    """An execution, and what it does to position and cash. Raises ProtocolViolation or KeyError."""
    key, name, order_id = instrument.id, update.execution_id, update.order.id
    side, units, paid = SIDES[update.order.side], amount_in(update.qty), price_in(update.price)
    cash, said = mirror.balance, update.position_qty
    if not units or paid is None or cash is None or update.position_qtys is not msgspec.UNSET:
        return None
    if not is_id(name) or is_known(name) or mirror.newest_fill_ms > at_ms:
        return None
    multiplier = instrument.multiplier
    traded, held = holding.signed(side, units), number_in(said) if said else None
    position = holding.after(mirror.positions.get(key), key, traded, paid, held, multiplier)
    changed = PositionClosed(key) if position is None else PositionChanged(position)
    balance = BalanceChanged(cash + holding.cash_moved(side, units, paid, multiplier))
    return Facts(
        Execution((about, changed, balance), None, True), (Fill(name, order_id, key, side, units, paid, at_ms),), True
    )
