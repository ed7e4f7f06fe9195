"""The primary store: written under a deadline, watched while idle, probed while away.

It decides nothing about entries. Every call ends in time and says plainly whether the store could be used.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from random import Random

from bridge.cache.contact import CHUNK_DEADLINE_S, PROBE_DEADLINE_S, Contact
from bridge.cache.entry import Entry, FlushObserver
from bridge.cache.store import Refusal, Store, StoreUnavailable, Write
from bridge.runtime.clock import Clock
from bridge.telemetry.tracing import TRACER


class Primary:
    """The writer of the primary. `probe_at`: when to try it again while it is away (monotonic s)."""

    def __init__(
        self, store: Store, *, clock: Clock, rng: Random, interval_s: float, observer: FlushObserver | None
    ) -> None:
        self.contact = Contact(store, "primary")
        self.probe_at = 0.0
        self._clock = clock
        self._rng = rng
        self._interval_s = interval_s
        self._observer = observer

    async def write(self, writes: list[Write]) -> list[Refusal]:
        """Write one chunk. Raises StoreUnavailable or TimeoutError; the caller tells `failed`."""
        began = self._clock.monotonic()
        with TRACER.span("flush", store=self.contact.store.name, records=len(writes)):
            async with asyncio.timeout(CHUNK_DEADLINE_S):
                refusals = await self.contact.store.write(writes)
        now = self._clock.monotonic()
        self.contact.flushed(seconds=now - began, now=now, now_ms=self._clock.now_ms())
        if self._observer is not None:
            self._observer.flushed(self.contact.store.name, len(writes), now - began)
        return refusals

    async def recall(self, entries: Sequence[Entry]) -> None:
        """Show sessions what stood under their keys; after the claim, so that nobody can write there any more.

        Raises as `write`.
        """
        async with asyncio.timeout(CHUNK_DEADLINE_S):
            held = await self.contact.store.read([entry.keys[0] for entry in entries])
        for entry, stored in zip(entries, held, strict=True):
            if stored is not None and stored.document:
                entry.source.recall(stored.document)

    def failed(self, error: Exception) -> None:
        """The store could not be used: leave it alone until `probe_at`."""
        self.contact.failed(error)
        self.probe_at = self._clock.monotonic() + self.contact.retry_delay(self._rng)

    async def probe(self) -> bool:
        """Try a store that is away when it is time. True when it answers: it counts as up once it has taken a write."""
        if self.contact.usable or self._clock.monotonic() < self.probe_at or not await self._ping():
            return False
        self.contact.usable = True
        self.contact.lost_data()
        return True

    async def look_after(self) -> bool:
        """Ask an idle store whether it is still there. True when it turns out to have lost its data."""
        if self._clock.monotonic() - self.contact.heard_at < self._interval_s / 2 or not await self._ping():
            return False
        self.contact.answered(self._clock.monotonic())
        return self.contact.lost_data()

    async def _ping(self) -> bool:
        try:
            async with asyncio.timeout(PROBE_DEADLINE_S):
                await self.contact.store.ping()
        except (StoreUnavailable, TimeoutError) as error:
            self.failed(error)
            return False
        return True
