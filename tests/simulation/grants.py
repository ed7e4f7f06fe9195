"""The table of grants in memory: what `GrantTable` promises, with transactions that a crash rolls back.

One row lock per grant, held by a transaction; a transaction ends with its commit, its roll-back or its process. Leases
and expiry go by the database's clock.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from random import Random
from typing import Any

from bridge.brokers.base import BrokerAccount, ConsentScope, Environment
from bridge.credentials.grant_table import MOST_ATTEMPTS, Grant, Source
from bridge.runtime.clock import Clock
from core.errors import Unavailable
from tests.simulation.loop import Owner
from tests.simulation.ports import Door

LOCK_WAIT_S = 5.0
LOCK_POLL_S = 0.02


@dataclass(slots=True)
class _Row:
    grant: Grant
    refresh_owner: str | None = None
    refresh_until_ms: int = 0
    locked_by: Transaction | None = None


@dataclass(slots=True, eq=False)
class Transaction:
    """`process`: with it the transaction ends."""

    process: Owner
    over: bool = False

    @property
    def holds(self) -> bool:
        return not (self.over or self.process.dead)


class GrantRows:
    """All rows. `paired(grant, process)`: told of every pair that is stored, and by whom. `raced`: somebody wants
    a lease that another one has."""

    def __init__(self, clock: Clock, rng: Random) -> None:
        self._clock = clock
        self._rng = rng
        self._rows: dict[str, _Row] = {}
        self.raced: Callable[[], None] = lambda: None
        self.paired: Callable[[Grant, Owner], None] = lambda grant, process: None

    def add(self, user_key: str, broker: str, environment: Environment, account_id: str | None, sealed: bytes) -> None:
        """A grant as entered by its user."""
        grant_id = f"{self._rng.getrandbits(128):032x}"
        now_ms = self._clock.now_ms()
        self._rows[grant_id] = _Row(
            Grant(
                id=grant_id,
                user_key=user_key,
                broker=broker,
                environment=environment,
                account_id=account_id,
                scope=None,
                accounts=(),
                accounts_at_ms=None,
                sealed=sealed,
                version=2,
                expires_at_ms=None,
                leased=False,
                refresh_attempts=0,
                refusal=None,
                source=Source.ENTERED,
                source_print=None,
                created_at_ms=now_ms,
                updated_at_ms=now_ms,
            )
        )

    def all(self) -> list[Grant]:
        return [row.grant for row in self._rows.values()]

    def read(self, grant_id: str) -> Grant | None:
        row = self._rows.get(grant_id)
        return None if row is None else replace(row.grant, leased=row.refresh_until_ms > self._clock.now_ms())

    def find(self, user_key: str, broker: str) -> Grant | None:
        for grant_id, row in self._rows.items():
            if (row.grant.user_key, row.grant.broker) == (user_key, broker):
                return self.read(grant_id)
        return None

    def lock(self, grant_id: str, transaction: Transaction) -> bool:
        row = self._rows[grant_id]
        if row.locked_by is not None and row.locked_by.holds and row.locked_by is not transaction:
            return False
        row.locked_by = transaction
        return True

    def commit(self, grant_id: str, transaction: Transaction, changes: Sequence[Callable[[Grant], Grant]]) -> None:
        """Carry the changes out, unless the lock was lost meanwhile."""
        row = self._rows[grant_id]
        if transaction.over or row.locked_by is not transaction:
            raise Unavailable("the transaction was rolled back")
        version = row.grant.version
        for change in changes:
            row.grant = change(row.grant)
        if row.grant.version != version:
            row.refresh_owner, row.refresh_until_ms = None, 0
            self.paired(row.grant, transaction.process)
        row.grant = replace(row.grant, updated_at_ms=self._clock.now_ms())
        transaction.over, row.locked_by = True, None

    def lease(self, grant_id: str, version: int, owner: str, seconds: float) -> int | None:
        row = self._rows[grant_id]
        grant, now_ms = row.grant, self._clock.now_ms()
        if grant.version != version or grant.sealed is None or grant.refusal is not None:
            return None
        if row.refresh_owner != owner:
            if row.refresh_until_ms > now_ms:
                self.raced()
                return None
            if grant.refresh_attempts >= MOST_ATTEMPTS:
                return None
            row.grant = replace(grant, refresh_attempts=grant.refresh_attempts + 1)
        row.refresh_owner, row.refresh_until_ms = owner, now_ms + round(seconds * 1000)
        return row.grant.refresh_attempts

    def release(self, grant_id: str, version: int, owner: str, *, unsent: bool) -> None:
        row = self._rows[grant_id]
        if row.grant.version == version and row.refresh_owner == owner:
            row.refresh_owner, row.refresh_until_ms = None, 0
            row.grant = replace(row.grant, refresh_attempts=row.grant.refresh_attempts - int(unsent))

    def refuse(self, grant_id: str, version: int, code: str) -> None:
        row = self._rows[grant_id]
        if row.grant.version == version and row.grant.sealed is not None:
            row.refresh_owner, row.refresh_until_ms = None, 0
            row.grant = replace(row.grant, refusal=code)


class GrantsBehindDoor:
    """A `GrantTable` of one process."""

    def __init__(self, rows: GrantRows, door: Door, process: Owner) -> None:
        self._rows = rows
        self._door = door
        self._process = process

    async def find(self, user_key: str, broker: str) -> Grant | None:
        found: Grant | None = await self._door.call("grant", lambda: self._rows.find(user_key, broker))
        return found

    async def by_id(self, grant_id: str) -> Grant | None:
        found: Grant | None = await self._door.call("grant", lambda: self._rows.read(grant_id))
        return found

    async def lease(self, grant_id: str, version: int, owner: str, seconds: float) -> int | None:
        attempt: int | None = await self._door.call(
            "grant lease", lambda: self._rows.lease(grant_id, version, owner, seconds)
        )
        return attempt

    async def release(self, grant_id: str, version: int, owner: str, *, unsent: bool) -> None:
        await self._door.call("grant release", lambda: self._rows.release(grant_id, version, owner, unsent=unsent))

    async def refuse(self, grant_id: str, version: int, code: str) -> None:
        await self._door.call("grant refuse", lambda: self._rows.refuse(grant_id, version, code))

    @asynccontextmanager
    async def held_if_any(self, user_key: str, broker: str) -> AsyncIterator[HeldInMemory | None]:
        found = await self.find(user_key, broker)
        async with self.held_by_id(found.id if found else "") as held:
            yield held

    @asynccontextmanager
    async def held_by_id(self, grant_id: str) -> AsyncIterator[HeldInMemory | None]:
        if await self.by_id(grant_id) is None:
            yield None
            return
        transaction = Transaction(self._process)
        try:
            await self._locked(grant_id, transaction)
            row = self._rows.read(grant_id)
            assert row is not None
            held = HeldInMemory(row)
            yield held
            await self._door.call("grant commit", lambda: self._rows.commit(grant_id, transaction, held.changes))
        finally:
            transaction.over = True

    async def _locked(self, grant_id: str, transaction: Transaction) -> None:
        for _ in range(round(LOCK_WAIT_S / LOCK_POLL_S)):
            if await self._door.call("grant lock", lambda: self._rows.lock(grant_id, transaction)):
                return
            await asyncio.sleep(LOCK_POLL_S)  # the database would wake us
        raise Unavailable("the row is locked")


class HeldInMemory:
    """A `HeldGrant`: what is asked for happens with the commit."""

    def __init__(self, row: Grant) -> None:
        self.row = row
        self.changes: list[Callable[[Grant], Grant]] = []
        self.is_new = False

    async def new_pair(self, sealed: bytes, key_id: str, expires_in_s: float | None) -> None:
        def change(row: Grant) -> Grant:
            return replace(row, sealed=sealed, version=row.version + 1, refresh_attempts=0, refusal=None)

        self.changes.append(change)

    async def describe(
        self,
        environment: Environment,
        account_id: str | None,
        scope: ConsentScope | None,
        source: Source,
        source_print: str | None,
    ) -> None:
        named: dict[str, Any] = {"scope": scope, "source": source, "source_print": source_print}
        self.changes.append(lambda row: replace(row, environment=environment, account_id=account_id, **named))

    async def cover(self, accounts: Sequence[BrokerAccount]) -> None:
        self.changes.append(lambda row: replace(row, accounts=tuple(accounts)))

    async def uncover(self) -> None:
        self.changes.append(lambda row: replace(row, accounts=()))
