"""The usual indicators as causal series; each value depends on its own window or on the past alone.

No value before the window is full. Windows are sums and extremes built by doubling, so a value is the same wherever
the series begins, and no rounding creeps in from rows outside the window.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import accumulate
from typing import Any

import numpy as np

from core.backtester.data.columns import Floats
from core.backtester.series import Series, _derived, _shift, check_window


def sma(source: Series, rows: int) -> Series:
    """Simple moving average: mean of the last `rows` values."""
    check_window(rows, "rows")
    return _derived(lambda values: _rolling_sum(values, rows) / rows, source)


def ema(source: Series, rows: int) -> Series:
    """Exponential moving average: y = y₋₁ + α (x − y₋₁), α = 2 ÷ (rows + 1), begun with the mean of the first rows."""
    check_window(rows, "rows")
    return _derived(lambda values: _smooth(values, rows, 2.0 / (rows + 1)), source)


def wilder(source: Series, rows: int) -> Series:
    """Wilder's smoothing: as `ema` with α = 1 ÷ rows."""
    check_window(rows, "rows")
    return _derived(lambda values: _smooth(values, rows, 1.0 / rows), source)


def stdev(source: Series, rows: int) -> Series:
    """Population standard deviation of the last `rows` values (two passes: deviations from the window's own mean)."""
    check_window(rows, "rows")
    return _derived(lambda values: _rolling_stdev(values, rows), source)


def highest(source: Series, rows: int) -> Series:
    """Largest of the last `rows` values, the present one included."""
    check_window(rows, "rows")
    return _derived(lambda values: _rolling_extreme(values, rows, np.maximum), source)


def lowest(source: Series, rows: int) -> Series:
    """Smallest of the last `rows` values, the present one included."""
    check_window(rows, "rows")
    return _derived(lambda values: _rolling_extreme(values, rows, np.minimum), source)


def rsi(source: Series, rows: int = 14) -> Series:
    """Relative strength index: 100 × up ÷ (up + down) of Wilder-smoothed moves; 50 when nothing moved."""
    check_window(rows, "rows")

    def kernel(values: Floats) -> Floats:
        move = np.full(len(values), np.nan)
        move[1:] = np.diff(values)
        up = _smooth(np.maximum(move, 0.0), rows, 1.0 / rows)
        down = _smooth(np.maximum(-move, 0.0), rows, 1.0 / rows)
        both = up + down
        still = both == 0
        return np.asarray(np.where(still, 50.0, 100.0 * up / np.where(still, 1.0, both)))

    return _derived(kernel, source)


def true_range(high: Series, low: Series, close: Series) -> Series:
    """Largest of high − low, |high − last close|, |low − last close|; no value on the first row."""

    def kernel(highs: Floats, lows: Floats, closes: Floats) -> Floats:
        reach = np.full(len(highs), np.nan)
        before = closes[:-1]
        reach[1:] = np.maximum(highs[1:], before) - np.minimum(lows[1:], before)
        return reach

    return _derived(kernel, high, low, close)


def atr(high: Series, low: Series, close: Series, rows: int = 14) -> Series:
    """Average true range: `true_range` under Wilder's smoothing."""
    return wilder(true_range(high, low, close), rows)


def macd(source: Series, fast: int = 12, slow: int = 26, signal: int = 9) -> tuple[Series, Series]:
    """MACD line (fast EMA − slow EMA) and its signal line (EMA of it)."""
    line = ema(source, fast) - ema(source, slow)
    return line, ema(line, signal)


def bollinger(source: Series, rows: int = 20, width: float = 2.0) -> tuple[Series, Series, Series]:
    """Lower band, middle, upper band: SMA ∓ `width` standard deviations."""
    middle, reach = sma(source, rows), stdev(source, rows) * width
    return middle - reach, middle, middle + reach


def _rolling_sum(values: Floats, rows: int) -> Floats:
    """Sums of windows, put together from windows of 1, 2, 4 … rows."""
    total: Floats | None = None
    covered = 0
    part, length = values, 1  # part[i] = sum of the `length` values up to row i
    while True:
        if rows & length:
            total = part if total is None else total + _shift(part, covered)
            covered += length
        if total is not None and covered == rows:
            return total
        part = part + _shift(part, length)
        length *= 2


def _rolling_extreme(values: Floats, rows: int, pick: Callable[[Any, Any], Any]) -> Floats:
    """Extremes of windows: the two longest powers of two that cover one may overlap."""
    result = np.full(len(values), np.nan)
    if len(values) < rows:
        return result
    part, length = values, 1
    while length * 2 <= rows:
        part = pick(part[length:], part[:-length])
        length *= 2
    shift = rows - length
    result[rows - 1 :] = pick(part[shift:], part[: len(part) - shift])
    return result


def _rolling_stdev(values: Floats, rows: int) -> Floats:
    mean = _rolling_sum(values, rows) / rows
    squares = np.zeros(len(values))
    for back in range(rows):
        squares += (_shift(values, back) - mean) ** 2
    return np.asarray(np.sqrt(squares / rows))


def _smooth(values: Floats, rows: int, alpha: float) -> Floats:
    """Recursive smoothing begun with the mean of the first `rows` known values."""
    result = np.full(len(values), np.nan)
    known = np.flatnonzero(~np.isnan(values))
    if len(known) < rows:
        return result
    first = int(known[0])
    start = first + rows - 1
    seed = float(np.mean(values[first : start + 1]))
    rest = values[start + 1 :].tolist()
    result[start:] = list(accumulate(rest, lambda last, value: last + alpha * (value - last), initial=seed))
    return result
