"""A result as readable lines of plain text: what was run, what came of it, and why a figure is missing.

Money and prices are rounded for the eye here and nowhere else.
"""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime

import numpy as np

from core.backtester.drawdowns import Drawdowns
from core.backtester.metrics import CALENDAR_DAYS, DAY_MS, Metrics, Sampling
from core.backtester.result import BacktestResult

LABEL = 22
HOUR_MS = 3_600_000
WORST = 3  # drawdowns shown


def report(result: BacktestResult, *, title: str = "Backtest", sampling: Sampling = CALENDAR_DAYS) -> list[str]:
    """The lines, without line ends. Figures as `BacktestResult.metrics`, errors too."""
    metrics = result.metrics(sampling)
    lines = [title, "=" * len(title), *_run(result), "", "Return and risk", *_risk(metrics, sampling)]
    lines += ["", "Trades", *_trades(result, metrics), "", "Drawdowns", *_drawdowns(result.drawdowns())]
    refused = Counter(str(each.code) for each in result.refusals)
    if refused:
        lines += ["", "Refused by the broker", *(line(code, f"{count:,}") for code, count in refused.most_common())]
    return lines


def line(label: str, value: str) -> str:
    """One line of a report: a label, and its value in a column of its own."""
    return f"  {label:<{LABEL}} {value}"


def when(time_ms: int) -> str:
    """A moment in UTC, to the minute."""
    return f"{datetime.fromtimestamp(int(time_ms) / 1000, UTC):%Y-%m-%d %H:%M}"


def lasting(duration_ms: int) -> str:
    """A time span in days, or hours when shorter."""
    if duration_ms < DAY_MS:
        return f"{duration_ms / HOUR_MS:.1f} h"
    return f"{duration_ms / DAY_MS:.1f} d"


def percent(value: float) -> str:
    return f"{value * 100:,.2f} %"


def figure(metrics: Metrics, name: str) -> str:
    """A metric for the eye, with its unit; what is not defined as a dash and its reason."""
    value = metrics.values()[name]
    if value is None:
        return f"–  ({metrics.reasons[name]})"
    if name in _FRACTIONS:
        return percent(value)
    if name.endswith("_ms"):
        return lasting(int(value))
    return f"{value:,}" if isinstance(value, int) else f"{value:,.2f}"


_FRACTIONS = {
    "total_return", "cagr", "volatility", "max_drawdown", "win_rate", "exposure",
}  # fmt: skip


def _run(result: BacktestResult) -> list[str]:
    stamps, settings = result.equity.time_ms, result.settings
    currency, digits = settings.account.currency, settings.account.money_digits
    final = result.final
    valued = "not known: a price is missing" if final.equity is None else f"{final.equity:,.{digits}f} {currency}"
    return [
        line("Period", f"{when(stamps[0])} to {when(stamps[-1])} UTC, {len(stamps) - 1:,} rows"),
        line("Instruments", ", ".join(each.instrument.id for each in settings.listings)),
        line("Balance at the start", f"{settings.balance:,.{digits}f} {currency}"),
        line("Balance at the end", f"{final.balance:,.{digits}f} {currency}"),
        line("Equity at the end", valued),
        line("Open at the end", f"{len(final.positions)} positions, {len(final.orders)} orders"),
    ]


def _risk(metrics: Metrics, sampling: Sampling) -> list[str]:
    days = "days with data" if sampling.traded_days_only else "calendar days"
    return [
        line("Total return", figure(metrics, "total_return")),
        line("CAGR", figure(metrics, "cagr")),
        line("Volatility a year", figure(metrics, "volatility")),
        line("Sharpe ratio", figure(metrics, "sharpe")),
        line("Sortino ratio", figure(metrics, "sortino")),
        line("Calmar ratio", figure(metrics, "calmar")),
        line("Max drawdown", f"{figure(metrics, 'max_drawdown')}, over {figure(metrics, 'max_drawdown_ms')}"),
        line("Longest drawdown", figure(metrics, "longest_drawdown_ms")),
        line("Exposure", figure(metrics, "exposure")),
        line("Turnover a year", figure(metrics, "turnover")),
        line("Sampled by", f"{days} in UTC, {sampling.days_in_year:g} a year, {percent(sampling.risk_free)} risk-free"),
    ]


def _trades(result: BacktestResult, metrics: Metrics) -> list[str]:
    trades, currency = result.trades, result.settings.account.currency
    lines = [
        line("Trades", figure(metrics, "trades")),
        line("Win rate", figure(metrics, "win_rate")),
        line("Profit factor", figure(metrics, "profit_factor")),
        line("Expectancy", f"{figure(metrics, 'expectancy')}{f' {currency} a trade' if len(trades) else ''}"),
    ]
    if not len(trades):
        return lines
    held = int(np.median(trades.exit_ms - trades.entry_ms))
    reasons = ", ".join(f"{count:,} {name}" for name, count in Counter(trades.reason.tolist()).most_common())
    return [
        *lines,
        line("Best and worst", f"{trades.profit.max():,.2f} and {trades.profit.min():,.2f} {currency}"),
        line("Commission, swap", f"{trades.commission.sum():,.2f} and {trades.swap.sum():,.2f} {currency}"),
        line("Held, median", lasting(held)),
        line("Closed by", reasons),
    ]


def _drawdowns(falls: Drawdowns) -> list[str]:
    if not len(falls):
        return ["  None"]
    worst = np.argsort(-falls.depth, kind="stable")[:WORST]
    return [
        line(
            percent(float(falls.depth[row])),
            f"{when(falls.start_ms[row])} to {when(falls.end_ms[row])} UTC, deepest {when(falls.trough_ms[row])}"
            + ("" if falls.recovered[row] else ", not recovered"),
        )
        for row in worst
    ]
