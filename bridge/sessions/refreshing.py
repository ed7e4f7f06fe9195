"""Runs token refreshes: one per grant at a time, as many per lane as it has login slots.

However many sessions a lost token hits, they all wait for the same refresh. When it has succeeded, they log in again,
and so do those that are still live on the old token, because a refresh ends its sessions at the broker.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from functools import partial

from bridge.brokers.base import Broker, BrokerFault, Credential, Environment, FaultKind
from bridge.credentials.grants import CredentialSource
from bridge.sessions import reactions, work
from bridge.sessions.admission import Admission, Lane
from bridge.sessions.machine import Machine, short
from bridge.sessions.session import Session
from bridge.sessions.states import Event, State
from bridge.sessions.troubled import TroubledGrant, is_access_refusal, same_secrets

Failed = Callable[[Session, BrokerFault], None]


class Refreshing:
    """Refreshes the grants that `machine.troubled` holds as refused."""

    def __init__(self, machine: Machine, brokers: Mapping[str, Broker], credentials: CredentialSource) -> None:
        self._machine = machine
        self._brokers = brokers
        self._credentials = credentials
        self._queue: Admission[str] = Admission()  # of grant ids

    def ask(self, session: Session) -> None:
        """Let a session whose secrets were refused wait for new ones."""
        credential = session.credential
        grant = None if credential is None else self._machine.troubled.get(credential.grant_id)
        if credential is None or grant is None:
            raise RuntimeError("a session refreshes without a refused credential")
        grant.waiting[session] = None
        if not grant.asked:
            grant.asked = True
            now = self._machine.clock.monotonic()
            self._queue.enqueue(session.lane, credential.grant_id, at_risk=session.at_risk, since=now)
            self._machine.inbox.wake()

    @property
    def waits(self) -> bool:
        """True while a grant waits for room."""
        return any(self._queue.waiting(lane) for lane in self._queue.lanes())

    def admit(self, failed: Failed) -> None:
        """Start the refreshes there is room for; `failed` hears for each session when one fails."""
        for lane in self._queue.lanes():
            name, environment = lane
            slots = self._brokers[name].login_slots(Environment(environment))
            for grant_id in self._queue.admit(lane, slots):
                self._start(lane, grant_id, failed)

    def _start(self, lane: Lane, grant_id: str, failed: Failed) -> None:
        grant = self._machine.troubled.get(grant_id)
        session = None if grant is None else next(iter(grant.waiting), None)
        if grant is None or session is None:  # all who waited have been stopped
            self._queue.finished(lane, grant_id)
            if grant is not None:
                grant.asked = False
            return
        refresh = work.refresh(session, self._brokers[session.broker], self._credentials)
        task = self._machine.tasks.start(refresh, name=f"refresh:{short(session)}")
        ended = partial(self._ended, lane, grant_id, grant, session, failed)
        task.add_done_callback(lambda done: self._machine.inbox.put(None, partial(ended, done)))

    def _ended(
        self,
        lane: Lane,
        grant_id: str,
        grant: TroubledGrant,
        asker: Session,
        failed: Failed,
        task: asyncio.Task[Credential | BrokerFault],
    ) -> None:
        self._queue.finished(lane, grant_id)
        grant.asked = False
        outcome = reactions.internal_error() if task.cancelled() else task.result()
        counters, guarded = self._machine.counters, self._machine.inbox.guarded
        counters.ended(counters.refreshes, outcome if isinstance(outcome, BrokerFault) else None)
        if isinstance(outcome, BrokerFault):
            if outcome.kind is FaultKind.FATAL_USER and is_access_refusal(outcome):
                self._machine.troubled.refused(grant.refused, outcome, self._machine.clock.monotonic(), at_login=True)
            for session in list(grant.waiting):
                guarded(session, partial(failed, session, outcome))
            return
        for session in list(grant.waiting):
            guarded(session, partial(self._resume, session))
        for session in self._machine.table.of(asker.user_keys.canonical, asker.broker):
            guarded(session, partial(self._overtake, session, outcome))

    def _resume(self, session: Session) -> None:
        self._machine.move(session, Event.REFRESHED, reactions.RENEWED)
        self._machine.queue(session)

    def _overtake(self, session: Session, credential: Credential) -> None:
        """Do not wait until the broker ends a session of the old token."""
        held = session.credential
        if session.state is not State.LIVE or held is None or held.grant_id != credential.grant_id:
            return
        if not same_secrets(held, credential):
            self._machine.move(session, Event.AUTH_LOST, reactions.RENEWED)
            self._machine.log_out(session)
