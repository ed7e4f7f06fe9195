"""Raising the fences of records together with a change of owner, where both are in one database.

In the transaction of the claim, so that a write which an earlier owner had under way, however long it was delayed, is
refused from the same moment on. Where records are elsewhere, the new owner claims them a moment later, with its first
record.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from bridge.db.database import Connection
from bridge.sessions.defaults import keys_of_row
from bridge.sessions.desired import StoredSession
from core.user_key import UserKeyScheme

RaiseFences = Callable[[Connection, Sequence[str], int], Awaitable[None]]


class RecordFences:
    """`claim(connection, keys, at_least)`: raises the fences of records, within the transaction of `connection`."""

    def __init__(self, claim: RaiseFences, user_keys: UserKeyScheme) -> None:
        self._claim = claim
        self._user_keys = user_keys

    async def follow(self, connection: Connection, rows: Sequence[StoredSession]) -> None:
        """These rows have just got a new owner: their records too."""
        keys = [key for row in rows for key in self._keys(row)]
        if keys:
            await self._claim(connection, sorted(keys), max(row.fence for row in rows))

    def _keys(self, row: StoredSession) -> tuple[str, ...]:
        users = self._user_keys.keys(row.user_id)
        known = users.all if users.canonical == row.user_key else (row.user_key,)
        return keys_of_row(row.broker, known, row.account_id, row.default_account)
