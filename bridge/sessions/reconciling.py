"""Runs the periodic reconcile of live sessions: a few at a time, accounts at risk first.

The period is the adapter's (it knows the request budget), spread by a fifth so that sessions which came back together
do not stay in step. None is started while sessions of the lane wait for their login: bringing those back comes first.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from functools import partial
from random import Random
from typing import Any

from bridge.brokers.base import Broker, BrokerFault
from bridge.sessions import work
from bridge.sessions.machine import Machine, short
from bridge.sessions.session import Session
from bridge.sessions.states import State

AT_ONCE = 4  # per lane
SPREAD = 0.2


class Reconciling:
    """Plans and runs reconciles; a failed one is counted and waits for its next turn."""

    def __init__(self, machine: Machine, brokers: Mapping[str, Broker], rng: Random) -> None:
        self._machine = machine
        self._brokers = brokers
        self._rng = rng

    def plan(self, session: Session) -> None:
        """Set the timer of a live session's next reconcile."""
        interval_s = self._brokers[session.broker].reconcile_interval_s(session.environment)
        spread = self._rng.uniform(1 - SPREAD, 1 + SPREAD)
        self._machine.timers.set(self._machine.clock.monotonic() + interval_s * spread, session, session.epoch)
        self._machine.inbox.wake()

    def due(self, session: Session) -> None:
        """The timer has come: take a place in the queue."""
        since = self._machine.clock.monotonic()
        self._machine.reconciles.enqueue(session.lane, session, at_risk=session.at_risk, since=since)

    def admit(self) -> None:
        """Start the reconciles there is room for."""
        machine = self._machine
        for lane in machine.reconciles.lanes():
            slots = 0 if machine.logins.waiting(lane) else AT_ONCE
            for session in machine.reconciles.admit(lane, slots):
                machine.inbox.guarded(session, partial(self._start, session))

    def _start(self, session: Session) -> None:
        if session.account is None:
            raise RuntimeError("a live session without an account")
        work_to_do = work.reconcile(session, session.account)
        task = self._machine.tasks.start(work_to_do, name=f"reconcile:{short(session)}")
        self._machine.hold(session, task, self._ended)

    def _ended(self, session: Session, epoch: int, task: asyncio.Task[Any]) -> None:
        self._machine.reconciles.finished(session.lane, session)
        self._machine.task_ended(session, epoch, task)
        counters = self._machine.counters
        if task.cancelled():
            counters.reconciles["cancelled"] += 1
        elif isinstance(outcome := task.result(), BrokerFault):
            counters.ended(counters.reconciles, outcome)
        else:
            counters.ended(counters.reconciles, None)
            counters.lost_events[session.broker] += outcome
        if session.epoch == epoch and session.state is State.LIVE:
            self.plan(session)
