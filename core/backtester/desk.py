"""The engine with the prices of the present, quoted to it no sooner than they matter.

A price that reaches none of the engine's levels changes nothing there, so it is only remembered; before anything can
happen, or is asked for, every remembered price is quoted. Holds nothing of the future.
Invariant: between the price last quoted and the present one of an instrument lies no level of the engine's.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from typing import Protocol

from core.backtester.settings import ACCOUNT, MARKET, BacktestSettings
from core.backtester.tracks import BAR_COLUMNS, FAR
from core.paper_trader import (
    AccountTruth,
    Engine,
    EngineSettings,
    Event,
    Levels,
    Order,
    Position,
    RequestRejected,
    SwapKind,
)
from core.paper_trader.conversion import EXACT

CLOSE, SPREAD = (1 + BAR_COLUMNS.index(name) for name in ("close", "spread"))  # after the time
BID, ASK = 1, 2  # of a tick


@dataclass(slots=True)
class Quoted:
    """Present prices of an instrument in points, and its quiet range: levels exclusive, FAR where there is none.

    `stale`: the engine has not been told the present prices. `trail_…`: levels that only pull a trailing stop. `cells`:
    bars (or `ticks`) revealed so far, in rows of `width`; the present prices may be of the newest one (`Desk.behind`).
    """

    instrument_id: str
    digits: int
    bid: int = 0
    ask: int = 0
    known: bool = False
    stale: bool = False
    bid_floor: int = -FAR
    bid_ceiling: int = FAR
    ask_floor: int = -FAR
    ask_ceiling: int = FAR
    trail_bid_floor: int = -FAR
    trail_bid_ceiling: int = FAR
    trail_ask_floor: int = -FAR
    trail_ask_ceiling: int = FAR
    any_quote: bool = False
    low_bid: int = -FAR  # the quiet range as a whole, trailing levels included
    high_bid: int = FAR
    low_ask: int = -FAR
    high_ask: int = FAR
    cells: Sequence[float] = ()
    width: int = 0
    ticks: bool = False

    def catch_up(self, rows_ago: int = 0) -> None:
        """Take the prices at the end of the newest bar or tick that is revealed, or of an earlier one."""
        first = len(self.cells) - (rows_ago + 1) * self.width
        scale = 10.0**self.digits
        bid = round(self.cells[first + (BID if self.ticks else CLOSE)] * scale)
        ask = round(self.cells[first + (ASK if self.ticks else SPREAD)] * scale) + (0 if self.ticks else bid)
        if (bid, ask) != (self.bid, self.ask):
            self.bid, self.ask, self.stale = bid, ask, True

    def take_levels(self, levels: Levels) -> None:
        """Put the engine's levels into whole points: the first price that reaches each."""
        self.bid_floor = _falls_to(levels.bid_falls_to, self.digits)
        self.bid_ceiling = _rises_to(levels.bid_rises_to, self.digits)
        self.ask_floor = _falls_to(levels.ask_falls_to, self.digits)
        self.ask_ceiling = _rises_to(levels.ask_rises_to, self.digits)
        self.trail_bid_floor = _falls_to(levels.trail_bid_falls_to, self.digits)
        self.trail_bid_ceiling = _rises_to(levels.trail_bid_rises_to, self.digits)
        self.trail_ask_floor = _falls_to(levels.trail_ask_falls_to, self.digits)
        self.trail_ask_ceiling = _rises_to(levels.trail_ask_rises_to, self.digits)
        self.any_quote = levels.next_quote

        if levels.trails > 1:  # each of their moves counts
            self.bid_floor = max(self.bid_floor, self.trail_bid_floor)
            self.bid_ceiling = min(self.bid_ceiling, self.trail_bid_ceiling)
            self.ask_floor = max(self.ask_floor, self.trail_ask_floor)
            self.ask_ceiling = min(self.ask_ceiling, self.trail_ask_ceiling)
        self.low_bid = max(self.bid_floor, self.trail_bid_floor)
        self.high_bid = min(self.bid_ceiling, self.trail_bid_ceiling)
        self.low_ask = max(self.ask_floor, self.trail_ask_floor)
        self.high_ask = min(self.ask_ceiling, self.trail_ask_ceiling)
        if self.any_quote or not self.quiet(self.bid, self.bid, self.ask, self.ask):
            self.high_bid = -FAR  # something waits for the very next price: no range is quiet

    def quiet(self, low_bid: int, high_bid: int, low_ask: int, high_ask: int) -> bool:
        """Whether prices within these bounds change nothing in the engine."""
        return (
            low_bid > self.low_bid and high_bid < self.high_bid and low_ask > self.low_ask and high_ask < self.high_ask
        )


class Shortcut(Protocol):
    """What stands in for the engine while it can (`certain.Certain`)."""

    dealt_at: int

    def positions(self) -> tuple[Position, ...]: ...

    def truth(self) -> AccountTruth: ...

    def replay(self) -> tuple[Event, ...]: ...


@dataclass(slots=True)
class Desk:
    """The engine of one backtest. `version` rises with every event; `busy`: some level or due time exists.

    `told`: what happened before the present decision. `behind`: the one instrument's bars have gone on since its prices
    were set. `shortcut`: knows the account while the engine is left out; it
    has not heard of anything since the deposit then.
    """

    settings: BacktestSettings
    engine: Engine
    quoted: list[Quoted]
    at_ms: int
    events: list[Event] = field(default_factory=list)
    refused: int = 0
    version: int = 0
    busy: bool = False
    due_ms: int = FAR
    told: tuple[Event, ...] = ()
    behind: bool = False
    shortcut: Shortcut | None = None

    def give_up(self) -> tuple[Event, ...]:
        """Let the engine take over; what it says of the newest deals."""
        if self.shortcut is None:
            return ()
        if self.behind:
            self.quoted[0].catch_up()
        shortcut, self.shortcut = self.shortcut, None
        return shortcut.replay()

    def news(self, moment: int) -> tuple[Event, ...]:
        """What happened before the decision of that moment, the present one."""
        if self.shortcut is not None and self.shortcut.dealt_at == moment:
            self.told = self.give_up()
        return self.told

    def note(self, events: list[Event]) -> None:
        """Keep what happened. Levels must be read again."""
        if events:
            self.version += 1
            self.events += events
            self.refused += sum(isinstance(each, RequestRejected) for each in events)

    def sync(self) -> None:
        """Tell the engine every remembered price; by the invariant nothing happens."""
        if self.behind:
            self.quoted[0].catch_up()
        if self.shortcut is not None:
            return
        for each in self.quoted:
            if each.stale:
                self.quote(each)

    def quote(self, each: Quoted) -> None:
        """Tell the engine the present prices of an instrument, and keep what follows."""
        each.stale = False
        each.known = True
        self.note(
            self.engine.quote(
                MARKET,
                each.instrument_id,
                self.at_ms,
                bid=Decimal(each.bid).scaleb(-each.digits),
                ask=Decimal(each.ask).scaleb(-each.digits),
            )
        )

    def refresh(self) -> None:
        """Read the levels and the next due time again, after calls into the engine."""
        positions, orders = self.engine.positions(ACCOUNT), self.engine.orders(ACCOUNT)
        self.busy = bool(positions or orders)
        self.due_ms = FAR
        due_ms = self.engine.next_due_ms()
        if due_ms is not None and self.busy and (self._swaps(positions) or any(each.expires_at_ms for each in orders)):
            self.due_ms = due_ms
        for each in self.quoted:
            each.take_levels(self.engine.levels(MARKET, each.instrument_id))

    def truth(self) -> AccountTruth:
        """The account as the engine values it at the present prices."""
        self.sync()
        if self.shortcut is not None:
            return self.shortcut.truth()
        return self.engine.account_truth(ACCOUNT)

    def positions(self) -> tuple[Position, ...]:
        """Open ones, oldest first."""
        return self.engine.positions(ACCOUNT) if self.shortcut is None else self.shortcut.positions()

    def orders(self) -> tuple[Order, ...]:
        """Working ones, oldest first."""
        return self.engine.orders(ACCOUNT)  # none while there is a shortcut

    def _swaps(self, positions: tuple[Position, ...]) -> bool:
        if self.settings.account.swap_free:
            return False
        names = {each.instrument_id for each in positions}
        return any(self.settings.listing(name).swap.kind is not SwapKind.NONE for name in names)


def desk_of(settings: BacktestSettings, digits: list[tuple[str, int]], start_ms: int) -> Desk:
    """A fresh engine with the listings, one account and its deposit."""
    engine = Engine(random.Random(settings.seed), EngineSettings(history_limit=1))
    engine.add_market(MARKET, settings.market)
    for listing in settings.listings:
        engine.add_listing(MARKET, listing)
    engine.open_account(ACCOUNT, MARKET, settings.account, start_ms)
    desk = Desk(settings, engine, [Quoted(name, places) for name, places in digits], start_ms)
    desk.note(engine.move_cash(ACCOUNT, settings.balance, start_ms))
    return desk


def _falls_to(level: Decimal | None, digits: int) -> int:
    if level is None:
        return -FAR
    return int(level.scaleb(digits, context=EXACT).to_integral_value(ROUND_FLOOR))


def _rises_to(level: Decimal | None, digits: int) -> int:
    if level is None:
        return FAR
    return int(level.scaleb(digits, context=EXACT).to_integral_value(ROUND_CEILING))
