"""Signal strategies all at once: the same trades, money and equity as the event loop, without it.

It takes on what whole numbers can carry and nothing can disturb: bars, results in the deposit currency, commission by
value or lot, no swap, enough money throughout. `run_signals` hands everything else to the loop, whose results are the
measure anyway, so the answer never depends on which of the two ran.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from core.backtester.data.columns import Int64s
from core.backtester.desk import desk_of
from core.backtester.evaluate import Evaluator
from core.backtester.fast_books import Books
from core.backtester.fast_money import Costs, NotFast, part_of
from core.backtester.loop import Progress, run
from core.backtester.result import BacktestResult
from core.backtester.revealing import columns_of
from core.backtester.series import Series
from core.backtester.settings import BacktestSettings, check_settings
from core.backtester.signals import Signal, SignalStrategy
from core.backtester.terms import check_account, check_chain, check_listing, check_size
from core.backtester.tracks import Data, Timeline, Track, timeline_of
from core.errors import InvalidInput
from core.paper_trader import AccountType


def run_signals(
    strategy: SignalStrategy,
    data: Mapping[str, Data],
    settings: BacktestSettings,
    *,
    progress: Progress | None = None,
) -> BacktestResult:
    """Run a signal strategy the fast way where that gives the loop's results, else through the loop."""
    check_settings(settings, data)
    try:
        return run_fast(strategy, data, settings)
    except NotFast:
        return run(strategy, data, settings, progress=progress)


def run_fast(strategy: SignalStrategy, data: Mapping[str, Data], settings: BacktestSettings) -> BacktestResult:
    """All at once. Raises NotFast, which says why, where only the loop knows the answer; else errors as `run`."""
    check_settings(settings, data)
    timeline = timeline_of(data, settings)
    preparing = columns_of(timeline)
    strategy.prepare(preparing)
    _check(timeline, settings, strategy.signals)
    tracks = {each.instrument_id: each for each in timeline.tracks}
    evaluator = Evaluator(timeline)
    start = max(int(np.argmax(each.row_at >= 0)) for each in timeline.tracks)
    order = {each.instrument_id: number for number, each in enumerate(timeline.tracks)}
    parts = []
    for index, each in enumerate(strategy.signals):
        track = tracks[each.instrument_id]
        entry = _rows_on(evaluator, timeline, track, each.entry, start, f"signals[{index}].entry")
        leave = _rows_on(evaluator, timeline, track, each.exit, start, f"signals[{index}].exit")
        rows = _fills(entry, leave, len(track.data))
        costs = Costs(settings.listing(each.instrument_id), settings, each)
        parts.append(
            part_of(
                index, each, track, order[each.instrument_id], costs, timeline, rows, close_at_end=settings.close_at_end
            )
        )
    return Books(timeline, settings, parts).result()


def _fills(entries: Int64s, exits: Int64s, rows: int) -> tuple[Int64s, Int64s]:
    """Rows at whose opens it gets in and out; a decision on a row fills at the open of the next.

    An exit past the end means that the position is open there.
    """
    entry_rows, exit_rows = [], []
    into, out = entries.tolist(), exits.tolist()
    row = 0
    while (at := bisect_left(into, row)) < len(into):
        filled = into[at] + 1
        if filled >= rows:
            break
        entry_rows.append(filled)
        leaving = bisect_left(out, filled)
        row = out[leaving] + 1 if leaving < len(out) else rows
        exit_rows.append(min(row, rows))
    return np.array(entry_rows, dtype=np.int64), np.array(exit_rows, dtype=np.int64)


def _rows_on(evaluator: Evaluator, timeline: Timeline, track: Track, series: Series, start: int, name: str) -> Int64s:
    """Rows of the instrument at whose close the signal is 1, from the first decision on."""
    if series.make is not None:
        raise NotFast("an indicator of the user's own goes value by value")
    evaluator.finite(series, name)
    values: npt.NDArray[Any] = np.asarray(evaluator.at_moments(series))
    closes = np.flatnonzero(track.new_at)
    closes = closes[closes >= start]
    seen = values[closes]
    if seen.dtype != np.bool_ and not np.isin(seen, (0.0, 1.0)).all():
        raise InvalidInput("a signal is 0 or 1", field=name)
    return np.asarray(track.row_at[closes[seen == 1]])


def _check(timeline: Timeline, settings: BacktestSettings, signals: tuple[Signal, ...]) -> None:
    """Raises NotFast unless nothing but money can come between a signal and its trades."""
    check_account(settings)
    if settings.account.type is AccountType.NETTED and len({each.instrument_id for each in signals}) < len(signals):
        raise NotFast("signals share a netted position")
    tracks = {each.instrument_id: each for each in timeline.tracks}
    engine = desk_of(
        settings, [(each.instrument_id, each.digits) for each in timeline.tracks], timeline.start_ms
    ).engine
    for each in signals:
        listing = settings.listing(each.instrument_id)
        check_listing(settings, listing, tracks[each.instrument_id])
        check_size(listing, each.side, each.units)
        check_chain(engine, settings, listing)
