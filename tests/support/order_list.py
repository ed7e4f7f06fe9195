"""A list of random requests and the prices they meet, made from a seed, for every place that trades.

The list names orders and positions instead of numbering them (`order_records`). It is drawn with a paper account at
hand, so that most requests are about something that is there; what comes out is a plain list all the same.

When a request reaches the broker is part of the list, and is the backtester's rule: what may rest, amendments,
cancellations and protections go out at the moment they were decided at, after its prices; what would trade at once
(market orders, closes, IOC and FOK, limits already reached) right after the next price of its instrument.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any, Protocol

from core.orders import OrderType, Side, TimeInForce
from core.paper_account import Amend, Cancel, Close, PaperAccount, Price, Protect, Request
from core.paper_trader import AccountSettings, Listing, Order, OrderChanges, OrderRequest, Position
from tests.support.order_records import Names

AT_ONCE = (TimeInForce.IOC, TimeInForce.FOK)
NOBODY = 999_999_999


@dataclass(frozen=True)
class Terms:
    """What every place is set up with."""

    start_ms: int
    listings: tuple[Listing, ...]
    account: AccountSettings
    balance: Decimal

    def listing(self, instrument_id: str) -> Listing:
        return next(each for each in self.listings if each.instrument.id == instrument_id)


@dataclass(frozen=True)
class Asked:
    """One request. `about`: name of the order or position it is about; its number is put in where it is sent."""

    name: str
    instrument_id: str
    request: Request
    about: str | None
    waits: bool

    def numbered(self, names: Names) -> Request:
        """The request with the ids that hold in that place."""
        match self.request:
            case OrderRequest():
                return replace(self.request, position_id=self.about and names.positions.get(self.about, NOBODY))
            case Amend() | Cancel():
                return replace(self.request, order_id=names.orders.get(self.about or "", NOBODY))
            case Close() | Protect():
                return replace(self.request, position_id=names.positions.get(self.about or "", NOBODY))

    @property
    def refusal_about(self) -> str:
        """What a refusal of it is about."""
        return self.name if isinstance(self.request, OrderRequest) else str(self.about)


@dataclass(frozen=True)
class Moment:
    """Prices that come together, in the order of the listings, and the requests decided on after them."""

    at_ms: int
    prices: tuple[Price, ...]
    asked: tuple[Asked, ...]
    checked: bool


@dataclass(frozen=True)
class Send:
    """A request reaches the broker."""

    at_ms: int
    asked: Asked


@dataclass(frozen=True)
class Quote:
    """A price reaches the broker."""

    at_ms: int
    price: Price


@dataclass(frozen=True)
class Look:
    """The account is looked at, after the prices of a moment and before what is decided then."""

    moment: int


@dataclass(frozen=True)
class OrderList:
    """The whole thing."""

    terms: Terms
    moments: tuple[Moment, ...]

    def steps(self) -> Iterator[Quote | Look | Send]:
        """What reaches the broker, in order."""
        waiting: dict[str, list[Asked]] = {}
        for number, moment in enumerate(self.moments):
            yield from _prices(moment, waiting)
            if moment.checked:
                yield Look(number)
            for asked in moment.asked:
                if asked.waits:
                    waiting.setdefault(asked.instrument_id, []).append(asked)
                else:
                    yield Send(moment.at_ms, asked)
        assert not any(waiting.values())


def _prices(moment: Moment, waiting: dict[str, list[Asked]]) -> Iterator[Quote | Send]:
    for price in moment.prices:
        yield Quote(moment.at_ms, price)
        for asked in waiting.pop(price.instrument_id, ()):
            yield Send(moment.at_ms, asked)


class Place(Protocol):
    """A paper account as the maker of a list uses it: looked at for what is there, and kept in step."""

    account: PaperAccount
    names: Names

    def quote(self, step: Quote) -> None: ...

    def send(self, step: Send) -> None: ...


def make_list(seed: int, terms: Terms, starts: dict[str, tuple[int, int]], place: Place, count: int) -> OrderList:
    """`count` requests. `starts`: first bid and spread of each instrument in points; `place`: a paper account."""
    return _Maker(seed, terms, starts, place).make(count)


@dataclass
class _Maker:
    seed: int
    terms: Terms
    starts: dict[str, tuple[int, int]]
    place: Place
    moments: list[Moment] = field(default_factory=list)
    waiting: dict[str, list[Asked]] = field(default_factory=dict)
    asked: int = 0

    def make(self, count: int) -> OrderList:
        self.rng = random.Random(self.seed)
        self.bids = {name: bid for name, (bid, _) in self.starts.items()}
        self.at_ms = self.terms.start_ms
        everything = tuple(self.starts)
        self._moment(everything, 0)
        while self.asked < count:
            few = self.rng.sample(everything, self.rng.randint(1, 4))
            self._moment(tuple(each for each in everything if each in few), min(count - self.asked, self._how_many()))
        self._moment(everything, 0)
        self._moment(everything, 0)
        return OrderList(self.terms, tuple(self.moments))

    def _how_many(self) -> int:
        return self.rng.choice([0, 1, 1, 1, 2, 3])

    def _moment(self, names: tuple[str, ...], requests: int) -> None:
        rng = self.rng
        self.at_ms += rng.choice([1, 250, 5_000, 60_000, 900_000, 1_800_000, rng.randint(1, 3_600_000)])
        prices = tuple(self._price(name) for name in names)
        checked = len(self.moments) % 8 == 0 or not requests
        moment = Moment(self.at_ms, prices, (), checked)
        for step in _prices(moment, self.waiting):
            if isinstance(step, Quote):
                self.place.quote(step)
            else:
                self.place.send(step)
        asked = []
        self.seen = set(self.place.names.of_order)  # what is placed now has no number yet where it was sent from
        for _ in range(requests):
            self.asked += 1
            each = self._request(f"r{self.asked}")
            asked.append(each)
            if each.waits:
                self.waiting.setdefault(each.instrument_id, []).append(each)
            else:
                self.place.send(Send(self.at_ms, each))
        self.moments.append(replace(moment, asked=tuple(asked)))

    def _price(self, name: str) -> Price:
        first, spread = self.starts[name]
        step = max(2, first // 1_500)
        bid = self.bids[name] + self.rng.randint(-step, step) * self.rng.choice([1] * 30 + [4] * 8 + [60] * 2)
        if abs(bid - first) > first // 8:
            bid = self.bids[name] + (step if bid < first else -step)
        self.bids[name] = bid
        point = self._point(name)
        return Price(name, bid * point, (bid + self.rng.randint(0, 2 * spread)) * point)

    def _point(self, name: str) -> Decimal:
        return Decimal(1).scaleb(-self.terms.listing(name).instrument.price_digits)

    # ---- one request

    def _request(self, name: str) -> Asked:
        account, rng = self.place.account, self.rng
        positions, orders = account.positions(), [each for each in account.orders() if each.id in self.seen]
        kind = rng.choices(["place", "amend", "cancel", "protect", "close"], [58, 11, 6, 12, 13])[0]
        if kind in ("amend", "cancel") and orders:
            order = rng.choice(orders)
            return self._cancel(name, order) if kind == "cancel" else self._amend(name, order)
        if kind in ("protect", "close") and positions:
            held = rng.choice(positions)
            return self._close(name, held) if kind == "close" else self._protect(name, held)
        if kind != "place" and rng.random() < 0.1:
            return Asked(name, next(iter(self.starts)), Cancel(NOBODY), None, waits=False)
        return self._place(name, positions)

    def _place(self, name: str, positions: tuple[Position, ...]) -> Asked:
        rng = self.rng
        about: Position | None = None
        if positions and self.terms.account.type == "hedged" and rng.random() < 0.12:
            about = rng.choice(positions)
        instrument_id = about.instrument_id if about else rng.choice(tuple(self.starts))
        side, now = rng.choice(list(Side)), self._now(instrument_id)
        market = now.ask if side is Side.BUY else now.bid
        sign = 1 if side is Side.BUY else -1
        kind = rng.choices(
            [OrderType.MARKET, OrderType.LIMIT, OrderType.STOP, OrderType.STOP_LIMIT, OrderType.MARKET_RANGE],
            [34, 24, 20, 16, 6],
        )[0]
        more: dict[str, Any] = {}
        tif = TimeInForce.GTC
        if kind is OrderType.MARKET:
            tif = rng.choice([TimeInForce.IOC, TimeInForce.IOC, TimeInForce.FOK])
        elif kind is OrderType.MARKET_RANGE:
            tif = TimeInForce.IOC
            more = {"base_price": market, "slippage_points": rng.choice([0, 10, 200])}
        elif kind is OrderType.LIMIT:
            more["limit_price"] = market - sign * self._off(instrument_id, -2 if rng.random() < 0.15 else 1, 8)
            tif = rng.choice([TimeInForce.GTC] * 6 + [TimeInForce.GTD, TimeInForce.IOC])
        else:
            more["stop_price"] = market + sign * self._off(instrument_id, -2 if rng.random() < 0.05 else 1, 8)
            tif = rng.choice([TimeInForce.GTC] * 4 + [TimeInForce.GTD])
            if kind is OrderType.STOP_LIMIT and rng.random() < 0.5:
                more["slippage_points"] = rng.choice([0, 5, 50])
            elif kind is OrderType.STOP_LIMIT:
                more["limit_price"] = more["stop_price"] + sign * self._off(instrument_id, -3, 3)
        if tif is TimeInForce.GTD:
            more["expires_at_ms"] = self.at_ms + rng.randint(1, 7_200_000)
        more |= self._protection(instrument_id, kind, sign, more)
        request = OrderRequest(
            instrument_id=instrument_id,
            side=side,
            type=kind,
            units=self._units(instrument_id),
            time_in_force=tif,
            client_order_id=name,
            **more,
        )
        at_market = kind in (OrderType.MARKET, OrderType.MARKET_RANGE) or tif in AT_ONCE
        waits = at_market or (kind is OrderType.LIMIT and self._reached(instrument_id, side, request.limit_price))
        return Asked(name, instrument_id, request, about and self.place.names.of_position[about.id], waits)

    def _protection(self, instrument_id: str, kind: OrderType, sign: int, more: dict[str, Any]) -> dict[str, Any]:
        rng, found = self.rng, dict[str, Any]()
        relative = kind in (OrderType.MARKET, OrderType.MARKET_RANGE) or rng.random() < 0.5
        reference = more.get("limit_price") or more.get("stop_price") or Decimal(0)
        if rng.random() < 0.5:
            distance = self._off(instrument_id, 1, 10)
            wrong = -1 if rng.random() < 0.04 else 1
            found = {"relative_stop_loss": distance} if relative else {"stop_loss": reference - sign * wrong * distance}
            found["trailing_stop_loss"] = rng.random() < 0.3
        if rng.random() < 0.5:
            distance = self._off(instrument_id, 1, 10)
            found |= {"relative_take_profit": distance} if relative else {"take_profit": reference + sign * distance}
        return found

    def _amend(self, name: str, order: Order) -> Asked:
        rng, sign = self.rng, 1 if order.side is Side.BUY else -1
        now = self._now(order.instrument_id)
        market = now.ask if order.side is Side.BUY else now.bid
        changes: dict[str, Any] = {}
        if rng.random() < 0.4:
            changes["units"] = self._units(order.instrument_id)
        if order.type is OrderType.LIMIT:
            low = -2 if rng.random() < 0.2 else 1
            changes["limit_price"] = market - sign * self._off(order.instrument_id, low, 8)
        elif order.stop_price is not None and not order.triggered:
            changes["stop_price"] = market + sign * self._off(order.instrument_id, 1, 8)
        if rng.random() < 0.2:
            changes["expires_at_ms"] = self.at_ms + rng.randint(1, 7_200_000)
        if rng.random() < 0.2:
            changes |= {"relative_stop_loss": self._off(order.instrument_id, 1, 10)}
        limit = changes.get("limit_price", order.limit_price)
        waits = self._reached(order.instrument_id, order.side, limit)
        if not changes:
            changes["units"] = order.units
        return Asked(name, order.instrument_id, Amend(0, OrderChanges(**changes)), order.client_order_id, waits)

    def _cancel(self, name: str, order: Order) -> Asked:
        return Asked(name, order.instrument_id, Cancel(0), order.client_order_id, waits=False)

    def _protect(self, name: str, held: Position) -> Asked:
        rng, sign = self.rng, 1 if held.side is Side.BUY else -1
        now = self._now(held.instrument_id)
        price = now.bid if sign > 0 else now.ask
        stop, target = (
            price + sign * way * self._off(held.instrument_id, -1 if rng.random() < 0.05 else 1, 10)
            if rng.random() < 0.7
            else None
            for way in (-1, 1)
        )
        request = Protect(0, stop, target, trailing=stop is not None and rng.random() < 0.4)
        return Asked(name, held.instrument_id, request, self.place.names.of_position[held.id], waits=False)

    def _close(self, name: str, held: Position) -> Asked:
        step = self.terms.listing(held.instrument_id).instrument.step_units or Decimal(1)
        units, steps = held.units, int(held.units // step)
        if steps > 1 and self.rng.random() < 0.6:
            units = step * self.rng.randint(1, steps - 1)
        elif self.rng.random() < 0.03:
            units += step
        return Asked(name, held.instrument_id, Close(0, units), self.place.names.of_position[held.id], waits=True)

    def _off(self, instrument_id: str, low: int, high: int) -> Decimal:
        """A distance of so many usual moves, in whole points."""
        move = max(2, self.starts[instrument_id][0] // 1_500)
        points = self.rng.randint(low * move, high * move) or 1
        return points * self._point(instrument_id)

    def _units(self, instrument_id: str) -> Decimal:
        instrument, rng = self.terms.listing(instrument_id).instrument, self.rng
        step = instrument.step_units or Decimal(1)
        if rng.random() < 0.02:
            return step / 2
        return step * rng.choice([1, 2, 5, 10, 10, 30, 30, 100, 300, 3_000 if rng.random() < 0.2 else 7])

    def _now(self, instrument_id: str) -> Price:
        price = self.place.account.price(instrument_id)
        assert price is not None
        return price

    def _reached(self, instrument_id: str, side: Side, limit: Decimal | None) -> bool:
        now = self._now(instrument_id)
        return limit is not None and (now.ask <= limit if side is Side.BUY else now.bid >= limit)
