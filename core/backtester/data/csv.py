"""CSV text to bars and ticks. Takes text, not files: the caller does the reading.

A header names the columns in any order and case; unknown columns are ignored. Times are Unix ms, or ISO 8601 with a
zone (without one they are UTC). Rows are numbered from 0 after the header, in errors and everywhere else.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import numpy.typing as npt

from core.backtester.data.bars import PRICES, Bars, bars_of
from core.backtester.data.errors import BadData
from core.backtester.data.ticks import Ticks, ticks_of

Cells = dict[str, list[str]]


def bars_from_csv(text: str, instrument_id: str, *, interval_ms: int, gaps: bool = True) -> Bars:
    """Bars from columns time, open, high, low, close and perhaps volume, spread. Raises BadData; see `bars_of`."""
    cells = read_columns(text, ("time", *PRICES), ("volume", "spread"))
    stamps = _times(cells["time"])
    columns = {name: read_numbers(cells[name], name) for name in cells if name != "time"}
    spread = columns.pop("spread", None)
    return bars_of(
        instrument_id, stamps, **columns, spread=0.0 if spread is None else spread, interval_ms=interval_ms, gaps=gaps
    )


def ticks_from_csv(text: str, instrument_id: str) -> Ticks:
    """Ticks from columns time, bid, ask. Raises BadData; see `ticks_of`."""
    cells = read_columns(text, ("time", "bid", "ask"), ())
    return ticks_of(
        instrument_id, _times(cells["time"]), read_numbers(cells["bid"], "bid"), read_numbers(cells["ask"], "ask")
    )


def bars_to_csv(bars: Bars) -> str:
    """The text that `bars_from_csv` reads back unchanged."""
    columns = (bars.time_ms, bars.open, bars.high, bars.low, bars.close, bars.volume, bars.spread)
    return _text("time,open,high,low,close,volume,spread", columns)


def ticks_to_csv(ticks: Ticks) -> str:
    """The text that `ticks_from_csv` reads back unchanged."""
    return _text("time,bid,ask", (ticks.time_ms, ticks.bid, ticks.ask))


def _text(header: str, columns: Iterable[npt.NDArray[Any]]) -> str:
    rows = (",".join(map(repr, row)) for row in zip(*(each.tolist() for each in columns), strict=True))
    return "\n".join([header, *rows]) + "\n"


def read_columns(text: str, needed: tuple[str, ...], optional: tuple[str, ...]) -> Cells:
    """Cells by column, of the needed columns and those optional ones that are there. Raises BadData (header, cells)."""
    reader = csv.reader(io.StringIO(text))
    header = [each.strip().lower() for each in next(reader, [])]
    for name in needed:
        if header.count(name) != 1:
            raise BadData("must be in the header exactly once", field=name, rule="header")
    rows = [row for row in reader if row]
    for number, row in enumerate(rows):
        if len(row) != len(header):
            raise BadData(f"must have {len(header)} cells, has {len(row)}", field="row", rule="cells", row=number)
    wanted = [name for name in (*needed, *optional) if name in header]
    return {name: [row[header.index(name)].strip() for row in rows] for name in wanted}


def read_numbers(cells: Iterable[str], field: str) -> list[float]:
    """Numbers of a column's cells. Raises BadData (rule number)."""
    numbers = []
    for row, cell in enumerate(cells):
        try:
            numbers.append(float(cell))
        except ValueError as cause:
            raise BadData(f"{cell!r} is not a number", field=field, rule="number", row=row) from cause
    return numbers


def _times(cells: Iterable[str]) -> list[int]:
    return [_time(cell, row) for row, cell in enumerate(cells)]


def _time(cell: str, row: int) -> int:
    if cell.isdecimal():
        return int(cell)
    try:
        moment = datetime.fromisoformat(cell)
    except ValueError as cause:
        raise BadData(f"{cell!r} is neither Unix ms nor ISO 8601", field="time", rule="time", row=row) from cause
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    since = moment - datetime(1970, 1, 1, tzinfo=UTC)
    return (since.days * 86_400 + since.seconds) * 1000 + since.microseconds // 1000
