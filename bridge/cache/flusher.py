"""The flusher: carries out the flush plan against the stores (DESIGN §8).

One task drives the primary, one each copy; so one flush is in flight per store. A record is made when it is about to be
written and never kept: while no store answers only the marks remain. Making yields to the loop every SLICE records.
Rules kept here: the primary decides (a refusal under a higher fence fences the session, an equal one is a replay and
counts as success), copies get what the primary accepted, and after any outage or loss everything owned is written anew.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from random import Random

from bridge.cache.claims import claim
from bridge.cache.copies import Copy
from bridge.cache.entry import Entry, FlushObserver, RecordSource, StoreHealth
from bridge.cache.making import Made, RecordMaker
from bridge.cache.planning import FlushMode, FlushPlan
from bridge.cache.primary import Primary
from bridge.cache.store import CHUNK, Refusal, Store, StoreUnavailable, Write
from bridge.runtime.clock import Clock
from bridge.runtime.tasks import CrashHandler, Tasks

RELEASE_WAIT_S = 3.0
PATIENCE = 0.5  # share of a drain's time in which the primary must have said something
CUT_OFF_S = 0.2
HELD_S = 0.1  # how often to look whether writing is allowed again
GRAIN_S = 0.001  # no timer is finer, so that two clocks of unlike resolution never spin


class Flusher:
    """Writes the records of every registered session to the primary store and its copies.

    `stores[0]` is the primary. `on_written` gets what was just written, for the in-process tier of readers. `allowed`:
    whether this process may write at all; while it may not, everything waits, coalesced.
    """

    def __init__(
        self,
        stores: Sequence[Store],
        *,
        clock: Clock,
        rng: Random,
        interval_s: float = 2.0,
        mode: FlushMode = FlushMode.CHANGED,
        observer: FlushObserver | None = None,
        on_written: Callable[[Sequence[Write]], None] | None = None,
        on_crash: CrashHandler | None = None,
        allowed: Callable[[], bool] = lambda: True,
    ) -> None:
        self._clock = clock
        self._on_written = on_written
        self._allowed = allowed
        self._tasks = Tasks("flusher", on_crash)
        self._plan = FlushPlan(interval_s=interval_s, mode=mode, rng=rng, now=clock.monotonic())
        self._primary = Primary(stores[0], clock=clock, rng=rng, interval_s=interval_s, observer=observer)
        self._maker = RecordMaker(clock, lambda entry: self._entries.get(entry.keys[0]) is entry)
        self._copies = [
            Copy(store, self, clock=clock, rng=rng, interval_s=interval_s, observer=observer, allowed=allowed)
            for store in stores[1:]
        ]
        self._entries: dict[str, Entry] = {}  # by canonical key
        self._by_key: dict[str, Entry] = {}  # by every key
        self._leaving: set[Entry] = set()  # released, last state not yet written
        self._owed: set[Entry] = set()  # not written yet since the drain began
        self._wake, self._progress = asyncio.Event(), asyncio.Event()
        self._driver: asyncio.Task[None] | None = None
        self.alive_at = clock.monotonic()
        self.fenced = self.unstorable = 0

    # ------------------------------------------------------------ for sessions

    def register(self, keys: tuple[str, ...], source: RecordSource, *, fence: int = 0) -> Entry:
        """Begin to write this source's records under `keys` (canonical first). The first one is written at once.

        A key that is still registered is taken over with its fence and version, unless that is below `fence`.
        """
        entry = Entry(keys, source, floor=fence)
        old = self._entries.get(keys[0])
        if old is not None:
            if old.keys == keys and not old.fenced and (old.fence or 0) >= fence:
                entry.fence, entry.version = old.fence, old.version
                entry.last_flush_at_ms = old.last_flush_at_ms
            self._forget(old)
        self._entries[keys[0]] = entry
        self._by_key.update(dict.fromkeys(keys, entry))
        self.mark(entry, urgent=True)
        return entry

    def mark(self, entry: Entry, *, urgent: bool = False) -> None:
        """The source's reading changed. Urgent (status, fill, balance): within 100 ms or after the chunk in flight."""
        if not urgent:
            self._plan.mark(entry)
        elif not entry.urgent:
            self._plan.urge(entry, self._clock.monotonic())
            self._wake.set()

    async def recorded(self, entry: Entry, timeout_s: float) -> None:
        """Wait until no urgent change of this entry is left to write, at most `timeout_s`; sooner if a store failed."""
        await self._until(lambda: not (entry.urgent or entry.in_flight), timeout_s)

    async def release(self, entry: Entry) -> None:
        """Forget the entry after its last state is written; waits for that a few seconds at most.

        If no store takes it in time, it is kept until one does, and then forgotten.
        """
        if self._entries.get(entry.keys[0]) is not entry:
            return
        self._leaving.add(entry)
        self.mark(entry, urgent=True)
        await self._until(lambda: entry not in self._leaving, RELEASE_WAIT_S)

    def forget(self, entry: Entry) -> None:
        """Write nothing more for this entry: its session is another process's."""
        if self._entries.get(entry.keys[0]) is entry:
            self._forget(entry)
            entry.fenced = True

    # ------------------------------------------------------------ for the app

    async def start(self) -> None:
        """Start writing. The stores must have been opened."""
        self._driver = self._tasks.start(self._run(), name="primary", essential=True)
        for copy in self._copies:
            self._tasks.start(copy.run(), name=f"copy {copy.contact.store.name}", essential=True)

    async def drain(self, deadline_s: float) -> int:
        """Write the present state of every entry at once; returns how many reached no store by the deadline.

        What changes after its record was made is not waited for: prices go on until the brokers are left. A primary
        that says nothing for half of that time is left waiting: what the copies can be told, they are told.
        """
        told: set[Entry] = set()
        began = self._clock.monotonic()
        primary = self._primary.contact
        self._owed = set(self._entries.values())
        self._urge_all()
        await self._until(lambda: self._nothing_owed() or not primary.usable, deadline_s * PATIENCE)
        if (not primary.usable or primary.heard_at < began) and not self._nothing_owed():
            told = await self._tell_copies()
        await self._until(self._nothing_owed, deadline_s - (self._clock.monotonic() - began))
        return len(self._owed - told)

    async def _tell_copies(self) -> set[Entry]:
        """Cut the primary's writer off, in whatever it waits; give the copies what it did not take; let it try on.

        Returns what some copy has taken.
        """
        if self._driver is not None:
            self._driver.cancel()
            await asyncio.wait({self._driver}, timeout=CUT_OFF_S)
        self._urge_all()
        while entries := self._plan.take(CHUNK):
            await self._flush_to_copies(entries)
        await self._until(lambda: not any(copy.waiting for copy in self._copies), CUT_OFF_S)
        taken = {entry for entry in self._owed if entry.fence is not None and not entry.broken}
        told = taken if self._copies_usable() else set()
        self._urge_all()
        self._driver = self._tasks.start(self._run(), name="primary", essential=True)
        return told

    def _urge_all(self) -> None:
        now = self._clock.monotonic()
        for entry in self._entries.values():
            entry.urgent = False  # of a chunk that was cut off, maybe
            self._plan.urge(entry, now)
        self._wake.set()

    async def close(self) -> None:
        """Stop writing. Stores are closed by whoever opened them."""
        await self._tasks.close()

    def health(self) -> dict[str, StoreHealth]:
        """Every store by name."""
        unwritten = sum(not entry.written for entry in self._entries.values())
        primary = self._primary.contact
        stores = {primary.store.name: primary.health(unwritten)}
        for copy in self._copies:
            stores[copy.contact.store.name] = copy.contact.health(
                copy.waiting if copy.contact.usable else len(self._entries)
            )
        return stores

    @property
    def primary_usable(self) -> bool:
        """For readiness: the primary answered last time it was asked."""
        return self._primary.contact.usable and self._primary.contact.state != "connecting"

    def metrics(self) -> Mapping[str, float]:
        """Plain counters and gauges. `record_age_s`: age of the oldest written record of a live session."""
        now_ms = self._clock.now_ms()
        oldest = min(
            (entry.last_flush_at_ms for entry in self._entries.values() if entry.live and entry.last_flush_at_ms),
            default=now_ms,
        )
        return {
            "entries": len(self._entries),
            "records_made": self._maker.made,
            "record_failures": self._maker.failures,
            "fenced": self.fenced,
            "unstorable": self.unstorable,
            "record_age_s": (now_ms - oldest) / 1000,
        }

    # ------------------------------------------------------------ for copies

    def copy_returned(self) -> None:
        """A copy needs every record again."""
        self._write_everything()

    def copy_refused(self, refusals: Sequence[Refusal]) -> None:
        """A copy holds higher fences: claim anew, but only after the primary has once more accepted the present one.

        Were the session owned elsewhere by now, the primary refuses and nothing is claimed back.
        """
        for refusal in refusals:
            entry = self._by_key.get(refusal.key)
            if entry is not None and not entry.contested and entry.fence is not None and entry.fence < refusal.fence:
                entry.contested = True
                self.mark(entry, urgent=True)

    def copy_progressed(self) -> None:
        """Wake whoever waits for records to be written."""
        self._progress.set()

    # ------------------------------------------------------------ the loop

    async def _run(self) -> None:
        """One chunk per turn, so that urgent entries, ticks and renewals never wait for more than the one in flight."""
        await self._primary.look_after()
        while True:
            await self._wait_for_work()
            self.alive_at = self._clock.monotonic()
            if not self._allowed():
                await asyncio.sleep(HELD_S)
                continue
            if await self._primary.probe():
                self._write_everything()
            self._plan.tick(self._clock.monotonic(), self._entries.values())
            if self._primary.contact.usable:
                await self._renew()
                if entries := self._plan.take(CHUNK):
                    await self._flush_chunk(entries)
                elif await self._primary.look_after():
                    self._write_everything()
            elif self._copies_usable():
                await self._renew()
                await self._flush_to_copies(self._plan.take(CHUNK))

    async def _wait_for_work(self) -> None:
        """Until something is due, a mark is urgent, or a store that is away should be tried again."""
        while True:
            now = self._clock.monotonic()
            at = self._plan.wake_at()
            if not self._primary.contact.usable:
                at = min(at, self._primary.probe_at) if self._copies_usable() else self._primary.probe_at
            if at <= now:
                return
            self._wake.clear()
            try:
                async with asyncio.timeout(max(at - now, GRAIN_S)):
                    await self._wake.wait()
            except TimeoutError:
                return

    def _copies_usable(self) -> bool:
        return any(copy.contact.usable for copy in self._copies)

    async def _renew(self) -> None:
        """Write again what will soon stop looking fresh, if the broker was heard since its last record."""
        now = self._clock.monotonic()  # one reading, so that nothing is looked at twice
        while found := self._plan.renewals(now, CHUNK):
            for entry in found:
                if self._maker.would_extend(entry):
                    self._plan.mark_due((entry,))
                else:
                    self._plan.renew_later(entry, now)
            await asyncio.sleep(0)

    # ------------------------------------------------------------ one chunk

    async def _flush_chunk(self, entries: list[Entry]) -> None:
        """Claim what has no fence, make the records, write the primary, hand what it accepted to the copies."""
        try:
            unclaimed = [entry for entry in entries if entry.fence is None]
            if unclaimed:
                await claim(unclaimed, self._primary.contact, [copy.contact for copy in self._copies], self._clock)
                await self._primary.recall(unclaimed)
            made = await self._make(entries)
            writes = [write for _, own in made for write in own]
            if not self._allowed():  # what took so long may have been a frozen process
                return self._plan.put_back(entries)
            refusals = await self._primary.write(writes) if writes else []
        except (StoreUnavailable, TimeoutError) as error:
            self._plan.put_back(entries)
            self._primary.failed(error)
            self._progress.set()
            return
        held = {refusal.key: refusal for refusal in refusals}
        accepted: list[Write] = []
        for entry, own in made:
            mine = [held[write.key] for write in own if write.key in held]
            higher = max((refusal.fence for refusal in mine), default=0)
            if higher > own[0].fence:
                self._fence(entry, higher)
                continue
            self._accepted(entry)
            if any((refusal.fence, refusal.version) < (own[0].fence, own[0].version) for refusal in mine):
                self.unstorable += 1  # not this record, whatever the reason: copies and readers wait for the next one
            else:
                accepted += own
        self._hand_on(accepted)
        if self._primary.contact.lost_data():
            self._write_everything()

    async def _flush_to_copies(self, entries: list[Entry]) -> None:
        """While the primary is away, what it has claimed goes to the copies alone; the rest waits, coalesced."""
        self._plan.put_back([entry for entry in entries if entry.fence is None])
        made = await self._make([entry for entry in entries if entry.fence is not None])
        for entry, _ in made:
            entry.in_flight = False
            self._plan_renewal(entry)
        self._hand_on([write for _, own in made for write in own])

    async def _make(self, entries: list[Entry]) -> list[Made]:
        """Make the records; an entry whose record could not be made is tried again at the next interval."""
        made, left = await self._maker.make(entries)
        for entry in left:
            entry.in_flight = False
            if entry.broken and entry not in self._leaving:
                self._plan.mark(entry)
            else:
                self._forget(entry)
        return made

    def _accepted(self, entry: Entry) -> None:
        entry.in_flight = False
        if not entry.urgent:  # else it was made before it was asked for
            self._owed.discard(entry)
        entry.last_flush_at_ms = self._clock.now_ms()
        self._plan_renewal(entry)
        if entry.contested:
            entry.fence = None
            self._plan.urge(entry, self._clock.monotonic())
        self._settle(entry)

    def _plan_renewal(self, entry: Entry) -> None:
        fresh_for_s = None
        if entry.live and entry.stale_after_ms is not None:
            fresh_for_s = (entry.stale_after_ms - self._clock.now_ms()) / 1000
        self._plan.recorded(entry, fresh_for_s=fresh_for_s, now=self._clock.monotonic())

    def _hand_on(self, writes: list[Write]) -> None:
        for copy in self._copies:
            copy.offer(writes)
        if self._on_written is not None:
            self._on_written(writes)
        self._progress.set()

    # ------------------------------------------------------------ entries

    def _fence(self, entry: Entry, fence: int) -> None:
        """Somebody owns this session under a higher fence: stop writing it, and say so."""
        self.fenced += 1
        self._forget(entry)
        entry.fenced = True
        entry.source.fenced(fence)

    def _settle(self, entry: Entry) -> None:
        """A released entry whose last state is written goes."""
        if entry in self._leaving and not entry.dirty:
            self._forget(entry)
        self._progress.set()

    def _forget(self, entry: Entry) -> None:
        self._plan.forget(entry)
        self._leaving.discard(entry)
        self._owed.discard(entry)
        if self._entries.get(entry.keys[0]) is entry:
            del self._entries[entry.keys[0]]
        for key in entry.keys:
            if self._by_key.get(key) is entry:
                del self._by_key[key]
        self._progress.set()

    def _write_everything(self) -> None:
        self._plan.mark_due(self._entries.values())
        self._wake.set()

    # ------------------------------------------------------------ waiting

    def _nothing_owed(self) -> bool:
        """True when every entry was written since the drain began and no usable copy still waits for one."""
        return not self._owed and not any(copy.waiting for copy in self._copies if copy.contact.usable)

    async def _until(self, done: Callable[[], bool], timeout_s: float) -> None:
        try:
            async with asyncio.timeout(timeout_s):
                while not done():
                    self._progress.clear()
                    await self._progress.wait()
        except TimeoutError:
            return
