"""An accepted reading as a core snapshot, with what the stream said while it was made. Pure.

What the stream said of an order in a later version than the reading's holds, since REST may lag behind it (reference/
alpaca.md §8.1). Invariant: an execution that the reading shows moves neither position nor cash once more.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from bridge.brokers.alpaca import normalize, orders, updates
from bridge.brokers.alpaca.instruments import Assets
from bridge.brokers.alpaca.reading import Executions, Reading
from bridge.brokers.alpaca.updates import TradeUpdate
from bridge.brokers.alpaca.values import Document, UnknownValue
from core.account import AccountMirror, Snapshot
from core.errors import ProtocolViolation
from core.events import BalanceChanged
from core.orders import Order
from core.reconcile import reconcile


@dataclass(frozen=True, slots=True)
class Assembled:
    """A snapshot, the present prices of what is held (raw, by asset), and how many orders are of a kind or state that
    we do not know and stand not in it."""

    snapshot: Snapshot
    prices: dict[str, int]
    left_out: int = 0


def assemble(reading: Reading, mirror: AccountMirror, assets: Assets, memory: Executions) -> Assembled:
    """The facts of a reading. Raises ProtocolViolation when it cannot be used."""
    account, balance = normalize.account(reading.account)
    held = [normalize.position(source, assets) for source in reading.positions]
    positions = {position.id: position for position in held if position is not None}
    working: dict[str, Order] = {}
    left_out = 0
    for source in _with_legs(reading.orders):
        try:
            order = _order(source, mirror, assets, memory)
        except UnknownValue:
            left_out += 1
            continue
        if order is not None:
            working[order.id] = order
    snapshot = Snapshot(account, balance, tuple(positions.values()), tuple(working.values()))
    return Assembled(snapshot, normalize.prices(reading.positions, assets), left_out)


def missing_orders(reading: Reading, mirror: AccountMirror) -> list[str]:
    """Orders that work as far as the mirror knows, and that the reading does not list. Raises ProtocolViolation."""
    listed = {orders.order_id(source) for source in _with_legs(reading.orders)}
    return [key for key in mirror.orders if key not in listed]


def with_updates(
    snapshot: Snapshot,
    buffered: Iterable[TradeUpdate],
    reading: Reading,
    mirror: AccountMirror,
    assets: Assets,
    memory: Executions,
) -> Snapshot:
    """The snapshot after the updates that came since the reading began. What cannot be used is left out: it was
    quarantined when it came."""
    aside = AccountMirror(
        mirror.environment, mirror.account_id, assets.catalogue, mirror.quote_digits, mirror.equity_rule
    )
    aside.apply_all(reconcile(aside, snapshot), 0)
    counted = {row.execution_id for row in reading.fills}
    for update in buffered:
        try:
            facts = updates.facts(update, aside, assets, lambda key: key in counted or memory.told_before(reading, key))
        except ProtocolViolation:
            continue
        aside.apply(facts.execution, 0)
        for fill in facts.fills:
            aside.note_fill(fill)
            counted.add(fill.execution_id)
    balance = None if aside.balance is None else BalanceChanged(aside.balance)
    return Snapshot(snapshot.account, balance, tuple(aside.positions.values()), tuple(aside.orders.values()))


def _order(source: Document, mirror: AccountMirror, assets: Assets, memory: Executions) -> Order | None:
    """A working order of a reading in the latest version known; None when it works no more."""
    if orders.order_state(source) is None:
        return None
    known = mirror.orders.get(orders.order_id(source))
    order = orders.order(source, assets, known)
    if memory.gone_since(order.id, order.updated_at_ms):
        return None
    return known if known is not None and known.updated_at_ms > order.updated_at_ms else order


def _with_legs(sources: Iterable[Document]) -> Iterator[Document]:
    for source in sources:
        yield source
        yield from orders.legs_of(source)
