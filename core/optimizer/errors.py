"""What the optimizer refuses, and the checks that its modules share.

Every refusal names the field, the rule and, for data, the row. Nothing is repaired or dropped in silence.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from core.errors import InvalidInput

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


class BadInput(InvalidInput):
    """`field` breaks `rule`; `row` is the 0-based row of the first offence in an array or a journal, else None."""

    def __init__(self, field: str, rule: str, *, row: int | None = None) -> None:
        where = field if row is None else f"{field}, row {row}"
        super().__init__(f"{where}: {rule}", field=field)
        self.rule = rule
        self.row = row


def integer(field: str, value: object, low: int, high: int | None = None) -> int:
    """`value` as an int within [low, high]; bools are no integers here. Raises BadInput."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise BadInput(field, f"must be an integer, not {value!r}")
    if value < low or (high is not None and value > high):
        upper = "" if high is None else f" and at most {high}"
        raise BadInput(field, f"must be at least {low}{upper}, not {value}")
    return int(value)


def real(field: str, value: object) -> float:
    """`value` as a finite float. Raises BadInput."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        raise BadInput(field, f"must be a number, not {value!r}")
    if not math.isfinite(value):
        raise BadInput(field, f"must be finite, not {value}")
    return float(value)


def share(field: str, value: object) -> float:
    """`value` as a float strictly between 0 and 1. Raises BadInput."""
    number = real(field, value)
    if not 0.0 < number < 1.0:
        raise BadInput(field, f"must lie strictly between 0 and 1, not {number}")
    return number


def finite(field: str, values: Any, *, dimensions: int = 1, rows: int = 1) -> Floats:
    """`values` as a float64 array of that many dimensions, all finite, with at least so many rows. Raises BadInput."""
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as cause:
        raise BadInput(field, "must be an array of numbers") from cause
    if array.ndim != dimensions:
        raise BadInput(field, f"must have {dimensions} dimension(s), not {array.ndim}")
    if array.shape[0] < rows:
        raise BadInput(field, f"needs at least {rows} rows, has {array.shape[0]}")
    bad = ~np.isfinite(array)
    if bad.any():
        row = int(np.argwhere(bad)[0][0])
        raise BadInput(field, "every number must be finite", row=row)
    return array
