"""The session table: every row of this process, found by serial, by user, or by what it names.

Invariants: one row per (user, broker, account); at most one row per (user, broker) whose account is not known yet.
Rows of ended sessions stay, so that listings and a repeated stop can still tell of them.
"""

from __future__ import annotations

from collections.abc import Iterator

from bridge.sessions.session import Session
from core.errors import Conflict, InvalidInput, NotFound

SHORTEST_PREFIX = 12
KEY_LENGTH = 64
_HEX = frozenset("0123456789abcdef")


class SessionTable:
    """Rows, indexed by user."""

    def __init__(self) -> None:
        self._rows: dict[int, Session] = {}
        self._users: dict[str, list[Session]] = {}  # by canonical user key

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[Session]:
        return iter(self._rows.values())

    def add(self, session: Session) -> None:
        """Take in a new row."""
        self._rows[session.serial] = session
        self._users.setdefault(session.user_keys.canonical, []).append(session)

    def remove(self, session: Session) -> None:
        """Forget a row that another one replaces."""
        del self._rows[session.serial]
        rows = self._users[session.user_keys.canonical]
        rows.remove(session)
        if not rows:
            del self._users[session.user_keys.canonical]

    def get(self, serial: int) -> Session | None:
        """The row with this serial."""
        return self._rows.get(serial)

    def of(self, user_key: str, broker: str) -> list[Session]:
        """A user's rows at one broker, by canonical user key."""
        return [row for row in self._users.get(user_key, ()) if row.broker == broker]

    def find(self, user_key: str, broker: str, account_id: str | None) -> Session | None:
        """The row of this account; with None, the one whose account is not known yet."""
        return next((row for row in self.of(user_key, broker) if row.account_id == account_id), None)

    def by_prefix(self, prefix: str) -> list[Session]:
        """All rows of one user, named by a full key (of either mode) or its first 12 or more hex digits.

        Raises InvalidInput for anything else, NotFound, and Conflict when several users match.
        """
        if not SHORTEST_PREFIX <= len(prefix) <= KEY_LENGTH or not _HEX.issuperset(prefix):
            raise InvalidInput("a user key is 64 hex digits, or its first 12 or more", field="userKey")
        rows = self._users.get(prefix)
        if rows is not None:
            return list(rows)
        users = [rows for rows in self._users.values() if any(key.startswith(prefix) for key in rows[0].user_keys.all)]
        if not users:
            raise NotFound("no session of this user is known here")
        if len(users) > 1:
            raise Conflict("several users match these digits; give more of the key")
        return list(users[0])
