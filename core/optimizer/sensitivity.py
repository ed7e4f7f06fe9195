"""Sensitivity maps: how a metric changes with one or two parameters, over all trials that share their values.

A cell without a succeeded trial is masked (numpy masked arrays), never a silent nan. Axes are sorted by value; choices
keep the order in which trials met them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from core.optimizer.errors import BadInput, Floats, Ints
from core.optimizer.running import Optimisation, metric_of
from core.optimizer.space import Value

Masked = np.ma.MaskedArray[tuple[int, ...], np.dtype[np.float64]]
Reduce = Literal["mean", "median", "min", "max"]
REDUCERS: dict[str, Callable[[npt.NDArray[np.float64]], np.float64]] = {
    "mean": np.mean, "median": np.median, "min": np.min, "max": np.max,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class SensitivityMap:
    """`values[i, j]` is the metric where x = x_values[i] and y = y_values[j], reduced over all other parameters.

    `counts`: succeeded trials in the cell; `failed`: failed ones. A map over one parameter has y None and one column.
    """

    metric: str
    x: str
    y: str | None
    x_values: tuple[Value, ...]
    y_values: tuple[Value, ...]
    values: Masked
    counts: Ints
    failed: Ints

    def plateau(self) -> Masked:
        """Each cell as the mean of itself and its neighbours that exist (up to 8): peaks that stand alone sink."""
        padded = np.pad(self.values.filled(0.0), 1)
        there = np.pad((~np.ma.getmaskarray(self.values)).astype(np.float64), 1)
        total, count = _around(padded), _around(there)
        return np.ma.MaskedArray(total / np.maximum(count, 1.0), np.ma.getmaskarray(self.values))

    def best(self, *, maximise: bool = True, plateau: bool = False) -> tuple[Value, Value | None]:
        """The x and y of the best cell, or of the best plateau. Raises BadInput when every cell is empty."""
        values = self.plateau() if plateau else self.values
        if np.ma.getmaskarray(values).all():
            raise BadInput("metric", "no cell has a succeeded trial")
        at = int(np.argmax(values.filled(-np.inf)) if maximise else np.argmin(values.filled(np.inf)))
        row, column = divmod(at, values.shape[1])
        return self.x_values[row], None if self.y is None else self.y_values[column]


def sensitivity_map(
    found: Optimisation, metric: str, x: str, y: str | None = None, *, reduce: Reduce = "mean"
) -> SensitivityMap:
    """The map of a metric over one or two parameters. Raises BadInput for unknown names or no outcomes."""
    if reduce not in REDUCERS:
        raise BadInput("reduce", f"must be one of {', '.join(REDUCERS)}, not {reduce!r}")
    if x == y:
        raise BadInput("y", "must be another parameter than x")
    if not found.outcomes:
        raise BadInput("found", "has no outcomes")
    x_values = _axis(found, "x", x)
    y_values = _axis(found, "y", y) if y is not None else ()
    shape = (len(x_values), max(len(y_values), 1))
    cells: dict[tuple[int, int], list[float]] = {}
    failed = np.zeros(shape, dtype=np.int64)
    for outcome in found.outcomes:
        row = _place(x_values, outcome.trial.params[x])
        at = (row, 0 if y is None else _place(y_values, outcome.trial.params[y]))
        if outcome.error is None:
            cells.setdefault(at, []).append(metric_of(outcome, metric))
        else:
            failed[at] += 1
    values: Masked = np.ma.MaskedArray(np.zeros(shape), mask=True)
    counts = np.zeros(shape, dtype=np.int64)
    for at, held in cells.items():
        values[at] = REDUCERS[reduce](np.array(held))
        counts[at] = len(held)
    return SensitivityMap(metric, x, y, x_values, y_values, values, counts, failed)


def influence(found: Optimisation, metric: str) -> dict[str, float]:
    """For each parameter the share of the metric's variance that its values explain alone (η², one-way), 0 to 1.

    Between-group sum of squares / total; 0 everywhere when the metric does not vary. Raises BadInput for no successes
    or an infinite metric.
    """
    succeeded = found.succeeded
    if not succeeded:
        raise BadInput("found", "has no succeeded trial")
    values = np.array([metric_of(outcome, metric) for outcome in succeeded])
    if not np.isfinite(values).all():
        raise BadInput(
            "metric", f"{metric} must be finite", row=succeeded[int(np.argmin(np.isfinite(values)))].trial.index
        )
    total = float(((values - values.mean()) ** 2).sum())
    shares: dict[str, float] = {}
    for name in succeeded[0].trial.params:
        axis = _axis(found, "parameter", name)
        group = np.array([_place(axis, outcome.trial.params[name]) for outcome in succeeded])
        sizes = np.bincount(group, minlength=len(axis))
        means = np.bincount(group, weights=values, minlength=len(axis)) / np.maximum(sizes, 1)
        shares[name] = 0.0 if total == 0.0 else min(float((sizes * (means - values.mean()) ** 2).sum()) / total, 1.0)
    return shares


def _axis(found: Optimisation, field: str, name: str) -> tuple[Value, ...]:
    """The different values of a parameter: numbers sorted, anything else in the order met."""
    met: dict[tuple[type, Value], Value] = {}
    for outcome in found.outcomes:
        if name not in outcome.trial.params:
            raise BadInput(field, f"there is no parameter {name!r} in {dict(outcome.trial.params)}")
        value = outcome.trial.params[name]
        met[type(value), value] = value
    values = tuple(met.values())
    numbers = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
    return tuple(sorted(numbers)) if len(numbers) == len(values) else values


def _place(axis: Sequence[Value], value: Value) -> int:
    for at, mine in enumerate(axis):
        if type(mine) is type(value) and mine == value:
            return at
    raise BadInput("found", f"holds {value!r}, which is not on the axis")


def _around(padded: Floats) -> Floats:
    """For each inner cell the sum over its 3 x 3 neighbourhood."""
    rows, columns = padded.shape
    total: Floats = np.zeros((rows - 2, columns - 2))
    for down in range(3):
        for right in range(3):
            total = total + padded[down : rows - 2 + down, right : columns - 2 + right]
    return total
