"""The account mirror: an in-memory copy of one broker account, built by applying events.

It never asks, waits or writes. Events may arrive twice, late or out of order: a version of an object older than
the one held is ignored, an object that was removed does not come back through an older message, and the balance
with the highest version wins. Quotes are raw integers (price x 10^quote_digits), so that a tick costs two
assignments; valuation happens only when a record is made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum
from typing import Any

from core.events import (
    AccountChanged,
    BalanceChanged,
    Event,
    Execution,
    Fill,
    MarginChanged,
    OrderChanged,
    OrderGone,
    PositionChanged,
    PositionClosed,
    StopLossMoved,
)
from core.instruments import Catalogue
from core.orders import Order
from core.positions import Position

REMEMBERED_REMOVALS = 64
REMEMBERED_EXECUTIONS = 64
REMEMBERED_FILLS = 20
SETTINGS = ("currency", "money_digits", "leverage", "can_trade", "login", "broker_title", "used_margin")
_CONTENT = (*SETTINGS, "balance", "balance_version", "positions", "orders")


class EquityRule(StrEnum):
    """What an account's equity is made of."""

    PROFIT = "profit"  # balance + unrealised P&L: positions are held on margin
    VALUE = "value"  # the balance is cash: what is held was paid for, and counts with its market value


class Quote:
    """The last bid and ask of one instrument on one account, as integers of 10^-quote_digits; None = not seen."""

    __slots__ = ("ask", "bid")

    def __init__(self, bid: int | None = None, ask: int | None = None) -> None:
        self.bid = bid
        self.ask = ask


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What the broker says the account is now: one complete reading (balance None: not part of this reading)."""

    account: AccountChanged
    balance: BalanceChanged | None
    positions: tuple[Position, ...]
    orders: tuple[Order, ...]


@dataclass(slots=True, eq=False)
class AccountMirror:
    """One account as we know it. Money in `currency`; `None` = not known.

    `on_dirty` is called once when the content first changes after `clean()`, `on_clean` at every reading (for whoever
    shares a quote among mirrors); `content_at_ms` is the time of the last change, `confirmed_at_ms` of the last full
    reconcile (Unix ms, from the callers' `now_ms`); `events` counts everything applied, ticks included. `fills`: the
    last executions known, newest last (`newest_fill_ms`: the latest time of any, for they may come late).
    `used_margin`: of the account, where the broker says none per position. `kept`: not content; whoever makes records
    keeps here what it has worked out, and looks itself whether it still holds.
    """

    environment: str
    account_id: str
    catalogue: Catalogue
    quote_digits: int = 5
    equity_rule: EquityRule = EquityRule.PROFIT
    currency: str | None = None
    money_digits: int = 2
    leverage: Decimal | None = None
    can_trade: bool | None = None
    login: str | None = None
    broker_title: str | None = None
    used_margin: Decimal | None = None
    balance: Decimal | None = None
    balance_version: int | None = None
    positions: dict[str, Position] = field(default_factory=dict)
    orders: dict[str, Order] = field(default_factory=dict)
    quotes: dict[str, Quote] = field(default_factory=dict)
    fills: tuple[Fill, ...] = ()
    newest_fill_ms: int = 0
    content_at_ms: int | None = None
    confirmed_at_ms: int | None = None
    events: int = 0
    dirty: bool = False
    on_dirty: Callable[[], None] | None = None
    on_clean: Callable[[], None] | None = None
    kept: Any = field(default=None, init=False, repr=False)
    _removed: dict[str, int] | None = None  # the version removed; ids are never reused by brokers
    _seen: dict[str, None] | None = None

    @property
    def at_risk(self) -> bool:
        """True when the account has open positions or working orders."""
        return bool(self.positions or self.orders)

    def set_quote(self, instrument_id: str, bid: int | None, ask: int | None) -> None:
        """Take one tick. An absent side keeps its last value. The hot path: no allocation after the first tick."""
        quote = self.quotes.get(instrument_id)
        if quote is None:
            quote = self.quotes[instrument_id] = Quote()
        if bid is not None:
            quote.bid = bid
        if ask is not None:
            quote.ask = ask
        self.events += 1
        if not self.dirty:
            self.mark_dirty()

    def mark_dirty(self) -> None:
        """Say that the content differs from what was last read; tells the listener once until `clean()`."""
        if not self.dirty:
            self.dirty = True
            if self.on_dirty is not None:
                self.on_dirty()

    def clean(self) -> None:
        """A reading was taken; the next change tells the listener again."""
        self.dirty = False
        if self.on_clean is not None:
            self.on_clean()

    def note_fill(self, fill: Fill) -> None:
        """Keep an execution for whoever asks what happened last. The caller sees to it that none comes twice."""
        self.fills = (*self.fills[-REMEMBERED_FILLS + 1 :], fill)
        if fill.at_ms > self.newest_fill_ms:
            self.newest_fill_ms = fill.at_ms

    def apply(self, execution: Execution, now_ms: int) -> bool:
        """Apply one message's events. Returns True when anything changed; a known duplicate changes nothing."""
        self.events += 1
        if execution.dedupe_key is not None and self._is_duplicate(execution.dedupe_key):
            return False
        changed = False
        for event in execution.events:
            changed |= APPLIED_BY[type(event)](self, event)
        if changed:
            self.content_at_ms = now_ms
            self.mark_dirty()
        return changed

    def apply_all(self, events: Iterable[Event], now_ms: int) -> int:
        """Apply events without duplicate detection (reconcile). Returns how many changed something."""
        changed = sum(APPLIED_BY[type(event)](self, event) for event in events)
        if changed:
            self.content_at_ms = now_ms
            self.mark_dirty()
        return changed

    def replace_content(self, other: AccountMirror, now_ms: int, *, changed: bool) -> None:
        """Take over everything `other` holds except quotes, in one step. `changed` False: it holds the same."""
        for name in _CONTENT:
            setattr(self, name, getattr(other, name))
        if self._removed is not None:
            for key in (*(f"p{key}" for key in self.positions), *(f"o{key}" for key in self.orders)):
                self._removed.pop(key, None)
        if changed:
            self.content_at_ms = now_ms
            self.mark_dirty()

    def forget_quotes(self, instrument_ids: Iterable[str]) -> None:
        """Drop quotes that are no longer fed: an old price must not look like a present one."""
        for instrument_id in instrument_ids:
            self.quotes.pop(instrument_id, None)

    def _is_duplicate(self, key: str) -> bool:
        if self._seen is None:
            self._seen = {}
        if key in self._seen:
            return True
        self._seen[key] = None
        if len(self._seen) > REMEMBERED_EXECUTIONS:
            del self._seen[next(iter(self._seen))]
        return False

    def _put_position(self, event: PositionChanged) -> bool:
        new = event.position
        old = self.positions.get(new.id)
        if self._removed is not None and new.updated_at_ms <= self._removed.get(f"p{new.id}", -1):
            return False
        if old is not None:
            if new.updated_at_ms < old.updated_at_ms:
                return False
            if not event.margin_known:
                new.used_margin = old.used_margin
            if new.units == old.units and new == old:  # the whole comparison is dear, and units often differ
                old.updated_at_ms = new.updated_at_ms
                return False
        self.positions[new.id] = new
        return True

    def _put_order(self, event: OrderChanged) -> bool:
        new = event.order
        old = self.orders.get(new.id)
        if self._removed is not None and new.updated_at_ms <= self._removed.get(f"o{new.id}", -1):
            return False
        if old is not None:
            if new.updated_at_ms < old.updated_at_ms:
                return False
            if new == old:
                old.updated_at_ms = new.updated_at_ms
                return False
        self.orders[new.id] = new
        return True

    def _close_position(self, event: PositionClosed) -> bool:
        return self._remove(self.positions, f"p{event.position_id}", event.position_id, event.at_ms)

    def _drop_order(self, event: OrderGone) -> bool:
        return self._remove(self.orders, f"o{event.order_id}", event.order_id, event.at_ms)

    def _remove(self, held: dict[str, Position] | dict[str, Order], tomb: str, key: str, at_ms: int) -> bool:
        old, version = held.get(key), at_ms
        if old is not None:
            if 0 < at_ms < old.updated_at_ms:
                return False
            del held[key]
            version = at_ms or old.updated_at_ms
        if version:  # what has no versions cannot come back late, but it may be held anew
            self._remember_removal(tomb, version)
        return old is not None

    def _remember_removal(self, tomb: str, version: int) -> None:
        removed = self._removed
        if removed is None:
            removed = self._removed = {}
        if version > removed.get(tomb, 0):
            removed[tomb] = version
        if len(removed) > REMEMBERED_REMOVALS:
            del removed[next(iter(removed))]

    def _set_balance(self, event: BalanceChanged) -> bool:
        if event.version is not None:
            if self.balance_version is not None and event.version < self.balance_version:
                return False
            self.balance_version = event.version
        changed = self.balance != event.balance
        self.balance = event.balance
        return changed

    def _set_margin(self, event: MarginChanged) -> bool:
        return self._set_on_position(event.position_id, "used_margin", event.used_margin)

    def _move_stop_loss(self, event: StopLossMoved) -> bool:
        return self._set_on_position(event.position_id, "stop_loss", event.stop_loss)

    def _set_on_position(self, position_id: str, name: str, value: Decimal) -> bool:
        position = self.positions.get(position_id)
        if position is None or getattr(position, name) == value:
            return False
        setattr(position, name, value)
        return True

    def _set_account(self, event: AccountChanged) -> bool:
        changed = False
        for name in SETTINGS:
            value = getattr(event, name)
            if value is not None and getattr(self, name) != value:
                setattr(self, name, value)
                changed = True
        return changed


APPLIED_BY: dict[type[Event], Callable[[AccountMirror, Any], bool]] = {
    PositionChanged: AccountMirror._put_position,
    PositionClosed: AccountMirror._close_position,
    OrderChanged: AccountMirror._put_order,
    OrderGone: AccountMirror._drop_order,
    BalanceChanged: AccountMirror._set_balance,
    MarginChanged: AccountMirror._set_margin,
    StopLossMoved: AccountMirror._move_stop_loss,
    AccountChanged: AccountMirror._set_account,
}
