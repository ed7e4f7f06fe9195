"""When a live account is read again, and how much of it: the plan of its upkeep. Pure, monotonic seconds.

There is no event for cash, margin or prices (alpaca.md §2.2), so they are asked for: a whole reading soon after
executions and after whatever could not be used, positions alone every now and then while something is held. Invariants:
one wish for a reading stands for all that come before it begins; two never begin closer than `reading_gap_s`, and
after a failure nothing is asked before the wait is over.
"""

from __future__ import annotations

import math
from enum import Enum, auto

from bridge.brokers.alpaca.settings import AlpacaSettings


class Act(Enum):
    """What is due."""

    READ = auto()  # account, positions, orders, executions
    POLL = auto()  # account and positions, for prices and margin


class Held(Enum):
    """What the account holds, as far as prices go."""

    NOTHING = auto()
    FED = auto()  # a socket tells every price
    UNFED = auto()


class Plan:
    """One account. `figures_at`: when the broker's own figures were last known."""

    __slots__ = ("_failures", "_not_before", "_read_at", "_read_done", "_settings", "figures_at")

    def __init__(self, settings: AlpacaSettings) -> None:
        self._settings = settings
        self._read_at = math.inf
        self._read_done = -math.inf
        self._not_before = -math.inf
        self._failures = 0
        self.figures_at = -math.inf

    def ask(self, now: float, delay_s: float) -> bool:
        """A reading is wanted, at the latest in `delay_s`. Returns whether that is sooner than it was wanted before."""
        if now + delay_s >= self._read_at:
            return False
        self._read_at = now + delay_s
        return True

    def begin(self, act: Act) -> None:
        """It is being done: wishes from now on are for another."""
        if act is Act.READ:
            self._read_at = math.inf

    def done(self, act: Act, now: float) -> None:
        """It succeeded."""
        self.figures_at = now
        self._failures = 0
        self._not_before = -math.inf
        if act is Act.READ:
            self._read_done = now

    def failed(self, act: Act, now: float, wait_s: float | None) -> None:
        """It failed; `wait_s` is what the broker asks for. A reading is still wanted."""
        settings = self._settings
        pause_s = min(settings.lag_cap_s * 2.0**self._failures, settings.slow_poll_s)
        self._failures = min(self._failures + 1, 30)
        self._not_before = now + max(pause_s, wait_s or 0.0)
        if act is Act.READ:
            self.ask(now, 0.0)

    def due_at(self, held: Held) -> float:
        """When the next thing is due; infinity: nothing is."""
        return max(min(self._reading_at(), self._poll_at(held)), self._not_before)

    def next(self, now: float, held: Held) -> Act | None:
        """What is due now. A reading holds all that a poll does, and goes first."""
        if now < self._not_before:
            return None
        if now >= self._reading_at():
            return Act.READ
        return Act.POLL if now >= self._poll_at(held) else None

    def outdated(self, now: float) -> bool:
        """Whether the broker's figures are too old to pass for present prices."""
        return now - self.figures_at >= 2 * self._settings.poll_s

    def _reading_at(self) -> float:
        return max(self._read_at, self._read_done + self._settings.reading_gap_s)

    def _poll_at(self, held: Held) -> float:
        if held is Held.NOTHING:
            return math.inf
        return self.figures_at + (self._settings.poll_s if held is Held.UNFED else self._settings.slow_poll_s)
