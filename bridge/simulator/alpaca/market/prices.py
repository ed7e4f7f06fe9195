"""Where the simulated Alpaca's prices come from: a seeded random walk, a CSV replay, or prices that stand still.

Each price has a quote and a last trade; positions are valued at the last trade. Times are passed in. Every
price change is printed (`on_tick`) before the engine hears of it, so that fills follow the print that caused them.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, Decimal
from pathlib import Path

from bridge.simulator.alpaca.market.catalogue import Asset, Catalogue
from bridge.simulator.alpaca.stamps import Stamps
from core.errors import InvalidInput, NotFound
from core.paper_trader import RandomWalk, replay
from core.paper_trader import Tick as Row

STEP_S = 0.25
SHORTEST_STEP_S = 0.02
DEFAULT_SIZE = Decimal(100)


@dataclass(frozen=True, slots=True)
class Tick:
    """A trade print and the quote around it; `id` counts per symbol, sizes in units."""

    symbol: str
    asset_class: str
    id: int
    at_ns: int
    price: Decimal
    size: Decimal
    bid: Decimal
    ask: Decimal
    bid_size: Decimal
    ask_size: Decimal


@dataclass(frozen=True, slots=True)
class Offer:
    """What the market is told: best prices, and how much trades there (None: any amount)."""

    asset: Asset
    bid: Decimal
    ask: Decimal
    bid_size: Decimal | None
    ask_size: Decimal | None


class Prices:
    """Quotes and last trades of every asset."""

    def __init__(
        self,
        catalogue: Catalogue,
        rng: random.Random,
        stamps: Stamps,
        *,
        source: str,
        speed: float,
        now_ms: int,
        strangers: frozenset[str] = frozenset(),
    ) -> None:
        self._catalogue = catalogue
        self._rng = rng
        self._stamps = stamps
        self._speed = speed
        self.frozen = source == "frozen"
        self.on_tick: Callable[[Tick], None] = lambda tick: None
        self.on_offer: Callable[[Offer, int], None] = lambda offer, now_ms: None
        self._rows = _read(source, catalogue, strangers) if source not in ("walk", "frozen") else None
        self._replayed_ms = 0.0
        self._walks = {asset.symbol: _walk(asset, rng) for asset in catalogue.assets}
        self._latest: dict[str, Tick] = {}
        self.last_day: dict[str, Decimal] = {}
        self.offers: dict[str, Offer] = {}
        for asset in catalogue.assets:
            bid, ask = self._walks[asset.symbol].prices()
            self._put(Offer(asset, bid, ask, None, None), bid, now_ms)
        self.close_day()

    @property
    def step_s(self) -> float:
        """Pause between two calls of `step`."""
        return max(SHORTEST_STEP_S, STEP_S / max(1.0, self._speed))

    def last_of(self, asset: Asset) -> Decimal:
        """Price of the last trade."""
        return self._latest[asset.symbol].price

    def close_day(self) -> None:
        """The session has ended: remember the last prices as the day's."""
        self.last_day = {symbol: tick.price for symbol, tick in self._latest.items()}

    def quote(self, symbol: str) -> Tick:
        """The latest print with its quote. Raises NotFound."""
        return self._latest[self._asset(symbol).symbol]

    def step(self, now_ms: int) -> None:
        """Let time pass: each symbol moves about `speed` times a second, or the replay goes on."""
        if self.frozen:
            return
        if self._rows is not None:
            self._replayed_ms += self.step_s * 1000 * self._speed
            while self._rows and self._rows[0].at_ms <= self._replayed_ms:
                row = self._rows.popleft()
                self.set_quote(row.instrument_id, now_ms, bid=row.bid, ask=row.ask)
            return
        chance = self._speed * self.step_s
        for symbol, walk in self._walks.items():
            if self._rng.random() < chance:
                bid, ask = walk.step()
                last = bid if self._rng.random() < 0.5 else ask
                self._put(Offer(self._asset(symbol), bid, ask, None, None), last, now_ms)

    def set_quote(
        self,
        symbol: str,
        now_ms: int,
        *,
        bid: Decimal | None = None,
        ask: Decimal | None = None,
        last: Decimal | None = None,
        bid_size: Decimal | None = None,
        ask_size: Decimal | None = None,
    ) -> None:
        """Set a price. A side not given follows if it would cross; the last trade is the middle unless it is given, a
        lone `last` sets all three. Sizes limit what can trade until the next quote. Raises NotFound, InvalidInput."""
        asset = self._asset(symbol)
        for name, price in (("bid", bid), ("ask", ask), ("last", last)):
            if price is not None:
                _check(asset, name, price)
        now = self._latest[asset.symbol]
        if bid is None and ask is None:
            if last is None:
                raise InvalidInput("a quote needs bid, ask or last", field="bid")
            bid = ask = last
        new_bid = bid if bid is not None else now.bid if ask is None else min(now.bid, ask)
        new_ask = ask if ask is not None else max(now.ask, new_bid)
        printed = last if last is not None else _rounded(asset, (new_bid + new_ask) / 2)
        for name, size in (("bid_size", bid_size), ("ask_size", ask_size)):
            if size is not None and not (size.is_finite() and size >= 0):
                raise InvalidInput(f"{name} must not be negative", field=name)
        if new_bid > new_ask:
            raise InvalidInput(f"bid of {asset.symbol} is above its ask", field="bid")
        self._put(Offer(asset, new_bid, new_ask, bid_size, ask_size), printed, now_ms)

    def _put(self, offer: Offer, last: Decimal, now_ms: int) -> None:
        asset = offer.asset
        before = self._latest.get(asset.symbol)
        tick = Tick(
            asset.symbol,
            asset.asset_class,
            1 if before is None else before.id + 1,
            self._stamps.next_ns(now_ms),
            last,
            Decimal(1) if asset.contract is not None else Decimal(self._rng.randint(1, 200)),
            offer.bid,
            offer.ask,
            DEFAULT_SIZE if offer.bid_size is None else offer.bid_size,
            DEFAULT_SIZE if offer.ask_size is None else offer.ask_size,
        )
        self._latest[asset.symbol] = tick
        self.offers[asset.id] = offer
        self.on_tick(tick)
        self.on_offer(offer, now_ms)

    def _asset(self, symbol: str) -> Asset:
        asset = self._catalogue.find(symbol)
        if asset is None:
            raise NotFound(f"no symbol {symbol}")
        return asset


def _walk(asset: Asset, rng: random.Random) -> RandomWalk:
    points = int(asset.start.scaleb(asset.digits))
    return RandomWalk(
        rng,
        bid=asset.start,
        price_digits=asset.digits,
        spread_points=asset.spread,
        step_points=asset.step,
        range_points=points // 10,
    )


def _read(source: str, catalogue: Catalogue, strangers: frozenset[str]) -> deque[Row]:
    """Rows `at_ms,symbol,bid,ask` of a CSV file, times made relative to the first. Raises OSError, InvalidInput."""
    with Path(source).open(encoding="utf-8") as file:
        lines = file.read().splitlines()
    if lines and not lines[0][:1].isdigit():
        lines[0] = ""
    rows = list(replay(lines))
    for row in rows:
        if row.instrument_id not in strangers and catalogue.find(row.instrument_id) is None:
            raise InvalidInput(f"{Path(source).name}: no symbol {row.instrument_id}")
    first_ms = rows[0].at_ms if rows else 0
    return deque(
        Row(row.instrument_id, row.at_ms - first_ms, row.bid, row.ask)
        for row in rows
        if row.instrument_id not in strangers
    )


def _rounded(asset: Asset, price: Decimal) -> Decimal:
    return price.quantize(Decimal(1).scaleb(-asset.price_digits(price)), rounding=ROUND_HALF_EVEN)


def _check(asset: Asset, name: str, price: Decimal) -> None:
    digits = asset.price_digits(price) if price.is_finite() else 0
    if not price.is_finite() or not 0 < price < Decimal(10**9) or price != round(price, digits):
        raise InvalidInput(f"{name} of {asset.symbol} must be positive with at most {digits} decimals", field=name)
