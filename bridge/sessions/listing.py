"""Listings of sessions: those of this process as they are, and from the store those that ended or are served elsewhere.

Reads only. A session of this process stands for its stored row, unless the row says that another process serves it.
While the store is away, what this process has is shown alone, if it has anything of what was asked for.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from bridge.sessions.desired import DesiredSessions, Identity, StoredSession
from bridge.sessions.elsewhere import Elsewhere
from bridge.sessions.explain import explain, explain_stored, view_of
from bridge.sessions.machine import Machine
from bridge.sessions.ownership.fleet import FleetLook
from bridge.sessions.session import Session
from bridge.sessions.standing import Standing
from bridge.sessions.states import STATUS_OF, State, status_name
from bridge.sessions.table import KEY_LENGTH
from bridge.sessions.views import Explanation, SessionPage, SessionView
from core.errors import InvalidInput, NotFound, Unavailable

log = logging.getLogger(__name__)

STORE_DEADLINE_S = 2.0
SCANNED_AT_ONCE = 500
SCANNED_AT_MOST = 5000  # rows for one page by status; a page may then be short, and go on
_STATUSES = frozenset(status_name(state) for state in STATUS_OF)
_STOPPED = status_name(State.STOPPED)
_Found = Session | StoredSession


class Listing:
    """Pages, users, explanations. `copies`: users have a second, plain key. `look`: the fleet as last seen."""

    def __init__(
        self,
        machine: Machine,
        desired: DesiredSessions,
        standing: Standing,
        elsewhere: Elsewhere,
        *,
        copies: bool,
        look: Callable[[], FleetLook | None],
    ) -> None:
        self._machine = machine
        self._table = machine.table
        self._desired = desired
        self._standing = standing
        self._elsewhere = elsewhere
        self._copies = copies
        self._look = look

    async def page(self, *, status: str | None, broker: str | None, after: str | None, limit: int) -> SessionPage:
        """A page in the order of user key, broker and account. `after`: the `next` of the page before.

        Raises InvalidInput, and Unavailable when ended sessions are asked for by name and the store is away.
        """
        if status is not None and status not in _STATUSES:
            raise InvalidInput(f"status is one of {', '.join(sorted(_STATUSES))}", field="status")
        if limit < 1:
            raise InvalidInput("limit is at least 1", field="limit")
        start = None if after is None else _parse_cursor(after)
        if self._standing.shared:
            try:
                return await self._fleet_page(status, broker, start, limit)
            except (Unavailable, TimeoutError):
                log.info("the store is away: only sessions of this process are listed")
        return await self._own_page(status, broker, start, limit)

    async def _own_page(
        self, status: str | None, broker: str | None, start: Identity | None, limit: int
    ) -> SessionPage:
        """What is here, and what has ended."""
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
            tuple(await self._views([found[key] for key in page])), total, _cursor(following) if following else None
        )

    # ------------------------------------------------------------ all processes

    async def _fleet_page(
        self, status: str | None, broker: str | None, start: Identity | None, limit: int
    ) -> SessionPage:
        """All stored rows, in their order, each as whoever serves it has it."""
        found: list[SessionView] = []
        after, scanned, more = start, 0, True
        at_once = limit + 1 if status is None else SCANNED_AT_ONCE
        total = 0
        while more and len(found) <= limit and scanned < SCANNED_AT_MOST:
            async with asyncio.timeout(STORE_DEADLINE_S):
                rows, total = await self._desired.page(broker=broker, after=after, limit=at_once)
            views = await self._views([self._here_or_stored(row) for row in rows])
            found += [view for view in views if status in (None, view.status)]
            scanned, more = scanned + len(rows), len(rows) == at_once
            after = rows[-1].identity if rows else after
        page, following = found[:limit], after if more else None
        if len(found) > limit:
            last = page[-1]
            following = (last.user_key, last.broker, last.account_id or "")
        if status is not None:
            whole = start is None and following is None
            total = len(found) if whole else await self._count(status, broker)
        return SessionPage(tuple(page), total, _cursor(following) if following else None)

    async def _count(self, status: str, broker: str | None) -> int:
        """How many sessions have a status, as the processes last said."""
        if status == _STOPPED:
            return (await self._desired.ended(broker=broker, after=None, limit=1))[1]
        count = sum(
            status_name(session.state) == status and broker in (None, session.broker) for session in self._table
        )
        look = self._look()
        for process in look.processes if look is not None else ():
            if process.owner != self._standing.owner:
                for name, number in process.sessions.items():
                    at, _, what = name.partition(" ")
                    count += number if what == status and broker in (None, at) else 0
        return count

    def _here_or_stored(self, row: StoredSession) -> _Found:
        """The session of a row, unless it is what is left of one that is served elsewhere by now."""
        session = self._table.find(*_named(row))
        if session is None or (not self._standing.is_ours(row) and (row.wanted or session.state is not State.STOPPED)):
            return row
        return session

    # ------------------------------------------------------------ one user

    async def of_user(self, prefix: str) -> list[SessionView]:
        """A user's sessions. Raises InvalidInput, NotFound, Conflict as `SessionTable.by_prefix`, and Unavailable."""
        return await self._views(await self._of_user(prefix))

    async def explain(self, prefix: str) -> list[Explanation]:
        """Why each of a user's sessions is as it is. Raises as `of_user`."""
        found = await self._of_user(prefix)
        views = await self._views(found)
        owner, shared = self._standing.owner, self._standing.shared
        return [
            explain(each, self._machine, owner)
            if isinstance(each, Session)
            else explain_stored(each.wanted, view, served_by=each.owner if shared else None, shared=shared)
            for each, view in zip(found, views, strict=True)
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
        found: dict[Identity, _Found] = {_identity(session): session for session in here}
        found.update({row.identity: self._here_or_stored(row) for row in stored})
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

    async def _views(self, found: Sequence[_Found]) -> list[SessionView]:
        """Each as listed, in the same order."""
        stored = [each for each in found if not isinstance(each, Session)]
        told = iter(await self._elsewhere.views(stored) if stored else ())
        owner = self._standing.owner
        return [view_of(each, owner) if isinstance(each, Session) else next(told) for each in found]


def _identity(session: Session) -> Identity:
    return (session.user_keys.canonical, session.broker, session.account_id or "")


def _named(row: StoredSession) -> tuple[str, str, str | None]:
    return (row.user_key, row.broker, row.account_id)


def _cursor(identity: Identity) -> str:
    return ":".join(identity)


def _parse_cursor(after: str) -> Identity:
    parts = after.split(":")
    if len(parts) != 3:
        raise InvalidInput("not a cursor of this listing", field="after")
    return (parts[0], parts[1], parts[2])
