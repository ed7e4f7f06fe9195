"""Computing series: from recipes and the data's columns to values, kept by the runner and revealed row by row.

Rows of one instrument follow its own bars; where instruments are mixed, rows are moments and each instrument counts
with its last closed bar.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from core.backtester.data.columns import Floats
from core.backtester.data.errors import BadData
from core.backtester.series import Series
from core.backtester.tracks import Timeline

Column = tuple[str, Floats]  # whose rows ("" = moments), values
MOMENTS = ""


class Evaluator:
    """Values of series on one timeline; each is computed once."""

    def __init__(self, timeline: Timeline) -> None:
        self._tracks = {each.instrument_id: each for each in timeline.tracks}
        self._done: dict[Series, Column] = {}

    def rows_of(self, series: Series) -> str:
        """Whose rows the series has: an instrument's, or "" for moments."""
        return self.column(series.parents[0] if series.make else series)[0]

    def column(self, series: Series) -> Column:
        """Rows and values of a series that has no indicator of the user's own."""
        if series not in self._done:
            self._done[series] = self._compute(series)
        return self._done[series]

    def at_moments(self, series: Series) -> Floats:
        """A value for every moment: that of the last closed row, nan before."""
        rows, values = self.column(series)
        return values if rows == MOMENTS else self._spread(rows, values)

    def finite(self, series: Series, name: str) -> Floats:
        """The values, in the series' own rows. Raises BadData where one is missing after the first (rule finite)."""
        values = np.asarray(self.column(series)[1], dtype=np.float64)
        fine = np.isfinite(values)
        if not fine.any():
            raise BadData(f"{name} never has a value in {len(values)} rows", field=name, rule="warm-up")
        first = int(fine.argmax())
        if not fine[first:].all():
            row = first + int((~fine[first:]).argmax())
            raise BadData(f"{name} has no finite value there", field=name, rule="finite", row=row)
        return values

    def _compute(self, series: Series) -> Column:
        if series.kernel is None:
            column: Any = getattr(self._tracks[series.instrument_id].data, series.column)
            return series.instrument_id, column
        parents = [self.column(each) for each in series.parents]
        rows = {each[0] for each in parents}
        if len(rows) == 1:
            name, given = rows.pop(), [each[1] for each in parents]
        else:
            name, given = MOMENTS, [self.at_moments(each) for each in series.parents]
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):  # refused in `finite`
            return name, series.kernel(*given)

    def _spread(self, instrument_id: str, values: Floats) -> Floats:
        row_at = self._tracks[instrument_id].row_at
        found = np.asarray(values, dtype=np.float64)[np.maximum(row_at, 0)]
        return np.asarray(np.where(row_at < 0, np.nan, found))
