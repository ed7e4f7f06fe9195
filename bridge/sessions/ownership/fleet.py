"""What all processes share about ownership: the protocol, and its values.

Every decision that needs agreement is one statement of the place behind it, by its own clock. Invariants: a name that
has lost its lease never gets one again; a session has at most one owner with a lease; its fence grows with every change
of owner, in the same step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from bridge.sessions.desired import Identity, StoredSession
from bridge.sessions.ownership.shares import Reading


@dataclass(frozen=True, slots=True)
class ProcessRow:
    """A process with a lease. Times Unix ms; `left_ms` of its lease (below 0: it has ended and nobody noticed yet).

    `load`: sessions it owns; `sessions`: by record status, as it last said.
    """

    owner: str
    version: str
    capacity: int
    draining: bool
    load: int
    sessions: Mapping[str, int]
    started_at_ms: int
    renewed_at_ms: int
    left_ms: int


@dataclass(frozen=True, slots=True)
class FleetLook:
    """What a process sees: the figures to decide by, the rows behind them, and what it has to do besides.

    `alive`: it has a lease itself. `moves`: sessions of its own that an operator wants elsewhere. `buried`: processes
    whose lease had ended and was removed with this look.
    """

    reading: Reading
    processes: tuple[ProcessRow, ...]
    alive: bool
    moves: tuple[Identity, ...] = ()
    buried: tuple[str, ...] = ()


class Fleet(Protocol):
    """Where it is kept. Every method raises Unavailable when it cannot be read or written now; a write may then have
    been carried out all the same, and every call may be repeated."""

    async def join(self, owner: str, *, version: str, capacity: int, ttl_s: float) -> None:
        """Give a name that was never used a lease."""

    async def renew(self, owner: str, *, ttl_s: float) -> bool:
        """Let the lease last so long from now; False when it is gone. Waits for nothing but the lease itself."""

    async def look(self, owner: str, *, brokers: Sequence[str], sessions: Mapping[str, int] | None = None) -> FleetLook:
        """Remove leases that have ended, and look around.

        `sessions`: by "broker status", what this process tells the others of its own; None: what it said last.
        """

    async def processes(self) -> tuple[list[ProcessRow], int]:
        """Every process, and how many sessions have no owner."""

    async def claim(self, owner: str, *, brokers: Sequence[str], limit: int) -> list[StoredSession]:
        """Own sessions that nobody owns, at risk first, each under a higher fence. Nothing without a lease."""

    async def reclaim(self, owner: str, identities: Sequence[Identity]) -> list[StoredSession]:
        """Raise the fence of sessions that are owned already; returns those that still are."""

    async def release(self, owner: str, identities: Sequence[Identity]) -> None:
        """Own these no more, and tell the others."""

    async def leave(self, owner: str) -> None:
        """End the lease at once: nothing is owned under this name any more. Tells the others."""

    async def drain(self, owner: str, *, draining: bool) -> str:
        """Let a process, named by its beginning, give up all its sessions, or take it back; returns its name.

        Raises NotFound, and Conflict when several match or when nobody would be left to serve.
        """

    async def move(
        self, user_key: str, *, broker: str | None, account_id: str | None, to: str | None
    ) -> list[StoredSession]:
        """Want the running sessions of a user (of one broker, of one account) elsewhere: at `to`, named by its
        beginning, or with None at the process with the most room. Returns the sessions meant.

        Raises NotFound, and Conflict when there is no such process to move to.
        """
