"""Where prices come from: a seeded random walk, a CSV replay, or nowhere (frozen); and who is told.

One price per symbol name drives every server; a server's mark-up widens it, a price group's once more. Prices are
integers in points (10^-digits). Each change goes to the engine, then as a tick to the subscribers, and what it filled
or stopped out follows through `deliver`.
"""

from __future__ import annotations

import csv
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path

from bridge.runtime.clock import Clock
from bridge.simulator.ctrader.bars import BarBook
from bridge.simulator.ctrader.catalogue import SYMBOLS, TERMS_BY_NAME, ListedSymbol, ServerCatalogue, SymbolTerms
from bridge.simulator.ctrader.spots import Tick
from bridge.simulator.ctrader.world import World
from core.errors import InvalidInput, NotFound
from core.paper_trader import Event, Level

WIRE_DIGITS = 5  # spot prices are always in 1/100000 (reference/ctrader.md §4.1)
TICKS_KEPT = 1_000
STEP_S = 0.25
SHORTEST_STEP_S = 0.02

Deliver = Callable[[list[Event]], None]
Publish = Callable[[Tick], None]


@dataclass(slots=True)
class Walk:
    """The common price of one symbol, in points."""

    terms: SymbolTerms
    bid: int
    ask: int

    def move(self, rng: random.Random) -> None:
        """One random step; one side or both move, the spread stays within a factor of two, the price within 10 %."""
        step = round(rng.gauss(0, self.terms.volatility)) or rng.choice((-1, 1))
        if abs(self.bid + step - self.terms.mid) > self.terms.mid // 10:
            step = -step
        bid, ask = self.bid, self.ask
        which = rng.random()
        if which < 0.75:
            bid += step
        if which > 0.25:
            ask += step
        if not max(1, self.terms.spread // 2) <= ask - bid <= 2 * self.terms.spread:
            bid, ask = self.bid + step, self.ask + step
        self.bid, self.ask = bid, ask


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a replay; `at_ms` counts from the first line."""

    at_ms: int
    symbol: str
    bid: Decimal
    ask: Decimal


class Prices:
    """All quotes of the world and their recent history."""

    def __init__(
        self,
        world: World,
        rng: random.Random,
        clock: Clock,
        *,
        source: str,
        speed: float,
        seed: int,
        strangers: frozenset[str] = frozenset(),
    ) -> None:
        self._world = world
        self._rng = rng
        self._clock = clock
        self.deliver: Deliver = lambda events: None
        self.publish: Publish = lambda tick: None
        self.frozen = source == "frozen"
        self._speed = speed
        self._walks = {terms.name: _first_walk(terms) for terms in SYMBOLS}
        self._replay = read_csv(Path(source), strangers) if source not in ("walk", "frozen") else None
        self._replay_ms = 0.0
        self.ticks: dict[tuple[str, int], deque[Tick]] = {}
        self.bars = BarBook(seed)
        self._latest: dict[tuple[str, int], Tick] = {}
        for walk in self._walks.values():
            self._apply(walk)

    @property
    def step_s(self) -> float:
        """Pause between two calls of `step`."""
        return max(SHORTEST_STEP_S, STEP_S / max(1.0, self._speed))

    def latest(self, server: str, symbol_id: int) -> Tick | None:
        """The newest price with both sides."""
        return self._latest.get((server, symbol_id))

    def step(self) -> None:
        """Let time pass: each symbol moves about `speed` times a second, or the replay advances."""
        due = self._world.engine.next_due_ms()
        if due is not None and due <= self._clock.now_ms():
            self.deliver(self._world.engine.advance(self._clock.now_ms()))
        if self.frozen:
            return
        if self._replay is not None:
            self._advance_replay(self._replay)
            return
        chance = self._speed * self.step_s
        for walk in self._walks.values():
            if self._rng.random() < chance:
                walk.move(self._rng)
                self._apply(walk)

    def set_quote(
        self,
        name: str,
        bid: Decimal | None,
        ask: Decimal | None,
        *,
        server: str | None = None,
        bids: Sequence[Level] | None = None,
        asks: Sequence[Level] | None = None,
    ) -> None:
        """Set one or both sides of a symbol exactly, on every server (without mark-up) or on one.

        `bids`/`asks`, best first, limit the units on offer at each price until the next change. The walk goes on
        from there unless prices are frozen. Raises NotFound for an unknown symbol or server, InvalidInput for a price
        that is not positive or has too many digits, and for a bid above the ask.
        """
        walk = self._walks.get(name)
        if walk is None:
            raise NotFound(f"no symbol {name}")
        if server is not None and server not in self._world.servers:
            raise NotFound(f"no server {server}; there are {', '.join(self._world.servers)}")
        bid, ask = bids[0].price if bids else bid, asks[0].price if asks else ask
        new_bid = walk.bid if bid is None else _points(name, "bid", bid)
        new_ask = walk.ask if ask is None else _points(name, "ask", ask)
        # Only one side given: the other follows if it would cross.
        if bid is None:
            new_bid = min(new_bid, new_ask)
        if ask is None:
            new_ask = max(new_bid, new_ask)
        if new_bid > new_ask:
            raise InvalidInput(f"bid of {name} is above its ask", field=f"{name}.bid")
        if server is None:
            walk.bid, walk.ask = new_bid, new_ask
        for catalogue in self._world.priced():
            symbol = catalogue.by_name.get(name)
            if symbol is not None and server in (None, catalogue.base):
                points = self._world.markups.get(catalogue.key, 0)
                offers = _shifted(bids, -points, walk.terms), _shifted(asks, points, walk.terms)
                self._quote(catalogue, symbol, new_bid - points, new_ask + points, *offers)

    def mark_up(self, group: ServerCatalogue, points: int) -> None:
        """Set the mark-up of a price group and quote it anew, from its server's newest prices."""
        self._world.markups[group.key] = points
        for symbol in group.symbols.values():
            tick = self._latest[group.base, symbol.id]
            scale = 10 ** (WIRE_DIGITS - symbol.terms.digits)
            if tick.bid is not None and tick.ask is not None:
                self._quote(group, symbol, tick.bid // scale - points, tick.ask // scale + points)

    def _apply(self, walk: Walk) -> None:
        for catalogue in self._world.priced():
            symbol = catalogue.by_name.get(walk.terms.name)
            if symbol is not None:
                markup = catalogue.rules.markup + self._world.markups.get(catalogue.key, 0)
                self._quote(catalogue, symbol, walk.bid - markup, walk.ask + markup)

    def _quote(
        self,
        catalogue: ServerCatalogue,
        symbol: ListedSymbol,
        bid: int,
        ask: int,
        bids: Sequence[Level] | None = None,
        asks: Sequence[Level] | None = None,
    ) -> None:
        now_ms = self._clock.now_ms()
        digits = symbol.terms.digits
        scale = 10 ** (WIRE_DIGITS - digits)
        key = (catalogue.key, symbol.id)
        before = self._latest.get(key)
        full = Tick(catalogue.key, symbol.id, bid * scale, ask * scale, now_ms)
        self._latest[key] = full
        self.ticks.setdefault(key, deque(maxlen=TICKS_KEPT)).append(full)
        self.bars.tick(full)
        events = self._world.engine.quote(
            catalogue.key,
            symbol.instrument_id,
            now_ms,
            bid=None if bids else Decimal(bid).scaleb(-digits),
            ask=None if asks else Decimal(ask).scaleb(-digits),
            bids=bids,
            asks=asks,
        )
        if before is None or full.bid == before.bid or full.ask == before.ask:
            # A side that did not change is left out; a price set again without change is sent whole.
            same = before is not None and full.bid == before.bid and full.ask == before.ask
            moved_bid = full.bid if before is None or same or full.bid != before.bid else None
            moved_ask = full.ask if before is None or same or full.ask != before.ask else None
            self.publish(Tick(catalogue.key, symbol.id, moved_bid, moved_ask, now_ms))
        else:
            self.publish(full)
        if events:
            self.deliver(events)

    def _advance_replay(self, rows: deque[Row]) -> None:
        self._replay_ms += self.step_s * 1000 * self._speed
        while rows and rows[0].at_ms <= self._replay_ms:
            row = rows.popleft()
            self.set_quote(row.symbol, row.bid, row.ask)


def read_csv(path: Path, strangers: frozenset[str] = frozenset()) -> deque[Row]:
    """Rows `time_ms,symbol,bid,ask` in time order, times made relative to the first; a header line is skipped.

    `strangers`: symbols of another broker that replays the same file; their rows only count for the time of the first.
    The file is read whole. Raises OSError when it cannot be read, InvalidInput naming the line that is wrong.
    """
    rows: deque[Row] = deque()
    first: int | None = None
    with path.open(newline="", encoding="utf-8") as file:
        for number, line in enumerate(csv.reader(file), start=1):
            if not line or (number == 1 and not line[0].strip().isdigit()):
                continue
            try:
                at_ms, symbol, bid, ask = int(line[0]), line[1].strip(), Decimal(line[2]), Decimal(line[3])
            except (IndexError, ValueError, InvalidOperation) as cause:
                raise InvalidInput(f"{path.name} line {number}: expected time_ms,symbol,bid,ask") from cause
            first = at_ms if first is None else first
            if symbol in strangers:
                continue
            if symbol not in TERMS_BY_NAME:
                raise InvalidInput(f"{path.name} line {number}: no symbol {symbol}")
            if _points(symbol, "bid", bid) > _points(symbol, "ask", ask):
                raise InvalidInput(f"{path.name} line {number}: bid above ask")
            rows.append(Row(at_ms - first, symbol, bid, ask))
    return rows


def _shifted(levels: Sequence[Level] | None, points: int, terms: SymbolTerms) -> Sequence[Level] | None:
    if levels is None or not points:
        return levels
    return [Level(level.price + Decimal(points).scaleb(-terms.digits), level.units) for level in levels]


def _first_walk(terms: SymbolTerms) -> Walk:
    bid = terms.mid - terms.spread // 2
    return Walk(terms, bid, bid + terms.spread)


def _points(name: str, side: str, price: Decimal) -> int:
    digits = TERMS_BY_NAME[name].digits
    points = price.scaleb(digits)
    if points != points.to_integral_value() or points <= 0:
        raise InvalidInput(f"{side} of {name} must be positive with at most {digits} decimals", field=f"{name}.{side}")
    return int(points)
