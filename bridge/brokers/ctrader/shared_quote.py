"""One price for many accounts: what a tick costs when a subscription is shared (`CTRADER_QUOTES=shared`).

All mirrors that may be valued with the same price hold the same `SharedQuote` object, so a tick is two assignments
whatever their number. Nobody is told of a tick who has not read the last one: a mirror waits here from the moment a
reading was taken until the next tick, which marks it dirty and forgets it. So the cost grows with accounts x readings
and with ticks, not with accounts x ticks; and what `AccountMirror.events` counts is ticks between two readings, once.

Invariant: a price stands here only while somebody's subscription feeds it. Without one it is withdrawn (None) and P&L
is not known, rather than looking fresh (DESIGN §6).
"""

from __future__ import annotations

from core.account import AccountMirror, Quote


class SharedQuote(Quote):
    """The last bid and ask of a symbol for everybody with the same prices. `ticks` counts, to notice a change."""

    __slots__ = ("_last", "ticks", "waiting")

    def __init__(self) -> None:
        super().__init__()
        self.ticks = 0
        self.waiting: set[AccountMirror] = set()
        self._last: tuple[int | None, int | None] = (None, None)

    def tick(self, bid: int | None, ask: int | None) -> None:
        """Take one tick. An absent side keeps its last value. The hot path."""
        if bid is not None:
            self.bid = bid
        if ask is not None:
            self.ask = ask
        self.ticks += 1
        if self.waiting:
            self._wake()

    def withdraw(self) -> None:
        """No price flows any more: what was valued with it is not known until one does."""
        if self.bid is None and self.ask is None:
            return
        self._last = (self.bid, self.ask)
        self.bid = self.ask = None
        self.ticks += 1
        self._wake()

    def still(self) -> Quote:
        """The last price known, for the mirror of an account whose session is over: its numbers stay (DESIGN §6)."""
        if self.bid is None and self.ask is None:
            return Quote(*self._last)
        return Quote(self.bid, self.ask)

    def _wake(self) -> None:
        waiting, self.waiting = self.waiting, set()
        for mirror in waiting:
            mirror.events += 1
            if not mirror.dirty:
                mirror.mark_dirty()
