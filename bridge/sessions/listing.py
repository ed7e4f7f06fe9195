"""Listings of sessions: those of this process, and from the store those that have ended and were forgotten here.

Reads only. A session of this process always stands for its stored row. While the store is away, what this process has
is shown alone, if it has anything of what was asked for.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from bridge.brokers.base import ReasonCode
from bridge.sessions import reactions
from bridge.sessions.defaults import keys_of_row
from bridge.sessions.desired import DesiredSessions, Identity, StoredSession
from bridge.sessions.explain import explain, explain_stored, view_of
from bridge.sessions.machine import Machine
from bridge.sessions.session import Session
from bridge.sessions.states import STATUS_OF, State, status_name
from bridge.sessions.table import KEY_LENGTH
from bridge.sessions.views import Explanation, SessionPage, SessionView
from core.errors import InvalidInput, NotFound, Unavailable

log = logging.getLogger(__name__)

STORE_DEADLINE_S = 2.0
_STATUSES = frozenset(status_name(state) for state in STATUS_OF)
_STOPPED = status_name(State.STOPPED)
_Found = Session | StoredSession


class Listing:
    """Pages, users, explanations. `owner` names this process; `copies`: users have a second, plain key (dual mode)."""

    def __init__(self, machine: Machine, desired: DesiredSessions, owner: str, *, copies: bool) -> None:
        self._machine = machine
        self._table = machine.table
        self._desired = desired
        self._owner = owner
        self._copies = copies

    async def page(self, *, status: str | None, broker: str | None, after: str | None, limit: int) -> SessionPage:
        """A page in the order of user key, broker and account. `after`: the `next` of the page before.

        Raises InvalidInput, and Unavailable when ended sessions are asked for by name and the store is away.
        """
        if status is not None and status not in _STATUSES:
            raise InvalidInput(f"status is one of {', '.join(sorted(_STATUSES))}", field="status")
        if limit < 1:
            raise InvalidInput("limit is at least 1", field="limit")
        start = None if after is None else _parse_cursor(after)
        here = [
            session
            for session in self._table
            if (status is None or status_name(session.state) == status) and (broker is None or session.broker == broker)
        ]
        found: dict[Identity, _Found] = {}
        total, until = len(here), None
        if status in (None, _STOPPED):
            stored, ended = await self._ended(broker, start, limit + 1, needed=status is not None)
            total += max(0, ended - sum(session.state is State.STOPPED for session in here))
            until = stored[-1].identity if len(stored) > limit else None  # beyond it not all are known yet
            found = {row.identity: row for row in stored if self._table.find(*_named(row)) is None}
        found.update({_identity(session): session for session in here})
        order = sorted(key for key in found if (start is None or key > start) and (until is None or key <= until))
        page = order[:limit]
        following = page[-1] if len(order) > limit else until
        return SessionPage(
            tuple(self._view(found[key]) for key in page), total, ":".join(following) if following else None
        )

    async def of_user(self, prefix: str) -> list[SessionView]:
        """A user's sessions. Raises InvalidInput, NotFound, Conflict as `SessionTable.by_prefix`, and Unavailable."""
        return [self._view(each) for each in await self._of_user(prefix)]

    async def explain(self, prefix: str) -> list[Explanation]:
        """Why each of a user's sessions is as it is. Raises as `of_user`."""
        return [
            explain(each, self._machine, self._owner)
            if isinstance(each, Session)
            else explain_stored(each.wanted, self._view(each))
            for each in await self._of_user(prefix)
        ]

    async def user_key(self, key: str) -> str:
        """The canonical key of the user named by a full key of either mode, or by its first 12 or more digits.

        A full key that nobody is known by is taken as it is. Asks the store only for a user who has no session here.
        Raises InvalidInput, NotFound, Conflict, Unavailable.
        """
        try:
            return self._table.by_prefix(key)[0].user_keys.canonical
        except NotFound:
            if len(key) == KEY_LENGTH and not self._copies:
                return key
        stored = await self._desired.of_user(key)
        if not stored and len(key) < KEY_LENGTH:
            raise NotFound("no session of this user is known")
        return stored[0].user_key if stored else key

    def stored_view(self, row: StoredSession) -> SessionView:
        """A stored row without a session here, as listed: over, or about to be brought back."""
        keys = keys_of_row(row.broker, (row.user_key,), row.account_id, row.default_account)
        state = State.WAITING if row.wanted else State.STOPPED
        ended = reactions.ENDS[row.ended or ReasonCode.STOPPED]
        return SessionView(
            serial=0,
            user_key=row.user_key,
            broker=row.broker,
            environment=row.environment.value,
            account_id=row.account_id,
            status=status_name(state),
            state=state.value,
            reason=reactions.STARTING if row.wanted else ended,
            since=row.stopped_at_ms or row.started_at_ms,
            next_attempt_at=None,
            attempts=0,
            reconnects=0,
            events=0,
            last_event_at=None,
            last_flush_at=None,
            uptime_percent=0.0,
            owner=self._owner,
            fence=None,
            version=0,
            cache_key=keys[0] if keys else None,
        )

    async def _of_user(self, prefix: str) -> Sequence[_Found]:
        here: list[Session] = []
        try:
            here = self._table.by_prefix(prefix)
        except NotFound:
            log.debug("not a user of this process")
        try:
            async with asyncio.timeout(STORE_DEADLINE_S):
                stored = await self._desired.of_user(here[0].user_keys.canonical if here else prefix)
        except TimeoutError as error:
            if not here:
                raise Unavailable("the stored sessions cannot be read at present") from error
            stored = []
        except Unavailable:
            if not here:
                raise
            stored = []
        found: dict[Identity, _Found] = {row.identity: row for row in stored}
        found.update({_identity(session): session for session in here})
        if not found:
            raise NotFound("no session of this user is known")
        return [found[key] for key in sorted(found)]

    async def _ended(
        self, broker: str | None, start: Identity | None, limit: int, *, needed: bool
    ) -> tuple[list[StoredSession], int]:
        try:
            async with asyncio.timeout(STORE_DEADLINE_S):
                return await self._desired.ended(broker=broker, after=start, limit=limit)
        except TimeoutError as error:
            if needed:
                raise Unavailable("the stored sessions cannot be read at present") from error
        except Unavailable:
            if needed:
                raise
        return [], 0

    def _view(self, found: _Found) -> SessionView:
        return view_of(found, self._owner) if isinstance(found, Session) else self.stored_view(found)


def _identity(session: Session) -> Identity:
    return (session.user_keys.canonical, session.broker, session.account_id or "")


def _named(row: StoredSession) -> tuple[str, str, str | None]:
    return (row.user_key, row.broker, row.account_id)


def _parse_cursor(after: str) -> Identity:
    parts = after.split(":")
    if len(parts) != 3:
        raise InvalidInput("not a cursor of this listing", field="after")
    return (parts[0], parts[1], parts[2])
