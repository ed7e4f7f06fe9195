"""Normalised facts about one account. An adapter makes them, the mirror applies them; both are broker-neutral.

A price tick is not an event object: it goes straight to `AccountMirror.set_quote`, because ticks outnumber
everything else by orders of magnitude (DESIGN §4). Nobody changes a fact once it is made. Those that come often are not
frozen all the same: in Python that makes each several times as dear.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from core.orders import Order, Side
from core.positions import Position


@dataclass(slots=True)
class BalanceChanged:
    """A new balance; the highest `version` wins (None: the broker has no versions, last one wins)."""

    balance: Decimal
    version: int | None = None


@dataclass(frozen=True, slots=True)
class AccountChanged:
    """Account settings; None means "not said", which changes nothing.

    `used_margin`: of the whole account, where the broker says none per position.
    """

    currency: str | None = None
    money_digits: int | None = None
    leverage: Decimal | None = None
    can_trade: bool | None = None
    login: str | None = None
    broker_title: str | None = None
    used_margin: Decimal | None = None


@dataclass(slots=True)
class PositionChanged:
    """The whole position as it is now (opened or changed).

    `margin_known` False keeps the mirror's used margin, because this message carried none.
    """

    position: Position
    margin_known: bool = True


@dataclass(slots=True)
class PositionClosed:
    """The position does not exist any more. `at_ms` 0 when the broker gives no time."""

    position_id: str
    at_ms: int = 0


@dataclass(frozen=True, slots=True)
class MarginChanged:
    """The used margin of one position, in the deposit currency."""

    position_id: str
    used_margin: Decimal


@dataclass(frozen=True, slots=True)
class StopLossMoved:
    """A trailing stop was moved by the broker."""

    position_id: str
    stop_loss: Decimal


@dataclass(slots=True)
class OrderChanged:
    """The whole working order as it is now (placed or changed)."""

    order: Order


@dataclass(slots=True)
class OrderGone:
    """The order works no more: filled, cancelled, expired or rejected."""

    order_id: str
    at_ms: int = 0


@dataclass(slots=True)
class Fill:
    """One execution of an order. `recovered`: no live message told of it, it was found afterwards.

    No event: it changes nothing by itself, the events beside it do (`AccountMirror.note_fill` keeps it).
    """

    execution_id: str
    order_id: str
    instrument_id: str
    side: Side
    units: Decimal
    price: Decimal
    at_ms: int
    recovered: bool = False


Event = (
    BalanceChanged
    | AccountChanged
    | PositionChanged
    | PositionClosed
    | MarginChanged
    | StopLossMoved
    | OrderChanged
    | OrderGone
)


@dataclass(slots=True)
class Execution:
    """What one broker message says, applied whole and once.

    `dedupe_key` identifies the message across duplicates (None: cannot repeat harmfully); `urgent` asks for a
    flush at once (fills, balance changes).
    """

    events: tuple[Event, ...]
    dedupe_key: str | None = None
    urgent: bool = False
