"""A session service over a fake broker, and the rule that no session is ever stranded."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from random import Random
from typing import Any

from bridge.brokers.base import Environment
from bridge.sessions.lease import Lease
from bridge.sessions.ownership.fleet import Fleet
from bridge.sessions.ownership.steward import Membership, new_name
from bridge.sessions.remembered import DesiredInMemory
from bridge.sessions.service import SessionService
from bridge.sessions.session import Session
from bridge.sessions.standing import Standing
from bridge.sessions.states import LOGIN_STATES, TIMED_STATES, State
from bridge.sessions.supervisor import Supervisor
from bridge.sessions.views import SessionView
from bridge.telemetry.audit import Action, Detail
from core.errors import Unavailable
from core.user_key import UserKeyScheme
from tests.support.fake_broker import FakeBroker, FakeCredentials, FakeRecorder, LoopClock, credential

LEASE_S = 15.0


class World:
    """Everything around the sessions of one process. `crashes`: tasks that died in the open (none may).

    `desired`: what is stored of them, given to the world that comes after a restart; it is shared, and can fail.
    `fleet`: where several worlds share it out.
    """

    def __init__(
        self,
        *,
        seed: int = 1,
        desired: FailingStore | None = None,
        credentials: FakeCredentials | None = None,
        idle_after_s: float | None = None,
        fleet: Fleet | None = None,
        records: Any = None,
        **broker: Any,
    ) -> None:
        self.broker = FakeBroker(**broker)
        self.credentials = FakeCredentials() if credentials is None else credentials
        self.recorder = FakeRecorder()
        self.clock = LoopClock()
        self.desired = FailingStore() if desired is None else desired
        self.audit = FakeAudit()
        self.crashes: list[BaseException] = []
        rng = Random(seed)
        lease = Lease(LEASE_S) if fleet is not None else None
        self.standing = Standing(new_name(rng) if lease else "process-1", self.clock, lease)
        self.service = SessionService(
            brokers={"fake": self.broker},
            credentials=self.credentials,
            recorder=self.recorder,
            user_keys=UserKeyScheme(),
            clock=self.clock,
            rng=rng,
            standing=self.standing,
            membership=None if fleet is None else Membership(fleet, version="1", capacity=1000),
            records=records,
            desired=self.desired,
            audit=self.audit,
            idle_after_s=idle_after_s,
            on_crash=lambda _, error: self.crashes.append(error),
        )

    async def __aenter__(self) -> World:
        await self.service.start_up()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.service.close()
        assert self.crashes == []

    @property
    def supervisor(self) -> Supervisor:
        return self.service._supervisor

    @property
    def tasks(self) -> int:
        """Tasks besides the supervisor's and the keeper's own."""
        return len(self.service._tasks) - 2

    def row(self, user: str = "u", account_id: str | None = None) -> Session:
        key = UserKeyScheme().keys(user).canonical
        session = self.supervisor.table.find(key, "fake", account_id or f"acc-{user}")
        assert session is not None
        return session

    async def start(self, user: str = "u", **options: Any) -> SessionView:
        """Start a user's session; stores a credential when there is none."""
        self.service._keeper.wake()  # a fixture begins in real time: what waits since then begins anew in the test's
        if (user, "fake") not in self.credentials.stored:
            self.credentials.put(user, credential(user))
        values: dict[str, Any] = {"account_id": None, "environment": None, "broker": "fake", **options}
        return await self.service.start(user_id=user, **values)

    async def live(self, user: str = "u", **options: Any) -> SessionView:
        """Start a session and wait until it is live."""
        view = await self.service.wait(await self.start(user, **options), 30)
        assert view.state == "live", view
        return view

    async def stop(self, user: str = "u", account_id: str | None = None) -> list[SessionView]:
        return await self.service.stop(user_id=user, broker="fake", account_id=account_id)

    def view(self, user: str = "u") -> SessionView:
        (row,) = self.supervisor.table.of(UserKeyScheme().keys(user).canonical, "fake")
        return self.service._view(row)

    def statuses(self, user: str = "u", suffix: str = "") -> list[str]:
        return self.recorder.statuses(key_of(user) + suffix)


class FailingStore(DesiredInMemory):
    """Desired sessions that outlive a world. `away`: no call is answered; `deaf`: writes are stored, but not answered.

    `hold`: calls wait for it before they are carried out.
    """

    shared = True

    def __init__(self) -> None:
        super().__init__(LoopClock())
        self.away = self.deaf = False
        self.hold: asyncio.Event | None = None
        self.calls: list[str] = []

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        if name not in _CALLS:
            return found

        async def call(*arguments: Any, **named: Any) -> Any:
            self.calls.append(name)
            if self.hold is not None:
                await self.hold.wait()
            if self.away:
                raise Unavailable("scripted: the database is away")
            answer = await found(*arguments, **named)
            if self.deaf and name in ("start", "stop", "resolve"):
                raise Unavailable("scripted: the answer is lost")
            return answer

        return call


_CALLS = (
    *("known", "start", "stop", "retry", "resolve", "wanted", "owing", "changed", "page", "ended", "of_user", "idle"),
    *("note", "used", "erase"),
)


@dataclass
class FakeAudit:
    """Writes down what is told to the log."""

    entries: list[tuple[str, str | None, str, str]] = field(default_factory=list)

    def record(
        self, action: Action, *, user_key: str | None, actor: str, outcome: str = "ok", detail: Detail | None = None
    ) -> None:
        self.entries.append((action.value, user_key, actor, outcome))


def key_of(user: str = "u") -> str:
    """The plain record key."""
    return f"fake_account_{UserKeyScheme().keys(user).canonical}"


async def settle() -> None:
    """Let everything that is ready run, without letting time pass."""
    for _ in range(20):
        await asyncio.sleep(0)


def stranded(supervisor: Supervisor) -> list[tuple[Session, str]]:
    """Sessions that break the rule: a reason, and something that will lead out of the state, unless live or over."""
    machine = supervisor.machine
    timers = {(session, epoch) for _, _, epoch, session in machine.timers._heap}
    broken: list[tuple[Session, str]] = []
    for session in machine.table:
        if (session.reason is None) is not (session.state is State.LIVE):
            broken.append((session, "reason"))
        if (session.next_attempt_at_ms is not None) is not (session.state in TIMED_STATES):
            broken.append((session, "next attempt"))
        if session.state is State.WAITING:
            moves = machine.logins.waits(session.lane, session) or session.task is not None
        elif session.state in LOGIN_STATES:
            moves = session.task is not None
        elif session.state in TIMED_STATES:
            moves = (session, session.epoch) in timers
        elif session.state is State.REFRESHING:
            grant = session.credential and machine.troubled.get(session.credential.grant_id)
            moves = bool(grant) and session in grant.waiting and grant.asked
        elif session.state is State.LIVE:
            reconciles = machine.reconciles
            moves = (
                (session, session.epoch) in timers
                or reconciles.waits(session.lane, session)
                or session.task is not None
            )
        else:
            moves = True
        if not moves:
            broken.append((session, "nothing leads out"))
    return broken


def quiet_logs() -> None:
    """For property tests: thousands of expected warnings."""
    logging.getLogger("bridge.sessions").setLevel(logging.CRITICAL)


DEMO, LIVE = Environment.DEMO, Environment.LIVE
