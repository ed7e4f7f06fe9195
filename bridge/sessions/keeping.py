"""Keeps sessions and what is stored of them together: brings wanted sessions back, follows, and notes what changed.

One task beside the supervisor. Alone, the first thing it does is the resume after a start: wanted rows in pages,
accounts at risk first; where several processes share the rows, they come by claims (`ownership`), and only those of
this process are its business. From then on it follows what others store, settles calls that had no answer, ends idle
sessions and forgets those that are over. While the store is away nothing of this happens. Invariant: what runs differs
from what is stored for a bounded time only, once the store answers.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Iterator
from functools import partial

from cachetools import LRUCache

from bridge.brokers.base import ReasonCode
from bridge.runtime.clock import Clock
from bridge.sessions.desired import DesiredSessions, Identity, Note, StoredSession
from bridge.sessions.roster import Roster
from bridge.sessions.session import Session
from bridge.sessions.standing import Standing
from bridge.sessions.states import State
from bridge.sessions.supervisor import Supervisor
from bridge.sessions.turns import Turns, Where
from bridge.telemetry.audit import Action, Audit, Detail
from core.errors import BridgeError, Unavailable
from core.user_key import short_key

log = logging.getLogger(__name__)

TICK_S = 5.0
SHORTEST_S = 0.05
RETRY_S = 1.0  # while the store is away
FOLLOW_S = 20.0
CHANGED_WITHIN_S = 10.0  # by the store's clock: longer than any transaction and any pause between two looks
USES_S = 3600.0  # uses are stored so often at most
IDLE_SHARE = 0.1  # of the idle time: how late a session may end
FORGET_S = 900.0  # ended sessions stay in the table so long
PAGE = 500
AT_ONCE = 50  # sessions, then the loop gets a breath
USES_KNOWN = 50_000
_OVER = (State.STOPPED, State.FENCED, State.DRAINING)

Page = Callable[[Identity | None], Awaitable[list[StoredSession]]]


class Keeper:
    """Runs until cancelled. `idle_after_s`: sessions that nobody started or read for so long end; None: never."""

    def __init__(
        self,
        *,
        supervisor: Supervisor,
        roster: Roster,
        turns: Turns,
        desired: DesiredSessions,
        standing: Standing,
        brokers: Collection[str],
        clock: Clock,
        audit: Audit,
        idle_after_s: float | None,
    ) -> None:
        self._supervisor = supervisor
        self._table = supervisor.table
        self._roster = roster
        self._turns = turns
        self._desired = desired
        self._standing = standing
        self._brokers = brokers
        self._clock = clock
        self._audit = audit
        self._idle_after_s = idle_after_s
        self._uses_every_s = USES_S if idle_after_s is None else min(USES_S, max(1.0, idle_after_s * IDLE_SHARE))
        self._follow_at = self._uses_at = 0.0
        self._wake = asyncio.Event()
        self._away = False
        self._left_out: set[str] = set()  # said in the log already
        self._used_elsewhere: LRUCache[Where, float] = LRUCache(USES_KNOWN)  # monotonic s
        self.resumed = False

    def wake(self) -> None:
        """There is something to settle or to look at."""
        self._wake.set()

    def used_elsewhere(self, where: Where) -> None:
        """A record was read here whose session another process serves."""
        self._used_elsewhere[where] = self._clock.monotonic()

    async def run(self) -> None:
        """One round after the other."""
        self._uses_at = self._clock.monotonic() + self._uses_every_s
        while True:
            self._wake.clear()
            try:
                await self._round()
            except Unavailable as error:
                self._note_away(error)
            except BridgeError as error:
                log.error("stored sessions cannot be followed", extra={"error": str(error)})
            except Exception as error:  # last resort: sessions must not lose their keeper; said each time
                log.error("unexpected error while following stored sessions", exc_info=error)
            await self._pause()

    async def _round(self) -> None:
        if not (self.resumed or self._standing.shared):
            await self._resume()
        elif self._desired.shared and self._clock.monotonic() >= self._follow_at:
            await self._follow()
            self._follow_at = self._clock.monotonic() + FOLLOW_S
        elif self._standing.shared:
            await self._look()
        await self._settle()
        await self._note(uses=False)
        if self._clock.monotonic() >= self._uses_at:
            await self._note(uses=True)
            await self._end_idle()
            self._uses_at = self._clock.monotonic() + self._uses_every_s
        self._forget()
        if self._away:
            self._away = False
            log.info("the database answers again: sessions and what is stored of them agree")

    def _note_away(self, error: Unavailable) -> None:
        self._follow_at = self._clock.monotonic()  # whatever was stored meanwhile, here or elsewhere
        if not self._away:
            self._away = True
            log.warning("the database does not answer: sessions go on, starts and stops are refused: %s", error)

    async def _pause(self) -> None:
        if self._away:
            await asyncio.sleep(RETRY_S)
            return
        seconds = min(TICK_S, self._standing.look_every_s, max(SHORTEST_S, self._uses_at - self._clock.monotonic()))
        try:
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        except TimeoutError:
            return

    # ------------------------------------------------------------ following

    async def _resume(self) -> None:
        """Bring back every wanted session, those at risk first; write last records that a sudden end has left over."""
        begun = self._clock.monotonic()
        at_risk = await self._each_page(self._wanted(at_risk=True), self._bring_back)
        calm = await self._each_page(self._wanted(at_risk=False), self._bring_back)
        await self._each_page(self._owing, self._end_left_over)
        self.resumed = True
        if at_risk or calm:
            seconds = round(self._clock.monotonic() - begun, 2)
            log.info("sessions resumed", extra={"sessions": at_risk + calm, "at_risk": at_risk, "seconds": seconds})

    async def _follow(self) -> None:
        """Compare all wanted rows with what runs; what differs is settled in its user's turn."""
        present = [session for session in self._table if session.state not in _OVER]
        seen: set[Session] = set()

        def compare(row: StoredSession) -> bool:
            session = self._roster.find(row)
            if session is None:
                return self.take_up(row)
            seen.add(session)
            if session.command != row.command:
                self._roster.doubts.add((row.user_key, row.broker))
            return False

        for at_risk in (True, False):
            await self._each_page(self._wanted(at_risk=at_risk), compare)
        await self._each_page(self._owing, self._bring_back)  # of a claim whose answer was lost, say
        for session in present:
            if session not in seen and session.state not in _OVER:
                self._roster.doubts.add((session.user_keys.canonical, session.broker))

    async def _look(self) -> None:
        """Of the rows of this process, those that others have just stored something of."""
        owner = self._standing.owner

        async def changed(after: Identity | None) -> list[StoredSession]:
            return await self._desired.changed(owner, CHANGED_WITHIN_S) if after is None else []

        def compare(row: StoredSession) -> bool:
            session = self._roster.find(row)
            if session is None and row.wanted:
                return self.take_up(row)
            if session is not None and session.command != row.command:
                self._roster.doubts.add((row.user_key, row.broker))
            return False

        await self._each_page(changed, compare)

    def _wanted(self, *, at_risk: bool) -> Page:
        owner = self._standing.filter
        return lambda after: self._desired.wanted(at_risk=at_risk, after=after, limit=PAGE, owner=owner)

    async def _owing(self, after: Identity | None) -> list[StoredSession]:
        return await self._desired.owing(after=after, limit=PAGE, owner=self._standing.filter)

    async def _each_page(self, page: Page, act: Callable[[StoredSession], bool]) -> int:
        """Act on every row of all pages, except those of users who had a turn since their page was read.

        Returns how many rows `act` said yes to.
        """
        after: Identity | None = None
        count = 0
        while True:
            rows, acted = await self.each(partial(page, after), act)
            count += acted
            if len(rows) < PAGE:
                return count
            after = rows[-1].identity

    async def each(
        self, read: Callable[[], Awaitable[list[StoredSession]]], act: Callable[[StoredSession], bool]
    ) -> tuple[list[StoredSession], int]:
        """Read rows and act on each of them, except on those of users who had a turn meanwhile, who are in doubt then.

        Returns the rows, and how many `act` said yes to.
        """
        count = 0
        with self._turns.watch() as had_turn:
            rows = await read()
            for number, row in enumerate(rows, 1):
                where = (row.user_key, row.broker)
                if where not in had_turn and not self._turns.taken(where):
                    count += act(row)
                else:
                    self._roster.doubts.add(where)  # read again, in its turn
                if number % AT_ONCE == 0:
                    await asyncio.sleep(0)
        return rows, count

    def take_up(self, row: StoredSession) -> bool:
        """Run the session of a wanted row, or end one whose last record is owed, if it is this process's business."""
        if self._supervisor.machine.draining or not self._standing.is_ours(row) or not self._can_run(row):
            return False
        if not row.wanted:
            return self._end_left_over(row)
        self._roster.run(row, resumed=True)
        self._take_down(row)
        return True

    def _take_down(self, row: StoredSession) -> None:
        detail: Detail = {**_about(row), **({"fence": row.fence, "owner": row.owner} if row.owner else {})}
        self._audit.record(Action.RESUME, user_key=row.user_key, actor="bridge", detail=detail)

    def _bring_back(self, row: StoredSession) -> bool:
        return self._roster.find(row) is None and self.take_up(row)

    def _end_left_over(self, row: StoredSession) -> bool:
        session = self._roster.find(row)
        if not (session is None or session.refused) or not self._can_run(row):
            return False
        return self._roster.write_last_record(row) is not None

    def _can_run(self, row: StoredSession) -> bool:
        """False for what this process cannot serve; said once for each cause."""
        if row.broker not in self._brokers:
            self._leave_out("stored sessions of a broker that is not configured are left alone", row.broker)
            return False
        if not self._roster.is_ours(row):
            message = "stored sessions are under another user key scheme than USER_KEY_MODE says and are left alone"
            self._leave_out(message, short_key(row.user_key))
            return False
        return True

    def _leave_out(self, message: str, which: str) -> None:
        if message not in self._left_out:
            self._left_out.add(message)
            log.error(message, extra={"first": which})

    async def _settle(self) -> None:
        """Read again what is in doubt, and follow it."""
        for where in sorted(self._roster.doubts):
            async with self._turns.take(where):
                known = await self._desired.known(*where)
                self._roster.doubts.discard(where)
                if not self._supervisor.machine.draining:
                    rows = [row for row in known.sessions if row.broker in self._brokers]
                    for taken in self._roster.settle(where, rows):
                        self._take_down(taken)

    # ------------------------------------------------------------ noting

    async def _note(self, *, uses: bool) -> None:
        """Store what changed since it was last stored, in batches."""
        now = self._clock.monotonic()
        if uses and self._used_elsewhere:
            told = list(self._used_elsewhere.items())
            await self._desired.used([(*where, now - at) for where, at in told])
            for where, at in told:
                if self._used_elsewhere.get(where) == at:
                    del self._used_elsewhere[where]
        noted = list(self._changes(now, uses))
        for start in range(0, len(noted), PAGE):
            batch = noted[start : start + PAGE]
            await self._desired.note([note for _, note in batch])
            for session, note in batch:
                if note.at_risk is not None:
                    session.stored_at_risk = note.at_risk
                if note.used_ago_s is not None and session.used_at is not None and session.used_at <= now:
                    session.used_at = None
                if note.recorded == session.command:
                    session.owes_record = False

    def _changes(self, now: float, uses: bool) -> Iterator[tuple[Session, Note]]:
        for session in self._table:
            at_risk = session.at_risk if session.at_risk is not session.stored_at_risk else None
            used_ago_s = now - session.used_at if uses and session.used_at is not None else None
            recorded = session.command if session.owes_record and self._last_record_written(session) else None
            if at_risk is not None or used_ago_s is not None or recorded is not None:
                identity = (session.user_keys.canonical, session.broker, session.account_id or "")
                yield session, Note(identity, at_risk=at_risk, used_ago_s=used_ago_s, recorded=recorded)

    def _last_record_written(self, session: Session) -> bool:
        """Also true of a record that was refused, unless the database can say whether the row is still ours: then it is
        claimed anew (`ownership.steward`), for what raised its fence may have been a late claim of our own.
        """
        if session.refused:
            return not self._standing.shared
        return session.entry is None or session.entry.written

    async def _end_idle(self) -> None:
        """End what nobody used for long; a use that is not stored yet counts, if it was here."""
        if self._idle_after_s is None:
            return
        owner = self._standing.filter
        for row in await self._desired.idle(self._idle_after_s, PAGE, owner=owner):
            where = (row.user_key, row.broker)
            async with self._turns.take(where):
                session = self._roster.find(row)
                if session is not None and session.used_at is not None:
                    continue
                self._roster.doubts.add(where)  # until it is known what was stored
                ended = await self._desired.stop(
                    *where, row.account_id or "", reason=ReasonCode.IDLE, idle_for_s=self._idle_after_s, owner=owner
                )
                self._roster.doubts.discard(where)
                for each in ended:
                    if not each.wanted and each.command > row.command:
                        self._roster.end(each)
                        self._audit.record(Action.IDLE, user_key=row.user_key, actor="bridge", detail=_about(each))

    def _forget(self) -> None:
        """Sessions that have been over for a while leave the table; the listings have them from the store."""
        now = self._clock.monotonic()
        over = [session for session in self._table if session.state is State.STOPPED and not session.owes_record]
        for session in over:
            ended_for_s = 0.0 if session.ended_at is None else now - session.ended_at
            if ended_for_s >= FORGET_S and session.task is None:
                self._supervisor.remove(session)


def _about(row: StoredSession) -> Detail:
    return {"broker": row.broker, "environment": row.environment.value}
