"""Revealing: hands rows and series values to a strategy's `Now`, one moment after the other.

The runner keeps the whole columns here; `Now` only ever gets what is appended to its own lists.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import starmap
from struct import Struct

import numpy as np

from core.backtester.data.bars import Bars
from core.backtester.data.columns import Floats, Int64s
from core.backtester.data.errors import BadData
from core.backtester.evaluate import MOMENTS, Evaluator
from core.backtester.series import Indicator, Series
from core.backtester.strategy import Cells, Preparing, Revealed, cells
from core.backtester.tracks import BAR_COLUMNS, Timeline, Track

TICK_COLUMNS = ("bid", "ask")


@dataclass(slots=True)
class Own:
    """An indicator of the user's own, fed as its source is revealed."""

    update: Callable[[float], float]
    source: Iterator[float]
    values: Cells  # a row has one cell
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

    `counts`: how many are new at each moment; `columns`: what the rows are made of; `coming`: reveals one row at every
    step.
    """

    name: str
    counts: Int64s
    columns: list[Floats]
    own: list[Own] = field(default_factory=list)
    revealed: Cells = field(default_factory=cells)
    coming: Iterator[None] = field(default_factory=lambda: iter(()))

    def begin(self) -> None:
        """All columns are there: put them side by side, to be copied over row by row without an object for any."""
        if self.columns:
            table = np.column_stack(self.columns).astype(np.float64)
            row = Struct(f"{table.itemsize * len(self.columns)}s")
            # of bytes: the collector of Python 3.11 crashes over an iterator of a memoryview
            self.coming = starmap(self.revealed.frombytes, row.iter_unpack(table.tobytes()))


class Revealer:
    """All streams of a run, filling `revealed`. `start`: first moment when every instrument and series has a value."""

    def __init__(self, timeline: Timeline, evaluator: Evaluator, watched: dict[Series, str]) -> None:
        self.revealed = Revealed()
        self.own: list[Own] = []
        self.start = max(int(np.argmax(each.row_at >= 0)) for each in timeline.tracks)
        mixed = Stream(MOMENTS, np.ones(len(timeline.moments), dtype=np.int64), [])
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
            stream.columns.append(values)
            track = tracks.get(stream.name)
            self.start = max(self.start, first if track is None else int(np.searchsorted(track.row_at, first)))
        if not mixed.columns and not mixed.own:
            self.streams.pop()
        self._counts: list[list[int]] = []  # of the streams, once somebody reveals by moments
        for series, stream, place in columns:
            width = len(stream.columns)
            self.revealed.places[series] = (stream.revealed, place - width, width)
        for stream in self.streams:
            self.revealed.widths[stream.name] = len(stream.columns)
            stream.begin()

    def reveal(self, moment: int) -> None:
        """Append what closed at this moment."""
        if not self._counts:
            self._counts = [each.counts.tolist() for each in self.streams]
        for stream, counts in zip(self.streams, self._counts, strict=True):
            count = counts[moment]
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
        if len(self.streams) > 1 or self.own or not (stream.counts == 1).all():
            return None
        self.revealed.always.add(stream.name)
        return stream

    def ready(self) -> bool:
        """Whether the user's own indicators have values too."""
        return all(each.values for each in self.own)

    def _stream(self, track: Track) -> Stream:
        names = BAR_COLUMNS if isinstance(track.data, Bars) else TICK_COLUMNS
        columns = [getattr(track.data, name) for name in ("time_ms", *names)]
        stream = Stream(track.instrument_id, np.diff(track.row_at, prepend=-1), columns)
        self.revealed.cells[track.instrument_id] = stream.revealed
        self.revealed.fields[track.instrument_id] = len(columns)
        return stream

    def _own_indicator(self, evaluator: Evaluator, series: Series, make: Callable[[], Indicator], name: str) -> Own:
        source: list[float] = np.asarray(evaluator.column(series.parents[0])[1], dtype=np.float64).tolist()
        own = Own(make().update, iter(source), cells(), name)
        self.revealed.places[series] = (own.values, -1, 1)
        self.own.append(own)
        return own


def columns_of(timeline: Timeline) -> Preparing:
    """What a strategy may prepare with: names only."""
    return Preparing(
        {each.instrument_id: BAR_COLUMNS if isinstance(each.data, Bars) else TICK_COLUMNS for each in timeline.tracks}
    )
