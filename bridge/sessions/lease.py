"""How long this process may act, and when it renews its lease. Pure: monotonic seconds in, answers out.

Every limit counts from before the request that renewed the lease was sent, so that a slow answer makes it shorter and
never longer. Invariant: a process that was told nothing stops acting a third of the lease before anybody may take over.
"""

from __future__ import annotations

from random import Random

ACTS_FOR = 2 / 3  # of the lease: without a renewal for so long a process stops acting by itself
WRITES_FOR = 0.9  # so long it may still tell readers, through the copies, that its records are stale
RENEWED_AFTER = 1 / 3
JITTER = 0.1  # earlier by up to so much, so that processes started together do not stay in step
RETRY_SHARE = 1 / 30  # of the lease, between attempts at a database that does not answer
LONGEST_RETRY_S = 0.5


class Lease:
    """The lease of one process. `ttl_s`: how long it lasts. Nothing is allowed before the first renewal."""

    def __init__(self, ttl_s: float) -> None:
        self.ttl_s = ttl_s
        self._from: float | None = None

    def renewed(self, asked_at: float) -> None:
        """The database confirmed a renewal that was asked for at `asked_at`."""
        if self._from is None or asked_at > self._from:
            self._from = asked_at

    def lost(self) -> None:
        """The database has it no more."""
        self._from = None

    def may_act(self, now: float) -> bool:
        """Log in, stay logged in."""
        return self._from is not None and now < self._from + self.ttl_s * ACTS_FOR

    def may_write(self, now: float) -> bool:
        """Write records."""
        return self._from is not None and now < self._from + self.ttl_s * WRITES_FOR

    @property
    def acts_until(self) -> float | None:
        """When acting ends unless it is renewed; None when there is no lease."""
        return None if self._from is None else self._from + self.ttl_s * ACTS_FOR

    def renew_at(self, rng: Random) -> float:
        """When to renew it next; in the past when there is none."""
        if self._from is None:
            return float("-inf")
        return self._from + self.ttl_s * RENEWED_AFTER * rng.uniform(1 - JITTER, 1)

    def retry_s(self, rng: Random) -> float:
        """How long to wait after an attempt that the database did not answer."""
        return min(LONGEST_RETRY_S, self.ttl_s * RETRY_SHARE) * rng.uniform(0.5, 1.0)

    def age_s(self, now: float) -> float | None:
        """Since the last renewal was asked for."""
        return None if self._from is None else now - self._from
