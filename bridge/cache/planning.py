"""What to flush and when: a pure plan that takes marks and `now` and says which entries are due.

No I/O, no tasks, no clock. A mark costs two attribute reads and at most one set insertion, whatever the number of
entries; everything is coalesced per entry, so nothing here grows while a store is down. A live record is due again
before its `staleAfter` comes within two flush intervals (DESIGN §6).
"""

from __future__ import annotations

import heapq
import math
from collections import OrderedDict
from collections.abc import Iterable
from enum import StrEnum
from random import Random

from bridge.cache.entry import Entry

JITTER = 0.1  # of the interval, both ways
URGENT_DELAY_S = 0.02  # lets a mass cut gather into whole chunks; far inside the 100 ms promised
RENEWALS_PER_INTERVAL = 4  # times at which renewals are looked at, so that they are written together
RENEWAL_MARGIN_S = 0.25  # time to write a renewal after it fell due


class FlushMode(StrEnum):
    """`changed`: what changed or must be renewed. `always`: every live record at every interval."""

    CHANGED = "changed"
    ALWAYS = "always"


class FlushPlan:
    """Dirty entries, urgent entries and renewals of one flusher. All times are monotonic seconds."""

    def __init__(self, *, interval_s: float, mode: FlushMode, rng: Random, now: float) -> None:
        self.interval_s = interval_s
        self.mode = mode
        self._grid_s = interval_s / RENEWALS_PER_INTERVAL
        self._rng = rng
        self._dirty: dict[Entry, None] = {}  # wait for the interval
        self._due: OrderedDict[Entry, None] = OrderedDict()  # the pass under way
        self._urgent: OrderedDict[Entry, None] = OrderedDict()
        self._urgent_at: float | None = None
        self._renewals: list[tuple[float, int, Entry]] = []
        self._order = 0  # breaks ties in the heap
        self._next_tick = now + self._jittered()

    # ------------------------------------------------------------ marks

    def mark(self, entry: Entry) -> None:
        """The entry's content changed: flush it at the next interval."""
        if not entry.dirty and not entry.fenced:
            entry.dirty = True
            self._dirty[entry] = None

    def urge(self, entry: Entry, now: float) -> None:
        """The entry must be written at once (status, fill, balance)."""
        if entry.urgent or entry.fenced:
            return
        entry.dirty = entry.urgent = True
        self._urgent[entry] = None
        if self._urgent_at is None:
            self._urgent_at = now + URGENT_DELAY_S

    def mark_due(self, entries: Iterable[Entry]) -> None:
        """Flush these in the pass under way or about to begin."""
        for entry in entries:
            if not entry.fenced:
                entry.dirty = True
                self._due[entry] = None

    def put_back(self, entries: Iterable[Entry]) -> None:
        """These were taken but not accepted: they are dirty again (only the newest state will be written)."""
        for entry in entries:
            entry.in_flight = False
            self.mark(entry)

    def forget(self, entry: Entry) -> None:
        """The entry is never taken again; its place in the renewal heap falls out by itself."""
        entry.dirty = entry.urgent = entry.in_flight = False
        entry.renew_at = None
        self._dirty.pop(entry, None)
        self._due.pop(entry, None)
        self._urgent.pop(entry, None)

    # ------------------------------------------------------------ time

    def wake_at(self) -> float:
        """When there is something to do next (in the past: now)."""
        if self._due:
            return 0.0
        at = self._next_tick
        if self._urgent_at is not None:
            at = min(at, self._urgent_at)
        if self._renewals:
            at = min(at, self._renewals[0][0])
        return at

    def tick(self, now: float, entries: Iterable[Entry]) -> bool:
        """At the interval, make everything dirty due (and in `always` mode every live entry). True when it was time."""
        if now < self._next_tick:
            return False
        self._next_tick = now + self._jittered()
        self._due.update(self._dirty)
        self._dirty.clear()
        if self.mode is FlushMode.ALWAYS:
            self.mark_due(entry for entry in entries if entry.live)
        return True

    def _jittered(self) -> float:
        return self.interval_s * self._rng.uniform(1 - JITTER, 1 + JITTER)

    # ------------------------------------------------------------ renewal

    def recorded(self, entry: Entry, *, fresh_for_s: float | None, now: float) -> None:
        """A record was made that stays fresh for `fresh_for_s` (None: it cannot look fresh): plan its renewal."""
        if fresh_for_s is None:
            entry.renew_at = None
            return
        due = now + fresh_for_s - 2 * self.interval_s - RENEWAL_MARGIN_S
        self._renew_at(entry, max(math.floor(due / self._grid_s) * self._grid_s, self._next_look(now)))

    def renew_later(self, entry: Entry, now: float) -> None:
        """Nothing newer was heard from the broker, so a renewal would not extend anything: look again soon."""
        self._renew_at(entry, self._next_look(now))

    def _next_look(self, now: float) -> float:
        at = (math.floor(now / self._grid_s) + 1) * self._grid_s
        return at if at > now else at + self._grid_s  # rounding may yield `now` itself, which would never be over

    def _renew_at(self, entry: Entry, at: float) -> None:
        """Only the item at `entry.heap_at` counts: a later time needs no push, an earlier one kills the old item."""
        entry.renew_at = at
        if entry.heap_at is None or at < entry.heap_at:
            self._push(entry, at)

    def _push(self, entry: Entry, at: float) -> None:
        self._order += 1
        entry.heap_at = at
        heapq.heappush(self._renewals, (at, self._order, entry))

    def renewals(self, now: float, limit: int) -> list[Entry]:
        """At most `limit` entries whose renewal is due, each returned once."""
        found: list[Entry] = []
        while self._renewals and self._renewals[0][0] <= now and len(found) < limit:
            at, _, entry = heapq.heappop(self._renewals)
            if at != entry.heap_at:
                continue
            entry.heap_at = None
            if entry.renew_at is None:
                continue
            if entry.renew_at > now:
                self._push(entry, entry.renew_at)  # was rewritten meanwhile
            else:
                entry.renew_at = None
                found.append(entry)
        return found

    # ------------------------------------------------------------ taking

    def take(self, keys: int) -> list[Entry]:
        """The next entries to write, urgent ones first, with at most `keys` keys in all; each is then in flight."""
        taken: list[Entry] = []
        for waiting in (self._urgent, self._due):
            while waiting:
                entry, _ = waiting.popitem(last=False)
                if not entry.dirty:
                    continue  # was taken through the other set
                keys -= len(entry.keys)
                if keys < 0:
                    waiting[entry] = None
                    waiting.move_to_end(entry, last=False)
                    return taken
                entry.dirty = entry.urgent = False
                entry.in_flight = True
                taken.append(entry)
        self._urgent_at = None
        return taken
