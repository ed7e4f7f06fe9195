"""Which symbols a data socket must subscribe to next, and what its answers mean (alpaca.md §3.2, §3.4). Pure.

The server answers each change with the whole list, or with an error that changes nothing, so one request is under way
at a time and what piles up meanwhile goes together. Invariant: what the server refused is not asked for again until
room was made, the connection is new, or `forgive` was called.
"""

from __future__ import annotations

from collections.abc import Iterable

SYMBOL_LIMIT = 405
BAD_SYNTAX = 400


class Subscriptions:
    """Trades of one connection. `fed`: what the server said it sends."""

    __slots__ = ("_asked", "_at_once", "_refused", "_removing", "fed", "wanted")

    def __init__(self) -> None:
        self.wanted: frozenset[str] = frozenset()
        self.fed: frozenset[str] = frozenset()
        self._refused: set[str] = set()
        self._asked: list[str] = []
        self._removing = False
        self._at_once: int | None = None  # after a refusal of many: how many to ask for, to find out which fit

    def renew(self) -> None:
        """A new connection: nothing is subscribed there."""
        self.fed = frozenset()
        self._asked = []
        self.forgive()

    def forgive(self) -> None:
        """What was refused may be asked for again."""
        self._refused.clear()
        self._at_once = None

    def next(self) -> tuple[str, list[str]] | None:
        """The action to send now with its symbols, counted as under way; None when there is none."""
        if self._asked:
            return None
        old = self.fed - self.wanted
        if old:
            self._asked, self._removing = sorted(old), True
            return "unsubscribe", self._asked
        new = sorted(self.wanted - self.fed - self._refused)[: self._at_once]
        if not new:
            return None
        self._asked, self._removing = new, False
        return "subscribe", new

    def listed(self, symbols: Iterable[str]) -> None:
        """The server said what it sends now."""
        self.fed = frozenset(symbols)
        asked, self._asked = self._asked, []
        if self._removing:
            self.forgive()  # there is room again
        else:
            self._refused.update(set(asked) - self.fed)

    def refused(self, code: int) -> None:
        """The server refused the change that is under way: part by part from now on, until it is clear what fits."""
        asked, self._asked = self._asked, []
        if self._removing or not asked:
            return
        if len(asked) > 1:
            self._at_once = len(asked) // 2
        elif code == SYMBOL_LIMIT:
            self._refused.update(self.wanted - self.fed)
        else:
            self._refused.update(asked)
