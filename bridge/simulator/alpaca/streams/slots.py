"""Who holds the connections that a broker allows: live ones, and those of clients that vanished without a word.

Source: reference/alpaca.md §2.3: one trading stream per account; a stream that died without a close keeps its slot for
about 90 s. Sans I/O: the caller passes `now`, monotonic seconds. Invariant: a slot is either open, held, or free.
"""

from __future__ import annotations

from collections.abc import Hashable


class Slots:
    """So many connections per key; `limit` None = any number."""

    def __init__(self, limit: int | None, hold_s: float) -> None:
        self.limit = limit
        self.hold_s = hold_s
        self._open: dict[Hashable, set[object]] = {}
        self._held: dict[Hashable, list[float]] = {}  # ends of slots that vanished clients still hold

    def is_busy(self, key: Hashable, now: float) -> bool:
        """Whether one more connection would be too many."""
        return self.limit is not None and self.open_count(key) + self._held_count(key, now) >= self.limit

    def take(self, key: Hashable, holder: object, now: float) -> bool:
        """Take a slot; False when none is free. A holder that has one keeps it."""
        if holder in self._open.get(key, ()):
            return True
        if self.is_busy(key, now):
            return False
        self._open.setdefault(key, set()).add(holder)
        return True

    def give_back(self, key: Hashable, holder: object, now: float, *, orderly: bool) -> None:
        """The connection ended. An orderly end frees the slot at once, any other holds it for `hold_s`."""
        holders = self._open.get(key)
        if holders is None or holder not in holders:
            return
        holders.discard(holder)
        if not holders:
            del self._open[key]
        if not orderly and self.hold_s > 0:
            self.hold(key, now + self.hold_s)

    def hold(self, key: Hashable, until: float) -> None:
        """Hold a slot for nobody until `until`."""
        self._held.setdefault(key, []).append(until)

    def release_held(self, key: Hashable | None = None) -> None:
        """Forget vanished clients, of one key or of all."""
        if key is None:
            self._held.clear()
        else:
            self._held.pop(key, None)

    def open_count(self, key: Hashable) -> int:
        """Connections that are really open."""
        return len(self._open.get(key, ()))

    def tick(self, now: float) -> None:
        """Drop what has ended, so that the table does not grow."""
        for key in list(self._held):
            self._held_count(key, now)

    def _held_count(self, key: Hashable, now: float) -> int:
        ends = [end for end in self._held.get(key, ()) if end > now]
        if ends:
            self._held[key] = ends
        else:
            self._held.pop(key, None)
        return len(ends)
