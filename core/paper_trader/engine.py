"""The engine's front door: one object, plain calls in, ordered events out.

It keeps time only as far as it is told (`now_ms` never runs backwards inside), draws randomness only from the generator
handed in, and does no I/O: the same calls with the same seed give the same events. Every call first does what fell due
before its time (expiry, swap), then its own work, then what followed from it (triggers, margin calls, stop-out).
Trading refusals come back as events; mistakes of the caller raise `NotFound` or `InvalidInput` and change nothing.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal

from core.errors import InvalidInput
from core.orders import OrderType, Side
from core.paper_trader import requests, treasury
from core.paper_trader.amendment import amend
from core.paper_trader.events import Event
from core.paper_trader.execution import dispatch, expire_order, margin_after_order
from core.paper_trader.margin import total_margin
from core.paper_trader.market import Book, Market
from core.paper_trader.settings import Access, AccountSettings, EngineSettings, Listing, MarketSettings
from core.paper_trader.state import Account, Desk, Due
from core.paper_trader.stop_out import check_margin
from core.paper_trader.swap import next_daily_ms
from core.paper_trader.triggers import Levels
from core.paper_trader.truth import account_truth
from core.paper_trader.types import (
    ZERO,
    AccountTruth,
    AccountView,
    Deal,
    Level,
    Order,
    OrderChanges,
    OrderRequest,
    OrderRole,
    Position,
    Quote,
)


class Engine:
    """Markets, accounts and everything that happens to them."""

    def __init__(self, rng: random.Random, settings: EngineSettings | None = None) -> None:
        self._desk = Desk(rng, settings or EngineSettings())
        self._unscheduled: list[tuple[Market, Book]] = []

    # ---- set-up

    def add_market(self, market_id: str, settings: MarketSettings | None = None) -> None:
        """Add a broker server. Raises InvalidInput when the id is taken."""
        if market_id in self._desk.markets:
            raise InvalidInput(f"market {market_id} exists", field="market_id")
        self._desk.markets[market_id] = Market(market_id, settings or MarketSettings())

    def add_listing(self, market_id: str, listing: Listing) -> None:
        """List an instrument; it is open and has no quote yet. Raises NotFound, InvalidInput (id taken)."""
        market = self._desk.market(market_id)
        market.add(listing)
        self._unscheduled.append((market, market.book(listing.instrument.id)))

    def change_listing(self, market_id: str, listing: Listing, now_ms: int) -> list[Event]:
        """Put new terms of an instrument in force. Raises InvalidInput when its assets, digits or lot size differ."""
        market = self._desk.market(market_id)
        book = market.book(listing.instrument.id)
        old, new = book.listing.instrument, listing.instrument
        same = ("base_asset", "quote_asset", "price_digits", "lot_units")
        if any(getattr(old, name) != getattr(new, name) for name in same):
            raise InvalidInput("assets, digits and lot size of an instrument cannot change", field="listing.instrument")
        self._begin(now_ms)
        book.listing = listing
        treasury.remargin(self._desk, book)
        self._fire(book)
        return self._finish()

    def open_account(self, account_id: str, market_id: str, settings: AccountSettings, now_ms: int) -> None:
        """Open an account with balance 0. Raises NotFound (market), InvalidInput (id taken, terms out of range)."""
        if account_id in self._desk.accounts:
            raise InvalidInput(f"account {account_id} exists", field="account_id")
        market = self._desk.market(market_id)
        _check_terms(settings)
        self._begin(now_ms)
        self._desk.accounts[account_id] = Account(account_id, market, settings, self._desk.settings.history_limit)

    def move_account(self, account_id: str, market_id: str) -> None:
        """Let an account trade at another market's prices. Raises NotFound, InvalidInput while it holds anything."""
        account, market = self._desk.account(account_id), self._desk.market(market_id)
        if account.holdings or account.working:
            raise InvalidInput("an account with positions or orders cannot move", field="account_id")
        account.market = market

    def change_account(
        self,
        account_id: str,
        now_ms: int,
        *,
        leverage: Decimal | None = None,
        access: Access | None = None,
        swap_free: bool | None = None,
        margin_call_levels: tuple[Decimal, ...] | None = None,
    ) -> list[Event]:
        """Change terms; None leaves one as it is. Margins follow a new leverage. Raises NotFound, InvalidInput."""
        account = self._desk.account(account_id)
        old = account.settings
        settings = replace(
            old,
            leverage=old.leverage if leverage is None else leverage,
            access=old.access if access is None else access,
            swap_free=old.swap_free if swap_free is None else swap_free,
            margin_call_levels=old.margin_call_levels if margin_call_levels is None else margin_call_levels,
        )
        _check_terms(settings)
        self._begin(now_ms)
        treasury.change_terms(self._desk, account, settings)
        held = [each.position.instrument_id for each in account.holdings.values()]
        waiting = [each.order.instrument_id for each in account.working.values()]
        for instrument_id in dict.fromkeys(held + waiting):
            self._fire(account.market.book(instrument_id))
        return self._finish()

    # ---- market data

    def quote(
        self,
        market_id: str,
        instrument_id: str,
        now_ms: int,
        *,
        bid: Decimal | None = None,
        ask: Decimal | None = None,
        bids: Sequence[Level] | None = None,
        asks: Sequence[Level] | None = None,
    ) -> list[Event]:
        """Set prices; a side given neither way stays. `bids`/`asks` (best first) limit what can trade at each price.

        Raises NotFound, and InvalidInput for prices that are absurd, crossed or too precise.
        """
        market = self._desk.market(market_id)
        book = market.book(instrument_id)
        was_missing = book.bid is None or book.ask is None
        new_bids = [Level(bid)] if bid is not None else bids
        new_asks = [Level(ask)] if ask is not None else asks
        if new_bids is None and new_asks is None:
            raise InvalidInput("a quote needs a bid or an ask", field="bid")
        book.check_prices(new_bids, new_asks)
        self._begin(now_ms)
        book.set_prices(new_bids, new_asks, self._desk.now_ms)
        if was_missing:
            self._touch_holders(market)
        self._fire(book)
        return self._finish()

    def withdraw_quote(self, market_id: str, instrument_id: str, now_ms: int) -> list[Event]:
        """Forget an instrument's prices: what needs them is unknown until the next quote."""
        book = self._desk.market(market_id).book(instrument_id)
        self._begin(now_ms)
        book.withdraw(self._desk.now_ms)
        return self._finish()

    def set_open(self, market_id: str, instrument_id: str, is_open: bool, now_ms: int) -> list[Event]:
        """Open or close an instrument: while closed prices move but nothing trades; the open fires what they passed."""
        market = self._desk.market(market_id)
        book = market.book(instrument_id)
        self._begin(now_ms)
        book.is_open = is_open
        if is_open:
            for account_id in dict.fromkeys(book.holders.values()):
                self._desk.touch(self._desk.accounts[account_id])
        self._fire(book)
        return self._finish()

    def advance(self, now_ms: int) -> list[Event]:
        """Do what fell due: expiries and swap."""
        self._begin(now_ms)
        return self._finish()

    def next_due_ms(self) -> int | None:
        """When `advance` has something to do next, as far as is known."""
        return self._desk.next_due_ms()

    # ---- requests

    def place(self, account_id: str, request: OrderRequest, now_ms: int) -> list[Event]:
        """Place an order; see OrderRequest. Refusals: RequestRejected(PLACE)."""
        account = self._desk.account(account_id)
        self._begin(now_ms)
        requests.place(self._desk, account, request)
        return self._finish()

    def amend(self, account_id: str, order_id: int, changes: OrderChanges, now_ms: int) -> list[Event]:
        """Change a working order. Refusals: RequestRejected(AMEND)."""
        account = self._desk.account(account_id)
        self._begin(now_ms)
        amend(self._desk, account, order_id, changes)
        return self._finish()

    def cancel(self, account_id: str, order_id: int, now_ms: int) -> list[Event]:
        """Cancel a working order. Refusals: RequestRejected(CANCEL)."""
        account = self._desk.account(account_id)
        self._begin(now_ms)
        requests.cancel(self._desk, account, order_id)
        return self._finish()

    def close(
        self,
        account_id: str,
        position_id: int,
        units: Decimal | None,
        now_ms: int,
        *,
        client_order_id: str | None = None,
        label: str | None = None,
    ) -> list[Event]:
        """Close a position, or `units` of it, at the market. Refusals: RequestRejected(CLOSE)."""
        account = self._desk.account(account_id)
        self._begin(now_ms)
        requests.close(self._desk, account, position_id, units, client_order_id, label)
        return self._finish()

    def protect(
        self,
        account_id: str,
        position_id: int,
        now_ms: int,
        *,
        stop_loss: Decimal | None = None,
        take_profit: Decimal | None = None,
        trailing_stop_loss: bool = False,
    ) -> list[Event]:
        """Replace a position's protection as a whole: a leg left out is removed. Refusals: RequestRejected(PROTECT)."""
        account = self._desk.account(account_id)
        self._begin(now_ms)
        requests.protect(self._desk, account, position_id, stop_loss, take_profit, trailing_stop_loss)
        return self._finish()

    def move_cash(self, account_id: str, delta: Decimal, now_ms: int, *, note: str | None = None) -> list[Event]:
        """Deposit or (negative) withdraw. Refusals: RequestRejected(CASH); raises InvalidInput for absurd amounts."""
        account = self._desk.account(account_id)
        treasury.check_amount(account, delta)
        self._begin(now_ms)
        treasury.move_cash(self._desk, account, delta, note)
        return self._finish()

    def move_bonus(self, account_id: str, delta: Decimal, now_ms: int, *, note: str | None = None) -> list[Event]:
        """Give or (negative) take bonus. Refusals: RequestRejected(BONUS); raises InvalidInput for absurd amounts."""
        account = self._desk.account(account_id)
        treasury.check_amount(account, delta)
        self._begin(now_ms)
        treasury.move_bonus(self._desk, account, delta, note)
        return self._finish()

    # ---- reading (as of the last call; all raise NotFound for unknown ids)

    def account_ids(self) -> tuple[str, ...]:
        """Accounts in the order they were opened."""
        return tuple(self._desk.accounts)

    def account(self, account_id: str) -> AccountView:
        """An account's terms and money, without valuing it."""
        account = self._desk.account(account_id)
        return AccountView(
            account_id=account.id,
            market_id=account.market.id,
            settings=account.settings,
            balance=account.balance,
            balance_version=account.balance_version,
            bonus=account.bonus,
        )

    def account_truth(self, account_id: str) -> AccountTruth:
        """What the broker believes about the account now."""
        return account_truth(self._desk.account(account_id))

    def positions(self, account_id: str) -> tuple[Position, ...]:
        """Open positions, oldest first."""
        return tuple(each.position for each in self._desk.account(account_id).holdings.values())

    def orders(self, account_id: str, *, protections: bool = False) -> tuple[Order, ...]:
        """Working orders, oldest first; then protection orders if asked for."""
        account = self._desk.account(account_id)
        orders = [each.order for each in account.working.values() if each.order.role is OrderRole.TRADE]
        if protections:
            orders += [each.protection for each in account.holdings.values() if each.protection is not None]
        return tuple(orders)

    def deals(self, account_id: str) -> tuple[Deal, ...]:
        """Newest last, as many as `history_limit` keeps."""
        return tuple(self._desk.account(account_id).deals)

    def finished_orders(self, account_id: str) -> tuple[Order, ...]:
        """Orders in a final state, newest last, as many as `history_limit` keeps."""
        return tuple(self._desk.account(account_id).finished)

    def find_order(self, account_id: str, order_id: int) -> Order | None:
        """An order of the account in whatever state, protections included."""
        known = (*self.orders(account_id, protections=True), *self.finished_orders(account_id))
        return next((order for order in known if order.id == order_id), None)

    def expected_margin(self, account_id: str, instrument_id: str, units: Decimal, side: Side) -> Decimal | None:
        """What an order of that size and side would add to the used margin now (≥ 0); None while a rate is missing."""
        account = self._desk.account(account_id)
        book = account.market.book(instrument_id)
        request = OrderRequest(instrument_id=instrument_id, side=side, type=OrderType.MARKET, units=units)
        after = margin_after_order(account, book, requests.draft_order(request), units)
        return None if after is None else account.round(max(after - total_margin(account), ZERO))

    def quote_of(self, market_id: str, instrument_id: str) -> Quote:
        """Present best prices."""
        return self._desk.market(market_id).book(instrument_id).quote()

    def levels(self, market_id: str, instrument_id: str) -> Levels:
        """The nearest prices at which something would happen: a quote that reaches none of them changes nothing."""
        return self._desk.market(market_id).book(instrument_id).triggers.levels()

    def listing(self, market_id: str, instrument_id: str) -> Listing:
        """Present terms of an instrument."""
        return self._desk.market(market_id).book(instrument_id).listing

    def listings(self, market_id: str) -> tuple[Listing, ...]:
        """All instruments of a server, in the order they were listed."""
        return tuple(book.listing for book in self._desk.market(market_id).books.values())

    def conversion_chain(self, market_id: str, from_asset: str, to_asset: str) -> tuple[str, ...] | None:
        """Instrument ids to walk from one asset to another; () for equal assets, None without a way."""
        steps = self._desk.market(market_id).converter.chain(from_asset, to_asset)
        return None if steps is None else tuple(step.instrument_id for step in steps)

    # ---- the frame of every call

    def _begin(self, now_ms: int) -> None:
        """Schedule new listings, then do what fell due by now, each at its own time."""
        now_ms = max(now_ms, self._desk.now_ms)
        for market, book in self._unscheduled:
            self._schedule_swap(market, book, now_ms)
        self._unscheduled.clear()
        while (due := self._desk.pop_due(now_ms)) is not None:
            self._desk.now_ms = max(self._desk.now_ms, due.at_ms)
            self._do_due(due)
            self._settle()
        self._desk.now_ms = now_ms

    def _do_due(self, due: Due) -> None:
        if due.account_id is not None:
            account = self._desk.accounts[due.account_id]
            working = account.working.get(due.order_id)
            if working is not None and working.order.expires_at_ms == due.at_ms:
                expire_order(self._desk, account, working)
            return
        market = self._desk.market(due.market_id)
        book = market.book(due.instrument_id)
        treasury.charge_swaps(self._desk, market, book, due.at_ms)
        self._schedule_swap(market, book, due.at_ms)

    def _schedule_swap(self, market: Market, book: Book, after_ms: int) -> None:
        due_ms = next_daily_ms(after_ms, book.listing.swap.minute_utc)
        self._desk.schedule_swap(due_ms, market.id, book.listing.instrument.id)

    def _fire(self, book: Book) -> None:
        """Act on every trigger that the present prices have reached."""
        if not book.is_open:
            return
        for trigger in book.triggers.fire(book.bid, book.ask):
            dispatch(self._desk, trigger)

    def _touch_holders(self, market: Market) -> None:
        for account in self._desk.accounts.values():
            if account.market is market and account.holdings:
                self._desk.touch(account)

    def _settle(self) -> None:
        """Follow consequences until there are none: levels already passed, then margin levels."""
        desk = self._desk
        while desk.crossed or desk.touched:
            if desk.crossed:
                trigger = desk.crossed.pop(0)
                if trigger.armed:
                    dispatch(desk, trigger)
            else:
                account_id = next(iter(desk.touched))
                del desk.touched[account_id]
                check_margin(desk, desk.accounts[account_id])

    def _finish(self) -> list[Event]:
        self._settle()
        return self._desk.take_events()


def _check_terms(settings: AccountSettings) -> None:
    """Raises InvalidInput for terms no broker could mean."""
    if not (settings.leverage.is_finite() and 1 <= settings.leverage <= 100_000):
        raise InvalidInput("leverage must be 1 to 100,000", field="settings.leverage")
    if not 0 <= settings.money_digits <= 8:
        raise InvalidInput("money digits must be 0 to 8", field="settings.money_digits")
    levels = (*settings.margin_call_levels, settings.stop_out_level)
    if any(not level.is_finite() or level < 0 for level in levels):
        raise InvalidInput("margin levels must not be negative", field="settings.stop_out_level")
