"""Lanes: one instrument's way through a run, and how far ahead nothing can happen on it.

The search looks at prices to come, for the runner alone: it only finds how many moments need no call of the engine.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from core.backtester.data.columns import Int64s
from core.backtester.desk import Quoted
from core.backtester.tracks import Track

BLOCK = 64  # moments whose bounds are known together
MOST_BLOCKS = 8  # looked at in one go


@dataclass(slots=True)
class Lane:
    """A track with its present prices. `bounds`: lowest and highest bid, lowest and highest ask of each moment.

    `blocks`: the same of every `BLOCK` moments. `steps_at`, `last_bid`, `last_ask`: steps done by each moment, and the
    prices then; filled for `rest` only.
    """

    track: Track
    quoted: Quoted
    bounds: tuple[Int64s, Int64s, Int64s, Int64s]
    blocks: list[tuple[int, int, int, int]]
    steps_at: list[int] = field(default_factory=list)
    last_bid: list[int] = field(default_factory=list)
    last_ask: list[int] = field(default_factory=list)

    def quiet_until(self, moment: int, end: int) -> int:
        """Up to which moment, at least, no price touches a level of the engine: `moment` itself when its may."""
        quoted = self.quoted
        first = moment // BLOCK
        for block in range(first, min(first + MOST_BLOCKS, len(self.blocks))):
            if not quoted.quiet(*self.blocks[block]):
                break
        else:
            return min((first + MOST_BLOCKS) * BLOCK, end)
        if block > first:
            return min(block * BLOCK, end)
        part = slice(moment, min((first + 1) * BLOCK, end))
        low_bid, high_bid, low_ask, high_ask = (each[part] for each in self.bounds)
        touched = (low_bid <= quoted.low_bid) | (high_bid >= quoted.high_bid)
        touched |= (low_ask <= quoted.low_ask) | (high_ask >= quoted.high_ask)
        found = int(touched.argmax())
        return moment + found if touched[found] else part.stop

    def bounds_at(self, moment: int) -> tuple[int, int, int, int]:
        """Of one moment."""
        low_bid, high_bid, low_ask, high_ask = (int(each[moment]) for each in self.bounds)
        return low_bid, high_bid, low_ask, high_ask

    def steps_of(self, moment: int, order: int) -> list[tuple[int, int, int, int, int]]:
        """Time, `order`, number, bid and ask of every step that belongs to a moment."""
        first, stop = int(self.track.steps_at[moment - 1]) if moment else 0, int(self.track.steps_at[moment])
        columns = (each[first:stop].tolist() for each in (self.track.time_ms, self.track.bid, self.track.ask))
        return [
            (at_ms, order, step, bid, ask) for step, at_ms, bid, ask in zip(range(first, stop), *columns, strict=True)
        ]

    def prepare_rest(self) -> None:
        """Fill what `rest` looks at."""
        track, last = self.track, np.maximum(self.track.steps_at - 1, 0)
        self.steps_at, self.last_bid, self.last_ask = (
            each.tolist() for each in (track.steps_at, track.bid[last], track.ask[last])
        )

    def rest(self, moment: int) -> None:
        """Take the last price before a quiet moment. Without a step there is none: the same told twice fills twice."""
        if not moment or self.steps_at[moment] != self.steps_at[moment - 1]:
            quoted = self.quoted
            quoted.bid, quoted.ask, quoted.stale = self.last_bid[moment], self.last_ask[moment], True


def lane_of(track: Track, quoted: Quoted) -> Lane:
    """A lane at its beginning."""
    bounds = track.slot_bounds()
    starts = np.arange(0, len(track.steps_at), BLOCK)
    picks = (np.minimum, np.maximum, np.minimum, np.maximum)
    blocks = [pick.reduceat(each, starts).tolist() for pick, each in zip(picks, bounds, strict=True)]
    return Lane(track, quoted, bounds, list(zip(*blocks, strict=True)))
