"""Makes the session table follow what is stored: a wanted row runs, one that ended is stopped, one that is gone goes.

The only place where rows of the desired sessions become sessions of this process. It reads and writes no store. Its
callers hold the turn of the user, or have made sure that nobody had one. Invariant: a session carries the command of
the row it was last made to follow.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Sequence
from typing import Any

from cachetools import LRUCache

from bridge.brokers.base import ReasonCode
from bridge.sessions import reactions
from bridge.sessions.defaults import keys_of_row
from bridge.sessions.desired import StoredSession
from bridge.sessions.session import Session
from bridge.sessions.standing import Standing
from bridge.sessions.states import RESTARTABLE, State
from bridge.sessions.supervisor import Supervisor
from bridge.sessions.turns import Where
from core.user_key import UserKeyScheme

log = logging.getLogger(__name__)

DEFAULTS_KNOWN = 50_000  # one that was forgotten is read again with the next start


class Roster:
    """Sessions made of stored rows. `defaults`: default accounts that are known, by user and broker; none ever moves.

    `doubts`: users for whom a store may hold something else than what runs, because a call had no answer.
    """

    def __init__(self, supervisor: Supervisor, user_keys: UserKeyScheme, standing: Standing) -> None:
        self._supervisor = supervisor
        self._standing = standing
        self._table = supervisor.table
        self._user_keys = user_keys
        self._serials = itertools.count(1)
        self.defaults: LRUCache[Where, str] = LRUCache(DEFAULTS_KNOWN)
        self.doubts: set[Where] = set()

    def find(self, row: StoredSession) -> Session | None:
        """The session of a row."""
        return self._table.find(row.user_key, row.broker, row.account_id)

    def is_ours(self, row: StoredSession) -> bool:
        """False for a row that was stored under another user key scheme: its record would have another key."""
        return self._user_keys.keys(row.user_id).canonical == row.user_key

    def run(self, row: StoredSession, *, resumed: bool = False) -> Session:
        """The running session of a wanted row: the present one, started again if it had ended, or a new one."""
        session = self.find(row)
        if session is not None and session.environment is not row.environment:
            self._supervisor.remove(session)
            session = None
        if session is None:
            session = self._make(row)
            self._supervisor.start(session, resumed=resumed)
        else:
            session.fence = max(session.fence, row.fence)
            if session.state in RESTARTABLE:
                self._supervisor.start(session, resumed=resumed)
            elif session.entry is not None and session.entry.floor < session.fence:
                self._supervisor.machine.open_record(session)  # it was claimed anew
        self._follow(session, row)
        return session

    def end(self, row: StoredSession) -> Session | None:
        """Stop the session of a row that ended. Without one, and when its last record is owed, one is made for that."""
        session = self.find(row)
        reason = reactions.ENDS[row.ended or ReasonCode.STOPPED]
        if session is None and not row.owes_record:
            return None
        if session is None:
            session = self._make(row)
            session.reason, session.ended_at = reason, session.started_at
            self._supervisor.machine.open_record(session)
        elif session.state is not State.STOPPED:  # else how it ended is known already
            self._supervisor.stop(session, reason)
        self._follow(session, row)
        return session

    def write_last_record(self, row: StoredSession) -> Session | None:
        """As `end`; a last record that was refused is written under the fence that the row has got since."""
        session = self.end(row)
        if session is not None and session.refused:
            session.fence = max(session.fence, row.fence)
            self._supervisor.machine.open_record(session)
        return session

    def drop(self, where: Where, account_id: str | None) -> None:
        """Forget the session of a row that is gone."""
        session = self._table.find(*where, account_id)
        if session is not None:
            self._supervisor.remove(session)

    def drop_outlived(self, row: StoredSession) -> list[asyncio.Task[Any]]:
        """Forget a session of an earlier life of this row: commands only grow, so the user was erased meanwhile.

        Returns the tasks that end its record: the fences of what was erased are above its own.
        """
        session = self.find(row)
        if session is None or session.command <= row.command:
            return []
        released = self._supervisor.remove(session)
        return [] if released is None else [released]

    def lose(self, row: StoredSession) -> None:
        """The row is not this process's: what is left of its session here goes, without a word to readers.

        One that has ended, and that nobody wants, stays for the listings.
        """
        session = self.find(row)
        if session is not None and (row.wanted or session.state is not State.STOPPED):
            self._supervisor.let_go(session)

    def settle(self, where: Where, rows: Sequence[StoredSession]) -> list[StoredSession]:
        """Follow all that is stored of a user at a broker, where it differs from what runs.

        Returns the rows whose sessions were taken up with this: nothing ran for them here.
        """
        taken: list[StoredSession] = []
        stored = {row.account_id for row in rows}
        for session in self._table.of(*where):
            if session.account_id not in stored:
                self._supervisor.remove(session)
        for row in rows:
            running = self.find(row)
            if not self._standing.is_ours(row):
                self.lose(row)
                continue
            if running is not None and running.command == row.command:
                continue
            if not row.wanted:
                self.end(row)
            elif self.is_ours(row):
                if running is None or running.state is State.STOPPED:
                    taken.append(row)
                self.run(row)
        return taken

    def forget(self, where: Where) -> list[asyncio.Task[Any]]:
        """Forget all of a user at a broker; returns the tasks that see to the last records."""
        self.defaults.pop(where, None)
        released = [self._supervisor.remove(session) for session in self._table.of(*where)]
        return [task for task in released if task is not None]

    def _make(self, row: StoredSession) -> Session:
        if row.default_account is not None:
            self.defaults[row.user_key, row.broker] = row.default_account
        keys = self._user_keys.keys(row.user_id)
        session = Session(
            next(self._serials),
            user_id=row.user_id,
            user_keys=keys,
            broker=row.broker,
            environment=row.environment,
            account_id=row.account_id,
            keys=keys_of_row(row.broker, keys.all, row.account_id, row.default_account),
            desk=self._supervisor,
        )
        session.stored_at_risk, session.fence = row.at_risk, row.fence
        self._table.add(session)
        return session

    def _follow(self, session: Session, row: StoredSession) -> None:
        session.command, session.owes_record = row.command, row.owes_record
