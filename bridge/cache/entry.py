"""What the flusher knows of one session's record, and the protocols on both of its sides.

Values and protocols only. An `Entry` belongs to the flusher: sessions hold it as a handle and read its fields; only
the flusher changes them. (fence, version) of an entry never goes back.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from bridge.cache.record import Reading


class RecordSource(Protocol):
    """A session, as the flusher sees it."""

    def reading(self) -> Reading:
        """What the session is now. Cheap, never fails; called once per record made and when a renewal is due."""

    def recall(self, document: bytes) -> None:
        """What stood under its key before this process began to write it: another life's last record, or anything."""

    def fenced(self, fence: int) -> None:
        """The primary refused a write under this higher fence: somebody else owns the session. Must not block."""


@dataclass(slots=True, eq=False)
class Entry:
    """One session's place in the cache.

    `keys[0]` is canonical, the others are copies for migration (dual mode): same fence, version and document.
    `fence` None until claimed, never below `floor`, which is the fence of the session's ownership. `version` counts the
    records made under this fence. `last_flush_at_ms`: when the primary last accepted a record (Unix ms).
    `stale_after_ms`, `live`: of the record last made.
    """

    keys: tuple[str, ...]
    source: RecordSource = field(repr=False)
    fence: int | None = None
    floor: int = 0
    version: int = 0
    last_flush_at_ms: int | None = None
    stale_after_ms: int | None = None
    live: bool = False
    fenced: bool = False  # refused by the primary under a higher fence: never written again
    dirty: bool = False  # waits for a flush
    urgent: bool = False  # waits for the next chunk, not for the interval
    contested: bool = False  # a copy holds a higher fence: claim anew once the primary has accepted us
    in_flight: bool = False  # part of the chunk being written now
    renew_at: float | None = None  # monotonic s; when it must be renewed
    heap_at: float | None = None  # monotonic s; its place in the planner's heap
    broken: bool = False  # its last record could not be made; said once in the log

    @property
    def written(self) -> bool:
        """True when the last thing this entry asked for has been accepted."""
        return not self.dirty and not self.in_flight


@dataclass(frozen=True, slots=True)
class StoreHealth:
    """One store for /health.

    `role`: "primary" or "copy". `state`: "connecting" before the first answer, then "up" or "down"; "unfenced" is up
    without a compare in the store. Times Unix ms. `dirty`: records this store still has to get. `failures`: attempts
    that failed since start. `refused`: records that a copy refused under a higher fence.
    """

    role: str
    state: str
    last_flush_at: int | None
    last_flush_ms: float | None
    dirty: int
    failures: int
    refused: int


class FlushObserver(Protocol):
    """What telemetry may watch. Called synchronously on the loop; must not block or raise."""

    def flushed(self, store: str, records: int, seconds: float) -> None:
        """One chunk was answered by a store after `seconds`."""
