"""One copy store: gets what the primary accepted, at its own pace, newest record of each key only.

Bounded: at most one waiting record per key while the copy answers, none while it is away. When it comes back, or
turns out to have lost its data, it asks for everything again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from itertools import islice
from random import Random
from typing import Protocol

from bridge.cache.contact import CHUNK_DEADLINE_S, PROBE_DEADLINE_S, Contact
from bridge.cache.entry import FlushObserver
from bridge.cache.store import CHUNK, Refusal, Store, StoreUnavailable, Write
from bridge.runtime.clock import Clock
from bridge.telemetry.tracing import TRACER


class CopyListener(Protocol):
    """Who feeds a copy. Called synchronously."""

    def copy_returned(self) -> None:
        """The copy was away or lost its data: it needs every record again."""

    def copy_refused(self, refusals: Sequence[Refusal]) -> None:
        """The copy holds these keys under higher fences."""

    def copy_progressed(self) -> None:
        """The copy took a chunk or went away: what waits for it has changed."""


class Copy:
    """The writer of one copy. `allowed`: whether this process may write at all."""

    def __init__(
        self,
        store: Store,
        listener: CopyListener,
        *,
        clock: Clock,
        rng: Random,
        interval_s: float,
        observer: FlushObserver | None,
        allowed: Callable[[], bool],
    ) -> None:
        self.contact = Contact(store, "copy")
        self._allowed = allowed
        self._listener = listener
        self._clock = clock
        self._rng = rng
        self._interval_s = interval_s
        self._observer = observer
        self._pending: dict[str, Write] = {}
        self._in_flight = 0
        self._wake = asyncio.Event()

    @property
    def waiting(self) -> int:
        """Records accepted by the primary and not yet by this copy."""
        return len(self._pending) + self._in_flight

    def offer(self, writes: Sequence[Write]) -> None:
        """Take over what the primary accepted. Dropped while the copy is away: it gets everything on its return."""
        if self.contact.usable and writes:
            for write in writes:
                self._pending[write.key] = write
            self._wake.set()

    async def run(self) -> None:
        """Write what is offered, for ever."""
        while True:
            if not self.contact.usable:
                await asyncio.sleep(self.contact.retry_delay(self._rng))
                await self._probe()
            elif self._pending and self._allowed():
                await self._write_chunk()
            else:
                await self._idle()

    async def _idle(self) -> None:
        """Wait for work; an idle copy is asked once per interval whether it is still there and whole."""
        self._wake.clear()
        try:
            async with asyncio.timeout(self._interval_s):
                await self._wake.wait()
        except TimeoutError:
            if self.contact.usable and await self._ping():  # not usable: a claim failed, the probe takes over
                self.contact.answered(self._clock.monotonic())
                self._look_for_loss()

    async def _probe(self) -> None:
        if await self._ping():
            self.contact.usable = True  # "up" again only when it has accepted something or stayed well while idle
            self.contact.lost_data()
            self._listener.copy_returned()

    async def _ping(self) -> bool:
        try:
            async with asyncio.timeout(PROBE_DEADLINE_S):
                await self.contact.store.ping()
        except (StoreUnavailable, TimeoutError) as error:
            self._failed(error)
            return False
        return True

    async def _write_chunk(self) -> None:
        chunk = [self._pending.pop(key) for key in list(islice(self._pending, CHUNK))]
        self._in_flight = len(chunk)
        began = self._clock.monotonic()
        try:
            with TRACER.span("flush", store=self.contact.store.name, records=len(chunk)):
                async with asyncio.timeout(CHUNK_DEADLINE_S):
                    refusals = await self.contact.store.write(chunk)
        except (StoreUnavailable, TimeoutError) as error:
            self._failed(error)
            return
        finally:
            self._in_flight = 0
        now = self._clock.monotonic()
        self.contact.flushed(seconds=now - began, now=now, now_ms=self._clock.now_ms())
        if self._observer is not None:
            self._observer.flushed(self.contact.store.name, len(chunk), now - began)
        self._look_for_loss()
        self._listener.copy_progressed()
        sent = {write.key: write.fence for write in chunk}
        higher = [refusal for refusal in refusals if refusal.fence > sent[refusal.key]]
        if higher:
            self.contact.refused += len(higher)
            self._listener.copy_refused(higher)

    def _look_for_loss(self) -> None:
        if self.contact.lost_data():
            self._listener.copy_returned()

    def _failed(self, error: Exception) -> None:
        self.contact.failed(error)
        self._pending.clear()
        self._listener.copy_progressed()
