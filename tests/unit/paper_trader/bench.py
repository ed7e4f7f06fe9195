"""A small stage for engine tests: one market with the usual pairs, short calls, and events by kind."""

from __future__ import annotations

import random
from decimal import Decimal
from typing import Any, TypeVar

from core.instruments import Instrument
from core.orders import OrderType, Side, TimeInForce
from core.paper_trader import (
    AccountSettings,
    AccountTruth,
    Engine,
    EngineSettings,
    Event,
    Level,
    Listing,
    MarketSettings,
    OrderChanges,
    OrderRequest,
    Position,
)

MARKET = "sim"
# (base, quote, digits, pip digits); ids are the names here
PAIRS: dict[str, tuple[str, str, int, int]] = {
    "EURUSD": ("EUR", "USD", 5, 4),
    "GBPUSD": ("GBP", "USD", 5, 4),
    "USDJPY": ("USD", "JPY", 3, 2),
    "USDCHF": ("USD", "CHF", 5, 4),
    "EURGBP": ("EUR", "GBP", 5, 4),
    "EURJPY": ("EUR", "JPY", 3, 2),
    "GBPCHF": ("GBP", "CHF", 5, 4),
    "XAUUSD": ("XAU", "USD", 2, 1),
}

E = TypeVar("E", bound=Event)


def dec(value: object) -> Decimal:
    return Decimal(str(value))


def listing(name: str, **terms: Any) -> Listing:
    """The named pair; units in whole steps of 1 unless `min_units`, `max_units` or `step_units` say otherwise."""
    base, quote, digits, pip_digits = PAIRS[name]
    limits = {key: dec(terms.pop(key)) for key in ("min_units", "max_units", "step_units") if key in terms}
    lot = dec(100) if base == "XAU" else dec(100_000)
    limits = {"min_units": dec(1), "step_units": dec(1)} | limits
    return Listing(
        instrument=Instrument(name, name, digits, base, quote, lot, **limits), pip_digits=pip_digits, **terms
    )


class Bench:
    """An engine with a market and one account "a"; time moves by 1 ms per call unless told."""

    def __init__(
        self,
        *listings: Listing,
        seed: int = 1,
        market: MarketSettings | None = None,
        deposit: object = 10_000,
        **account: Any,
    ) -> None:
        self.engine = Engine(random.Random(seed), EngineSettings())
        self.engine.add_market(MARKET, market)
        for each in listings or (listing("EURUSD"),):
            self.engine.add_listing(MARKET, each)
        self.now_ms = 0
        self.trace: list[Event] = []
        self.open("a", deposit, **account)

    def open(self, account_id: str, deposit: object = 10_000, **account: Any) -> None:
        settings = AccountSettings(**({"currency": "USD"} | account))
        self.engine.open_account(account_id, MARKET, settings, self.tick())
        if deposit:
            self.note(self.engine.move_cash(account_id, dec(deposit), self.tick()))

    def tick(self, at_ms: int | None = None) -> int:
        self.now_ms = self.now_ms + 1 if at_ms is None else at_ms
        return self.now_ms

    def note(self, events: list[Event]) -> list[Event]:
        self.trace += events
        return events

    def quote(self, bid: object = None, ask: object = None, name: str = "EURUSD", **depth: Any) -> list[Event]:
        """Prices; `bids`, `asks` as lists of (price, units)."""
        levels = {
            side: [Level(dec(price), dec(units)) for price, units in offers] for side, offers in depth.items() if offers
        }
        return self.note(
            self.engine.quote(
                MARKET,
                name,
                self.tick(),
                bid=None if bid is None else dec(bid),
                ask=None if ask is None else dec(ask),
                **levels,
            )
        )

    def place(
        self, side: str, type_: str, units: object, name: str = "EURUSD", account: str = "a", **extra: Any
    ) -> list[Event]:
        """An order; numbers as strings, `tif` for the time in force."""
        if "tif" in extra:
            extra["time_in_force"] = TimeInForce(extra.pop("tif"))
        values = {key: dec(value) if _is_price(key) else value for key, value in extra.items()}
        request = OrderRequest(instrument_id=name, side=Side(side), type=OrderType(type_), units=dec(units), **values)
        return self.note(self.engine.place(account, request, self.tick()))

    def buy(self, units: object, name: str = "EURUSD", account: str = "a", **extra: Any) -> list[Event]:
        return self.place("buy", "market", units, name, account, **extra)

    def sell(self, units: object, name: str = "EURUSD", account: str = "a", **extra: Any) -> list[Event]:
        return self.place("sell", "market", units, name, account, **extra)

    def amend(self, order_id: int, account: str = "a", **changes: Any) -> list[Event]:
        values = {
            key: dec(value) if value is not None and (_is_price(key) or key == "units") else value
            for key, value in changes.items()
        }
        return self.note(self.engine.amend(account, order_id, OrderChanges(**values), self.tick()))

    def cancel(self, order_id: int, account: str = "a") -> list[Event]:
        return self.note(self.engine.cancel(account, order_id, self.tick()))

    def close(self, position_id: int, units: object = None, account: str = "a") -> list[Event]:
        amount = None if units is None else dec(units)
        return self.note(self.engine.close(account, position_id, amount, self.tick()))

    def protect(
        self,
        position_id: int,
        stop_loss: object = None,
        take_profit: object = None,
        trailing: bool = False,
        account: str = "a",
    ) -> list[Event]:
        return self.note(
            self.engine.protect(
                account,
                position_id,
                self.tick(),
                stop_loss=None if stop_loss is None else dec(stop_loss),
                take_profit=None if take_profit is None else dec(take_profit),
                trailing_stop_loss=trailing,
            )
        )

    def cash(self, delta: object, account: str = "a") -> list[Event]:
        return self.note(self.engine.move_cash(account, dec(delta), self.tick()))

    def advance(self, at_ms: int) -> list[Event]:
        return self.note(self.engine.advance(self.tick(at_ms)))

    def truth(self, account: str = "a") -> AccountTruth:
        return self.engine.account_truth(account)

    def position(self, account: str = "a") -> Position:
        """The only open position."""
        (position,) = self.engine.positions(account)
        return position


def kinds(events: list[Event]) -> list[str]:
    """Class names, for asserting sequences."""
    return [type(event).__name__ for event in events]


def order_kinds(events: list[Event]) -> list[str]:
    """Class names of what happened to orders, leaving out what it did to margin and balance."""
    return [kind for kind in kinds(events) if kind.startswith("Order")]


def only(events: list[Event], kind: type[E]) -> E:
    """The one event of that kind."""
    (found,) = [event for event in events if isinstance(event, kind)]
    return found


def every(events: list[Event], kind: type[E]) -> list[E]:
    return [event for event in events if isinstance(event, kind)]


def _is_price(key: str) -> bool:
    return key.endswith(("price", "_loss", "_profit", "trail_amount", "trail_percent")) and not key.startswith(
        "trailing"
    )
