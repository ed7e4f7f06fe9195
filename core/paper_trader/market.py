"""One broker server's market: its listings, present prices with what is on offer, and the triggers waiting on them.

Instrument ids, mark-ups and conversion chains belong to one server and are never mixed with another's.
Invariant: a book's bids and asks are best first, and bid ≤ ask whenever both are known.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

from core.errors import InvalidInput, NotFound
from core.orders import Side
from core.paper_trader.conversion import Converter
from core.paper_trader.settings import Listing, MarketSettings
from core.paper_trader.triggers import TriggerBook
from core.paper_trader.types import Level, Quote

LARGEST = Decimal(10**12)


class Book:
    """Prices, offers and triggers of one instrument. `bids`, `asks`: what is left on offer, best first."""

    def __init__(self, listing: Listing) -> None:
        self.listing = listing
        self.bids: list[Level] = []
        self.asks: list[Level] = []
        self.at_ms: int | None = None
        self.is_open = True
        self.triggers = TriggerBook()
        self.holders: dict[int, str] = {}  # position id -> account id
        self.bid: Decimal | None = None
        self.ask: Decimal | None = None

    def check_prices(self, bids: Sequence[Level] | None, asks: Sequence[Level] | None) -> None:
        """Raises InvalidInput when the book would become absurd; None leaves a side as it is."""
        bid = self.bid if bids is None else self._best(bids, "bid", falling=True)
        ask = self.ask if asks is None else self._best(asks, "ask", falling=False)
        if bid is not None and ask is not None and bid > ask:
            raise InvalidInput(f"bid {bid} above ask {ask}", field="bid")

    def set_prices(self, bids: Sequence[Level] | None, asks: Sequence[Level] | None, now_ms: int) -> None:
        """Replace one or both sides with levels that `check_prices` found good."""
        if bids is not None:
            self.bids, self.bid = list(bids), bids[0].price
        if asks is not None:
            self.asks, self.ask = list(asks), asks[0].price
        self.at_ms = now_ms

    def withdraw(self, now_ms: int) -> None:
        """Forget the prices."""
        self.bids, self.asks = [], []
        self.bid = self.ask = None
        self.at_ms = now_ms

    def offers(self, side: Side) -> list[Level]:
        """What an order of that side trades against."""
        return self.asks if side is Side.BUY else self.bids

    def market_price(self, side: Side) -> Decimal | None:
        """Best price for an order of that side: ask for BUY, bid for SELL."""
        return self.ask if side is Side.BUY else self.bid

    def closing_price(self, side: Side) -> Decimal | None:
        """Best price for closing a position of that side: bid for BUY, ask for SELL."""
        return self.bid if side is Side.BUY else self.ask

    def consume(self, side: Side, price: Decimal, units: Decimal) -> None:
        """Take units off the offer at that price; the quoted best price stays until the next quote."""
        offers = self.offers(side)
        for index, level in enumerate(offers):
            if level.price == price and level.units is not None:
                offers[index] = Level(price, level.units - units)
                return

    def quote(self) -> Quote:
        return Quote(bid=self.bid, ask=self.ask, at_ms=self.at_ms, is_open=self.is_open)

    def _best(self, levels: Sequence[Level], side: str, *, falling: bool) -> Decimal:
        """The best price of a side, after checking every level."""
        if not levels:
            raise InvalidInput(f"no {side} level given", field=side)
        last: Decimal | None = None
        for level in levels:
            check_price(level.price, self.listing.instrument.price_digits, side)
            if level.units is not None and not (level.units.is_finite() and level.units >= 0):
                raise InvalidInput(f"{side} units must not be negative", field=side)
            if last is not None and (level.price >= last if falling else level.price <= last):
                raise InvalidInput(f"{side} levels must be given best first", field=side)
            last = level.price
        return levels[0].price


class Market:
    """A broker server: books by instrument id and the conversions between its assets."""

    def __init__(self, market_id: str, settings: MarketSettings) -> None:
        self.id = market_id
        self.settings = settings
        self.books: dict[str, Book] = {}
        self.converter = Converter(self._bid_of)

    def book(self, instrument_id: str) -> Book:
        """Raises NotFound for an instrument this server does not list."""
        book = self.books.get(instrument_id)
        if book is None:
            raise NotFound(f"market {self.id} lists no instrument {instrument_id}")
        return book

    def add(self, listing: Listing) -> None:
        """List an instrument. Raises InvalidInput when the id is taken."""
        instrument = listing.instrument
        if instrument.id in self.books:
            raise InvalidInput(f"instrument {instrument.id} is listed already", field="listing.instrument.id")
        self.books[instrument.id] = Book(listing)
        self.converter.add(instrument)

    def _bid_of(self, instrument_id: str) -> Decimal | None:
        return self.books[instrument_id].bid


def sane(value: Decimal) -> bool:
    """Finite, positive, and of a size that exact arithmetic can carry: for prices, price distances and units."""
    return value.is_finite() and 0 < value <= LARGEST


def check_price(price: Decimal, digits: int, field: str) -> None:
    """Raises InvalidInput unless the price is sane and within the instrument's digits."""
    if not sane(price):
        raise InvalidInput(f"{field} must be a positive number up to {LARGEST:,}", field=field)
    if not fits(price, digits):
        raise InvalidInput(f"{field} {price} has more than {digits} decimals", field=field)


def fits(value: Decimal, digits: int) -> bool:
    """Whether a finite number has no more than that many decimals (trailing zeros do not count)."""
    exponent = value.as_tuple().exponent
    if isinstance(exponent, int) and exponent >= -digits:
        return True
    shifted = value.scaleb(digits)
    return shifted == shifted.to_integral_value()
