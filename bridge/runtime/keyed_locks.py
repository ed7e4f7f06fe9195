"""One lock for each key, for as long as somebody of this process holds it or waits for it.

Keys come from outside and are many: nothing is kept of one that nobody uses.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Hashable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


class KeyedLocks(Generic[K]):
    """`len`: keys in use."""

    def __init__(self) -> None:
        self._locks: dict[K, asyncio.Lock] = {}
        self._users: dict[K, int] = {}

    def __len__(self) -> int:
        return len(self._locks)

    @asynccontextmanager
    async def hold(self, key: K) -> AsyncIterator[None]:
        """Wait for the lock of a key, however long, and hold it in the block."""
        with self.of(key) as lock:
            async with lock:
                yield

    @contextmanager
    def of(self, key: K) -> Iterator[asyncio.Lock]:
        """The lock of a key, for who takes it in a way of their own within the block."""
        lock = self._locks.setdefault(key, asyncio.Lock())
        self._users[key] = self._users.get(key, 0) + 1
        try:
            yield lock
        finally:
            self._users[key] -= 1
            if not self._users[key]:
                del self._users[key], self._locks[key]
