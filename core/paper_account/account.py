"""A paper account: prices and requests in, with the time they come at; events, trades and valuations out.

Pure: no clock, no I/O; the same calls give the same answers. Everything handed out is immutable and plain (`values`,
`plain`); `state` is all of it, and an account restored from it answers every later call as this one would have.
Invariant: a call that raises has changed nothing. A list of requests or prices is carried out whole or not at all.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any, Self

from core.errors import BridgeError
from core.paper_account.carrying import carry_out, move_cash
from core.paper_account.checking import check_prices, check_requests, check_terms, check_time
from core.paper_account.errors import Refused
from core.paper_account.ledger import Ledger
from core.paper_account.plain import from_plain, to_plain
from core.paper_account.values import Figures, PaperState, PaperTerms, Price, Request, Trade, Valuation
from core.paper_account.valuing import rate_of, valuation_of
from core.paper_trader import AccountSettings, Deal, Engine, Event, Listing, Order, Position, recall, remember

MARKET = "paper"
Events = tuple[Event, ...]


class PaperAccount:
    """One account at a broker of its own. Times are Unix ms; an earlier one than the latest counts as the latest."""

    def __init__(self, terms: PaperTerms, now_ms: int) -> None:
        """A new account with a balance of 0. Raises Refused and InvalidInput for impossible terms."""
        check_terms(terms)
        check_time(now_ms)
        self.id = terms.account_id
        self._seed = terms.seed
        self._rng = random.Random(terms.seed)
        self._engine = Engine(self._rng, terms.engine)
        self._engine.add_market(MARKET, terms.market)
        for listing in terms.listings:
            self._engine.add_listing(MARKET, listing)
        self._engine.open_account(self.id, MARKET, terms.account, now_ms)
        self._ledger = Ledger(terms.engine.history_limit)
        self._at_ms = now_ms
        self._listings = {each.instrument.id: each for each in terms.listings}

    # ---- what happens

    def quote(self, prices: Sequence[Price], now_ms: int) -> Events:
        """New prices, in the order given. Raises Refused when a row is no price."""
        check_time(now_ms)
        check_prices(prices, self._listings)
        events: list[Event] = []
        for price in prices:
            events += self._engine.quote(MARKET, price.instrument_id, now_ms, bid=price.bid, ask=price.ask)
        return self._note(events, now_ms)

    def withdraw_price(self, instrument_id: str, now_ms: int) -> Events:
        """Forget the prices of an instrument until the next ones. Raises NotFound."""
        check_time(now_ms)
        return self._note(self._engine.withdraw_quote(MARKET, instrument_id, now_ms), now_ms)

    def set_open(self, instrument_id: str, is_open: bool, now_ms: int) -> Events:
        """Open or close trading in an instrument; prices move on meanwhile. Raises NotFound."""
        check_time(now_ms)
        return self._note(self._engine.set_open(MARKET, instrument_id, is_open, now_ms), now_ms)

    def advance(self, now_ms: int) -> Events:
        """Let time pass: what has fallen due happens (swap, expiry). Every other call does so first by itself."""
        check_time(now_ms)
        return self._note(self._engine.advance(now_ms), now_ms)

    def apply(self, requests: Sequence[Request], now_ms: int) -> Events:
        """Carry out requests in order, all of them or none.

        Raises Refused for the first row that has a fault of form, else for the first that the broker refuses: at once,
        or, a new order, when it tries to fill what it has just accepted. What the broker takes and then cancels,
        expires or leaves unfilled is no refusal.
        """
        check_time(now_ms)
        check_requests(requests, self._listings)

        return self._whole(lambda: carry_out(self._engine, self.id, requests, now_ms), now_ms)

    def move_cash(self, delta: Decimal, now_ms: int, *, note: str | None = None) -> Events:
        """Deposit, or withdraw a negative amount. Raises Refused, for want of free money too."""
        check_time(now_ms)
        return self._whole(lambda: move_cash(self._engine, self.id, delta, now_ms, note), now_ms)

    # ---- what there is

    @property
    def at_ms(self) -> int:
        """The latest time the account was told."""
        return self._at_ms

    @property
    def settings(self) -> AccountSettings:
        """Terms of the account: currency, digits, leverage …"""
        return self._engine.account(self.id).settings

    @property
    def listings(self) -> tuple[Listing, ...]:
        """What can be traded."""
        return tuple(self._listings.values())

    def lists(self, instrument_id: str) -> bool:
        """Whether the instrument can be traded here."""
        return instrument_id in self._listings

    @property
    def figures(self) -> Figures:
        """Sums since the account was opened."""
        return self._ledger.figures

    def positions(self) -> tuple[Position, ...]:
        """Open ones, oldest first."""
        return self._engine.positions(self.id)

    def orders(self, *, protections: bool = False) -> tuple[Order, ...]:
        """Working ones, oldest first; then the stop loss and take profit orders of positions if asked for."""
        return self._engine.orders(self.id, protections=protections)

    def trades(self) -> tuple[Trade, ...]:
        """Round trips that have ended, newest last, as many as the history keeps."""
        return self._ledger.trades()

    def deals(self) -> tuple[Deal, ...]:
        """Executions, newest last, as many as the history keeps."""
        return self._engine.deals(self.id)

    def finished_orders(self) -> tuple[Order, ...]:
        """Orders in a final state, newest last, as many as the history keeps."""
        return self._engine.finished_orders(self.id)

    def price(self, instrument_id: str) -> Price | None:
        """The present price; None while it is not known. Raises NotFound."""
        quote = self._engine.quote_of(MARKET, instrument_id)
        return None if quote.bid is None or quote.ask is None else Price(instrument_id, quote.bid, quote.ask)

    def valuation(self) -> Valuation:
        """Money and positions at the present prices."""
        return valuation_of(self._engine.account_truth(self.id), self._at_ms)

    def rate(self, from_asset: str, to_asset: str) -> Decimal | None:
        """What one unit of an asset is worth in another, at bid over the account's instruments; None if not known."""
        chain = self._engine.conversion_chain(MARKET, from_asset, to_asset)
        return None if chain is None else rate_of(from_asset, chain, self._listings, self.price)

    def next_due_ms(self) -> int | None:
        """When `advance` has something to do next, as far as is known."""
        return self._engine.next_due_ms()

    # ---- kept elsewhere

    def state(self) -> PaperState:
        """All there is to know of the account."""
        drawn = self._rng.getstate()
        return PaperState(
            account_id=self.id,
            seed=self._seed,
            random=None if drawn == random.Random(self._seed).getstate() else drawn[1],
            figures=self.figures,
            trades=self.trades(),
            engine=remember(self._engine),
        )

    @classmethod
    def of(cls, state: PaperState) -> Self:
        """The account that a state describes. Raises Refused for one that does not hold together."""
        account = cls.__new__(cls)
        try:
            account._take(state)
        except Refused:
            raise
        except (BridgeError, TypeError, ValueError, OverflowError) as cause:
            raise Refused(f"does not hold together: {cause}", field="engine", rule="whole") from cause
        return account

    def to_plain(self) -> dict[str, Any]:
        """`state` as plain data."""
        return to_plain(self.state())

    @classmethod
    def from_plain(cls, data: object) -> Self:
        """The account that plain data describes. Raises Refused."""
        return cls.of(from_plain(PaperState, data))

    # ---- the frame of every call

    def _take(self, state: PaperState) -> None:
        self.id, self._seed = state.account_id, state.seed
        self._rng = random.Random(state.seed)
        if state.random is not None:
            self._rng.setstate((random.Random.VERSION, state.random, None))
        self._engine = recall(state.engine, self._rng)
        self._ledger = Ledger(state.engine.settings.history_limit, state.figures, state.trades)
        self._at_ms = state.engine.now_ms
        self._listings = {each.instrument.id: each for each in self._engine.listings(MARKET)}
        sums = state.figures
        if self._engine.account(self.id).balance != sums.cash + sums.gross + sums.commission + sums.swap:
            raise Refused("do not add up to the balance", field="figures", rule="sum")

    def _whole(self, work: Callable[[], list[Event]], now_ms: int) -> Events:
        """Do the work, or put everything back as it was."""
        before, drawn = remember(self._engine), self._rng.getstate()
        try:
            events = work()
        except BaseException:
            self._rng.setstate(drawn)
            self._engine = recall(before, self._rng)
            raise
        return self._note(events, now_ms)

    def _note(self, events: list[Event], now_ms: int) -> Events:
        self._at_ms = max(self._at_ms, now_ms)
        self._ledger.take(events)
        return tuple(events)
