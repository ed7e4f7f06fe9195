"""Plots of a result, an optional extra (`library-plots`): the equity above, its drawdown below.

Matplotlib is imported when something is drawn, without pyplot: no global state, no window, the Agg canvas. Opens no
file: `rendered` gives bytes. A long curve is thinned to what a picture can show, its extremes kept.
"""

from __future__ import annotations

import io
import itertools
from importlib import import_module
from typing import Any

import numpy as np

from core.backtester.data.columns import Floats, Int64s
from core.backtester.result import BacktestResult
from core.errors import ConfigurationError, InvalidInput

FORMATS = ("png", "svg", "pdf")
MOST_POINTS = 4000
BLUE, RED = "#1f5fa8", "#b03030"


def draw(result: BacktestResult, *, title: str = "") -> Any:
    """A `matplotlib.figure.Figure`. Raises ConfigurationError when matplotlib is not installed."""
    matplotlib = _matplotlib()
    equity = result.equity
    figure = matplotlib["figure"].Figure(figsize=(10, 6), layout="constrained")
    matplotlib["agg"].FigureCanvasAgg(figure)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    rows = thinned(equity.time_ms, equity.equity)
    stamps = equity.time_ms.astype("datetime64[ms]")
    above.plot(stamps[rows], equity.balance[rows], color="#999999", linewidth=0.8, label="balance")
    above.plot(stamps[rows], equity.equity[rows], color=BLUE, linewidth=1.0, label="equity")
    above.set_ylabel(result.settings.account.currency)
    above.legend(loc="upper left", frameon=False)
    above.set_title(title or "Equity and drawdown")
    rows = thinned(equity.time_ms, equity.drawdown)
    below.fill_between(stamps[rows], -100.0 * equity.drawdown[rows], 0.0, color=RED, alpha=0.6, linewidth=0)
    below.set_ylabel("drawdown, %")
    for axes in (above, below):
        axes.grid(alpha=0.25)
    return figure


def rendered(figure: Any, kind: str = "png") -> bytes:
    """The file content of a figure. Raises InvalidInput for a kind that is none of FORMATS."""
    if kind not in FORMATS:
        raise InvalidInput(f"a plot is one of {', '.join(FORMATS)}, not {kind!r}", field="kind")
    content = io.BytesIO()
    figure.savefig(content, format=kind, dpi=120)
    return content.getvalue()


def thinned(time_ms: Int64s, values: Floats, most: int = MOST_POINTS) -> Int64s:
    """Rows to draw: all, or of each of `most` ÷ 2 equal parts of the rows the first lowest and the first highest."""
    if len(values) <= most:
        return np.arange(len(values), dtype=np.int64)
    bounds = np.linspace(0, len(values), most // 2 + 1).astype(np.int64)
    ends = (0, len(values) - 1)
    found = [
        start + at
        for start, stop in itertools.pairwise(bounds.tolist())
        for at in (int(values[start:stop].argmin()), int(values[start:stop].argmax()))
    ]
    return np.unique(np.array([*found, *ends], dtype=np.int64))


def _matplotlib() -> dict[str, Any]:
    try:
        return {
            "figure": import_module("matplotlib.figure"),
            "agg": import_module("matplotlib.backends.backend_agg"),
        }
    except ImportError as cause:
        raise ConfigurationError("plots need matplotlib: pip install '.[library-plots]'") from cause
