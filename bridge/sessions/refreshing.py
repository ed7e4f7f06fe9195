"""Runs token refreshes: one per grant at a time, as many per lane as it has login slots.

However many sessions a lost token hits, they all wait for the same refresh; one ahead of need, while everything still
works, is the same refresh. When it has succeeded, who waited logs in again, and so do those that are still live on the
old token, because a refresh ends its sessions at the broker. One ahead of need that fails for the moment changes
nothing but its plan.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from functools import partial

from bridge.brokers.base import Broker, BrokerFault, Credential, Environment, FaultKind, ReasonCode
from bridge.credentials.grants import CredentialSource
from bridge.sessions import reactions, work
from bridge.sessions.admission import Admission, Lane
from bridge.sessions.machine import Machine, short
from bridge.sessions.renewing import Plan, Plans
from bridge.sessions.session import Session
from bridge.sessions.states import Event, State
from bridge.sessions.troubled import is_access_refusal, same_secrets

Failed = Callable[[Session, BrokerFault], None]


class Refreshing:
    """Refreshes the grants that `machine.troubled` holds as refused, and those whose plan is due."""

    def __init__(
        self, machine: Machine, brokers: Mapping[str, Broker], credentials: CredentialSource, plans: Plans
    ) -> None:
        self._machine = machine
        self._brokers = brokers
        self._credentials = credentials
        self._plans = plans
        self._queue: Admission[str] = Admission()  # of grant ids
        self._ahead: dict[str, Plan] = {}  # refreshes ahead of need, waiting or running

    def ask(self, session: Session) -> None:
        """Let a session whose secrets were refused wait for new ones."""
        credential = session.credential
        grant = None if credential is None else self._machine.troubled.get(credential.grant_id)
        if credential is None or grant is None:
            raise RuntimeError("a session refreshes without a refused credential")
        grant.waiting[session] = None
        if not grant.asked:
            grant.asked = True
            if credential.grant_id not in self._ahead:
                self._enqueue(session, credential.grant_id)

    def accepted(self, session: Session) -> None:
        """A login succeeded: plan the renewal of its token."""
        if session.credential is not None and self._brokers[session.broker].capabilities.refresh:
            clock = self._machine.clock
            where = (session.user_keys.canonical, session.broker)
            self._plans.accepted(session.credential, *where, clock.monotonic(), clock.now_ms())

    def next_due(self) -> float | None:
        """When the next plan is due, monotonic s."""
        return self._plans.next_due()

    @property
    def waits(self) -> bool:
        """True while a grant waits for room."""
        return any(self._queue.waiting(lane) for lane in self._queue.lanes())

    def admit(self, failed: Failed) -> None:
        """Start the refreshes there is room for; `failed` hears for each session when one fails."""
        for plan in self._plans.due(self._machine.clock.monotonic()):
            self._ask_ahead(plan)
        for lane in self._queue.lanes():
            name, environment = lane
            slots = self._brokers[name].login_slots(Environment(environment))
            for grant_id in self._queue.admit(lane, slots):
                self._start(lane, grant_id, failed)

    def _ask_ahead(self, plan: Plan) -> None:
        live, grant = self._live(plan), self._machine.troubled.get(plan.grant_id)
        if not live:
            self._plans.drop(plan)  # made anew by the next login
        elif plan.grant_id not in self._ahead and (grant is None or not grant.asked):
            self._ahead[plan.grant_id] = plan
            self._enqueue(live[0], plan.grant_id)

    def _enqueue(self, session: Session, grant_id: str) -> None:
        now = self._machine.clock.monotonic()
        self._queue.enqueue(session.lane, grant_id, at_risk=session.at_risk, since=now)
        self._machine.inbox.wake()

    def _live(self, plan: Plan) -> list[Session]:
        """The live sessions of a plan's grant."""
        return [
            session
            for session in self._machine.table.of(plan.user_key, plan.broker)
            if session.state is State.LIVE
            and session.credential is not None
            and session.credential.grant_id == plan.grant_id
        ]

    def _start(self, lane: Lane, grant_id: str, failed: Failed) -> None:
        grant, plan = self._machine.troubled.get(grant_id), self._ahead.get(grant_id)
        askers = [*(grant.waiting if grant is not None else ()), *(self._live(plan) if plan is not None else ())]
        if not askers:  # all who waited have been stopped
            self._queue.finished(lane, grant_id)
            self._ahead.pop(grant_id, None)
            if grant is not None:
                grant.asked = False
            return
        session = askers[0]
        refresh = work.refresh(session, self._brokers[session.broker], self._credentials)
        task = self._machine.tasks.start(refresh, name=f"refresh:{short(session)}")
        ended = partial(self._ended, lane, grant_id, session, failed)
        task.add_done_callback(lambda done: self._machine.inbox.put(None, partial(ended, done)))

    def _ended(
        self, lane: Lane, grant_id: str, asker: Session, failed: Failed, task: asyncio.Task[Credential | BrokerFault]
    ) -> None:
        self._queue.finished(lane, grant_id)
        plan, grant = self._ahead.pop(grant_id, None), self._machine.troubled.get(grant_id)
        waiting = [] if grant is None else list(grant.waiting)
        if grant is not None:
            grant.asked = False
        outcome = reactions.internal_error() if task.cancelled() else task.result()
        counters, guarded = self._machine.counters, self._machine.inbox.guarded
        counters.ended(counters.refreshes, outcome if isinstance(outcome, BrokerFault) else None)
        if isinstance(outcome, BrokerFault):
            if grant is not None and outcome.kind is FaultKind.FATAL_USER and is_access_refusal(outcome):
                self._machine.troubled.refused(grant.refused, outcome, self._machine.clock.monotonic(), at_login=True)
            if plan is not None:
                waiting += self._failed_ahead(plan, outcome)
            for session in waiting:
                guarded(session, partial(failed, session, outcome))
            return
        for session in waiting:
            guarded(session, partial(self._resume, session))
        for session in self._machine.table.of(asker.user_keys.canonical, asker.broker):
            guarded(session, partial(self._overtake, session, outcome))

    def _failed_ahead(self, plan: Plan, fault: BrokerFault) -> list[Session]:
        """The live sessions that go down with a failed refresh ahead of need: all when the consent is gone, else none.

        Where it only cannot be done here, the token is used to its end.
        """
        if fault.kind is not FaultKind.FATAL_USER:
            clock = self._machine.clock
            self._plans.failed(plan, clock.monotonic(), clock.now_ms())
            return []
        self._plans.drop(plan)
        return self._live(plan) if fault.reason.code is ReasonCode.TOKEN_REVOKED else []

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
