"""Handing sessions over to another process: log out, tell readers, fall silent, release. In this order.

Done in the turns of the users concerned, so that no command and no look at what is stored comes in between. Invariant:
what is released here has no login under way or in force, and writes nothing any more.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable
from contextlib import AsyncExitStack

from bridge.sessions.desired import Identity
from bridge.sessions.ownership.fleet import Fleet
from bridge.sessions.session import Session
from bridge.sessions.standing import Standing
from bridge.sessions.states import State
from bridge.sessions.supervisor import Supervisor
from bridge.sessions.turns import Turns
from bridge.telemetry.audit import Action, Audit

log = logging.getLogger(__name__)

HAND_OVER_S = 6.0  # for logouts and last records of those that are given up together


class Handing:
    """`unreleased`: not served any more, but still logging out, or the database has not heard of it yet; to be handed
    over once more."""

    def __init__(self, fleet: Fleet, standing: Standing, supervisor: Supervisor, turns: Turns, audit: Audit) -> None:
        self._fleet = fleet
        self._standing = standing
        self._supervisor = supervisor
        self._table = supervisor.table
        self._turns = turns
        self._audit = audit
        self.unreleased: set[Session] = set()

    def named(self, identities: Iterable[Identity]) -> list[Session]:
        """The sessions of these rows that are here."""
        found = (self._table.find(key, broker, account or None) for key, broker, account in identities)
        return [session for session in found if session is not None]

    async def hand_over(self, sessions: Collection[Session]) -> int:
        """Give these up; returns how many were. Raises Unavailable: those stay silent until it is repeated."""
        async with AsyncExitStack() as stack:
            for where in sorted({(session.user_keys.canonical, session.broker) for session in sessions}):
                await stack.enter_async_context(self._turns.take(where))
            leaving = [session for session in sessions if self._is_here(session)]
            self.unreleased.intersection_update(leaving)
            await self._supervisor.give_up(leaving, HAND_OVER_S)
            self.unreleased.update(leaving)
            leaving = [session for session in leaving if session.task is None or session.task.done()]
            for session in leaving:
                if session.entry is not None:
                    self._supervisor.recorder.forget(session.entry)
            await self._fleet.release(self._standing.owner, [_identity(session) for session in leaving])
            self.unreleased.difference_update(leaving)
            for session in leaving:
                self._supervisor.let_go(session)
                self._take_down(session)
        log.info("sessions handed over", extra={"sessions": len(leaving)})
        return len(leaving)

    def _is_here(self, session: Session) -> bool:
        return self._table.get(session.serial) is session and session.state is not State.STOPPED

    def _take_down(self, session: Session) -> None:
        detail = {"broker": session.broker, "environment": session.environment.value, "fence": session.fence}
        self._audit.record(Action.HAND_OVER, user_key=session.user_keys.canonical, actor="bridge", detail=detail)


def _identity(session: Session) -> Identity:
    return (session.user_keys.canonical, session.broker, session.account_id or "")
