"""Which executions of one account are known, and since when some may have been missed. Pure.

Invariant: an execution is noted once, however often the broker tells of it. What is remembered is bounded: beyond the
last ids only a time is kept, and nothing that old is noted any more.
"""

from __future__ import annotations

from collections.abc import Iterable

from core.events import BalanceChanged, Event, Fill, OrderChanged, OrderGone, PositionChanged, PositionClosed

REMEMBERED_DEALS = 256

# A position that was opened and closed again while nobody listened leaves a trace in the balance only.
_TRACES = (BalanceChanged, PositionChanged, PositionClosed, OrderChanged, OrderGone)


class DealBook:
    """The executions of one account. `owed_since_ms`: deals since then must be asked for (Unix ms); None: none."""

    __slots__ = ("_forgotten_ms", "_known", "_live_since_ms", "owed_since_ms")

    def __init__(self) -> None:
        self._known: dict[str, int] | None = None  # id -> when; most accounts trade rarely or never
        self._forgotten_ms = 0
        self._live_since_ms: int | None = None
        self.owed_since_ms: int | None = None

    def note(self, fill: Fill) -> bool:
        """True when this execution is new. One found afterwards is not, when it is older than our first look."""
        if fill.recovered and fill.at_ms < (self._live_since_ms or 0):
            return False
        if self._known is None:
            self._known = {}
        if fill.execution_id in self._known or fill.at_ms <= self._forgotten_ms:
            return False
        self._known[fill.execution_id] = fill.at_ms
        if len(self._known) > REMEMBERED_DEALS:
            oldest = next(iter(self._known))
            self._forgotten_ms = max(self._forgotten_ms, self._known.pop(oldest))
        return True

    def compared(self, missing: Iterable[Event], since_ms: int | None, now_ms: int) -> None:
        """The account was read; `missing`: what the stream had not told since the reading before (None: the first)."""
        if since_ms is None:
            self._live_since_ms = now_ms
        elif self.owed_since_ms is None and any(isinstance(event, _TRACES) for event in missing):
            self.owed_since_ms = since_ms
