"""The reference store: records in this process's memory. For development, tests, and as the meaning of the protocol.

Nothing survives the process. It never waits and never fails.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

from bridge.cache.store import CHUNK, Refusal, StoreCapabilities, Stored, Write
from bridge.runtime.clock import Clock


@dataclass(slots=True)
class _Held:
    fence: int
    version: int
    document: bytes


class MemoryStore:
    """A dict under the Store protocol."""

    def __init__(self, clock: Clock, *, name: str = "memory") -> None:
        self.name = name
        self.capabilities = StoreCapabilities()
        self.generation: str | None = "memory"
        self._clock = clock
        self._held: dict[str, _Held] = {}

    async def open(self) -> None:
        """Nothing to connect."""

    async def claim(self, keys: Sequence[str], *, at_least: int = 0) -> list[int]:
        """Raise the fence of each key to max(stored + 1, this machine's clock, `at_least`)."""
        floor = max(self._clock.now_ms(), at_least)
        fences = []
        for key in keys:
            held = self._held.setdefault(key, _Held(0, 0, b""))
            held.fence = max(held.fence + 1, floor)
            held.version = 0
            fences.append(held.fence)
        return fences

    async def write(self, writes: Sequence[Write]) -> list[Refusal]:
        """Accept what is newer than what is held; return the rest with what is held."""
        if len(writes) > CHUNK:
            raise ValueError(f"more than {CHUNK} records in one write")
        refused = []
        for write in writes:
            held = self._held.get(write.key)
            if held is not None and (write.fence, write.version) <= (held.fence, held.version):
                refused.append(Refusal(write.key, held.fence, held.version))
            else:
                self._held[write.key] = _Held(write.fence, write.version, write.document)
        return refused

    async def read(self, keys: Sequence[str]) -> list[Stored | None]:
        """What is held under each key."""
        return [
            None if (held := self._held.get(key)) is None else Stored(key, held.fence, held.version, held.document)
            for key in keys
        ]

    async def keys(self, prefix: str, *, after: str = "", limit: int = 1000) -> list[str]:
        """Keys of records with this prefix, sorted."""
        return heapq.nsmallest(
            limit, (key for key, held in self._held.items() if held.document and key.startswith(prefix) and key > after)
        )

    async def delete(self, keys: Sequence[str]) -> None:
        """Drop the documents; fences and versions stay."""
        for key in keys:
            if key in self._held:
                self._held[key].document = b""

    async def forget(self, keys: Sequence[str]) -> None:
        """Drop all that is held."""
        for key in keys:
            self._held.pop(key, None)

    async def ping(self) -> None:
        """Always there."""

    async def close(self) -> None:
        """Nothing to release."""
