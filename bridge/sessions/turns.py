"""Turns: commands about one user's sessions at one broker are carried out one after the other.

A command is stored and then carried out within one turn, so that what runs is what was stored last. Whoever reads many
rows without turns asks afterwards which users had one meanwhile. Holds nothing for users without a command.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TypeAlias

Where: TypeAlias = tuple[str, str]
"""Canonical user key, broker."""


class _Turn:
    __slots__ = ("lock", "wanted_by")

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.wanted_by = 0


class Turns:
    """One lock for each user and broker that has a command under way."""

    def __init__(self) -> None:
        self._turns: dict[Where, _Turn] = {}
        self._watches: list[set[Where]] = []

    @asynccontextmanager
    async def take(self, where: Where) -> AsyncIterator[None]:
        """Wait for the turn of this user at this broker, and hold it."""
        turn = self._turns.setdefault(where, _Turn())
        turn.wanted_by += 1
        try:
            async with turn.lock:
                yield
        finally:
            turn.wanted_by -= 1
            if not turn.wanted_by:
                del self._turns[where]
            for seen in self._watches:
                seen.add(where)

    def taken(self, where: Where) -> bool:
        """True while a command is under way there."""
        return where in self._turns

    @contextmanager
    def watch(self) -> Iterator[set[Where]]:
        """The users who had a turn that ended since; complete together with `taken`."""
        seen: set[Where] = set()
        self._watches.append(seen)
        try:
            yield seen
        finally:
            self._watches = [each for each in self._watches if each is not seen]
