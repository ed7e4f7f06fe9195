"""Everything an engine remembers, as immutable values: kept elsewhere and taken up again, it goes on the same way.

`remember` takes it out between two calls, `recall` builds an engine from it. An engine recalled answers every later
call with the same events as the one it was taken from: orders, due times and armed levels keep their order, counters
their place. What can be computed from the rest (whose levels are whose, chains of conversion) is not kept.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal

from core.errors import InvalidInput
from core.paper_trader.engine import Engine
from core.paper_trader.market import Book, Market
from core.paper_trader.settings import AccountSettings, EngineSettings, Listing, MarketSettings
from core.paper_trader.state import Account, Desk, Due, Holding, Working
from core.paper_trader.triggers import Kind, Trigger
from core.paper_trader.types import Deal, Level, Order, Position


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmedMemory:
    """A level that is waited for; see `Trigger`."""

    kind: Kind
    account_id: str
    owner_id: int
    on_ask: bool
    rising: bool
    level: Decimal | None


@dataclass(frozen=True, slots=True, kw_only=True)
class BookMemory:
    """An instrument: terms, prices with what is left on offer, holders by position, levels in the order of arming.

    `scheduled`: its next swap is among the due times.
    """

    listing: Listing
    bids: tuple[Level, ...]
    asks: tuple[Level, ...]
    at_ms: int | None
    is_open: bool
    scheduled: bool
    holders: tuple[tuple[int, str], ...]
    armed: tuple[ArmedMemory, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class MarketMemory:
    """A broker server with its instruments in the order of listing."""

    id: str
    settings: MarketSettings
    books: tuple[BookMemory, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldingMemory:
    """An open position; see `Holding`."""

    position: Position
    protection: Order | None
    margin_value: Decimal
    owed_swap_days: int
    trail_distance: Decimal | None


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountMemory:
    """An account. `called`: when a margin call of each level was last sent; `below`: levels it is below of."""

    id: str
    market_id: str
    settings: AccountSettings
    balance: Decimal
    balance_version: int
    bonus: Decimal
    holdings: tuple[HoldingMemory, ...]
    working: tuple[Order, ...]
    deals: tuple[Deal, ...]
    finished: tuple[Order, ...]
    below: tuple[Decimal, ...]
    called: tuple[tuple[Decimal, int], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineMemory:
    """An engine between two calls. `next_…`: what the counters give next; `due`: earliest first."""

    settings: EngineSettings
    now_ms: int
    next_order_id: int
    next_position_id: int
    next_deal_id: int
    next_cash_id: int
    due_count: int
    due: tuple[Due, ...]
    markets: tuple[MarketMemory, ...]
    accounts: tuple[AccountMemory, ...]


def remember(engine: Engine) -> EngineMemory:
    """What the engine remembers now. Costs as much as there is of it."""
    desk = engine._desk
    unscheduled = {id(book) for _, book in engine._unscheduled}
    return EngineMemory(
        settings=desk.settings,
        now_ms=desk.now_ms,
        next_order_id=desk._next_order_id,
        next_position_id=desk._next_position_id,
        next_deal_id=desk._next_deal_id,
        next_cash_id=desk._next_cash_id,
        due_count=desk._due_count,
        due=tuple(sorted(desk._due)),
        markets=tuple(
            MarketMemory(
                id=market.id,
                settings=market.settings,
                books=tuple(_book(book, scheduled=id(book) not in unscheduled) for book in market.books.values()),
            )
            for market in desk.markets.values()
        ),
        accounts=tuple(_account(account) for account in desk.accounts.values()),
    )


def recall(memory: EngineMemory, rng: random.Random) -> Engine:
    """An engine that goes on from there; `rng` must be in the state of the other's.

    Raises InvalidInput and NotFound for a memory that does not hold together (`remember` makes none).
    """
    engine = Engine(rng, memory.settings)
    desk = engine._desk
    desk.now_ms = memory.now_ms
    desk._next_order_id, desk._next_position_id = memory.next_order_id, memory.next_position_id
    desk._next_deal_id, desk._next_cash_id = memory.next_deal_id, memory.next_cash_id
    desk._due_count, desk._due = memory.due_count, list(memory.due)
    for market_memory in memory.markets:
        engine.add_market(market_memory.id, market_memory.settings)
        market = desk.market(market_memory.id)
        for book_memory in market_memory.books:
            market.add(book_memory.listing)
            _recall_book(engine, market, book_memory)
    for account_memory in memory.accounts:
        desk.accounts[account_memory.id] = _recall_account(desk, account_memory)
    for market_memory in memory.markets:
        market = desk.market(market_memory.id)
        for book_memory in market_memory.books:
            _arm(desk, market.book(book_memory.listing.instrument.id), book_memory.armed)
    return engine


def _book(book: Book, *, scheduled: bool) -> BookMemory:
    return BookMemory(
        listing=book.listing,
        bids=tuple(book.bids),
        asks=tuple(book.asks),
        at_ms=book.at_ms,
        is_open=book.is_open,
        scheduled=scheduled,
        holders=tuple(book.holders.items()),
        armed=tuple(
            ArmedMemory(
                kind=each.kind,
                account_id=each.account_id,
                owner_id=each.owner_id,
                on_ask=each.on_ask,
                rising=each.rising,
                level=each.level,
            )
            for each in book.triggers.armed()
        ),
    )


def _account(account: Account) -> AccountMemory:
    return AccountMemory(
        id=account.id,
        market_id=account.market.id,
        settings=account.settings,
        balance=account.balance,
        balance_version=account.balance_version,
        bonus=account.bonus,
        holdings=tuple(
            HoldingMemory(
                position=each.position,
                protection=each.protection,
                margin_value=each.margin_value,
                owed_swap_days=each.owed_swap_days,
                trail_distance=each.trail_distance,
            )
            for each in account.holdings.values()
        ),
        working=tuple(each.order for each in account.working.values()),
        deals=tuple(account.deals),
        finished=tuple(account.finished),
        below=tuple(sorted(account.below_levels)),
        called=tuple(account.called_at_ms.items()),
    )


def _recall_book(engine: Engine, market: Market, memory: BookMemory) -> None:
    book = market.book(memory.listing.instrument.id)
    book.bids, book.asks = list(memory.bids), list(memory.asks)
    book.bid = memory.bids[0].price if memory.bids else None
    book.ask = memory.asks[0].price if memory.asks else None
    book.at_ms, book.is_open = memory.at_ms, memory.is_open
    book.holders = dict(memory.holders)
    if not memory.scheduled:
        engine._unscheduled.append((market, book))


def _recall_account(desk: Desk, memory: AccountMemory) -> Account:
    account = Account(memory.id, desk.market(memory.market_id), memory.settings, desk.settings.history_limit)
    account.balance, account.balance_version, account.bonus = memory.balance, memory.balance_version, memory.bonus
    for each in memory.holdings:
        holding = account.holdings[each.position.id] = Holding(each.position)
        holding.protection = each.protection
        holding.margin_value, holding.owed_swap_days = each.margin_value, each.owed_swap_days
        holding.trail_distance = each.trail_distance
    account.working = {order.id: Working(order) for order in memory.working}
    account.deals.extend(memory.deals)
    account.finished.extend(memory.finished)
    account.below_levels = set(memory.below)
    account.called_at_ms = dict(memory.called)
    return account


def _arm(desk: Desk, book: Book, armed: Iterable[ArmedMemory]) -> None:
    """Wait for the levels again, and give each to its owner."""
    for each in armed:
        trigger = Trigger(
            each.kind, each.account_id, each.owner_id, on_ask=each.on_ask, rising=each.rising, level=each.level
        )
        book.triggers.arm(trigger)
        account = desk.account(each.account_id)
        if each.kind is Kind.MARGIN:
            account.margin_watches.append((book, trigger))
            continue
        is_order = each.kind in (Kind.ORDER, Kind.ORDER_TRAIL)
        owner = account.working.get(each.owner_id) if is_order else account.holdings.get(each.owner_id)
        if owner is None:
            raise InvalidInput(f"account {account.id} has no {each.owner_id} to wait for", field="armed.owner_id")
        owner.triggers.append(trigger)
