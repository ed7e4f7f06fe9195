"""Revealing: hands rows and series values to a strategy's `Now`, one moment after the other.

The runner keeps the whole columns here; `Now` only ever gets what is appended to its own lists.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from core.backtester.data.bars import Bars
from core.backtester.data.errors import BadData
from core.backtester.evaluate import MOMENTS, Evaluator
from core.backtester.series import Indicator, Series
from core.backtester.strategy import Cells, Preparing, Revealed
from core.backtester.tracks import BAR_COLUMNS, Timeline, Track

TICK_COLUMNS = ("bid", "ask")


@dataclass(slots=True)
class Own:
    """An indicator of the user's own, fed as its source is revealed."""

    update: Callable[[float], float]
    source: Iterator[float]
    values: Cells
    name: str

    def feed(self) -> None:
        value = next(self.source)
        if math.isnan(value):  # the source is warming up
            return
        result = float(self.update(value))
        if math.isfinite(result):
            self.values.append(result)
        elif self.values or not math.isnan(result):
            raise BadData(f"{self.name} has no finite value any more", field=self.name, rule="finite")


@dataclass(slots=True)
class Stream:
    """Rows of one instrument (or of the moments) with the series that follow them.

    `counts`: how many are new at each moment; `columns`: what the rows are made of, as plain lists; `coming`: reveals
    one row at every step.
    """

    name: str
    counts: list[int]
    columns: list[list[Any]]
    revealed: Cells
    own: list[Own]
    coming: Iterator[None] = field(default_factory=lambda: iter(()))


class Revealer:
    """All streams of a run, filling `revealed`. `start`: first moment when every instrument and series has a value."""

    def __init__(self, timeline: Timeline, evaluator: Evaluator, watched: dict[Series, str]) -> None:
        self.revealed = Revealed()
        self.own: list[Own] = []
        self.start = max(int(np.argmax(each.row_at >= 0)) for each in timeline.tracks)
        mixed = Stream(MOMENTS, [1] * len(timeline.moments), [], [], [])
        self.streams = [*(self._stream(each) for each in timeline.tracks), mixed]
        by_name = {each.name: each for each in self.streams}
        tracks = {each.instrument_id: each for each in timeline.tracks}
        columns: list[tuple[Series, Stream, int]] = []
        for series, name in watched.items():
            stream = by_name[evaluator.rows_of(series)]
            if series.make is not None:
                stream.own.append(self._own_indicator(evaluator, series, series.make, name))
                continue
            values = evaluator.finite(series, name)
            first = int(np.isfinite(values).argmax())
            columns.append((series, stream, len(stream.columns)))
            stream.columns.append(values.tolist())
            track = tracks.get(stream.name)
            self.start = max(self.start, first if track is None else int(np.searchsorted(track.row_at, first)))
        if not mixed.columns and not mixed.own:
            self.streams.pop()
        for series, stream, place in columns:
            width = len(stream.columns)
            self.revealed.places[series] = (stream.revealed, place - width, width)
        for stream in self.streams:
            self.revealed.widths[stream.name] = len(stream.columns)
            stream.coming = map(stream.revealed.extend, zip(*stream.columns, strict=True))

    def reveal(self, moment: int) -> None:
        """Append what closed at this moment."""
        for stream in self.streams:
            count = stream.counts[moment]
            if not count:
                continue
            self.revealed.fresh[stream.name] = moment
            for _ in range(count):
                if stream.columns:
                    next(stream.coming)
                for own in stream.own:
                    own.feed()

    def only_stream(self) -> Stream | None:
        """The one stream of a run with one row per moment and nothing else to feed."""
        stream = self.streams[0]
        if len(self.streams) > 1 or self.own or min(stream.counts) != 1 or max(stream.counts) != 1:
            return None
        self.revealed.always.add(stream.name)
        return stream

    def ready(self) -> bool:
        """Whether the user's own indicators have values too."""
        return all(each.values for each in self.own)

    def _stream(self, track: Track) -> Stream:
        names = BAR_COLUMNS if isinstance(track.data, Bars) else TICK_COLUMNS
        columns = [getattr(track.data, name).tolist() for name in ("time_ms", *names)]
        counts: list[int] = np.diff(track.row_at, prepend=-1).tolist()
        cells: Cells = []
        self.revealed.cells[track.instrument_id] = cells
        self.revealed.fields[track.instrument_id] = len(columns)
        return Stream(track.instrument_id, counts, columns, cells, [])

    def _own_indicator(self, evaluator: Evaluator, series: Series, make: Callable[[], Indicator], name: str) -> Own:
        source: list[float] = np.asarray(evaluator.column(series.parents[0])[1], dtype=np.float64).tolist()
        own = Own(make().update, iter(source), [], name)
        self.revealed.places[series] = (own.values, -1, 1)
        self.own.append(own)
        return own


def columns_of(timeline: Timeline) -> Preparing:
    """What a strategy may prepare with: names only."""
    return Preparing(
        {each.instrument_id: BAR_COLUMNS if isinstance(each.data, Bars) else TICK_COLUMNS for each in timeline.tracks}
    )
