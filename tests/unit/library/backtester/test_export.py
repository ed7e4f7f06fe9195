"""Results as tables, CSV, text and pictures."""

from __future__ import annotations

import csv
import importlib.util
import io
import subprocess
import sys
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest

from core.backtester.data.errors import BadData
from core.backtester.data.sample import sample_bars
from core.backtester.drawdowns import drawdowns_of
from core.backtester.examples import Bracket, breakout, sma_cross
from core.backtester.export import metrics_table, table_of, table_to_csv
from core.backtester.loop import run
from core.backtester.metrics import TRADING_DAYS
from core.backtester.objective import run_any
from core.backtester.plots import draw, rendered, thinned
from core.backtester.report import report
from core.backtester.result import BacktestResult
from core.backtester.settings import BacktestSettings, simple_listing
from core.backtester.strategy import Strategy
from core.errors import ConfigurationError, InvalidInput
from tests.support.official_client import plots_python
from tests.unit.library.backtester.curves import curve

ROOT = Path(__file__).parents[4]


def result_of(strategy: Strategy, rows: int = 3000, balance: int = 1000) -> BacktestResult:
    settings = BacktestSettings(listings=(simple_listing("EURUSD"),), balance=Decimal(balance), close_at_end=True)
    return run_any(strategy, {"EURUSD": sample_bars(rows=rows)}, settings)


def test_tables_are_what_pandas_takes() -> None:
    pandas = pytest.importorskip("pandas")
    result = result_of(sma_cross())
    for columns in (result.trades, result.equity, result.drawdowns()):
        frame = pandas.DataFrame(table_of(columns, datetimes=True))
        assert len(frame) == len(columns) > 0
        times = [name for name in frame if name.endswith("_at") or name == "time_at"]
        assert times
        for name in times:
            stamps = table_of(columns)[f"{name[:-2]}ms"]
            assert (frame[name].astype("datetime64[ms]").astype("int64") == stamps).all()
    assert pandas.DataFrame(metrics_table(result.metrics()))["metric"].tolist() == list(result.metrics().values())


def test_csv_reads_back_to_the_same_numbers() -> None:
    trades = result_of(sma_cross()).trades
    rows = list(csv.DictReader(io.StringIO(table_to_csv(table_of(trades)))))
    assert len(rows) == len(trades) > 0
    for name, values in trades.columns().items():
        own = type(values.tolist()[0])
        assert [own(row[name]) for row in rows] == values.tolist(), name


def test_csv_tells_times_in_utc_and_leaves_out_what_is_not_defined() -> None:
    falls = drawdowns_of(curve([4, 3, 4, 2]))
    assert table_to_csv(table_of(falls, datetimes=True)).splitlines() == [
        "start_at,trough_at,end_at,recovered,depth",
        "2024-01-01T00:00:00.000Z,2024-01-02T00:00:00.000Z,2024-01-03T00:00:00.000Z,True,0.25",
        "2024-01-03T00:00:00.000Z,2024-01-04T00:00:00.000Z,2024-01-04T00:00:00.000Z,False,0.5",
    ]
    lines = table_to_csv(metrics_table(result_of(breakout(entry=2999), rows=3000).metrics())).splitlines()
    assert "win_rate,,there are no trades" in lines


def test_a_table_is_refused_when_its_columns_differ_in_length() -> None:
    with pytest.raises(BadData, match="b: has 1 rows") as caught:
        table_to_csv({"a": np.zeros(2), "b": np.zeros(1)})
    assert caught.value.rule == "length"


def test_a_report_tells_figures_and_why_one_is_missing() -> None:
    result = result_of(sma_cross(), rows=7200)
    text = "\n".join(report(result, title="Crossing", sampling=TRADING_DAYS))
    metrics = result.metrics(TRADING_DAYS)
    assert text.startswith("Crossing\n========\n")
    assert metrics.sharpe is not None
    assert f"  Sharpe ratio           {metrics.sharpe:.2f}\n" in text
    assert f"  Trades                 {len(result.trades)}\n" in text
    assert "days with data in UTC, 252 a year" in text
    none = "\n".join(report(result_of(breakout(entry=1999), rows=2000)))
    assert "  Win rate               –  (there are no trades)\n" in none
    assert none.endswith("Drawdowns\n  None")
    assert "nan" not in text + none


def test_a_report_counts_what_the_broker_refused() -> None:
    result = result_of(Bracket(units=10_000_000))
    assert result.refusals
    lines = report(result)
    assert lines[-2:] == ["Refused by the broker", f"  NOT_ENOUGH_MONEY       {len(result.refusals):,}"]


def test_a_thinned_curve_keeps_its_extremes_and_ends() -> None:
    values = np.random.default_rng(1).normal(size=100_000)
    rows = thinned(np.arange(100_000), values, 500)
    assert len(rows) <= 502
    assert (np.diff(rows) > 0).all()
    assert {0, 99_999, int(values.argmin()), int(values.argmax())} <= set(rows.tolist())
    assert thinned(np.arange(5), values[:5], 500).tolist() == [0, 1, 2, 3, 4]


def test_a_plot_says_what_to_install_when_matplotlib_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ConfigurationError, match=r"pip install '\.\[library-plots\]'"):
        draw(result_of(sma_cross(), rows=100))


def test_a_picture_is_refused_when_its_kind_is_unknown() -> None:
    with pytest.raises(InvalidInput, match="one of png, svg, pdf"):
        rendered(None, "bmp")


DRAWING = """
from decimal import Decimal
from core.backtester.data.sample import sample_bars
from core.backtester.examples import sma_cross
from core.backtester.fast import run_signals
from core.backtester.plots import draw, rendered
from core.backtester.settings import BacktestSettings, simple_listing
settings = BacktestSettings(listings=(simple_listing("EURUSD"),), balance=Decimal(1000))
result = run_signals(sma_cross(), {"EURUSD": sample_bars(rows=20_000)}, settings)
figure = draw(result, title="Crossing")
import sys
assert "matplotlib.pyplot" not in sys.modules
above, below = figure.axes
(_, line) = above.lines
assert line.get_ydata().min() == result.equity.equity.min() and line.get_ydata().max() == result.equity.equity.max()
lowest = below.collections[0].get_paths()[0].vertices[:, 1].min()
assert abs(lowest + 100 * result.equity.drawdown.max()) < 1e-9, lowest
print(*(rendered(figure, kind)[:5] for kind in ("png", "svg", "pdf")))
"""


def test_a_picture_shows_the_curve_and_its_drawdown_where_matplotlib_is() -> None:
    python = sys.executable if importlib.util.find_spec("matplotlib") else str(plots_python())
    done = subprocess.run([python, "-c", DRAWING], cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
    assert done.stderr == ""
    assert done.stdout == "b'\\x89PNG\\r' b'<?xml' b'%PDF-'\n"


def test_examples_trade_when_run_event_by_event_as_when_run_at_once() -> None:
    settings = BacktestSettings(listings=(simple_listing("EURUSD"),))
    data = {"EURUSD": sample_bars(rows=2000)}
    for make in (sma_cross, breakout):
        at_once, by_event = run_any(make(), data, settings), run(make(), data, settings)
        assert np.array_equal(at_once.equity.equity, by_event.equity.equity)
        assert len(at_once.trades) == len(by_event.trades) > 5
    assert {*run_any(Bracket(), data, replace(settings, close_at_end=True)).trades.reason} >= {
        "stop_loss",
        "take_profit",
    }


def test_a_crossing_is_traded_at_the_next_open_until_it_is_crossed_back() -> None:
    bars = sample_bars(rows=1000)
    trades = result_of(sma_cross(5, 20), rows=1000).trades
    quick, calm = (np.convolve(bars.close, np.ones(rows) / rows, "full")[:1000] for rows in (5, 20))
    gap = np.round(quick - calm, 12)
    up, down = ((sign * gap[20:] > 0) & (sign * gap[19:-1] <= 0) for sign in (1, -1))
    assert not up[-1]
    assert not down[-1]
    opens, closes = (bars.time_ms[21:][each[:-1]].tolist() for each in (up, down))
    assert trades.entry_ms.tolist() == opens
    asked = trades.exit_ms[trades.reason == "order"].tolist()
    assert asked == [each for each in closes if each > opens[0]]
    assert len(trades) - len(asked) <= 1  # the last is closed at the end
