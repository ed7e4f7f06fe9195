"""Revealing: hands rows and series values to a strategy's `Now`, one moment after the other.

The runner keeps the whole columns here; `Now` only ever gets what is appended to its own lists.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from core.backtester.data.bars import Bars
from core.backtester.data.errors import BadData
from core.backtester.evaluate import MOMENTS, Evaluator
from core.backtester.series import Series
from core.backtester.strategy import Preparing
from core.backtester.tracks import BAR_COLUMNS, Timeline, Track

TICK_COLUMNS = ("bid", "ask")


@dataclass(slots=True)
class Own:
    """An indicator of the user's own, fed as its source is revealed."""

    update: Callable[[float], float]
    source: Iterator[float]
    values: list[float]
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
    """Rows of one instrument (or moments) and the series that follow them; `counts`: new rows at each moment."""

    instrument_id: str
    counts: list[int]
    rows: Iterator[tuple[Any, ...]]
    plain: list[tuple[list[float], Iterator[float], int]]  # revealed, values from the first one on, rows before it
    own: list[Own]


class Revealer:
    """All streams of a run. `rows`, `fresh`, `values` are what `Now` reads; `start`: when all have one."""

    def __init__(self, timeline: Timeline, evaluator: Evaluator, watched: dict[Series, str]) -> None:
        self.rows: dict[str, tuple[Any, ...]] = {}
        self.fresh: dict[str, int] = {}
        self.values: dict[Series, list[float]] = {}
        self.own: list[Own] = []
        self.start = max(int(np.argmax(each.row_at >= 0)) for each in timeline.tracks)
        tracks = {each.instrument_id: each for each in timeline.tracks}
        self.streams = [_stream(each) for each in timeline.tracks]
        mixed = Stream(MOMENTS, [1] * len(timeline.moments), iter(()), [], [])
        by_rows = {each.instrument_id: each for each in (*self.streams, mixed)}
        for series, name in watched.items():
            stream = by_rows[evaluator.rows_of(series)]
            revealed = self.values[series] = []
            if series.make is not None:
                source: list[float] = np.asarray(evaluator.column(series.parents[0])[1], dtype=np.float64).tolist()
                own = Own(series.make().update, iter(source), revealed, name)
                self.own.append(own)
                stream.own.append(own)
                continue
            values = evaluator.finite(series, name)
            first = int(np.isfinite(values).argmax())
            stream.plain.append((revealed, iter(values[first:].tolist()), first))
            track = tracks.get(stream.instrument_id)
            self.start = max(self.start, first if track is None else int(np.searchsorted(track.row_at, first)))
        if mixed.plain or mixed.own:
            self.streams.append(mixed)

    def reveal(self, moment: int) -> None:
        """Append what closed at this moment."""
        for stream in self.streams:
            for _ in range(stream.counts[moment]):
                if stream.instrument_id:
                    self.rows[stream.instrument_id] = next(stream.rows)
                    self.fresh[stream.instrument_id] = moment
                for index, (revealed, values, before) in enumerate(stream.plain):
                    if before:
                        stream.plain[index] = (revealed, values, before - 1)
                    else:
                        revealed.append(next(values))
                for own in stream.own:
                    own.feed()

    def ready(self) -> bool:
        """Whether the user's own indicators have values too."""
        return all(each.values for each in self.own)


def columns_of(timeline: Timeline) -> Preparing:
    """What a strategy may prepare with: names only."""
    return Preparing(
        {each.instrument_id: BAR_COLUMNS if isinstance(each.data, Bars) else TICK_COLUMNS for each in timeline.tracks}
    )


def _stream(track: Track) -> Stream:
    names = BAR_COLUMNS if isinstance(track.data, Bars) else TICK_COLUMNS
    columns = [getattr(track.data, name).tolist() for name in ("time_ms", *names)]
    counts: list[int] = np.diff(track.row_at, prepend=-1).tolist()
    return Stream(track.instrument_id, counts, zip(*columns, strict=True), [], [])
