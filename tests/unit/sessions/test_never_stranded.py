"""Whatever happens, in whatever order: no session is ever without a reason and a way on, and peace brings all back.

Hypothesis drives a world in virtual time with random faults, starts, stops, fences, refused tokens and pauses. The rule
of reference/faults.md invariant 18 is checked after every step; at the end the faults stop (invariant 9).
"""

import asyncio
from collections.abc import Callable
from typing import Any

import looptime
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from bridge.brokers.base import BrokerFault, FaultKind, ReasonCode
from bridge.sessions import keeping
from bridge.sessions.desired import Start
from bridge.sessions.failing import Failing
from bridge.sessions.remembered import DesiredInMemory
from bridge.sessions.states import LOGIN_STATES, State
from core.errors import NotFound, Unavailable
from tests.support.fake_broker import credential, fault
from tests.unit.sessions.world import DEMO, World, key_of, quiet_logs, settle, stranded

USERS = ("u0", "u1", "u2", "u3", "u4", "u5")
users = st.sampled_from(USERS)
faults = st.builds(
    fault,
    st.sampled_from(list(FaultKind)),
    st.sampled_from([ReasonCode.BROKER_ERROR, ReasonCode.TOKEN_REVOKED, ReasonCode.TOKEN_EXPIRED]),
    retry_after_s=st.none() | st.floats(0, 200),
    shared=st.booleans(),
)
pauses = st.sampled_from([0.0, 0.05, 0.1, 0.3, 1.0, 7.0, 61.0, 4000.0])


class Sessions(RuleBasedStateMachine):
    """Six users on a broker with two login slots."""

    def __init__(self) -> None:
        super().__init__()
        quiet_logs()
        self.tick_s, keeping.TICK_S = keeping.TICK_S, 50.0  # hours pass here
        self.loop = asyncio.new_event_loop()
        looptime.patch_event_loop(self.loop, start=0)
        asyncio.set_event_loop(self.loop)
        self.world = World(slots=2)
        self.world.broker.reconcile_every_s = 200.0
        self.started: set[str] = set()
        self.tokens = 0

    def run(self, work: Any) -> Any:
        async def then_settle() -> Any:
            result = await work
            await settle()
            return result

        return self.loop.run_until_complete(then_settle())

    @initialize()
    def open(self) -> None:
        self.run(self.world.__aenter__())

    @rule(user=users)
    def start(self, user: str) -> None:
        if self._accepted(self.world.start(user)):
            assert self._stored(user)
        self.started.add(user)

    @precondition(lambda self: self.started)
    @rule(data=st.data())
    def stop(self, data: st.DataObject) -> None:
        user = data.draw(st.sampled_from(sorted(self.started)))
        if self._accepted(self.world.stop(user)):
            assert not self._stored(user)

    @rule(user=users, wanted=st.booleans())
    def command_elsewhere(self, user: str, wanted: bool) -> None:
        """Another process stores a start or a stop."""
        key = key_of(user).rpartition("_")[2]
        if wanted:
            if (user, "fake") not in self.world.credentials.stored:
                self.world.credentials.put(user, credential(user))
            start = Start(user, key, "fake", f"acc-{user}", DEMO)
            self.run(DesiredInMemory.start(self.world.desired, start))
            self.started.add(user)
        else:
            self.run(DesiredInMemory.stop(self.world.desired, key, "fake", None))

    @rule(away=st.booleans(), deaf=st.booleans())
    def store_answers(self, away: bool, deaf: bool) -> None:
        self.world.desired.away, self.world.desired.deaf = away, deaf

    def _accepted(self, command: Any) -> bool:
        try:
            self.run(command)
        except (Unavailable, NotFound):  # not found: the start was not stored
            return False
        return True

    def _stored(self, user: str) -> bool:
        """Whether the session is wanted, by the store."""
        key = key_of(user).rpartition("_")[2]
        rows = self.run(DesiredInMemory.of_user(self.world.desired, key))
        return any(row.wanted for row in rows)

    @rule(data=st.data(), fault=faults)
    def lose_one(self, data: st.DataObject, fault: BrokerFault) -> None:
        if self.world.broker.live:
            account = data.draw(st.sampled_from(self.world.broker.live))
            self.run(self._call(lambda: account.lose(fault)))

    @rule(fault=faults)
    def lose_all(self, fault: BrokerFault) -> None:
        def cut() -> None:
            for account in list(self.world.broker.live):
                account.lose(fault)

        self.run(self._call(cut))

    @rule(user=users, steps=st.lists(faults | st.just(ZeroDivisionError("ours")), min_size=1, max_size=3))
    def refuse_logins(self, user: str, steps: list[Exception]) -> None:
        self.world.broker.tell(f"acc-{user}", *steps)

    @rule(result=st.none() | faults)
    def answer_refreshes(self, result: BrokerFault | None) -> None:
        self.world.broker.refresh_result = result

    @rule(user=users)
    def replace_credential(self, user: str) -> None:
        self.tokens += 1
        self.world.credentials.put(user, credential(user, f"new-{self.tokens}"))

    @rule(user=users)
    def fence(self, user: str) -> None:
        entry = self.world.recorder.entries.get(key_of(user))
        if entry is not None and not entry.fenced:
            self.run(self._call(lambda: self.world.recorder.refuse(key_of(user))))

    @rule(seconds=pauses)
    def pass_time(self, seconds: float) -> None:
        self.run(asyncio.sleep(seconds))

    @rule(slots=st.integers(0, 3))
    def change_slots(self, slots: int) -> None:
        self.world.broker.slots = slots
        self.run(asyncio.sleep(0))  # nobody is told

    async def _call(self, work: Callable[[], None]) -> None:
        work()

    @invariant()
    def nobody_is_stranded(self) -> None:
        assert stranded(self.world.supervisor) == []

    @invariant()
    def live_means_live_at_the_broker_and_nowhere_else(self) -> None:
        """Where no report is under way, the table and the broker agree; stopped and fenced sessions have no login."""
        for row in self.world.supervisor.table:
            if row.state is State.LIVE:
                assert row.account is not None
                assert row.account.live  # type: ignore[attr-defined]
            if row.state in (State.STOPPED, State.FENCED):
                assert row.account is None
                assert row.credential is None
            assert row.task is None or not row.task.done()

    @invariant()
    def slots_are_respected(self) -> None:
        machine = self.world.supervisor.machine
        running = sum(row.state in LOGIN_STATES for row in machine.table)
        assert running <= machine.logins.running(("fake", "demo")) <= 3

    def teardown(self) -> None:
        try:
            self._peace()
        finally:
            keeping.TICK_S = self.tick_s
            self.run(self.world.__aexit__())
            self.loop.close()
            asyncio.set_event_loop(None)

    def _peace(self) -> None:
        """All faults stop, and so do users: what is stored runs, and within two hours everything wanted is live."""
        broker = self.world.broker
        broker.script.clear()
        broker.refresh_result = None
        broker.slots = 2
        self.world.desired.away = self.world.desired.deaf = False
        self.run(asyncio.sleep(60))
        wanted = [user for user in sorted(self.started) if self._stored(user)]
        for number, user in enumerate(wanted):
            self.world.credentials.put(user, credential(user, f"peace-{number}-{self.tokens}"))
            self.run(self.world.start(user))
        self.run(asyncio.sleep(7200))
        assert {account.account_id for account in broker.live} == {f"acc-{user}" for user in wanted}
        for user in wanted:
            assert self.world.row(user).state is State.LIVE
        for row in self.world.supervisor.table:
            assert row.user_id in wanted or row.state in (State.STOPPED, State.FENCED)


Sessions.TestCase.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
test_no_session_is_ever_stranded_whatever_happens = Sessions.TestCase


def test_rule_is_able_to_fail_when_a_failure_sets_no_timer(monkeypatch: pytest.MonkeyPatch) -> None:
    """The check itself is checked: a supervisor that forgets to queue a session again is caught."""
    monkeypatch.setattr(Failing, "_carry_on", lambda self, session: None)
    loop = asyncio.new_event_loop()
    looptime.patch_event_loop(loop, start=0)

    async def strand() -> list[Any]:
        async with World() as world:
            await world.live()
            world.broker.account("acc-u").lose(fault(FaultKind.ACCOUNT_AUTH_LOST))
            await settle()
            return stranded(world.supervisor)

    assert [what for _, what in loop.run_until_complete(strand())] == ["nothing leads out"]
    loop.close()
