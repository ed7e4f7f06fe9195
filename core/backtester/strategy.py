"""What a strategy is: it declares series, then decides after every bar from what has been revealed.

What it is handed holds the past only: `Now` is filled row by row as time goes, and copies are given away, so no
object within reach shares memory with what is still to come.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, TypeAlias

import numpy as np

from core.backtester.data.columns import Floats, frozen
from core.backtester.desk import Desk
from core.backtester.orders import Orders
from core.backtester.series import Series, check_window, market_column
from core.errors import InvalidInput, NotFound
from core.orders import Side
from core.paper_trader import AccountTruth, Event, Order, Position


class Bar(NamedTuple):
    """One bar that has closed; opening time in Unix ms, bid prices, spread = ask − bid."""

    time_ms: int
    open: float
    high: float
    low: float
    close: float
    volume: float
    spread: float


class Tick(NamedTuple):
    """One tick."""

    time_ms: int
    bid: float
    ask: float


Cells: TypeAlias = "array[float]"  # row after row: the fields of a Bar or a Tick, then the series that follow its rows


def cells() -> Cells:
    """None yet."""
    return array("d")


@dataclass(slots=True)
class Revealed:
    """What has been revealed so far, appended to as time goes. Nothing else of the data is within reach of `Now`.

    `cells` by instrument ("" = series that follow the moments), all in one flat array, since an object for every row
    costs more than all else; `fields`: of a bar or tick; `widths`: of a whole row; `fresh`: moment of the last row;
    `always`: who has one at every moment; `places`: for each watched series the cells it is in, its place in the last
    row, counted from their end, and the width of a row.
    """

    cells: dict[str, Cells] = field(default_factory=dict)
    fields: dict[str, int] = field(default_factory=dict)
    widths: dict[str, int] = field(default_factory=dict)
    fresh: dict[str, int] = field(default_factory=dict)
    always: set[str] = field(default_factory=set)
    places: dict[Series, tuple[Cells, int, int]] = field(default_factory=dict)


class Strategy(Protocol):
    """Two calls: once before the run, then after every moment at which a bar closed (or a tick came)."""

    def prepare(self, market: Preparing) -> None:
        """Declare what will be asked for: `self.fast = market.watch(sma(market.close("EURUSD"), 10))`."""
        ...

    def on_bar(self, now: Now, orders: Orders) -> None:
        """Decide. Called from the first moment at which every watched series has a value and every instrument a row.

        What trades at once does so after the next step of its instrument, the open of the next bar; resting orders,
        amendments, cancellations and protections reach the broker at once and work from that open on.
        """
        ...


@dataclass(slots=True)
class Preparing:
    """Series of the market, and the list of those a strategy will look at. Holds recipes, no data."""

    columns: dict[str, tuple[str, ...]]
    watched: dict[Series, str] = field(default_factory=dict)

    def instruments(self) -> tuple[str, ...]:
        """Ids, in the order of the listings."""
        return tuple(self.columns)

    def column(self, instrument_id: str, name: str) -> Series:
        """A column of an instrument. Raises NotFound for an unknown instrument or column."""
        if name not in self.columns.get(instrument_id, ()):
            raise NotFound(f"no column {name} of {instrument_id}")
        return market_column(instrument_id, name)

    def open(self, instrument_id: str) -> Series:
        return self.column(instrument_id, "open")

    def high(self, instrument_id: str) -> Series:
        return self.column(instrument_id, "high")

    def low(self, instrument_id: str) -> Series:
        return self.column(instrument_id, "low")

    def close(self, instrument_id: str) -> Series:
        return self.column(instrument_id, "close")

    def volume(self, instrument_id: str) -> Series:
        return self.column(instrument_id, "volume")

    def watch(self, series: Series, name: str = "") -> Series:
        """Let `now.value(series)` answer; `name` is for messages. Returns the series."""
        if not isinstance(series, Series):
            raise InvalidInput("only a series can be watched", field="series")
        self.watched.setdefault(series, name or f"series {len(self.watched) + 1}")
        return series


class Now:
    """The present moment as a strategy sees it: rows and values revealed so far, and its account.

    `time_ms`: when the bar closed (Unix ms); `moment`: how many moments were before it.
    """

    __slots__ = ("_desk", "_places", "_positions", "_revealed", "_version", "moment", "time_ms")

    def __init__(self, desk: Desk, revealed: Revealed) -> None:
        self.time_ms = 0
        self.moment = 0
        self._desk = desk
        self._revealed = revealed
        self._places = revealed.places
        self._version = -1
        self._positions: tuple[Position, ...] = ()

    def bar(self, instrument_id: str) -> Bar:
        """The last bar that closed. Raises NotFound."""
        time_ms, *prices = self._last(instrument_id, len(Bar._fields), "bar")
        return Bar(int(time_ms), *prices)

    def tick(self, instrument_id: str) -> Tick:
        """The last tick. Raises NotFound."""
        time_ms, *prices = self._last(instrument_id, len(Tick._fields), "tick")
        return Tick(int(time_ms), *prices)

    def is_new(self, instrument_id: str) -> bool:
        """Whether a bar of the instrument closed (or a tick came) at this very moment."""
        return instrument_id in self._revealed.always or self._revealed.fresh.get(instrument_id) == self.moment

    def value(self, series: Series) -> float:
        """The newest value of a watched series. Raises NotFound when it is not watched."""
        try:
            cells, place, _ = self._places[series]
        except KeyError as cause:
            raise NotFound("this series is not watched: market.watch(series) in prepare") from cause
        return cells[place]

    def values(self, series: Series, rows: int) -> Floats:
        """The last `rows` values, oldest first, fewer at the beginning: a read-only copy."""
        check_window(rows, "rows")
        if series not in self._places:
            raise NotFound("this series is not watched: market.watch(series) in prepare")
        cells, place, width = self._places[series]
        last = len(cells) + place
        found = np.array(cells[max(last - (rows - 1) * width, last % width) : last + 1 : width], dtype=np.float64)
        return frozen(found[~np.isnan(found)])  # nan: rows before its first value

    @property
    def events(self) -> tuple[Event, ...]:
        """What happened in the account since the last decision, in order: fills, refusals, stop-outs …"""
        return self._desk.news(self.moment)

    @property
    def positions(self) -> tuple[Position, ...]:
        """Open positions, oldest first."""
        if self._version != self._desk.version:
            self._positions = self._desk.positions()
            self._version = self._desk.version
        return self._positions

    def units(self, instrument_id: str) -> float:
        """Net units held of an instrument: long minus short."""
        held = (each for each in self.positions if each.instrument_id == instrument_id)
        return sum(float(each.units) if each.side is Side.BUY else -float(each.units) for each in held)

    @property
    def orders(self) -> tuple[Order, ...]:
        """Working orders at the broker, oldest first (not those that wait for the next open)."""
        return self._desk.orders()

    @property
    def account(self) -> AccountTruth:
        """Balance, equity, margin and positions valued at the present prices."""
        return self._desk.truth()

    def _last(self, instrument_id: str, fields: int, kind: str) -> Cells:
        cells = self._revealed.cells.get(instrument_id)
        if not cells or self._revealed.fields[instrument_id] != fields:
            raise NotFound(f"no {kind} of {instrument_id}")
        first = len(cells) - self._revealed.widths[instrument_id]
        return cells[first : first + fields]
