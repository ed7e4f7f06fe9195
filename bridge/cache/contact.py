"""What is known of one store: whether it can be used, since when it answers, and what to say of it in the log.

No I/O. An outage is logged once when it begins and once when it ends, however many attempts lie between.
"""

from __future__ import annotations

import logging
from random import Random

from bridge.cache.entry import StoreHealth
from bridge.cache.store import Store

log = logging.getLogger(__name__)

CHUNK_DEADLINE_S = 1.5  # one write or claim of a chunk
PROBE_DEADLINE_S = 1.0  # one ping of a store that was away
RETRY_S = 0.5  # between probes of a store that is away, half to whole of it


class Contact:
    """The health of one store as its flusher sees it. `usable`: worth another attempt now."""

    def __init__(self, store: Store, role: str) -> None:
        self.store = store
        self.role = role
        self.usable = True
        self.state = "connecting"
        self.failures = 0
        self.refused = 0
        self.last_flush_at_ms: int | None = None
        self.last_flush_ms: float | None = None
        self.heard_at = float("-inf")  # monotonic s of the last answer
        self._generation: str | None = None

    def answered(self, now: float) -> None:
        """The store did what it was asked."""
        self.usable = True
        self.heard_at = now
        if self.state == "down":
            log.info("store recovered", extra={"store": self.store.name, "failures": self.failures})
        self.state = "up" if self.store.capabilities.fenced else "unfenced"

    def flushed(self, *, seconds: float, now: float, now_ms: int) -> None:
        """A chunk was answered."""
        self.answered(now)
        self.last_flush_at_ms = now_ms
        self.last_flush_ms = round(seconds * 1000, 3)

    def failed(self, error: Exception) -> None:
        """The store could not be used."""
        self.failures += 1
        self.usable = False
        if self.state != "down":
            self.state = "down"
            log.warning("store unavailable", extra={"store": self.store.name, "role": self.role, "error": repr(error)})

    def lost_data(self) -> bool:
        """True once after the store's generation changed: what it held is gone and must be written again."""
        seen, self._generation = self._generation, self.store.generation
        return seen is not None and seen != self._generation

    def retry_delay(self, rng: Random) -> float:
        """Seconds until the next probe of a store that is away."""
        return RETRY_S * rng.uniform(0.5, 1.0)

    def health(self, dirty: int) -> StoreHealth:
        """For /health."""
        return StoreHealth(
            self.role, self.state, self.last_flush_at_ms, self.last_flush_ms, dirty, self.failures, self.refused
        )
