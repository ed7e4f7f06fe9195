"""Is the peer of a stream still there? Decides when to ping and when to give up (alpaca.md §2.3, DESIGN §5). Pure.

Invariant: only whole frames and pongs count as life, never mere bytes: a peer that trickles tells nothing.
"""

from __future__ import annotations

from enum import Enum, auto


class Act(Enum):
    """What is due now."""

    PING = auto()
    DEAD = auto()


class Pinging:
    """A ping after `ping_s` without a sign of life; dead when `pong_timeout_s` later there is none (monotonic s)."""

    __slots__ = ("_asked_at", "_ping_s", "_pong_timeout_s", "last_heard")

    def __init__(self, ping_s: float, pong_timeout_s: float) -> None:
        self._ping_s = ping_s
        self._pong_timeout_s = pong_timeout_s
        self._asked_at: float | None = None
        self.last_heard = 0.0

    def heard(self, now: float) -> None:
        """A whole frame or a pong came in, or the connection is new."""
        self.last_heard = now
        self._asked_at = None

    def due_at(self) -> float:
        """When `check` has something to say."""
        if self._asked_at is not None:
            return self._asked_at + self._pong_timeout_s
        return self.last_heard + self._ping_s

    def check(self, now: float) -> Act | None:
        """What must be done now, if anything."""
        if now < self.due_at():
            return None
        if self._asked_at is not None:
            return Act.DEAD
        self._asked_at = now
        return Act.PING
