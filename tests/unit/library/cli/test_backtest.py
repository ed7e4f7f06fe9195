"""`python -m core backtest`: the same figures as the library's own, files, and one line for bad input."""

from __future__ import annotations

import csv
import sys
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest

from core.backtester.costs import commission_of_value, slippage_points
from core.backtester.data.bars import bars_of
from core.backtester.data.csv import bars_from_csv, bars_to_csv, ticks_from_csv, ticks_to_csv
from core.backtester.data.resample import resample_bars
from core.backtester.data.sample import sample_bars, sample_hours, sample_ticks
from core.backtester.examples import sma_cross
from core.backtester.fast import run_signals
from core.backtester.metrics import TRADING_DAYS, Sampling
from core.backtester.settings import BacktestSettings
from core.cli.sample import sample_files
from core.instruments import Instrument
from core.paper_trader import AccountSettings, Listing, MarketSettings
from tests.unit.library.cli.support import Commands

HOUR = 3_600_000
EURUSD = Instrument("EURUSD", "EURUSD", 5, "EUR", "USD")


def test_figures_are_those_of_the_library_when_all_terms_are_given(command: Commands, files: Path) -> None:
    told = command.json(
        "backtest", "sma-cross", "--csv", files / "EURUSD.csv", "--set", "fast=5", "--set", "slow=20", "--set",
        "units=5000", "--balance", 2000, "--leverage", 30, "--commission", "0.00003", "--slippage", 1, "--spread", 3,
        "--resample", "5m", "--from", "2024-01-01T02:00", "--to", "2024-01-01T20:00", "--close-at-end", "--digits", 5,
        "--days-in-year", 252, "--risk-free", "0.02",
    )  # fmt: skip
    bars = bars_from_csv(sample_files()["EURUSD.csv"], "EURUSD", interval_ms=60_000)
    bars = resample_bars(bars, 300_000).rows(24, 240)
    bars = bars_of(
        "EURUSD", bars.time_ms, bars.open, bars.high, bars.low, bars.close, spread=0.00003, interval_ms=300_000
    )
    settings = BacktestSettings(
        listings=(Listing(instrument=EURUSD, pip_digits=4, commission=commission_of_value(Decimal("0.00003"))),),
        account=AccountSettings(currency="USD", leverage=Decimal(30)),
        market=MarketSettings(slippage=slippage_points(1)),
        balance=Decimal(2000),
        close_at_end=True,
    )
    result = run_signals(sma_cross(5, 20, 5000), {"EURUSD": bars}, settings)
    metrics = result.metrics(Sampling(252, traded_days_only=True, risk_free=0.02))
    assert metrics.trades > 3
    assert told["metrics"] == {**metrics.values(), "reasons": metrics.reasons}
    assert told["equity"] == result.equity.equity[-1]
    assert (told["rows"], told["from_ms"]) == (216, int(bars.time_ms[0]))


def test_leverage_is_what_the_account_may_borrow(command: Commands) -> None:
    argv = ("backtest", "sma-cross", "--sample", "--set", "units=20000", "--leverage")
    assert command.json(*argv, 1)["refusals"] > 10
    assert command.json(*argv, 30)["refusals"] == 0


def test_days_without_data_are_left_out_when_a_year_has_fewer(command: Commands) -> None:
    told = command.json("backtest", "sma-cross", "--sample", "--days-in-year", 252)
    settings = BacktestSettings(listings=(Listing(instrument=EURUSD, pip_digits=4),))
    result = run_signals(sma_cross(), {"EURUSD": sample_hours()}, settings)
    assert told["metrics"]["sharpe"] == result.metrics(TRADING_DAYS).sharpe != result.metrics().sharpe
    assert told["sampling"] == {"days_in_year": 252, "traded_days_only": True, "risk_free": 0}


def test_the_sample_runs_with_every_example(command: Commands) -> None:
    for name in ("sma-cross", "breakout", "reversal", "bracket"):
        told = command("backtest", name, "--sample")
        assert (told.code, told.err) == (0, "")
        assert told.out.startswith(f"{name}\n====")
        assert "  Sharpe ratio " in told.out
        assert "nan" not in told.out


def test_several_instruments_and_ticks_are_read(command: Commands, files: Path) -> None:
    both = command.json(
        "backtest", "sma-cross", "--csv", f"EURUSD={files / 'EURUSD-1h.csv'}", "--csv",
        f"GBPUSD={files / 'GBPUSD-1h.csv'}", "--commission-per-million", 30,
    )  # fmt: skip
    assert both["instruments"] == ["EURUSD", "GBPUSD"]
    ticks = command.json("backtest", "bracket", "--csv", f"EURUSD={files / 'EURUSD-ticks.csv'}")
    assert ticks["rows"] == 2000
    made = command.json("backtest", "bracket", "--csv", f"X={files / 'EURUSD-ticks.csv'}", "--resample", "1m")
    assert 30 < made["rows"] < 40


def test_files_hold_what_was_found(command: Commands, files: Path) -> None:
    told = command("backtest", "sma-cross", "--csv", files / "EURUSD.csv", "--export", files / "out")
    assert told.code == 0
    assert [line for line in told.out.splitlines() if line.startswith("wrote")] == [
        f"wrote {files / 'out' / name}.csv" for name in ("trades", "equity", "drawdowns", "metrics")
    ]
    tables = {path.stem: list(csv.DictReader(path.read_text().splitlines())) for path in (files / "out").iterdir()}
    assert len(tables["equity"]) == 1441
    assert f"  Trades                 {len(tables['trades'])}\n" in told.out
    assert {row["metric"] for row in tables["metrics"]} >= {"sharpe", "turnover"}


OWN = """
from core.backtester.strategy import Strategy
class Mine:
    def __init__(self, rows, *, wrong="no"):
        self.rows, self.wrong = rows, wrong
    def prepare(self, market):
        self.close = market.watch(market.close("EURUSD"))
    def on_bar(self, now, orders):
        if self.wrong == "yes":
            raise ZeroDivisionError("by nothing")
        if self.wrong == "units":
            orders.buy("EURUSD", -1)
        if now.moment % self.rows == 0:
            orders.buy("EURUSD", 1000, take_profit=now.value(self.close) + 0.0002)
a_number = 3
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "own_strategies.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own_strategies", raising=False)
    return "own_strategies"


def test_a_strategy_of_ones_own_runs_by_its_name(command: Commands, own: str) -> None:
    told = command.json("backtest", f"{own}:Mine", "--sample", "--to", "2024-04-01", "--set", "rows=100")
    assert told["metrics"]["trades"] > 3
    assert told["params"] == {"rows": 100}


def test_a_strategy_that_raises_is_told_in_one_line_with_its_place(command: Commands, own: str) -> None:
    told = command("backtest", f"{own}:Mine", "--sample", "--set", "rows=5", "--set", "wrong=yes")
    assert (told.code, told.out) == (1, "")
    assert told.err == ("error: the strategy failed: ZeroDivisionError: by nothing (own_strategies.py, line 10)\n")
    line = command.refused("backtest", f"{own}:Mine", "--sample", "--set", "rows=5", "--set", "wrong=units")
    assert line == "units must be above 0"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "a command is missing"),
        (["fly"], "invalid choice: 'fly'"),
        (["backtest"], "STRATEGY"),
        (["backtest", "nothing", "--sample"], "'nothing' is neither one of sma-cross"),
        (["backtest", "no_such_module:X", "--sample"], "no module no_such_module"),
        (["backtest", "own_strategies:Other", "--sample"], "own_strategies has no class or function Other"),
        (["backtest", "own_strategies:a_number", "--sample"], "no class or function a_number"),
        (["backtest", "sma-cross"], "give either --csv FILE or --sample"),
        (["backtest", "sma-cross", "--sample", "--csv", "x.csv"], "give either --csv FILE or --sample"),
        (["backtest", "sma-cross", "--csv", "x.csv"], "--csv: cannot read x.csv: No such file or directory"),
        (["backtest", "sma-cross", "--sample", "--set", "fats=3"], "unexpected keyword argument 'fats'"),
        (["backtest", "own_strategies:Mine", "--sample"], "missing a required argument: 'rows'"),
        (["backtest", "sma-cross", "--sample", "--set", "fast"], "argument --set: must be NAME=VALUE, not 'fast'"),
        (["backtest", "sma-cross", "--sample", "--set", "fast=50"], "fast must be below slow, 30, not 50"),
        (["backtest", "sma-cross", "--sample", "--set", "fast=x"], "fast"),
        (["backtest", "sma-cross", "--sample", "--balance", "0"], "argument --balance: must be a number above 0"),
        (["backtest", "sma-cross", "--sample", "--balance", "nan"], "argument --balance: must be a number above 0"),
        (["backtest", "sma-cross", "--sample", "--leverage", "-1"], "--leverage: must be a number above 0, not '-1'"),
        (["backtest", "sma-cross", "--sample", "--commission", "1"], "--commission: must be a fraction"),
        (["backtest", "sma-cross", "--sample", "--slippage", "0.5"], "--slippage: must be a whole number"),
        (["backtest", "sma-cross", "--sample", "--from", "soon"], "--from: must be a UTC time"),
        (["backtest", "sma-cross", "--sample", "--from", "2025-01-01"], "EURUSD has no row in this span"),
        (
            ["backtest", "sma-cross", "--sample", "--resample", "90s"],
            "interval_ms: must be a whole multiple of 3600000",
        ),
        (["backtest", "sma-cross", "--sample", "--interval", "0m"], "--interval: must be a time such as 30s"),
        (["backtest", "sma-cross", "--sample", "--digits", "3"], "EURUSD.open, row 1: has more than 3 decimals"),
        (["backtest", "sma-cross", "--sample", "--currency", "JPY"], "JPY"),
        (["backtest", "sma-cross", "--sample", "--days-in-year", "400"], "sampling.days_in_year"),
        (["backtest", "sma-cross", "--sample", "--plot", "a.bmp"], "--plot: a.bmp must end in .png, .svg, .pdf"),
        (["backtest", "sma-cross", "--sample", "--export", "/dev/null/x"], "--export: cannot write"),
    ],
)
@pytest.mark.usefixtures("own")
def test_bad_input_gets_one_line_and_exit_2(command: Commands, arguments: list[str], words: str) -> None:
    assert words in command.refused(*arguments)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("time,open,high,low\n", "close: must be in the header exactly once (rule header)"),
        ("time,open,high,low,close\n0,1,1,1,x\n", "close, row 0: 'x' is not a number (rule number)"),
        ("time,open,high,low,close\n0,1,1,1,nan\n60000,1,1,1,1\n", "close, row 0: must be a finite number"),
        ("time,open,high,low,close\n0,1,1,1,1\n60000,1,1,-1,1\n", "low, row 1: must be above 0 (rule positive)"),
        ("time,open,high,low,close\n60000,1,1,1,1\n0,1,1,1,1\n", "time_ms, row 1: is earlier"),
        ("time,open,high,low,close\n0,1,1,1,1\n0,1,1,1,1\n", "time_ms, row 1: has the same time"),
        ("time,open,high,low,close\n0,1,1,1,1\n", "time: needs two rows"),
        ("time,open,high,low,close\n", "time: needs two rows"),
        ("time,bid,ask\n0,1,0.5\n", "ask, row 0: must not be below the bid (rule crossed)"),
        ("time,bid,ask\n0,1\n", "row, row 0: must have 3 cells, has 2 (rule cells)"),
        ("time,open,high,low,close\nyesterday,1,1,1,1\n", "time, row 0: 'yesterday' is neither Unix ms nor ISO"),
        ("\xff\xfe", "is no UTF-8 text"),
    ],
)
def test_bad_data_names_file_field_row_and_rule(command: Commands, tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "bars.csv"
    path.write_bytes(text.encode("latin-1"))
    line = command.refused("backtest", "sma-cross", "--csv", path)
    assert str(path) in line
    assert words in line


def test_plots_say_what_to_install_when_matplotlib_is_missing(
    command: Commands, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    line = command.refused("backtest", "sma-cross", "--sample", "--to", "2024-01-02", "--plot", tmp_path / "a.png")
    assert line == "plots need matplotlib: pip install '.[library-plots]'"


def test_the_sample_files_are_the_same_every_time_and_read_back() -> None:
    files = sample_files()
    assert files == sample_files()
    ticks, bars = sample_ticks(rows=2000), sample_bars(rows=1440)
    read = ticks_from_csv(files["EURUSD-ticks.csv"], "EURUSD")
    assert np.array_equal(read.bid, ticks.bid)
    assert np.array_equal(read.time_ms, ticks.time_ms)
    assert ticks_to_csv(read) == files["EURUSD-ticks.csv"]
    assert bars_to_csv(bars) == files["EURUSD.csv"]
