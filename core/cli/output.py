"""What leaves the command line: lines, JSON and files."""

from __future__ import annotations

import json  # noqa: TID251 - the library stands alone: the bridge's JSON package is no dependency of it
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from core.backtester.export import metrics_table, table_of, table_to_csv
from core.backtester.metrics import Metrics, Sampling
from core.backtester.plots import FORMATS, draw, rendered
from core.backtester.result import BacktestResult
from core.errors import InvalidInput


def show(lines: Iterable[str]) -> None:
    """Print lines."""
    for each in lines:
        print(each)


def show_json(value: Mapping[str, Any]) -> None:
    """Print one JSON document; a nan in it would be an error, not a nan."""
    json.dump(value, sys.stdout, indent=2, allow_nan=False, ensure_ascii=False)
    print()


def metrics_json(metrics: Metrics) -> dict[str, Any]:
    """Every metric by name, null where it is not defined, and the reasons."""
    return {**metrics.values(), "reasons": dict(metrics.reasons)}


def check_plot(path: str | None) -> None:
    """Raises InvalidInput unless the file's ending is a format, before anything is computed."""
    if path is not None and Path(path).suffix[1:] not in FORMATS:
        endings = ", ".join(f".{each}" for each in FORMATS)
        raise InvalidInput(f"--plot: {path} must end in {endings}", field="--plot")


def plot(result: BacktestResult, path: str, title: str) -> None:
    """Draw equity and drawdown into a file. Raises ConfigurationError when matplotlib is not installed."""
    write(Path(path), rendered(draw(result, title=title), Path(path).suffix[1:]), "--plot")


def export(result: BacktestResult, folder: str, sampling: Sampling) -> list[str]:
    """Trades, equity, drawdowns and metrics as CSV files in a folder; the names of the files."""
    tables = {
        "trades": table_of(result.trades, datetimes=True),
        "equity": table_of(result.equity, datetimes=True),
        "drawdowns": table_of(result.drawdowns(), datetimes=True),
        "metrics": metrics_table(result.metrics(sampling)),
    }
    return [write(Path(folder) / f"{name}.csv", table_to_csv(table), "--export") for name, table in tables.items()]


def write(path: Path, content: str | bytes, field: str) -> str:
    """Write a file, its folder too; its name. Raises InvalidInput when that cannot be."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    except OSError as cause:
        raise InvalidInput(f"{field}: cannot write {path}: {cause.strerror}", field=field) from cause
    return str(path)
