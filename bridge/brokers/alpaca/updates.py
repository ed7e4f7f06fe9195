"""Trade updates to our facts: what one message of the trading stream changes. Pure.

Events and fields are those of reference/alpaca.md §2.2. The order's status decides what becomes of the order, the event
only whether something was executed. An execution moves position and cash of the mirror it is applied to, so facts are
made for one mirror, in the order of the stream. Anything absurd raises ProtocolViolation and changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal

from bridge.brokers.alpaca import holding, orders
from bridge.brokers.alpaca.activities import SIDES
from bridge.brokers.alpaca.instruments import Assets
from bridge.brokers.alpaca.times import to_ms
from bridge.brokers.alpaca.values import Document, amount, document, documents, identity, number, price, symbol, word
from core.account import AccountMirror
from core.errors import ProtocolViolation
from core.events import BalanceChanged, Event, Execution, Fill, PositionChanged, PositionClosed
from core.orders import Side
from core.positions import Position

FILLS = frozenset({"fill", "partial_fill"})
_READ_SOON = frozenset({"trade_bust", "trade_correct", "replaced", "restated"})  # changes what no message says whole
_KNOWN_EVENTS = (
    FILLS
    | _READ_SOON
    | {
        "new",
        "accepted",
        "pending_new",
        "partially_filled",
        "filled",
        "canceled",
        "expired",
        "rejected",
        "done_for_day",
        "calculated",
        "stopped",
        "suspended",
        "pending_cancel",
        "pending_replace",
        "pending_review",
        "accepted_for_bidding",
        "order_cancel_rejected",
        "order_replace_rejected",
        "held",
    }
)
SAY_ALL = _KNOWN_EVENTS - _READ_SOON


@dataclass(slots=True)
class Part:
    """One execution. `about`: the order or leg that names asset and side. What is not said is None."""

    execution_id: str | None
    order_id: str
    about: Document
    units: Decimal | None
    price: Decimal | None
    held: Decimal | None  # afterwards, negative when short


@dataclass(slots=True)
class TradeUpdate:
    """One message of `trade_updates`, read but not yet applied."""

    event: str
    order: Document
    at_ms: int
    parts: tuple[Part, ...] = ()

    @property
    def known(self) -> bool:
        """Whether the event is one we know the meaning of."""
        return self.event in _KNOWN_EVENTS


@dataclass(slots=True)
class Facts:
    """What an update changes. `read_soon`: the broker's own figures should be read after it."""

    execution: Execution
    fills: tuple[Fill, ...] = ()
    read_soon: bool = False


def read(data: object) -> TradeUpdate:
    """The `data` of a trade_updates message. Raises ProtocolViolation."""
    source = document(data)
    order = document(source.get("order"))
    event = word(source, "event") or ""
    at_ms = to_ms(source.get("timestamp")) or to_ms(source.get("at")) or 0
    if event not in FILLS:
        return TradeUpdate(event, order, at_ms)
    if source.get("position_qtys") is not None or order.get("order_class") == "mleg":
        return TradeUpdate(event, order, at_ms, _legs(source, order))
    name = identity(source, "execution_id") or identity(source, "event_id")
    return TradeUpdate(event, order, at_ms, (_part(name, source, order, number(source.get("position_qty"))),))


def facts(update: TradeUpdate, mirror: AccountMirror, assets: Assets, is_known: Callable[[str], bool]) -> Facts:
    """What the update changes on this mirror; executions that are known already change the order only. Raises
    ProtocolViolation (UnknownValue for an order state or type that we do not know)."""
    events = orders.order_events(update.order, assets, mirror.orders, update.at_ms)
    read_soon = update.event not in SAY_ALL
    if update.event not in FILLS:
        return Facts(Execution(tuple(events)), read_soon=read_soon)
    tally = _Tally(mirror, assets, update.at_ms)
    complete = bool(update.parts)
    for part in update.parts:
        if part.execution_id is None:
            complete = False
        elif not is_known(part.execution_id):
            complete &= tally.take(part)
    events.extend(tally.events())
    fills = tuple(tally.fills)
    return Facts(Execution(tuple(events), urgent=bool(fills)), fills, read_soon or bool(fills) or not complete)


class _Tally:
    """Cash and positions of a mirror, as the executions of one update change them."""

    __slots__ = ("_assets", "_at_ms", "_cash", "_mirror", "_positions", "fills")

    def __init__(self, mirror: AccountMirror, assets: Assets, at_ms: int) -> None:
        self._mirror = mirror
        self._assets = assets
        self._at_ms = at_ms
        self._cash = mirror.balance
        self._positions: dict[str, Position | None] = {}
        self.fills: list[Fill] = []

    def take(self, part: Part) -> bool:
        """Count one execution in; False when too little is said of it."""
        side = self._side(part)
        if part.execution_id is None or side is None or part.units is None or not part.units or part.price is None:
            return False
        instrument = self._assets.of_holding(self._about(part))
        key, multiplier = instrument.id, instrument.multiplier
        fill = Fill(part.execution_id, part.order_id, key, side, part.units, part.price, self._at_ms)
        if self._cash is not None:
            self._cash += holding.cash_moved(side, part.units, part.price, multiplier)
        if not self._outdated(key):
            old = self._positions[key] if key in self._positions else self._mirror.positions.get(key)
            traded = holding.signed(side, part.units)
            self._positions[key] = holding.after(old, key, traded, part.price, part.held, multiplier)
        self.fills.append(fill)
        return True

    def events(self) -> list[Event]:
        """What changed."""
        changed: list[Event] = []
        for key, position in self._positions.items():
            changed.append(PositionClosed(key) if position is None else PositionChanged(position))
        if self.fills and self._cash is not None:
            changed.append(BalanceChanged(self._cash))
        return changed

    def _outdated(self, key: str) -> bool:
        """A later execution of the asset is known: what it said of the position holds this one too."""
        if self._mirror.newest_fill_ms <= self._at_ms:
            return False
        return any(fill.at_ms > self._at_ms and fill.instrument_id == key for fill in self._mirror.fills)

    def _side(self, part: Part) -> Side | None:
        said = part.about.get("side")
        if said is not None and said != "":
            return SIDES.get(said) if type(said) is str else None
        known = self._mirror.orders.get(part.order_id)
        return None if known is None else known.side

    def _about(self, part: Part) -> Document:
        """What names the asset: the message, else the order as it is known."""
        if part.about.get("asset_id") or part.about.get("symbol"):
            return part.about
        known = self._mirror.orders.get(part.order_id)
        if known is None:
            raise ProtocolViolation("an execution of an asset that nobody names")
        return {"asset_id": known.instrument_id}


def _part(name: str | None, source: Document, about: Document, held: Decimal | None) -> Part:
    order_id = identity(about, "id") or ""
    return Part(name, order_id, about, amount(source.get("qty")), price(source.get("price")), held)


def _legs(source: Document, order: Document) -> tuple[Part, ...]:
    """The executions of a multi-leg order, one for each leg that tells of its own; () when none does."""
    held, legs = source.get("position_qtys"), source.get("legs")
    held = held if isinstance(held, Mapping) else {}
    ordered = {identity(leg, "id"): leg for leg in documents(order.get("legs") or [])}
    parts = []
    for leg in documents(legs or []):
        about = ordered.get(identity(leg, "order_id") or identity(leg, "id"), leg)
        quantity = number(leg.get("position_qty"))
        if quantity is None:
            quantity = number(held.get(symbol(about)))
        parts.append(_part(identity(leg, "execution_id"), leg, about, quantity))
    return tuple(parts)
