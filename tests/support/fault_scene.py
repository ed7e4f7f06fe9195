"""What the fault suites of all brokers share: the running world as one fault meets it, and how a fault is judged.

A suite derives its own `FaultScene`, which says who is the victim and how its accounts trade. `run_case` begins a
fault, lets it act, ends it, and asks for what every fault must leave behind: records that never promised too much,
equal to the broker's truth again in a stated time, nothing of anybody else changed, no budget or login too many. What
held is noted for `docs/faults.md`, by those who asked for it.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest

from tests.faults.catalogue import ROWS
from tests.support.fault_proxy import FaultProxy
from tests.support.fault_table import fault
from tests.support.measures import read_metrics
from tests.support.storm import differences
from tests.support.waiting import eventually
from tests.support.watcher import Watcher
from tests.support.world import World

SEEN_WITHIN_S = 2.0  # one flush
ACTS_WITHIN_S = 5.0  # a fault that waits for the next request or the next connection
ON_THE_WAY = frozenset({None, "starting", "connecting", "authorizing", "syncing"})  # reasons of a session coming back


@dataclass
class FaultScene:
    """One fault in the running world."""

    BROKER: ClassVar[str]  # for people
    TITLES: ClassVar[Mapping[str, str]]  # what the broker's faults do, in a few words
    SILENCE_S: ClassVar[float]  # until a peer that says nothing is given up
    SOCKETS: ClassVar[float]  # to the broker, for each user
    VICTIM: ClassVar[str] = "user-2"  # the fault aims at this one where it can
    UNCOUNTED: ClassVar[frozenset[str]] = frozenset()  # faults whose effects the simulator does not count
    VICTIMS_ONLY: ClassVar[frozenset[str]] = frozenset()  # faults limited to the victim also when others are cut

    world: World
    watcher: Watcher
    before: Any = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    losses: int = 0  # "channel lost" in the log before
    notes: dict[str, None] = field(default_factory=dict)  # what held so far, in order

    @property
    def users(self) -> list[str]:
        return list(self.world.users)

    @property
    def bystanders(self) -> list[str]:
        """Whose records may not change while a fault is aimed at the victim."""
        return [user for user in self.world.users if user != self.VICTIM]

    @property
    def lines(self) -> tuple[FaultProxy, ...]:
        """What stands between bridge and broker."""
        raise TypeError(f"{type(self).__name__} has no lines")

    @property
    def victim_account(self) -> Any:
        """The victim's account as the broker's faults want it."""
        return self.world.accounts[self.VICTIM]

    def record(self, user: str = "") -> Any:
        return self.watcher.records[user or self.VICTIM]

    def held(self, what: str) -> None:
        """Note what was asked for and held: bounds, no measured values."""
        self.notes[what] = None

    async def fault(self, fault_id: str, **parameters: object) -> None:
        await self.world.broker_sim("POST", "/faults", {"id": fault_id, **parameters})

    async def end_faults(self) -> None:
        await self.world.broker_sim("DELETE", "/faults")

    async def counters(self) -> Any:
        return await self.world.broker_sim("GET", "/counters")

    async def counted(self, name: str, key: str = "") -> Any:
        """By how much a counter of the simulator grew since the fault began."""
        now = await self.counters()
        if key:
            return now[name].get(key, 0) - self.before[name].get(key, 0)
        return now[name] - self.before[name]

    async def metric(self, name: str) -> float:
        """By how much a metric of the bridge grew since the fault began, summed over its labels."""
        now = await read_metrics(self.world)
        return sum(value - self.metrics.get(key, 0.0) for key, value in now.items() if key.startswith(name))

    async def begin(self) -> None:
        """Count from here."""
        self.notes.clear()
        self.watcher.violations.clear()
        self.watcher.forget_seen()
        self.losses = self.world.bridge.lines("channel lost")
        self.before, self.metrics = await self.counters(), await read_metrics(self.world)

    async def differing(self, *users: str) -> dict[str, list[str]]:
        """Which records differ from the broker's truth, and how."""
        wrong = {}
        for user in users or self.users:
            truth = await self.world.sim("GET", f"/truth/{self.world.accounts[user]}")
            if found := differences(self.watcher.records.get(user), truth):
                wrong[user] = found
        return wrong

    async def equal(self, *users: str, within_s: float) -> None:
        deadline = time.monotonic() + within_s
        while wrong := await self.differing(*users):
            if time.monotonic() >= deadline:
                raise AssertionError(f"not equal to the truth within {within_s} s: {wrong}; {await self._explained()}")
            await asyncio.sleep(0.05)  # until the next look at the records
        self.held(f"{'equal' if users else 'all equal'} to the broker's truth within {within_s:g} s")

    async def _explained(self) -> list[Any]:
        """What the bridge itself says of the sessions that are not live."""
        rows = (await self.world.api("GET", "/api/sessions"))["sessions"]
        away = [row["userKey"] for row in rows if row["status"] != "live"]
        return [await self.world.api("GET", f"/api/sessions/{key}/explain") for key in away]

    async def seen_not_live(self, *users: str, within_s: float = SEEN_WITHIN_S) -> None:
        """The records said so; or the session was back before the next sample, which the bridge counts."""
        wanted = users or self.users

        async def noticed() -> bool:
            if all(self.watcher.statuses(user) - {"live"} for user in wanted):
                return True
            away = sum(self.record(user)["status"] != "live" for user in wanted)
            return await self.metric("bridge_reconnects_total") + away >= len(wanted)

        await eventually(
            noticed, within_s=within_s, every_s=0.05, what=lambda: f"sessions not live: {self.watcher.seen}"
        )
        self.held(f"said so within {within_s:g} s")

    async def nothing_of_others_changes(self, seconds: float) -> None:
        """What bystanders hold and have stays as it is, for so long, whatever becomes of their sessions."""
        before = {user: _owned(self.record(user)) for user in self.bystanders}
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            assert {user: _owned(self.record(user)) for user in self.bystanders} == before
            await asyncio.sleep(0.02)  # a sample; nothing may change in any of them

    async def watch_for(self, seconds: float) -> None:
        """Let the fault act; the watcher watches."""
        await asyncio.sleep(seconds)

    async def kept_promises(self) -> None:
        """What must hold under every fault: no record promised too much, no budget was exceeded, the bridge runs."""
        await asyncio.sleep(0.1)  # a few more samples
        assert not self.watcher.violations, "\n".join(self.watcher.violations)
        assert await self.counted("budgetViolations") == 0
        assert self.world.bridge.returncode is None
        await self.judged()

    async def silence_is_noticed(self, *users: str) -> None:
        """A question, then death; no record may look fresh longer than its horizon, which the watcher checks."""
        await self.seen_not_live(*users, within_s=self.SILENCE_S + SEEN_WITHIN_S)

    async def cut(self) -> None:
        """The broker drops every connection."""
        raise TypeError(f"{type(self).__name__} cuts nothing")

    async def trade(self, user: str = VICTIM, *, rounds: int = 1) -> None:
        """Everything that an account can do."""
        raise TypeError(f"{type(self).__name__} does not trade")

    async def logins(self) -> int:
        """Connections of sessions that were opened since the fault began."""
        raise TypeError(f"{type(self).__name__} logs in nowhere")

    async def judged(self) -> None:
        """What else a suite asks for once a case is over."""


def _owned(record: Any) -> Any:
    return record["balance"], [
        (row["id"], row["units"], row["side"]) for row in (*record["positions"], *record["orders"])
    ]


Step = Callable[[Any], Awaitable[None]]


@dataclass(frozen=True)
class Case:
    """`aimed`: at the victim's account only, so that nothing of the others may change. `back_s`: live and equal again
    so long after the fault ended. `codes`: the reasons that the victim may be shown, None: any; `says`: one that it
    must have been shown. `fault`: by the simulator's name; `of`: in the catalogue, where that is another; `injected`:
    in words, where the simulator's are too few."""

    fault: str
    parameters: Mapping[str, object] = field(default_factory=dict)
    during: Step | None = None
    after: Step | None = None
    aimed: bool = False
    back_s: float = 6.0
    name: str = ""
    codes: frozenset[str] | None = None
    says: str = ""
    of: str = ""
    injected: str = ""

    def __str__(self) -> str:
        names = dict.fromkeys((self.of or self.fault, self.fault, self.name))
        return "-".join(name for name in names if name)


def parameters(scene: type[FaultScene], cases: list[Case]) -> list[Any]:
    """The cases for `pytest.mark.parametrize`, named and marked by the ids of the catalogue."""

    def marks(case: Case) -> list[pytest.MarkDecorator]:
        fault_id = case.of or case.fault
        injected = f"{scene.BROKER}: {case.injected or scene.TITLES[case.fault]}"
        return [fault(fault_id, injected)] if fault_id in ROWS else []

    return [pytest.param(case, id=str(case), marks=marks(case)) for case in cases]


Observed = Callable[[str], None]


async def run_case(scene: FaultScene, case: Case, observed: Observed) -> None:
    """Let one fault act and end, judge what it left, and note what held."""
    await scene.equal(within_s=15)  # whatever the case before did
    await scene.begin()
    names_users = "users" in case.parameters
    limited = (case.aimed or case.fault in scene.VICTIMS_ONLY) and not names_users
    limits = {"accounts": [scene.victim_account]} if limited else {}
    try:
        if case.aimed:
            with scene.watcher.untouched(*scene.bystanders):
                await _act(scene, case, limits)
                await _recover(scene, case)
            scene.held("nobody else's record changed")
        else:
            await _act(scene, case, limits)
            await _recover(scene, case)
    finally:
        await scene.end_faults()
    await scene.kept_promises()
    shown = scene.watcher.codes(scene.VICTIM)
    if case.codes is not None:
        assert shown <= ON_THE_WAY | case.codes, f"unexpected reasons: {shown}"
    assert not case.says or case.says in shown, f"{case.says} was not said: {shown}"
    for note in scene.notes:
        observed(note)


async def _act(scene: FaultScene, case: Case, limits: Mapping[str, object]) -> None:
    await scene.fault(case.fault, **{**limits, **case.parameters})
    if case.during is not None:
        await case.during(scene)
    if case.fault not in scene.UNCOUNTED:
        before = sum(scene.before["faults"].values())

        async def acted() -> bool:
            return sum((await scene.counters())["faults"].values()) > before

        await eventually(acted, within_s=ACTS_WITHIN_S, every_s=0.05, what="the fault acts")
    await scene.end_faults()


async def _recover(scene: FaultScene, case: Case) -> None:
    if case.after is not None:
        await case.after(scene)
    await scene.equal(within_s=case.back_s)
