"""The `Store` protocol: where records live, and the one rule every store keeps.

A write is accepted only if its (fence, version) is greater than what is stored, decided inside the store in one step
per chunk; the answer names what was refused. A claim raises the fence: max(stored fence + 1, the store's wall clock in
ms, `at_least`), so that restarts, moves between stores and clock steps never lock a session out (DESIGN §8).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from core.errors import Unavailable

CHUNK = 500
MAX_FENCE = 2**53 - 1  # fences and versions are JSON numbers that browsers read exactly


class StoreUnavailable(Unavailable):
    """The store did not answer in time, refused the connection or cannot write now. Retry later."""


@dataclass(frozen=True, slots=True)
class Write:
    """One record to write: JSON bytes under (fence, version), both 0 to MAX_FENCE."""

    key: str
    fence: int
    version: int
    document: bytes


@dataclass(frozen=True, slots=True)
class Stored:
    """What a store holds under a key. A claimed key without a record has an empty document and version 0."""

    key: str
    fence: int
    version: int
    document: bytes


@dataclass(frozen=True, slots=True)
class Refusal:
    """A write that was not accepted, with what the store holds instead.

    A pair above the write's: somebody else owns the key. An equal pair: a replay. A pair below it: this one document
    cannot be stored (the store has said so in the log); the next version is tried again.
    """

    key: str
    fence: int
    version: int


@dataclass(frozen=True, slots=True)
class StoreCapabilities:
    """`fenced`: the compare happens inside the store. False only for a plain key-value fallback.

    `exact`: documents come back byte for byte. False: as equal JSON, with the fence and version the store holds.
    """

    fenced: bool = True
    exact: bool = True


class Store(Protocol):
    """A place for records. Every method raises StoreUnavailable, and nothing else, when the store cannot serve."""

    name: str
    capabilities: StoreCapabilities
    generation: str | None
    """Names the life of the stored data as last seen by `write` or `ping`; another value means that the store lost what
    it held (restart without persistence, erasure). None: not known."""

    async def open(self) -> None:
        """Connect lazily-failing resources; raises ConfigurationError for what will never work."""

    async def claim(self, keys: Sequence[str], *, at_least: int = 0) -> list[int]:
        """Raise the fence of each key and return the new fences in order; version restarts below 1."""

    async def write(self, writes: Sequence[Write]) -> list[Refusal]:
        """Write at most CHUNK records in one step; keys are distinct. Returns the refused ones.

        A replay of exactly what is stored is refused with an equal (fence, version): the caller reads it as success.
        """

    async def read(self, keys: Sequence[str]) -> list[Stored | None]:
        """Read records; None where nothing was ever claimed or written. A removed one has an empty document."""

    async def keys(self, prefix: str, *, after: str = "", limit: int = 1000) -> list[str]:
        """Keys that begin with `prefix` and sort after `after`, sorted, at most `limit`."""

    async def delete(self, keys: Sequence[str]) -> None:
        """Remove records (migration and erasure only). Fences stay: an older owner is still refused."""

    async def forget(self, keys: Sequence[str]) -> None:
        """Remove records and their fences, so that not even the keys are left. Only for keys that nobody alive writes:
        an older owner would be accepted again.
        """

    async def ping(self) -> None:
        """Cheap round trip that fails like a write would; looks at the generation."""

    async def close(self) -> None:
        """Release connections. Never raises."""
