"""The one place where a session's state changes, and where its transient task is held.

It knows the table of `states.py` and keeps what every change must keep in step: queue places, timers, the record, who
waits for the outcome. It decides nothing: what a fault means and who goes next is said by its callers. Invariant: a
session that moves on takes nothing of its old state along; timers and reports of an earlier epoch mean nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

from bridge.brokers.base import Reason
from bridge.runtime.clock import Clock
from bridge.runtime.tasks import Tasks
from bridge.sessions import work
from bridge.sessions.admission import Admission
from bridge.sessions.inbox import Inbox
from bridge.sessions.metrics import Counters
from bridge.sessions.session import Recorder, Session
from bridge.sessions.states import ENDED_STATES, LOGIN_STATES, STATUS_OF, Event, State, next_state
from bridge.sessions.table import SessionTable
from bridge.sessions.timers import TimerHeap
from bridge.sessions.troubled import TroubledGrants
from core.user_key import short_key

SETTLED_STATES = (State.LIVE, State.ACTION_REQUIRED, *ENDED_STATES)
TOGETHER_S = 5.0  # who began to wait in the same span of time waits equally long
# steps of one login, and the life it leads to
_SAME_EPOCH = frozenset({Event.CONNECTING, Event.AUTHORIZING, Event.SYNCING, Event.LOGGED_IN})

Ended = Callable[[Session, int, "asyncio.Task[Any]"], None]


class Machine:
    """The data of all sessions, and the changes to it."""

    def __init__(self, *, recorder: Recorder, clock: Clock, tasks: Tasks, inbox: Inbox) -> None:
        self.recorder = recorder
        self.clock = clock
        self.tasks = tasks
        self.inbox = inbox
        self.table = SessionTable()
        self.logins: Admission[Session] = Admission()
        self.reconciles: Admission[Session] = Admission()
        self.troubled = TroubledGrants()
        self.timers: TimerHeap[Session] = TimerHeap(lambda session, epoch: session.epoch == epoch)
        self.counters = Counters()
        self.draining = False
        self._waiters: dict[int, list[asyncio.Future[None]]] = {}

    def move(
        self,
        session: Session,
        event: Event,
        reason: Reason | None,
        delay_s: float | None = None,
        *,
        due: float | None = None,
    ) -> None:
        """Change a session's state. `delay_s`: until the timer that leads out of the new state, or its moment `due`."""
        old, new = session.state, next_state(session.state, event)
        now, now_ms = self.clock.monotonic(), self.clock.now_ms()
        if event not in _SAME_EPOCH:
            session.epoch += 1
            self._leave(session, old, now)
        session.state, session.reason, session.since_ms = new, reason, now_ms
        session.next_attempt_at_ms = None
        if new is State.LIVE:
            session.live_since = now
        elif new is State.WAITING:
            session.waiting_since = now
        if due is None and delay_s is not None:
            due = now + delay_s
        if due is not None:
            session.next_attempt_at_ms = now_ms + max(0, round((due - now) * 1000))
            self.timers.set(due, session, session.epoch)
        if session.entry is not None and new is not State.FENCED:
            self.recorder.mark(session.entry, urgent=STATUS_OF[new] is not STATUS_OF[old])
        if new in SETTLED_STATES:
            self._tell_waiters(session)
        self.inbox.wake()

    def _leave(self, session: Session, old: State, now: float) -> None:
        """Undo what only the old state needed."""
        if old is State.WAITING:
            self.logins.withdraw(session.lane, session)
        elif old is State.REFRESHING:
            self.troubled.leave(session)
        elif old is State.LIVE and session.live_since is not None:
            self.reconciles.withdraw(session.lane, session)
            session.live_before_s += now - session.live_since
            session.live_since = None
        if session.task is not None and (old is State.LIVE or old in LOGIN_STATES):
            session.task.cancel()

    # ------------------------------------------------------------ what surrounds a session

    def open_record(self, session: Session) -> None:
        """Begin to write the session's record, if its key is known; what it says now is written at once."""
        if session.keys:
            session.entry = self.recorder.register(session.keys, session, fence=session.fence)

    def queue(self, session: Session) -> None:
        """Let a waiting session queue for its login, as soon as its previous task has ended.

        Those who began to wait together go in the order in which they came to be: an adapter spreads sessions over its
        channels in that order, and a mass cut, which is told channel by channel, must not keep one of them busy alone.
        """
        if session.state is State.WAITING and session.task is None and not self.draining:
            since = session.waiting_since - session.waiting_since % TOGETHER_S
            self.logins.enqueue(session.lane, session, at_risk=session.at_risk, since=since, place=session.serial)
            self.inbox.wake()

    def hold(self, session: Session, task: asyncio.Task[Any], ended: Ended) -> None:
        """Make this the session's one transient task; `ended` hears of its end, with the present epoch."""
        session.task = task
        report = partial(ended, session, session.epoch)
        task.add_done_callback(lambda done: self.inbox.put(session, partial(report, done)))

    def task_ended(self, session: Session, epoch: int, task: asyncio.Task[Any]) -> None:
        """The session has no task any more, and may queue."""
        if session.task is task:
            session.task = None
        self.queue(session)

    def log_out(self, session: Session) -> None:
        """Let go of the broker's side, keeping the numbers; a new login waits until that has ended."""
        previous, account = session.task, session.drop_account()
        if previous is not None or account is not None:
            ending = work.log_out(session, account, previous)
            self.hold(session, self.tasks.start(ending, name=f"logout:{short(session)}"), self.task_ended)
        self.queue(session)

    def end(self, session: Session) -> None:
        """The session is over: forget what it could act with, and log out."""
        session.ended_at = session.ended_at or self.clock.monotonic()
        session.credential = None
        self.log_out(session)

    # ------------------------------------------------------------ who waits for the outcome

    async def settled(self, session: Session, timeout_s: float) -> None:
        """Wait until a session is live, waits for its user, or has ended; at most `timeout_s`."""
        if session.state in SETTLED_STATES or timeout_s <= 0:
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.setdefault(session.serial, []).append(waiter)
        try:
            async with asyncio.timeout(timeout_s):
                await waiter
        except TimeoutError:
            return
        finally:
            waiters = self._waiters.get(session.serial, [])
            if waiter in waiters:
                waiters.remove(waiter)
                if not waiters:
                    del self._waiters[session.serial]

    def _tell_waiters(self, session: Session) -> None:
        for waiter in self._waiters.pop(session.serial, ()):
            if not waiter.done():
                waiter.set_result(None)


def short(session: Session) -> str:
    """The user, as logs and task names show it."""
    return short_key(session.user_keys.canonical)


def who(session: Session) -> dict[str, str]:
    """The session, as log fields."""
    return {"user": short(session), "broker": session.broker, "environment": session.environment.value}
