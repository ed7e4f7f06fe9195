"""Named locks across processes, for short critical sections: Postgres advisory locks of one transaction (DESIGN §9).

A lock lives as long as its transaction: it works through every pooler, and is free as soon as its process, its
connection or the server is gone. So it must not be what ownership rests on: a frozen process would keep it until
`hold_s` has passed, a cut one loses it at once. Invariants: one process takes at most one connection for each name,
however many wait; a section that outlives its lock ends with LockLost.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from bridge.db.database import Connection, Database, DatabaseContended, DatabaseUnavailable
from bridge.runtime.clock import Clock
from bridge.runtime.keyed_locks import KeyedLocks
from core.errors import Conflict, Unavailable

STATEMENT_S = 5.0  # a statement of the section, on the lock's connection
HOLD_S = 60.0  # a section may last this long
FROZEN_S = 5.0  # more than that, and the server takes the lock from a process that does not even notice
_SESSIONS = """
select l.pid, l.granted
from pg_catalog.pg_locks l
where l.locktype = 'advisory' and l.objsubid = 1
  and l.database = (select d.oid from pg_catalog.pg_database d where d.datname = current_database())
  and l.classid = $1::bigint::oid and l.objid = $2::bigint::oid
"""


class LockBusy(Conflict):
    """Somebody else holds the lock, and still did when the time to wait was over."""


class LockLost(Unavailable):
    """The section lasted too long or its connection was cut: from some moment on it ran without the lock."""


@dataclass(frozen=True, slots=True)
class HeldLock:
    """A lock that this process holds. What is done on `connection` is committed, or not, together with its release."""

    name: str
    since_ms: int
    connection: Connection


@dataclass(frozen=True, slots=True)
class LockStatus:
    """`held`: by anybody; `here`: by this process; `waiting`: sessions of the database that wait for it."""

    name: str
    held: bool
    here: bool
    waiting: int
    since_ms: int | None


def lock_id(name: str) -> int:
    """The signed 64-bit number of a lock: the first 8 bytes of the SHA-256 of its name."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big", signed=True)


class Locks:
    """The locks of one process. Each one that is held takes one connection of `database`."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._active: dict[str, HeldLock] = {}
        self._gates: KeyedLocks[str] = KeyedLocks()  # more would fill the pool with connections that wait

    @property
    def active(self) -> list[HeldLock]:
        """What this process holds now, oldest first."""
        return sorted(self._active.values(), key=lambda held: held.since_ms)

    @asynccontextmanager
    async def with_lock(self, name: str, *, timeout_s: float = 10.0, hold_s: float = HOLD_S) -> AsyncIterator[HeldLock]:
        """Hold the lock in the block, waiting for it `timeout_s` at most.

        Raises LockBusy when it was not had in time, LockLost when the block went on after the lock was gone,
        DatabaseUnavailable when there is no asking. Nested under the same name it waits for itself: LockBusy.
        """
        deadline = self._clock.monotonic() + timeout_s
        async with AsyncExitStack() as stack:
            gate = stack.enter_context(self._gates.of(name))
            try:
                async with asyncio.timeout(timeout_s):
                    await stack.enter_async_context(gate)
            except TimeoutError:
                raise LockBusy(f"lock {name} is held by this process") from None
            left_s = max(deadline - self._clock.monotonic(), 0.001)
            held = await stack.enter_async_context(self._section(name, left_s, hold_s))
            if held is None:
                raise LockBusy(f"lock {name} is held by another process")
            yield held

    @asynccontextmanager
    async def try_with_lock(self, name: str, *, hold_s: float = HOLD_S) -> AsyncIterator[HeldLock | None]:
        """Hold the lock in the block, or run the block with None when somebody else holds it; never waits for it."""
        with self._gates.of(name) as gate:
            if gate.locked():
                yield None
                return
            async with gate, self._section(name, None, hold_s) as held:
                yield held

    async def status(self, name: str) -> LockStatus:
        """Whether anybody holds the lock. True at the moment of asking, no longer."""
        number = lock_id(name) & (2**64 - 1)
        rows = await self._database.fetch(_SESSIONS, number >> 32, number & (2**32 - 1))
        here = self._active.get(name)
        return LockStatus(
            name,
            held=any(row["granted"] for row in rows),
            here=here is not None,
            waiting=sum(not row["granted"] for row in rows),
            since_ms=here.since_ms if here else None,
        )

    @asynccontextmanager
    async def _section(self, name: str, wait_s: float | None, hold_s: float) -> AsyncIterator[HeldLock | None]:
        """The lock's transaction; None when the lock was not had within `wait_s`, or at once."""
        over = False
        try:
            async with self._database.transaction(timeout_s=STATEMENT_S, pause_s=hold_s + FROZEN_S) as connection:
                if not await _taken(connection, name, wait_s):
                    yield None
                    return
                held = HeldLock(name, self._clock.now_ms(), connection)
                self._active[name] = held
                limit = asyncio.timeout(hold_s)
                try:
                    async with limit:
                        yield held
                except TimeoutError:
                    if limit.expired():
                        raise LockLost(
                            f"lock {name} was held for {hold_s:g} s, which is as long as it may be"
                        ) from None
                    raise
                finally:
                    del self._active[name]
                over = True
        except DatabaseUnavailable as error:
            if over:
                raise LockLost(f"lock {name} was lost while it was held: its connection was cut") from error
            raise


async def _taken(connection: Connection, name: str, wait_s: float | None) -> bool:
    number = lock_id(name)
    if wait_s is None:
        return await connection.fetchval("select pg_try_advisory_xact_lock($1)", number) is True
    limits = f"set local lock_timeout = {math.ceil(wait_s * 1000)}; set local statement_timeout = 0"
    await connection.execute(limits)
    try:
        await connection.execute("select pg_advisory_xact_lock($1)", number, timeout=wait_s + STATEMENT_S)
    except DatabaseContended:
        await connection.execute("rollback; begin")  # so that the transaction can end well
        return False
    await connection.execute(f"set local lock_timeout = 0; set local statement_timeout = {round(STATEMENT_S * 1000)}")
    return True
