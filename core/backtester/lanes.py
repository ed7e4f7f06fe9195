"""Lanes: one instrument's way through a run, and how far ahead nothing can happen on it.

The search looks at prices to come, for the runner alone: it only finds how many moments need no call of the engine.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from core.backtester.data.columns import Int64s
from core.backtester.desk import Quoted
from core.backtester.tracks import Track

FIRST_BLOCK = 64


@dataclass(slots=True)
class Lane:
    """A track with its present prices. `bounds`: lowest and highest bid, lowest and highest ask of each moment.

    `steps_at`, `last_bid`, `last_ask`: steps done by each moment, and the prices then.
    """

    track: Track
    quoted: Quoted
    bounds: tuple[Int64s, Int64s, Int64s, Int64s]
    steps_at: list[int]
    last_bid: list[int]
    last_ask: list[int]

    def first_touch(self, moment: int, end: int) -> int:
        """The first moment from this one on whose prices may touch a level of the engine; `end` when none before."""
        quoted, size = self.quoted, FIRST_BLOCK
        while moment < end:
            part = slice(moment, min(moment + size, end))
            low_bid, high_bid, low_ask, high_ask = (each[part] for each in self.bounds)
            touched = (low_bid <= quoted.low_bid) | (high_bid >= quoted.high_bid)
            touched |= (low_ask <= quoted.low_ask) | (high_ask >= quoted.high_ask)
            found = int(touched.argmax())
            if touched[found]:
                return moment + found
            moment, size = part.stop, size * 2
        return end

    def rest(self, moment: int) -> None:
        """Take the last price before a quiet moment. Without a step there is none: the same told twice fills twice."""
        if not moment or self.steps_at[moment] != self.steps_at[moment - 1]:
            quoted = self.quoted
            quoted.bid, quoted.ask, quoted.stale = self.last_bid[moment], self.last_ask[moment], True


def lane_of(track: Track, quoted: Quoted) -> Lane:
    """A lane at its beginning."""
    last = np.maximum(track.steps_at - 1, 0)
    columns = (each.tolist() for each in (track.steps_at, track.bid[last], track.ask[last]))
    return Lane(track, quoted, track.slot_bounds(), *columns)
