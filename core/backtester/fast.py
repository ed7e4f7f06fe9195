"""Signal strategies all at once: the same trades, money and equity as the event loop, without it.

It takes on what whole numbers can carry and nothing can disturb: bars, results in the deposit currency, commission by
value or lot, no swap, enough money throughout. `run_signals` hands everything else to the loop, whose results are the
measure anyway, so the answer never depends on which of the two ran.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import numpy as np
import numpy.typing as npt

from core.backtester.data.bars import Bars
from core.backtester.data.columns import Int64s
from core.backtester.desk import desk_of
from core.backtester.evaluate import Evaluator
from core.backtester.fast_books import Books
from core.backtester.fast_money import Costs, NotFast, part_of
from core.backtester.loop import Progress, run
from core.backtester.result import BacktestResult
from core.backtester.revealing import columns_of
from core.backtester.series import Series
from core.backtester.settings import MARKET, BacktestSettings, check_settings
from core.backtester.signals import Signal, SignalStrategy
from core.backtester.tracks import Data, Timeline, Track, timeline_of
from core.errors import InvalidInput
from core.orders import Side
from core.paper_trader import Access, AccountType, CommissionKind, Listing, MarginTotal, SwapKind, TradingMode


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
    _check_account(settings, strategy.signals)
    tracks = {each.instrument_id: each for each in timeline.tracks}
    for each in strategy.signals:
        _check_listing(settings, settings.listing(each.instrument_id), each, tracks[each.instrument_id])
    _check_chains(timeline, settings, strategy.signals)
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


def _check_account(settings: BacktestSettings, signals: tuple[Signal, ...]) -> None:
    account = settings.account
    if account.access is not Access.FULL or account.max_positions is not None:
        raise NotFast("the account may refuse orders")
    if account.type is AccountType.NETTED and len({each.instrument_id for each in signals}) < len(signals):
        raise NotFast("signals share a netted position")
    if account.margin_total is not MarginTotal.SUM or settings.market.partial_fill_chance:
        raise NotFast("margins or fills that only the engine works out")


def _check_listing(settings: BacktestSettings, listing: Listing, signal: Signal, track: Track) -> None:
    instrument, units = listing.instrument, signal.units
    if not isinstance(track.data, Bars):
        raise NotFast("ticks")
    if listing.trading_mode is not TradingMode.ENABLED or (signal.side is Side.SELL and not listing.short_selling):
        raise NotFast("the listing may refuse orders")
    if listing.max_deal_units is not None and units > listing.max_deal_units:
        raise NotFast("fills in several deals")
    low, high, step = instrument.min_units or units, instrument.max_units or units, instrument.step_units
    if not low <= units <= high or (step is not None and units % step) or units > Decimal(10**12):
        raise NotFast("units that the broker refuses")
    if instrument.quote_asset != settings.account.currency:
        raise NotFast("results in another currency")
    if listing.commission.kind not in (
        CommissionKind.NONE,
        CommissionKind.PERCENT_OF_VALUE,
        CommissionKind.PER_LOT_QUOTE,
    ):
        raise NotFast("commission by a conversion")
    if (
        listing.commission.minimum
        and (listing.commission.minimum_asset or instrument.quote_asset) != instrument.quote_asset
    ):
        raise NotFast("commission by a conversion")
    if listing.swap.kind is not SwapKind.NONE and not settings.account.swap_free:
        raise NotFast("swap")


def _check_chains(timeline: Timeline, settings: BacktestSettings, signals: tuple[Signal, ...]) -> None:
    """Margins must come from the instrument's own bid."""
    digits = [(each.instrument_id, each.digits) for each in timeline.tracks]
    engine = desk_of(settings, digits, timeline.start_ms).engine
    for each in signals:
        base = settings.listing(each.instrument_id).instrument.base_asset
        if engine.conversion_chain(MARKET, base, settings.account.currency) != (each.instrument_id,):
            raise NotFast("margin by another instrument")
