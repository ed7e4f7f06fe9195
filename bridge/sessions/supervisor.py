"""The supervisor: owns the sessions of this process, and is the only one that acts on them.

Adapters, flusher and finished tasks report into one inbox; one task takes the reports, then the timers, then admits
whom the lanes have room for. No reader ever reconnects its own session, so no cancelled reader can strand one
(reference/faults.md P11). Invariant: every session that is wanted and not live is in an admission queue, in a login,
in a refresh, or has a timer; and it has a reason.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping
from functools import partial
from random import Random
from typing import Any

from bridge.brokers.base import Broker, BrokerFault, Environment, Reason, ReasonCode, Stage
from bridge.credentials.grants import CredentialSource
from bridge.runtime.clock import Clock
from bridge.runtime.tasks import Tasks
from bridge.sessions import reactions, work
from bridge.sessions.admission import Lane
from bridge.sessions.failing import Failing
from bridge.sessions.inbox import Inbox
from bridge.sessions.machine import Machine, short, who
from bridge.sessions.metrics import read_metrics
from bridge.sessions.reconciling import Reconciling
from bridge.sessions.refreshing import Refreshing
from bridge.sessions.renewing import Plans
from bridge.sessions.session import Recorder, Session
from bridge.sessions.standing import Standing
from bridge.sessions.states import LOGIN_STATES, TIMED_STATES, TRANSITIONS, Event, State, next_state
from bridge.sessions.views import SessionMetrics

log = logging.getLogger(__name__)

REPAIR_DELAY_S = 60.0
RECHECK_S = 1.0  # while sessions wait: an adapter may have more slots without telling
SHORTEST_ALARM_S = 0.001  # a timer the loop rounds down must not make it spin
_STAGE_EVENTS = {
    Stage.CONNECTING: Event.CONNECTING,
    Stage.AUTHORIZING: Event.AUTHORIZING,
    Stage.SYNCING: Event.SYNCING,
}


class Supervisor:
    """Runs all sessions of this process. `resolved` is told which account an unnamed session turned out to be."""

    def __init__(
        self,
        *,
        brokers: Mapping[str, Broker],
        credentials: CredentialSource,
        recorder: Recorder,
        clock: Clock,
        rng: Random,
        tasks: Tasks,
        standing: Standing,
        resolved: Callable[[Session, str], Awaitable[None]],
    ) -> None:
        self.recorder = recorder
        self.clock = clock
        self._brokers = brokers
        self._credentials = credentials
        self._tasks = tasks
        self._standing = standing
        self._resolved = resolved
        self.suspended = False
        self._inbox = Inbox(self._repair)
        self.machine = Machine(recorder=recorder, clock=clock, tasks=tasks, inbox=self._inbox)
        self.table = self.machine.table
        self._refreshing = Refreshing(self.machine, brokers, credentials, Plans(rng))
        self._reconciling = Reconciling(self.machine, brokers, rng)
        self._failing = Failing(self.machine, self._refreshing, brokers, rng)
        self._alarm: asyncio.TimerHandle | None = None
        self._reading: dict[Lane, set[Session]] = {}  # at risk, admitted, and their adapters not reached yet

    # ------------------------------------------------------------ commands

    def start(self, session: Session, *, resumed: bool = False) -> None:
        """Start a session that is new or has ended, or try again one that waits for its user.

        `resumed`: brought back with many others after a restart, which is said once for all.
        """
        old = session.state
        if old not in (State.ACTION_REQUIRED, State.SUSPENDED):
            session.started_at, session.ended_at = self.clock.monotonic(), None
            session.live_before_s, session.reconnects, session.was_live = 0.0, 0, False
        session.attempts = session.quick = 0
        self.machine.move(session, Event.START, reactions.STARTING)
        if session.entry is None or old is State.FENCED or session.entry.floor < session.fence:
            self.machine.open_record(session)
        self.machine.queue(session)
        if not resumed:
            log.info("session started", extra=who(session))

    def stop(self, session: Session, reason: Reason = reactions.STOPPED) -> None:
        """Stop a session: no timer, no login, a logout at the broker, and a record that says `stopped`."""
        if session.state is not State.STOPPED:
            self.machine.move(session, Event.STOP, reason)
            self.machine.end(session)
            log.info("session stopped", extra={**who(session), "code": reason.code.value})

    def remove(self, session: Session) -> asyncio.Task[Any] | None:
        """Stop a session and forget its row; returns the task that sees to its last record, if there is one."""
        self.stop(session)
        self._forget(session)
        if session.entry is None:
            return None
        return self._tasks.start(self.recorder.release(session.entry), name=f"release:{short(session)}")

    def suspend(self) -> None:
        """Stop acting: this process could not renew its lease. Readers are told as long as it may write."""
        acting = [session for session in self.table if (session.state, Event.SUSPEND) in TRANSITIONS]
        if acting and not self.suspended:
            log.error("the lease could not be renewed: sessions stop until it can", extra={"sessions": len(acting)})
        self.suspended = True
        for session in acting:
            self.machine.move(session, Event.SUSPEND, reactions.SUSPENDED)
            self.machine.log_out(session)

    def resume(self) -> None:
        """The lease was renewed before anybody could take over: go on."""
        self.suspended = False
        for session in self.table:
            if session.state is State.SUSPENDED:
                self.start(session, resumed=True)

    async def give_up(self, sessions: Collection[Session], within_s: float) -> None:
        """Log these out, and let readers know that another process takes over; at most `within_s`."""
        for session in sessions:
            if (session.state, Event.DRAIN) in TRANSITIONS:
                self.machine.move(session, Event.DRAIN, reactions.HANDED_OVER)
                self.machine.log_out(session)
        try:
            async with asyncio.timeout(within_s):
                if pending := {session.task for session in sessions if session.task is not None}:
                    await asyncio.wait(pending)
                for session in sessions:
                    if session.entry is not None:
                        await self.recorder.recorded(session.entry, within_s)
        except TimeoutError:
            log.warning("the logouts or last records of sessions that are handed over take long")

    def let_go(self, session: Session) -> None:
        """This session is another process's: log out, write nothing more, forget it."""
        if self.table.get(session.serial) is not session:
            return
        if (session.state, Event.FENCE) in TRANSITIONS:
            self.machine.move(session, Event.FENCE, reactions.FENCED)
        self.machine.end(session)
        self._forget(session)
        if session.entry is not None:
            self.recorder.forget(session.entry)

    async def settled(self, session: Session, timeout_s: float) -> None:
        """Wait until a session is live, waits for its user, or has ended; at most `timeout_s`."""
        await self.machine.settled(session, timeout_s)

    async def drain(self, deadline_s: float) -> None:
        """Mark everything as draining and end what is under way. Sockets are left to the brokers' own `close`."""
        self.machine.draining = True
        for session in self.table:
            if (session.state, Event.DRAIN) in TRANSITIONS:
                self.machine.move(session, Event.DRAIN, reactions.DRAINING)
        pending = {session.task for session in self.table if session.task is not None}
        if pending:
            await asyncio.wait(pending, timeout=deadline_s)

    def metrics(self) -> SessionMetrics:
        """Counters and gauges."""
        logins = self.machine.logins
        counters = self.machine.counters
        return read_metrics(
            counters,
            self.table,
            waiting={lane: logins.waiting(lane) for lane in logins.lanes()},
            logging_in={lane: logins.running(lane) for lane in logins.lanes()},
            internal_errors=counters.internal_errors + self._inbox.errors,
        )

    # ------------------------------------------------------------ reports

    def staged(self, session: Session, stage: Stage) -> None:
        """From a login: how far it is. Shown at once; a late one is ignored."""
        self._reached(session)
        event = _STAGE_EVENTS[stage]
        if session.state in LOGIN_STATES and next_state(session.state, event) is not session.state:
            self.machine.move(session, event, reactions.STAGES[stage])

    def lost(self, session: Session, fault: BrokerFault) -> None:
        """From an adapter: this session ended. Acted on in the supervisor's own turn."""
        self._inbox.put(session, partial(self._lost, session, fault))

    def refused(self, session: Session) -> None:
        """From the flusher: somebody else owns this session."""
        self._inbox.put(session, partial(self._fenced, session))

    def _lost(self, session: Session, fault: BrokerFault) -> None:
        if session.state is State.LIVE or session.state in LOGIN_STATES:  # else it is known already
            self._failing.fail(session, fault, asked=True)

    def _fenced(self, session: Session) -> None:
        """Log out, write nothing. It is claimed back only by whom the database calls its owner."""
        if session.state is not State.FENCED:
            self.machine.move(session, Event.FENCE, reactions.FENCED)
            self.machine.end(session)
            log.warning("session is served elsewhere", extra=who(session))

    # ------------------------------------------------------------ the loop

    async def run(self) -> None:
        """Turn whenever something was reported or is due. Ends only by being cancelled."""
        while True:
            await self._inbox.wait()
            await self._inbox.take_all()
            if not self.machine.draining:
                self._turn()

    def _forget(self, session: Session) -> None:
        self.table.remove(session)
        self.machine.counters.events_of_removed[session.broker] += session.events

    def _turn(self) -> None:
        if not self._standing.may_act():
            self.suspend()
            return
        for session in self.machine.timers.due(self.clock.monotonic()):
            self._inbox.guarded(session, partial(self._due, session))
        self._refreshing.admit(self._failing.refresh_failed)
        self._admit_logins()
        self._reconciling.admit()
        self._set_alarm()

    def _set_alarm(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        ends = self._standing.lease.acts_until if self._standing.lease is not None else None
        times = [at for at in (self.machine.timers.next_due(), self._refreshing.next_due(), ends) if at is not None]
        due, now = min(times, default=None), self.clock.monotonic()
        if self._refreshing.waits or any(self.machine.logins.waiting(lane) for lane in self.machine.logins.lanes()):
            due = now + RECHECK_S if due is None else min(due, now + RECHECK_S)
        if due is not None:
            delay_s = max(SHORTEST_ALARM_S, due - now)
            self._alarm = asyncio.get_running_loop().call_later(delay_s, self._inbox.wake)

    def _due(self, session: Session) -> None:
        if session.state is State.LIVE:
            self._reconciling.due(session)
        else:
            self.machine.move(session, Event.DUE, session.reason)
            self.machine.queue(session)

    def _repair(self, session: Session) -> None:
        """Whatever went wrong with a session, leave it with something that brings it back."""
        if session.task is None:  # its task did not even start, so nobody else gives back the slot it was given
            self.machine.logins.finished(session.lane, session)
            self._reached(session)
            self.machine.reconciles.finished(session.lane, session)
        if (session.state, Event.RETRY_LATER) in TRANSITIONS:
            self._failing.fail(session, reactions.internal_error(), asked=False)
            self.machine.log_out(session)
        elif session.state in TIMED_STATES:
            self.machine.timers.set(self.clock.monotonic() + REPAIR_DELAY_S, session, session.epoch)
        else:
            self.machine.queue(session)

    # ------------------------------------------------------------ logins

    def _admit_logins(self) -> None:
        """Whom there is room for. Nobody overtakes an account at risk whose credential is still being read."""
        logins = self.machine.logins
        for lane in logins.lanes():
            name, environment = lane
            slots = self._brokers[name].login_slots(Environment(environment))
            for session in logins.admit(lane, slots, at_risk_only=True):
                self._reading.setdefault(lane, set()).add(session)
                self._inbox.guarded(session, partial(self._log_in, session))
            if not self._reading.get(lane):
                for session in logins.admit(lane, slots):
                    self._inbox.guarded(session, partial(self._log_in, session))

    def _reached(self, session: Session) -> None:
        """The adapter has the login, or it has ended before."""
        reading = self._reading.get(session.lane, set())
        if session in reading:
            reading.discard(session)
            if not reading:
                self._inbox.wake()

    def _log_in(self, session: Session) -> None:
        self.machine.move(session, Event.ADMITTED, reactions.STAGES[Stage.CONNECTING])
        login = work.log_in(
            session,
            self._brokers[session.broker],
            self._credentials,
            verdict=lambda credential: self.machine.troubled.verdict(credential, self.clock.monotonic()),
            resolved=self._resolved,
        )
        self.machine.hold(session, self._tasks.start(login, name=f"login:{short(session)}"), self._login_ended)

    def _login_ended(self, session: Session, epoch: int, task: asyncio.Task[Any]) -> None:
        self.machine.logins.finished(session.lane, session)
        self._reached(session)
        self.machine.task_ended(session, epoch, task)
        if session.epoch != epoch:  # stopped, drained, fenced or lost meanwhile: its result means nothing any more
            return
        outcome = work.LoginOutcome(reactions.internal_error(), asked=False) if task.cancelled() else task.result()
        fault = outcome.fault
        self.machine.counters.ended(self.machine.counters.logins, fault)
        if fault is None:
            self._logged_in(session)
        else:
            self._failing.fail(session, fault, asked=outcome.asked)

    def _logged_in(self, session: Session) -> None:
        if session.credential is not None:
            self.machine.troubled.accepted(session.credential)
        self._failing.application_accepted(session)
        self._refreshing.accepted(session)
        if session.was_live:
            session.reconnects += 1
            cause = session.evidence[0].code if session.evidence else ReasonCode.ACCOUNT_SESSION_ENDED.value
            self.machine.counters.reconnects[cause] += 1
        else:
            log.info("session live", extra=who(session))
        self.machine.move(session, Event.LOGGED_IN, None)
        session.was_live = True
        self._reconciling.plan(session)
