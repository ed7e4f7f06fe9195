"""`python -m core backtest STRATEGY`: one run, its report, and files of it."""

from __future__ import annotations

import argparse

from core.backtester.objective import run_any
from core.backtester.report import report
from core.backtester.result import BacktestResult
from core.cli.arguments import Subparsers, command
from core.cli.market import add_market, data_of, sampling_of, settings_of
from core.cli.output import check_plot, export, metrics_json, plot, show, show_json
from core.cli.progress import progress
from core.cli.strategies import add_strategy, check_params, failure, strategy_of

EPILOG = """examples:
  python -m core backtest sma-cross --sample --set fast=20 --set slow=60
  python -m core backtest bracket --csv EURUSD=bars.csv --from 2024-01-02 --spread 2 --export out --plot out/equity.png
  python -m core backtest my_module:MyStrategy --csv bars.csv --json"""


def add(subparsers: Subparsers, name: str) -> None:
    """The command and its arguments."""
    parser = command(subparsers, name, "Run a strategy over bars or ticks.", run_backtest, EPILOG)
    add_strategy(parser)
    add_market(parser)
    parser.add_argument("--export", metavar="FOLDER", help="write trades, equity, drawdowns and metrics there as CSV")
    parser.add_argument(
        "--plot", metavar="FILE", help="draw equity and drawdown (.png, .svg or .pdf; needs matplotlib)"
    )


def run_backtest(options: argparse.Namespace) -> int:
    """Everything is read and checked before the run, and files are written before anything is printed."""
    make, params = strategy_of(options.strategy), dict(options.params)
    check_params(make, params)
    check_plot(options.plot)
    sampling = sampling_of(options)
    data = data_of(options)
    settings = settings_of(options, data)
    title = " ".join([options.strategy, *(f"{name}={value}" for name, value in params.items())])
    with progress("backtest") as advance:
        try:
            result = run_any(make(**params), data, settings, progress=advance)
        except Exception as cause:  # the strategy is the user's own code and may raise anything: said in one line
            raise failure(cause, "the strategy failed") from cause
    written = export(result, options.export, sampling) if options.export else []
    if options.plot:
        plot(result, options.plot, title)
        written.append(options.plot)
    if options.json:
        show_json({"strategy": options.strategy, "params": params, **_summary(result), **_figures(result, options)})
    else:
        show([*report(result, title=title, sampling=sampling), *(f"wrote {each}" for each in written)])
    return 0


def _summary(result: BacktestResult) -> dict[str, object]:
    final = result.final
    return {
        "instruments": [each.instrument.id for each in result.settings.listings],
        "currency": final.currency,
        "from_ms": int(result.equity.time_ms[0]),
        "to_ms": int(result.equity.time_ms[-1]),
        "rows": len(result.equity) - 1,
        "start_balance": float(result.settings.balance),
        "balance": float(final.balance),
        "equity": None if final.equity is None else float(final.equity),
        "open_positions": len(final.positions),
        "refusals": len(result.refusals),
    }


def _figures(result: BacktestResult, options: argparse.Namespace) -> dict[str, object]:
    sampling = sampling_of(options)
    return {
        "metrics": metrics_json(result.metrics(sampling)),
        "sampling": {
            "days_in_year": sampling.days_in_year,
            "traded_days_only": sampling.traded_days_only,
            "risk_free": sampling.risk_free,
        },
    }
