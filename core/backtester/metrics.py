"""What a backtest was worth, in figures: return, risk and trades, each with its formula.

Sampling: E is the equity at the start and then at the end of each UTC day (0:00 belongs to the day that ends; the last
day ends with the last row), r its daily returns rᵢ = Eᵢ ÷ Eᵢ₋₁ − 1, N the days in a year by which they are annualised:
by default every calendar day with N = 365, a day without a row carrying the last equity. n is the number of returns.
Drawdowns are read from every row of the equity curve, not from days. Fractions are plain: 0.1 is 10 %.
Invariant: no metric is ever nan or infinite. One that is not defined is None, and `reasons` says why.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import UTC, datetime

import numpy as np

from core.backtester.data.columns import Floats, refuse
from core.backtester.data.errors import BadData
from core.backtester.drawdowns import drawdowns_of
from core.backtester.equity import Equity
from core.backtester.trades import Trades
from core.errors import InvalidInput

DAY_MS = 86_400_000
YEAR_MS = 365.25 * DAY_MS
NO_SPREAD = 1e-12  # of the mean: a deviation below it is rounding of returns that are all the same

BY_DAY = ("volatility", "sharpe", "sortino")

Figure = float | str  # or why there is none


@dataclass(frozen=True, slots=True)
class Sampling:
    """How daily returns are taken and annualised.

    `days_in_year`: N, > 0. `traded_days_only`: leave out days without a row (weekends, holidays). `risk_free`: return a
    year that costs no risk, a fraction; f = risk_free ÷ N of it is earned a day.
    """

    days_in_year: float = 365.0
    traded_days_only: bool = False
    risk_free: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.days_in_year <= 366:
            raise InvalidInput("must be above 0 and at most 366", field="sampling.days_in_year")
        if not math.isfinite(self.risk_free):
            raise InvalidInput("must be a finite number", field="sampling.risk_free")


CALENDAR_DAYS = Sampling()
TRADING_DAYS = Sampling(252.0, traded_days_only=True)


@dataclass(frozen=True, slots=True)
class Metrics:
    """The figures; None is "not defined", with its reason in `reasons` under the metric's name.

    total_return: Eₙ ÷ E₀ − 1.
    cagr: (Eₙ ÷ E₀)^(1 ÷ years) − 1, years = last − first row in years of 365.25 days.
    volatility: s √N a year, s = √(Σ (r − r̄)² ÷ (n − 1)) the deviation of daily returns.
    sharpe: (r̄ − f) ÷ s × √N.
    sortino: (r̄ − f) ÷ d × √N, d = √(Σ min(r − f, 0)² ÷ n) the downside deviation over all n days.
    calmar: cagr ÷ max_drawdown.
    max_drawdown: largest 1 − equity ÷ highest equity so far, ≥ 0, over every row.
    max_drawdown_ms: of that drawdown (the first of equal ones), from its peak to the recovery or the end; 0 for none.
    longest_drawdown_ms: the longest any drawdown took so; ms.
    trades: rows of the trades table (a position closed in parts counts each part).
    win_rate: trades with profit > 0 ÷ trades.
    profit_factor: Σ profits > 0 ÷ |Σ profits < 0|, after commission and swap.
    expectancy: Σ profit ÷ trades, deposit currency per trade.
    exposure: rows after the first at which a position was open ÷ rows after the first. What opened and closed between
    two rows is not seen.
    turnover: (Σ entry_value + Σ exit_value) ÷ mean equity of all rows ÷ years, per year: both sides of every trade;
    positions still open at the end are not in it.
    """

    total_return: float | None
    cagr: float | None
    volatility: float | None
    sharpe: float | None
    sortino: float | None
    calmar: float | None
    max_drawdown: float | None
    max_drawdown_ms: int
    longest_drawdown_ms: int
    trades: int
    win_rate: float | None
    profit_factor: float | None
    expectancy: float | None
    exposure: float | None
    turnover: float | None
    reasons: Mapping[str, str]

    def values(self) -> dict[str, float | None]:
        """All figures by name, `reasons` left out."""
        return {each.name: getattr(self, each.name) for each in fields(self) if each.name != "reasons"}


def metrics_of(equity: Equity, trades: Trades, sampling: Sampling = CALENDAR_DAYS) -> Metrics:
    """All figures. Raises BadData where a column holds no number, time falls or the start is not above 0."""
    _check(equity, trades)
    falls = drawdowns_of(equity)
    deepest = int(np.argmax(falls.depth)) if len(falls) else None
    max_drawdown = 0.0 if deepest is None else float(falls.depth[deepest])
    cagr = _cagr(equity)
    figures: dict[str, Figure] = {
        "total_return": float(equity.equity[-1] / equity.equity[0] - 1.0),
        "cagr": cagr,
        **_of_returns(equity, sampling),
        "calmar": _calmar(cagr, max_drawdown),
        "max_drawdown": max_drawdown,
        **_of_trades(trades),
        "exposure": float(np.mean(equity.exposed[1:])) if len(equity) > 1 else "there is no row after the first",
        "turnover": _turnover(equity, trades),
    }
    known = {
        name: value if isinstance(value, str) or math.isfinite(value) else "the result is too large for a number"
        for name, value in figures.items()
    }
    return Metrics(
        **{name: None if isinstance(value, str) else value for name, value in known.items()},
        max_drawdown_ms=0 if deepest is None else int(falls.duration_ms[deepest]),
        longest_drawdown_ms=int(falls.duration_ms.max()) if len(falls) else 0,
        trades=len(trades),
        reasons={name: value for name, value in known.items() if isinstance(value, str)},
    )


def daily_equity(equity: Equity, *, traded_days_only: bool = False) -> Floats:
    """E of the sampling above: the equity at the start and at the end of each UTC day."""
    first, last = int(equity.time_ms[0]) // DAY_MS, (int(equity.time_ms[-1]) - 1) // DAY_MS
    ends = (np.arange(first, last + 1, dtype=np.int64) + 1) * DAY_MS
    rows = np.concatenate(([0], np.searchsorted(equity.time_ms, ends, side="right") - 1))
    if traded_days_only:
        rows = rows[np.diff(rows, prepend=-1) > 0]
    return np.asarray(equity.equity[rows])


def _check(equity: Equity, trades: Trades) -> None:
    if not len(equity):
        raise BadData("must have a row", field="equity", rule="present")
    refuse(~np.isfinite(equity.equity), "must be a finite number", "equity", "finite")
    if equity.equity[0] <= 0:
        raise BadData("must start above 0", field="equity", rule="positive", row=0)
    refuse(np.diff(equity.time_ms) < 0, "is earlier than the row before", "time_ms", "order", shift=1)
    for name in ("profit", "entry_value", "exit_value"):
        refuse(~np.isfinite(getattr(trades, name)), "must be a finite number", f"trades.{name}", "finite")


def _years(equity: Equity) -> float:
    return int(equity.time_ms[-1] - equity.time_ms[0]) / YEAR_MS


def _cagr(equity: Equity) -> Figure:
    years, end = _years(equity), float(equity.equity[-1])
    if end <= 0:
        return "the equity at the end is not above 0"
    if years == 0:
        return "no time passed"
    exponent = (math.log(end) - math.log(float(equity.equity[0]))) / years
    return math.expm1(exponent) if exponent < 700 else "the time is too short to be made a year of"


def _calmar(cagr: Figure, max_drawdown: float) -> Figure:
    if isinstance(cagr, str):
        return f"there is no CAGR: {cagr}"
    return cagr / max_drawdown if max_drawdown > 0 else "there was no drawdown"


def _of_returns(equity: Equity, sampling: Sampling) -> dict[str, Figure]:
    samples = daily_equity(equity, traded_days_only=sampling.traded_days_only)
    if (samples <= 0).any():
        return dict.fromkeys(BY_DAY, f"the equity is not above 0 {_when_sunk(equity)}")
    returns = samples[1:] / samples[:-1] - 1.0
    if len(returns) < 2:
        return dict.fromkeys(BY_DAY, f"2 daily returns are needed, the number of days is {len(returns)}")
    spread, yearly = float(np.std(returns, ddof=1)), math.sqrt(sampling.days_in_year)
    over = returns - sampling.risk_free / sampling.days_in_year
    gain = float(np.mean(over))
    downside = math.sqrt(float(np.mean(np.minimum(over, 0.0) ** 2)))
    varies = spread > NO_SPREAD * abs(float(np.mean(returns)))
    return {
        "volatility": spread * yearly,
        "sharpe": gain / spread * yearly if varies else "the daily returns do not vary",
        "sortino": gain / downside * yearly if downside > 0 else "no daily return is below the risk-free one",
    }


def _when_sunk(equity: Equity) -> str:
    moment = datetime.fromtimestamp(int(equity.time_ms[np.argmax(equity.equity <= 0)]) / 1000, UTC)
    return f"from {moment:%Y-%m-%d %H:%M} UTC on"


def _of_trades(trades: Trades) -> dict[str, Figure]:
    if not len(trades):
        return dict.fromkeys(("win_rate", "profit_factor", "expectancy"), "there are no trades")
    won, lost = float(trades.profit[trades.profit > 0].sum()), float(trades.profit[trades.profit < 0].sum())
    return {
        "win_rate": float(np.mean(trades.profit > 0)),
        "profit_factor": won / -lost if lost < 0 else "no trade lost",
        "expectancy": float(np.mean(trades.profit)),
    }


def _turnover(equity: Equity, trades: Trades) -> Figure:
    years, mean = _years(equity), float(np.mean(equity.equity))
    if years == 0:
        return "no time passed"
    if mean <= 0:
        return "the mean equity is not above 0"
    return float(trades.entry_value.sum() + trades.exit_value.sum()) / mean / years
