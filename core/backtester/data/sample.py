"""A made-up market in real formats: the same seed gives the same bars, on every machine.

Prices are a geometric random walk in whole points with calmer and wilder hours and closed weekends; they are nobody's
quotes, so no licence hangs on them.
"""

from __future__ import annotations

import numpy as np

from core.backtester.data.bars import Bars, bars_of
from core.backtester.data.ticks import Ticks, ticks_of
from core.errors import InvalidInput

MINUTE_MS = 60_000
WEEK_MINUTES = 7 * 24 * 60
MONDAY_MS = 1_704_067_200_000  # Monday, 1 January 2024, 00:00 UTC
TRADED_MINUTES = 5 * 24 * 60  # Monday to Friday
INNER_STEPS = 6


def sample_bars(
    instrument_id: str = "EURUSD",
    rows: int = 7_200,
    *,
    seed: int = 1,
    price: float = 1.1,
    digits: int = 5,
    spread_points: int = 2,
    volatility: float = 0.0001,
    interval_ms: int = MINUTE_MS,
) -> Bars:
    """`rows` bars from Monday, 1 January 2024 on, without weekends; `volatility`: of the log price per bar."""
    if rows < 1 or price <= 0 or volatility <= 0 or interval_ms < 1:
        raise InvalidInput("a sample needs rows, a price, a volatility and an interval above 0", field="rows")
    rng = np.random.default_rng(seed)
    index = np.arange(rows, dtype=np.int64)
    per_week = max(1, TRADED_MINUTES * MINUTE_MS // interval_ms)
    weeks = index // per_week
    stamps = MONDAY_MS + weeks * max(WEEK_MINUTES * MINUTE_MS, per_week * interval_ms) + index % per_week * interval_ms
    hours = stamps // 3_600_000 % 24
    wild = np.where((hours >= 7) & (hours < 17), 1.4, 0.6)
    moves = rng.standard_normal((rows, INNER_STEPS)) * (volatility * wild / np.sqrt(INNER_STEPS))[:, None]
    path = price * np.exp(np.cumsum(moves.ravel())).reshape(rows, INNER_STEPS)
    points = np.maximum(np.rint(path * 10.0**digits), 1.0)
    opens = np.concatenate(([max(np.rint(price * 10.0**digits), 1.0)], points[:-1, -1]))
    scale = 10.0**digits
    return bars_of(
        instrument_id,
        stamps,
        opens / scale,
        np.maximum(points.max(axis=1), opens) / scale,
        np.minimum(points.min(axis=1), opens) / scale,
        points[:, -1] / scale,
        volume=rng.integers(1, 500, rows).astype(np.float64),
        spread=spread_points / scale,
        interval_ms=interval_ms,
    )


def sample_hours(instrument_id: str = "EURUSD", rows: int = 3_120, *, seed: int = 1, price: float = 1.1) -> Bars:
    """Hourly bars, half a year of them by default: enough for what is measured by days."""
    return sample_bars(instrument_id, rows, seed=seed, price=price, volatility=0.001, interval_ms=60 * MINUTE_MS)


def sample_ticks(instrument_id: str = "EURUSD", rows: int = 10_000, *, seed: int = 1, price: float = 1.1) -> Ticks:
    """`rows` ticks with five digits at random times, a second apart on average, from the same Monday on."""
    if rows < 1 or price <= 0:
        raise InvalidInput("a sample needs rows and a price above 0", field="rows")
    rng = np.random.default_rng(seed)
    stamps = MONDAY_MS + np.cumsum(rng.integers(1, 2_000, rows))
    bid = np.maximum(np.rint(price * 1e5) + np.cumsum(rng.integers(-3, 4, rows)), 1.0)
    return ticks_of(instrument_id, stamps, bid / 1e5, (bid + rng.integers(0, 4, rows)) / 1e5)
