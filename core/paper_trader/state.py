"""The engine's memory: accounts with holdings and working orders, counters, due times, events of the present call.

Nothing here decides. Orders and positions are kept as their newest immutable snapshot, so emitting one costs no copy.
Invariant: every armed trigger of a holding or working order is in the book of its instrument, and no other.
"""

from __future__ import annotations

import heapq
import random
from collections import deque
from dataclasses import dataclass, field
from decimal import Decimal

from core.errors import NotFound
from core.money import round_money
from core.paper_trader.events import Event
from core.paper_trader.market import Book, Market
from core.paper_trader.settings import AccountSettings, EngineSettings
from core.paper_trader.triggers import Trigger
from core.paper_trader.types import ZERO, Deal, Order, Position


class Working:
    """A working order and what wakes it: one trigger, two for a trailing stop."""

    __slots__ = ("order", "triggers")

    def __init__(self, order: Order) -> None:
        self.order = order
        self.triggers: list[Trigger] = []


class Holding:
    """An open position with what the engine alone needs to know about it.

    `margin_value`: deposit value of its units at opening prices. `protection`: the order that carries its stop loss and
    take profit. `trail_distance`: from the closing price to the stop loss when trailing began.
    """

    __slots__ = ("margin_value", "owed_swap_days", "position", "protection", "trail_distance", "triggers")

    def __init__(self, position: Position) -> None:
        self.position = position
        self.margin_value = ZERO
        self.owed_swap_days = 0
        self.protection: Order | None = None
        self.trail_distance: Decimal | None = None
        self.triggers: list[Trigger] = []


class Account:
    """One account: money, holdings by position id, working orders by order id, bounded history."""

    def __init__(self, account_id: str, market: Market, settings: AccountSettings, history_limit: int) -> None:
        self.id = account_id
        self.market = market
        self.settings = settings
        self.balance = round_money(ZERO, settings.money_digits)
        self.balance_version = 0
        self.bonus = self.balance
        self.holdings: dict[int, Holding] = {}
        self.working: dict[int, Working] = {}
        self.deals: deque[Deal] = deque(maxlen=history_limit)
        self.finished: deque[Order] = deque(maxlen=history_limit)
        self.margin_watches: list[tuple[Book, Trigger]] = []
        self.below_levels: set[Decimal] = set()
        self.called_at_ms: dict[Decimal, int] = {}

    def round(self, amount: Decimal) -> Decimal:
        """Half-even to the deposit digits."""
        return round_money(amount, self.settings.money_digits)

    def add_to_balance(self, delta: Decimal) -> None:
        """The only place a balance changes; each change raises its version."""
        self.balance += delta
        self.balance_version += 1

    def holding_of(self, instrument_id: str) -> Holding | None:
        """The position of that instrument: the only one on a netted account."""
        for holding in self.holdings.values():
            if holding.position.instrument_id == instrument_id:
                return holding
        return None


@dataclass(frozen=True, slots=True, order=True)
class Due:
    """Something to do at a time: an order that may expire, or (no account) an instrument's swap."""

    at_ms: int
    number: int
    account_id: str | None = field(compare=False)
    order_id: int = field(compare=False)
    market_id: str = field(compare=False)
    instrument_id: str = field(compare=False)


class Desk:
    """What all parts of the engine share during one call."""

    def __init__(self, rng: random.Random, settings: EngineSettings) -> None:
        self.rng = rng
        self.settings = settings
        self.markets: dict[str, Market] = {}
        self.accounts: dict[str, Account] = {}
        self.now_ms = 0
        self.crossed: list[Trigger] = []  # armed beyond their level already: to be fired before the call ends
        self.touched: dict[str, None] = {}  # accounts whose margin level must be looked at before the call ends
        self._events: list[Event] = []
        self._due: list[Due] = []
        self._due_count = 0
        self._next_order_id = settings.first_order_id
        self._next_position_id = settings.first_position_id
        self._next_deal_id = settings.first_deal_id
        self._next_cash_id = settings.first_cash_id

    def market(self, market_id: str) -> Market:
        market = self.markets.get(market_id)
        if market is None:
            raise NotFound(f"no market {market_id}")
        return market

    def account(self, account_id: str) -> Account:
        account = self.accounts.get(account_id)
        if account is None:
            raise NotFound(f"no account {account_id}")
        return account

    def emit(self, event: Event) -> None:
        self._events.append(event)

    def take_events(self) -> list[Event]:
        events, self._events = self._events, []
        return events

    def touch(self, account: Account) -> None:
        self.touched[account.id] = None

    def arm(self, book: Book, trigger: Trigger) -> None:
        """Watch a level; one that the present price is beyond already fires before this call ends."""
        book.triggers.arm(trigger)
        if book.is_open and trigger.reached(book.ask if trigger.on_ask else book.bid):
            self.crossed.append(trigger)

    def schedule_expiry(self, at_ms: int, account_id: str, order_id: int) -> None:
        """Look at the order again then; an entry whose order has ended or moved on is ignored when it comes up."""
        self._schedule(at_ms, account_id, order_id, "", "")

    def schedule_swap(self, at_ms: int, market_id: str, instrument_id: str) -> None:
        """Charge swap on the instrument then."""
        self._schedule(at_ms, None, 0, market_id, instrument_id)

    def next_due_ms(self) -> int | None:
        return self._due[0].at_ms if self._due else None

    def pop_due(self, until_ms: int) -> Due | None:
        """The earliest entry that is due by then."""
        if not self._due or self._due[0].at_ms > until_ms:
            return None
        return heapq.heappop(self._due)

    def _schedule(self, at_ms: int, account_id: str | None, order_id: int, market_id: str, instrument_id: str) -> None:
        self._due_count += 1
        heapq.heappush(self._due, Due(at_ms, self._due_count, account_id, order_id, market_id, instrument_id))

    def new_order_id(self) -> int:
        self._next_order_id += 1
        return self._next_order_id - 1

    def new_position_id(self) -> int:
        self._next_position_id += 1
        return self._next_position_id - 1

    def new_deal_id(self) -> int:
        self._next_deal_id += 1
        return self._next_deal_id - 1

    def new_cash_id(self) -> int:
        self._next_cash_id += 1
        return self._next_cash_id - 1
