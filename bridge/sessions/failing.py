"""What happens to a session whose login failed or whose life ended: note it, decide, move it on.

The decision is `reactions.react`; what a grant may still do is `troubled`. A refused token leads to one refresh for
all sessions of the grant, which `refreshing` runs.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from random import Random

from bridge.brokers.base import Broker, BrokerFault, FaultKind
from bridge.sessions import backoff, reactions
from bridge.sessions.admission import Lane
from bridge.sessions.machine import Machine, who
from bridge.sessions.refreshing import Refreshing
from bridge.sessions.session import Session
from bridge.sessions.states import Event, State
from bridge.sessions.troubled import is_access_refusal
from bridge.sessions.views import Evidence

log = logging.getLogger(__name__)


class Failing:
    """Reacts to faults."""

    def __init__(self, machine: Machine, refreshing: Refreshing, brokers: Mapping[str, Broker], rng: Random) -> None:
        self._machine = machine
        self._refreshing = refreshing
        self._brokers = brokers
        self._rng = rng
        self._refused_applications: set[Lane] = set()  # said in the log already
        self._shared: tuple[BrokerFault, float] | None = None  # the last shared fault, and when its sessions are due

    def forgive(self, session: Session) -> None:
        """Earlier failures of a session that has been live long enough count no more."""
        if session.is_steady(self._machine.clock.monotonic()):
            session.attempts = session.quick = 0

    def fail(self, session: Session, fault: BrokerFault, *, asked: bool) -> None:
        """React to a fault of a live session, or of a login (`asked`: the broker was shown the credential)."""
        if fault.kind is FaultKind.TOKEN and not self._brokers[session.broker].capabilities.refresh:
            fault = reactions.final(fault)
        self.forgive(session)
        self._note(session, fault)
        was_live = session.state is State.LIVE
        reaction = reactions.react(
            fault, attempt=session.attempts, quick=session.quick, rng=self._rng, was_live=was_live
        )
        event, delay_s = reaction.event, reaction.delay_s
        if session.credential is not None and is_access_refusal(fault):
            now = self._machine.clock.monotonic()
            grant = self._machine.troubled.refused(session.credential, fault, now, at_login=asked and not was_live)
            wait_s = grant.budget.wait_s(now)
            if event is Event.TOKEN_REFUSED and wait_s > 0:
                event, delay_s = Event.RETRY_LATER, wait_s
        due = self._together(fault, delay_s) if delay_s is not None and delay_s == fault.retry_after_s else None
        session.attempts += reaction.counts
        session.quick += event is Event.AUTH_LOST or (event is Event.TOKEN_REFUSED and was_live)
        reason = reactions.REFRESHING if event is Event.TOKEN_REFUSED else fault.reason
        self._machine.move(session, event, reason, delay_s, due=due)
        self._carry_on(session)

    def refresh_failed(self, session: Session, fault: BrokerFault) -> None:
        """A refresh that failed for the moment is tried again later; the refused secrets are not shown meanwhile."""
        self._note(session, fault)
        reaction = reactions.react(fault, attempt=session.attempts, quick=session.quick, rng=self._rng)
        if reaction.event in (Event.AUTH_LOST, Event.TOKEN_REFUSED):
            reaction = reactions.Reaction(Event.RETRY_LATER, backoff.full_jitter(session.attempts, self._rng))
        session.attempts += reaction.counts
        self._machine.move(session, reaction.event, fault.reason, reaction.delay_s)
        self._carry_on(session)

    def application_accepted(self, session: Session) -> None:
        """A login succeeded in this lane: the next refusal of the application is news again."""
        self._refused_applications.discard(session.lane)

    def _together(self, fault: BrokerFault, delay_s: float) -> float | None:
        """Sessions hit by one shared fault come due in the very same moment: then risk orders them, not who was told
        first. Returns that moment; None: not shared.
        """
        if not fault.shared:
            return None
        if self._shared is None or self._shared[0] is not fault:
            self._shared = (fault, self._machine.clock.monotonic() + delay_s)
        return self._shared[1]

    def _carry_on(self, session: Session) -> None:
        """Give the new state what will lead out of it; timers are set already."""
        if session.state is State.WAITING:
            self._machine.queue(session)
        elif session.state is State.REFRESHING:
            self._refreshing.ask(session)
        elif session.state is State.ACTION_REQUIRED:
            self._machine.log_out(session)

    def _note(self, session: Session, fault: BrokerFault) -> None:
        """Keep the evidence and say it. A shared fault is the adapter's to report, once per channel."""
        code = fault.reason.code
        session.remember(
            Evidence(
                at=self._machine.clock.now_ms(),
                state=session.state.value,
                kind=fault.kind.value,
                code=code.value,
                message=fault.reason.message,
                broker_code=fault.broker_code,
                cause=_causes(fault),
            )
        )
        _drop_frames(fault)
        details = {**who(session), "code": code.value, "broker_code": fault.broker_code}
        if fault.kind is FaultKind.FATAL_APP:
            if session.lane not in self._refused_applications:
                self._refused_applications.add(session.lane)
                log.error("the broker refuses this application: %s", fault.reason.message, extra=details)
        elif fault.kind is FaultKind.FATAL_USER:
            log.warning("a session needs its user", extra=details)
        elif not fault.shared:
            log.info("session failed", extra=details)


def _causes(fault: BrokerFault) -> str | None:
    """Class names of what lies behind a fault: enough for a diagnosis, and never a secret."""
    names: list[str] = []
    cause = fault.__cause__
    while cause is not None and len(names) < 4:
        names.append(type(cause).__name__)
        cause = cause.__cause__
    return " <- ".join(names) or None


def _drop_frames(fault: BrokerFault) -> None:
    """A fault may be remembered for long (grants, shared faults); its frames would keep all that a dead login held.

    Causes may go in a circle: an error can be raised from itself, or from one that it caused before.
    """
    error: BaseException | None = fault
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        error.__traceback__ = None
        error = error.__cause__ or error.__context__
