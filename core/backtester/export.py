"""Results as plain tables: a mapping of column name to array, which `pandas.DataFrame(table)` takes as it is, and CSV.

Imports no pandas and opens no file: text goes to the caller. Invariant: all columns of a table have one length.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from core.backtester.data.errors import BadData
from core.backtester.drawdowns import Drawdowns
from core.backtester.equity import Equity
from core.backtester.metrics import Metrics
from core.backtester.trades import Trades

Table = dict[str, npt.NDArray[Any]]


def table_of(columns: Trades | Equity | Drawdowns, *, datetimes: bool = False) -> Table:
    """The columns by name. `datetimes`: times as numpy's datetime64[ms] in UTC, `entry_at` instead of `entry_ms`."""
    table = columns.columns()
    if not datetimes:
        return table
    return {
        f"{name[:-2]}at" if name.endswith("_ms") else name: values.astype("datetime64[ms]")
        if name.endswith("_ms")
        else values
        for name, values in table.items()
    }


def metrics_table(metrics: Metrics) -> Table:
    """A row per metric: `metric`, `value` (a number, or None where it is not defined) and `reason` ("" or why not)."""
    values = metrics.values()
    return {
        "metric": np.array(list(values), dtype=np.object_),
        "value": np.array(list(values.values()), dtype=np.object_),
        "reason": np.array([metrics.reasons.get(name, "") for name in values], dtype=np.object_),
    }


def table_to_csv(table: Mapping[str, npt.NDArray[Any]]) -> str:
    """CSV with a header; numbers by the shortest digits that read back to them, times as ISO 8601 with Z, None as "".

    Raises BadData (rule length) for columns of different lengths.
    """
    lengths = {name: len(values) for name, values in table.items()}
    for name, length in lengths.items():
        if length != next(iter(lengths.values())):
            raise BadData(f"has {length} rows, not as many as the first column", field=name, rule="length")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(table)
    writer.writerows(zip(*(_cells(values) for values in table.values()), strict=True))
    return text.getvalue()


def _cells(values: npt.NDArray[Any]) -> list[Any]:
    if values.dtype.kind == "M":
        return np.datetime_as_string(values, unit="ms", timezone="UTC").tolist()  # type: ignore[no-any-return]
    return values.tolist()  # type: ignore[no-any-return]
