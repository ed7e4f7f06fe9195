"""Making records for a flush: the newest reading of each entry under its next version, in slices.

It writes nothing and keeps no document. One account that cannot be told (a defect) never keeps the others' records
back: it is counted, logged once and tried again at the next interval.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from bridge.cache.entry import Entry
from bridge.cache.record import make_record, stale_after_ms
from bridge.cache.store import Write
from bridge.runtime.clock import Clock

log = logging.getLogger(__name__)

SLICE = 50  # records made between two turns of the loop: about a millisecond
CLOCK_GRAIN_MS = 1000  # smaller steps back are rounding and slewing

Made = tuple[Entry, list[Write]]


class RecordMaker:
    """Makes records; `known(entry)` False: the entry was forgotten while it waited."""

    def __init__(self, clock: Clock, known: Callable[[Entry], bool]) -> None:
        self._clock = clock
        self._known = known
        self.made = 0
        self.failures = 0

    async def make(self, entries: Sequence[Entry]) -> tuple[list[Made], list[Entry]]:
        """One record per entry, and the entries for which none was made. Yields to the loop between slices."""
        made: list[Made] = []
        left: list[Entry] = []
        for index, entry in enumerate(entries):
            if index % SLICE == SLICE - 1:
                await asyncio.sleep(0)
            fence = entry.fence
            document = self._make_one(entry, fence) if fence is not None and self._known(entry) else None
            if document is None or fence is None:
                left.append(entry)
            else:
                made.append((entry, [Write(key, fence, entry.version, document) for key in entry.keys]))
        return made, left

    def _make_one(self, entry: Entry, fence: int) -> bytes | None:
        try:
            reading = entry.source.reading()
            record = make_record(reading, fence=fence, version=entry.version + 1, now_ms=self._clock.now_ms())
        except Exception:  # last resort: one account that cannot be told must not keep the others' records back
            self.failures += 1
            if not entry.broken:
                log.exception("a record could not be made", extra={"key": shown(entry.keys[0])})
            entry.broken = True
            return None
        if reading.mirror is not None:
            reading.mirror.clean()
        self.made += 1
        entry.broken = False
        entry.version += 1
        entry.stale_after_ms = record.stale_after_ms
        entry.live = record.live
        return record.document

    def would_extend(self, entry: Entry) -> bool:
        """True when a record made now would stay fresh longer than the one written, or must not stay fresh as long:
        the wall clock was set back, and what was written would look fresh by so much too long.
        """
        try:
            after = stale_after_ms(entry.source.reading())
        except Exception:  # noqa: BLE001 - last resort, as above: making the record will count and log it
            return True
        written = entry.stale_after_ms
        return after is not None and (written is None or after > written or after < written - CLOCK_GRAIN_MS)


def shown(key: str) -> str:
    """What logs show of a record key: twelve digits of the user key."""
    return key.partition("_account_")[2][:12]
