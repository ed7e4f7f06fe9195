"""Small markets and a strategy that does a bit of everything, both made from a seed."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from decimal import Decimal

import numpy as np

from core.backtester.data.bars import Bars, bars_of
from core.backtester.data.ticks import Ticks, ticks_of
from core.backtester.orders import Orders
from core.backtester.settings import BacktestSettings
from core.backtester.strategy import Now, Preparing
from core.instruments import Instrument
from core.orders import OrderType, Side, TimeInForce
from core.paper_trader import (
    AccountSettings,
    AccountType,
    Commission,
    CommissionKind,
    Listing,
    MarketSettings,
    OrderChanges,
    OrderRequest,
    Slippage,
    StopOutOrder,
    Swap,
    SwapKind,
)

START_MS = 1_700_000_000_000
MINUTE = 60_000


def random_bars(
    name: str, seed: int, rows: int, *, price: int, digits: int, interval_ms: int = MINUTE, step: int = 12
) -> Bars:
    """A coarse random walk in points with gaps in price and time and a changing spread."""
    rng = np.random.default_rng(seed)
    now, stamp = price, START_MS
    columns: dict[str, list[float]] = {key: [] for key in ("time", "open", "high", "low", "close", "spread")}
    for _ in range(rows):
        stamp += interval_ms * (1 if rng.random() < 0.9 else int(rng.integers(2, 5)))
        start = max(30, now + (int(rng.integers(-step, step + 1)) if rng.random() < 0.4 else 0))
        high = start + int(rng.integers(0, step + 1))
        low = max(20, start - int(rng.integers(0, step + 1)))
        now = int(rng.integers(low, high + 1))
        for key, value in zip(columns, (stamp, start, high, low, now, int(rng.integers(0, 4))), strict=True):
            columns[key].append(value)
    scale = 10.0**digits
    prices = {key: np.array(columns[key]) / scale for key in ("open", "high", "low", "close")}
    return bars_of(name, columns["time"], **prices, spread=np.array(columns["spread"]) / scale, interval_ms=interval_ms)


def random_ticks(name: str, seed: int, rows: int, *, price: int, digits: int) -> Ticks:
    """A coarse random walk of quotes, some at the same ms."""
    rng = np.random.default_rng(seed)
    bid = np.maximum(30, price + np.cumsum(rng.integers(-4, 5, rows)))
    stamps = START_MS + np.cumsum(rng.integers(0, 3, rows) * 20_000)
    return ticks_of(name, stamps, bid / 10.0**digits, (bid + rng.integers(0, 4, rows)) / 10.0**digits)


def listing(name: str, base: str, quote: str, digits: int, **terms: object) -> Listing:
    return Listing(instrument=Instrument(name, name, digits, base, quote), pip_digits=digits - 1, **terms)  # type: ignore[arg-type]


def settings_of(seed: int, names: tuple[str, ...]) -> BacktestSettings:
    """Terms that differ from seed to seed: hedged or netted, thin or ample money, costs, margin calls."""
    rng = random.Random(seed)
    known = {
        "EURUSD": listing(
            "EURUSD",
            "EUR",
            "USD",
            4,
            commission=Commission(CommissionKind.PER_MILLION_USD, Decimal(30)),
            swap=Swap(SwapKind.POINTS, Decimal("-0.7"), Decimal("0.2"), minute_utc=22 * 60 + 20),
        ),
        "USDJPY": listing(
            "USDJPY", "USD", "JPY", 2, commission=Commission(CommissionKind.PERCENT_OF_VALUE, Decimal("0.01"))
        ),
        "EURJPY": listing("EURJPY", "EUR", "JPY", 2),
    }
    return BacktestSettings(
        listings=tuple(known[name] for name in names),
        account=AccountSettings(
            currency="USD",
            type=rng.choice([AccountType.HEDGED, AccountType.NETTED]),
            leverage=Decimal(rng.choice([20, 100, 500])),
            margin_call_levels=rng.choice([(), (Decimal(120), Decimal(80))]),
            stop_out_order=rng.choice(list(StopOutOrder)),
        ),
        market=MarketSettings(
            partial_fill_chance=rng.choice([0.0, 0.0, 0.3]),
            slippage=rng.choice([Slippage(), Slippage(points=Decimal(1)), Slippage(fraction=Decimal("0.0005"))]),
        ),
        balance=Decimal(rng.choice([300, 2_000, 50_000])),
        close_at_end=rng.random() < 0.5,
        seed=seed,
    )


def data_of(seed: int, names: tuple[str, ...], rows: int) -> dict[str, Bars]:
    places = {"EURUSD": (700, 4), "USDJPY": (900, 2), "EURJPY": (800, 2)}
    every = {"EURUSD": MINUTE, "USDJPY": MINUTE, "EURJPY": 5 * MINUTE}
    return {
        name: random_bars(
            name, seed * 10 + index, rows, price=places[name][0], digits=places[name][1], interval_ms=every[name]
        )
        for index, name in enumerate(names)
    }


@dataclass
class Busy:
    """Sends random requests of every kind; what it sees decides with the seed, so equal pasts give equal requests."""

    seed: int
    log: list[tuple[object, ...]] = field(default_factory=list)
    names: tuple[str, ...] = ()

    def prepare(self, market: Preparing) -> None:
        self.rng = random.Random(self.seed)
        self.names = market.instruments()
        self.has_bars = "close" in market.columns[self.names[0]]

    def on_bar(self, now: Now, orders: Orders) -> None:
        rng = self.rng
        if rng.random() < 0.2:
            truth = now.account
            self.log.append((now.time_ms, truth.balance, truth.equity, truth.used_margin, len(truth.positions)))
        if rng.random() < 0.55:
            return
        for _ in range(rng.randint(1, 2)):
            self._one(now, orders, rng)

    def _one(self, now: Now, orders: Orders, rng: random.Random) -> None:  # noqa: C901 - one branch per kind of order
        name = rng.choice(self.names)
        places = orders.digits[name]
        last = now.bar(name).close if self.has_bars else now.tick(name).bid
        price = round(Decimal(repr(last)), places)
        point = Decimal(1).scaleb(-places)
        side = rng.choice([Side.BUY, Side.SELL])
        sign = 1 if side is Side.BUY else -1

        def off(low: int, high: int) -> Decimal:
            return point * rng.randint(low, high)

        units = rng.choice([100, 1_000, 2_500, 20_000])
        protection: dict[str, object] = {}
        if rng.random() < 0.6:
            protection["relative_stop_loss"] = off(1, 25)
            protection["trailing_stop_loss"] = rng.random() < 0.5
        if rng.random() < 0.5:
            protection["relative_take_profit"] = off(1, 25)
        kind = rng.randint(0, 11)
        positions, working = now.positions, now.orders
        if kind <= 2:
            orders.send(
                name,
                side,
                OrderType.MARKET,
                units,
                time_in_force=rng.choice([TimeInForce.GTC, TimeInForce.IOC]),
                **protection,
            )
        elif kind == 3:
            tif = rng.choice(
                [
                    {},
                    {"time_in_force": TimeInForce.DAY},
                    {"time_in_force": TimeInForce.GTD, "expires_at_ms": now.time_ms + rng.randint(1, 900_000)},
                ]
            )
            orders.limit(name, side, units, price - sign * off(-4, 20), **protection, **tif)
        elif kind == 4:
            orders.stop(name, side, units, price + sign * off(-2, 20), **protection)
        elif kind == 5:
            stop = price + sign * off(0, 15)
            orders.stop_limit(name, side, units, stop, stop + sign * off(-3, 6), **protection)
        elif kind == 6:
            orders.trailing_stop(name, side, units, off(1, 20), **protection)
        elif kind == 7 and positions:
            orders.close(rng.choice(positions), rng.choice([None, 100, Decimal(50)]))
        elif kind == 8 and positions:
            orders.protect(
                rng.choice(positions),
                stop_loss=price - off(-20, 20),
                take_profit=price + off(-20, 20),
                trailing=rng.random() < 0.5,
            )
        elif kind == 9 and working:
            orders.cancel(rng.choice(working).id)
        elif kind == 10 and working:
            order = rng.choice(working)
            field_name = "limit_price" if order.type is OrderType.LIMIT else "stop_price"
            orders.amend(order.id, OrderChanges(**{field_name: price + off(-20, 20)}))
        elif kind == 11:
            orders.place(
                OrderRequest(
                    instrument_id=name,
                    side=side,
                    type=OrderType.MARKET_RANGE,
                    units=Decimal(units),
                    base_price=price,
                    slippage_points=rng.randint(0, 10),
                    time_in_force=TimeInForce.IOC,
                )
            )
