"""Columns of numbers: taken in as read-only copies, checked with errors that name field, row and rule.

Invariant: an array that leaves here is contiguous, read-only and owns its memory, so nobody can change it afterwards.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from core.backtester.data.errors import BadData

Floats = npt.NDArray[np.float64]
Int64s = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


def floats(values: npt.ArrayLike, field: str, rows: int | None = None) -> Floats:
    """A read-only float64 copy of one-dimensional numbers. Raises BadData (rules number, shape, length, finite)."""
    column = _copy(values, np.float64, field, rows)
    refuse(~np.isfinite(column), "must be a finite number", field, "finite")
    column.setflags(write=False)
    return column


def times(values: npt.ArrayLike, field: str, rows: int | None = None) -> Int64s:
    """A read-only int64 copy of Unix ms. Raises BadData (rules number, shape, length, whole, positive)."""
    given = np.asarray(values)
    if given.dtype.kind == "f":
        refuse(~np.isfinite(given) | (given != np.floor(given)), "must be whole Unix ms", field, "whole")
    elif given.dtype.kind not in "iu" and given.size:
        raise BadData(f"must be whole Unix ms, not {given.dtype}", field=field, rule="number")
    column = _copy(given, np.int64, field, rows)
    refuse(column < 0, "must not be before 1970", field, "positive")
    column.setflags(write=False)
    return column


def frozen(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The same array made read-only, for results that their maker gives away."""
    values.setflags(write=False)
    return values


def refuse(bad: npt.NDArray[np.bool_], message: str, field: str, rule: str, *, shift: int = 0) -> None:
    """Raise BadData for the first row that is bad; `shift` is added to its number."""
    if bad.any():
        raise BadData(message, field=field, rule=rule, row=int(bad.argmax()) + shift)


def _copy(values: npt.ArrayLike, dtype: Any, field: str, rows: int | None) -> npt.NDArray[Any]:
    try:
        column = np.array(values, dtype=dtype, order="C")
    except (TypeError, ValueError, OverflowError) as cause:
        raise BadData("must be numbers", field=field, rule="number") from cause
    if column.ndim != 1:
        raise BadData(f"must have one dimension, has {column.ndim}", field=field, rule="shape")
    if rows is not None and len(column) != rows:
        raise BadData(f"must have {rows} rows, has {len(column)}", field=field, rule="length")
    return column
