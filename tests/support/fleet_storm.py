"""Three processes, thousands of sessions: `kill -9` of one, a rolling restart of all, and a comparison with the truth.

Used by the test suite in small and by `scripts/storm --fleet` in full. Everything is done through the doors that users
have, and judged by the simulators, by triggers in the database and by a reader of Valkey. What does not hold is a line
of the report, not an end: one run shows everything.
"""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from tests.support.fleet_audit import Away, CopyWatch
from tests.support.fleet_load import Load
from tests.support.fleet_world import Fleet, said
from tests.support.kill_drill import FOR_PRICES, LISTING, NOTED_WITHIN_S, TO_LIVE, primary_records, stored_sessions
from tests.support.processes import BridgeProcess
from tests.support.storm import differences, seed_positions
from tests.support.verdicts import Verdicts, verdict
from tests.support.waiting import eventually
from tests.support.world import World, record_key

PROCESSES = 3
STARTS_PER_S = 100.0  # what the API admits for one key
LIGHT_PER_S = 20.0  # operations while a process is killed
DRAIN_S = 2.5  # DRAIN_SECONDS
SECOND_DIALS_PER_S = 5.0  # of one process: there, every session has a stream of its own
LOOK_S = 2.0  # until a hand-over is noticed where notices are not heard, and the last flush of the old process
TRUE_WITHIN_S = (
    180.0  # nothing tells of a deposit at the second broker: its next reconcile does; shares are met meanwhile
)
Say = Callable[[str], object]


@dataclass(frozen=True, slots=True)
class Plan:
    """`rate`: our requests per second on one of `channels` of each process; `slot_wait_s`: how long a process waits at
    the second broker when the stream of a killed one still holds its slot. `slack`: by how much longer than promised
    everything may take, on a machine that has other things to do."""

    rate: float
    channels: int
    operations: int
    per_s: float
    lease_s: float
    second_users: int = 0
    slot_wait_s: float = 0.0
    slack: float = 1.0
    seed: int = 1


class FleetStorm:
    """The drill, step by step. Raises AssertionError only when it cannot go on."""

    def __init__(self, fleet: Fleet, plan: Plan, say: Say) -> None:
        self._fleet = fleet
        self._plan = plan
        self._say = say
        self._rng = random.Random(plan.seed)
        self._first = fleet.world
        self._second = fleet.world.at("alpaca", fleet.world.users[: plan.second_users]) if plan.second_users else None
        toggled = fleet.world.users[-max(2, len(fleet.world.users) // 20) :]
        self._load = Load(fleet, self._first, self._second, toggled=toggled, rng=self._rng)
        self._look_s = 0.25 + len(fleet.world.users) / 2000  # a look reads every record
        self._trading: list[asyncio.Task[None]] = []
        self._steady = [user for user in fleet.world.users if user not in set(toggled)]
        self.verdicts = Verdicts()

    async def run(self) -> Verdicts:
        """Everything, in order. What does not hold is a line of the verdicts."""
        users = {place.broker: place.users for place in self._places}
        watch = CopyWatch(self._first.valkey.url, users)
        watching = asyncio.create_task(watch.watch())
        try:
            await self._start()
            await self._kill()
            await self._restart_all()
            await self._judge(watch)
        finally:
            for task in (watching, *self._trading):
                task.cancel()
            await asyncio.gather(watching, *self._trading, return_exceptions=True)
        return self.verdicts

    def _trade(self, load: Load, operations: int, per_s: float) -> tuple[asyncio.Task[None], asyncio.Event]:
        """Trade beside what follows, until the event is set."""
        over = asyncio.Event()
        task = asyncio.create_task(load.run(operations, per_s, until=over))
        self._trading.append(task)
        return task, over

    @property
    def _places(self) -> list[World]:
        return [self._first, *([self._second] if self._second is not None else [])]

    # ------------------------------------------------------------ the steps

    async def _start(self) -> None:
        """Through the API, at one process after the other."""
        begun = time.monotonic()
        gate = asyncio.Semaphore(16)

        async def one(place: World, user: str, at: World) -> None:
            body = {"userId": user, "environment": "demo"} if place.broker == "ctrader" else {"userId": user}
            async with gate:
                answer = await at.at(place.broker, ()).start(user, **body)
            place.accounts[user] = str(answer["accountId"])

        async with asyncio.TaskGroup() as group:
            for place in self._places:
                for number, user in enumerate(place.users):
                    group.create_task(one(place, user, self._running[number % PROCESSES]))
        count = len(self._first.users)
        login_s = self._login_s(count * (1 + TO_LIVE), PROCESSES)
        limit_s = (count + self._plan.second_users) / STARTS_PER_S + login_s + self._second_s(PROCESSES) + 15
        await self._live(within_s=2 * limit_s)
        self._within("all sessions live after the first start", time.monotonic() - begun, limit_s)
        self._say(f"{count} + {self._plan.second_users} sessions live after {time.monotonic() - begun:.1f} s")
        if self._second is not None:
            await self._second.broker_sim("POST", "/prices", {"freeze": True})
        await seed_positions(self._first, self._rng, self._steady[::5])
        held = {self._first.accounts[user] for user in self._steady[::5]}

        async def noted() -> bool:
            return held <= (await stored_sessions(self._fleet.database_url))[1]

        await eventually(noted, within_s=NOTED_WITHIN_S, every_s=0.5, what="what is at risk is stored")

    async def _kill(self) -> None:
        """`kill -9` of one process, under light trading."""
        fleet, plan = self._fleet, self._plan
        victim = await fleet.owner_of("2")
        mine, at_risk = await self._of(victim)
        light = Load(fleet, self._first, self._second, toggled=(), rng=self._rng)
        trading, over = self._trade(light, 0, LIGHT_PER_S)
        killed = fleet.running.pop("2")
        killed.bridge.send(signal.SIGSTOP)  # it may not see what follows
        await self._hold_slots(mine.get("alpaca", ()))
        moment, lists = await fleet.auditor.now(), await self._lists()
        killed.bridge.send(signal.SIGKILL)
        channels = plan.channels * (PROCESSES - 1)
        requests = TO_LIVE * len(mine["ctrader"]) + FOR_PRICES * at_risk
        limit_s = plan.lease_s + 1.1 * requests / (plan.rate * channels) + 5
        second_limit_s = plan.lease_s + plan.slot_wait_s + self._second_s(PROCESSES - 1) + 10
        await killed.bridge.ended()
        await self._live(but={victim}, within_s=2 * max(limit_s, second_limit_s), of=("ctrader",))
        self._say(f"all sessions of the killed process live elsewhere (allowed {limit_s:.1f} s)")
        await self._live(but={victim}, within_s=2 * max(limit_s, second_limit_s))
        over.set()
        await trading
        back = await fleet.auditor.back_after(moment, [key for keys in mine.values() for key in keys])
        self._note(
            "killed process",
            f"N = {len(mine['ctrader'])} + {len(mine.get('alpaca', ()))}, R = {requests / len(mine['ctrader']):.2f}, "
            f"rate = {plan.rate:g}/s, channels = {channels}, lease = {plan.lease_s:g} s",
        )
        self._none("account lists read again, although they are kept with the grants", await self._lists() - lists)
        for broker, allowed_s in (("ctrader", limit_s), ("alpaca", second_limit_s)):
            if keys := mine.get(broker):
                times = sorted(back.get(key, float("inf")) for key in keys)
                self._within(f"its {broker} sessions live elsewhere, the last one", times[-1], allowed_s)
                self._note(f"its {broker} sessions live elsewhere, half of them", f"{_of(times, 0.5):.1f} s")
        await self._put_back("2")

    async def _lists(self) -> int:
        counters = await self._first.broker_sim("GET", "/counters")
        return int(counters["requests"].get(LISTING, 0))

    async def _hold_slots(self, keys: Collection[str]) -> None:
        """The second broker believes in these streams, which are dead, for as long as the real one would."""
        if self._second is None or not keys:
            return
        accounts = [self._second.accounts[user] for user in self._second.users if record_key(user, "alpaca") in keys]
        await self._second.broker_sim("POST", "/faults", {"id": "N40", "accounts": accounts, "holdSlot": True})

    async def _put_back(self, name: str) -> None:
        """Three again, as the platform sees to it."""
        await self._fleet.add(name)

    async def _restart_all(self) -> None:
        """SIGTERM, wait out the drain, start the successor; one after the other, under load."""
        fleet, plan = self._fleet, self._plan
        begun = await fleet.auditor.now()
        trading, over = self._trade(self._load, plan.operations, plan.per_s)
        most, worst_s = 0, 0.0
        for name in list(fleet.running):
            if trading.done():
                break  # it failed: told below
            moved = (await self._of(await fleet.owner_of(name)))[0]["ctrader"]
            old = fleet.running.pop(name)
            fleet.world.url = next(iter(fleet.running.values())).url
            started = time.monotonic()
            code = await old.bridge.stop(within_s=DRAIN_S + 30)
            ended = f"{time.monotonic() - started:.1f} s, its lease given back after {_gave_back(old.bridge):.1f} s"
            self._judged(f"process {name} ended in order", code == 0, ended, "exit code 0")
            await fleet.add(f"{name}'")
            limit_s = self._gap_s(len(moved))
            await self._live(within_s=3 * limit_s)
            self._say(f"process {name} replaced, all live again after {time.monotonic() - started:.1f} s")
            most, worst_s = max(most, len(moved)), max(worst_s, limit_s)
        over.set()
        await trading
        await self._live(within_s=3 * worst_s)
        times = sorted(gap.seconds for gap in await self._away(begun, await fleet.auditor.now()))
        self._note("rolling restart", f"{self._load.done.total()} operations: {dict(self._load.done)}")
        queue = f"N = {most}, R = {TO_LIVE + FOR_PRICES}, rate = {plan.rate:g}/s, channels = {plan.channels}"
        self._note("longest queue at one process", f"{queue} (a newcomer has room for all that its elder had)")
        self._within("longest time away of a session", times[-1], worst_s)
        self._note("half of the times away, 99 % of them", f"{_of(times, 0.5):.1f} s, {_of(times, 0.99):.1f} s")
        changes = await fleet.auditor.owner_changes(begun, await fleet.auditor.now())
        self._note("sessions by changes of owner meanwhile", dict(sorted(changes.items())))

    async def _judge(self, watch: CopyWatch) -> None:
        """Every record equals the truth; nothing was written late; nobody was logged in twice."""
        fleet = self._fleet
        begun, truths = time.monotonic(), await self._truths()
        wrong: dict[str, Any] = {}
        with suppress(AssertionError, TimeoutError):  # told below
            await eventually(lambda: self._true(truths, wrong), within_s=TRUE_WITHIN_S, every_s=2 * self._look_s)
        took = f" (looked at, and equal, within {time.monotonic() - begun:.1f} s)"
        total = sum(len(place.users) for place in self._places)
        self._none(f"records of {total} that differ from the truth, in Postgres or Valkey{took}", list(wrong.items()))
        self._none("accepted writes under an older fence, or not above the one before", await fleet.auditor.late())
        self._none("fences that two processes had, or that fell", await fleet.auditor.twice_owned())
        self._none("records in Valkey that went back", watch.wrong)
        for place in self._places:
            counters = await place.broker_sim("GET", "/counters")
            for name in ("doubleLogins", "parallelLogins", "budgetViolations"):
                if name in counters:
                    self._none(f"{place.broker}: {name}", counters[name])
                if over := counters.get("budgetViolationsByRequest") if name == "budgetViolations" else None:
                    self._note("requests over the budget", over)
        errors = Counter(_error(line) for each in fleet.ever for line in said(each, '"level":"error"'))
        self._note("errors in the logs", dict(errors.most_common()))
        for name, world in fleet.running.items():
            view = (await world.api("GET", "/api/fleet"))["processes"]
            self._note(f"process {name} at the end serves", next(row["load"] for row in view if row["here"]))

    # ------------------------------------------------------------ the verdicts, each said when it is known

    def _within(self, what: str, seconds: float, limit_s: float) -> None:
        self.verdicts.most(what, seconds, limit_s * self._plan.slack, "s", 1)
        self._say_last()

    def _none(self, what: str, found: Sequence[object] | int) -> None:
        number = found if isinstance(found, int) else len(found)
        some = f": {list(found)[:3]}" if number and not isinstance(found, int) else ""
        self._judged(what, number == 0, f"{number}{some}", "0")

    def _judged(self, what: str, holds: bool, seen: str, allowed: str) -> None:
        self.verdicts.true(what, holds, seen, allowed)
        self._say_last()

    def _note(self, what: str, seen: object) -> None:
        self.verdicts.note(what, str(seen))
        self._say_last()

    def _say_last(self) -> None:
        line = self.verdicts.lines[-1]
        self._say("  ".join(part for part in (line.what, line.seen, line.allowed, verdict(line)) if part))

    # ------------------------------------------------------------ figures

    @property
    def _running(self) -> list[World]:
        return list(self._fleet.running.values())

    def _login_s(self, requests: float, processes: int) -> float:
        return 1.1 * requests / (self._plan.rate * self._plan.channels * processes)

    def _second_s(self, processes: int) -> float:
        return self._plan.second_users / (SECOND_DIALS_PER_S * processes)

    def _gap_s(self, moved: int) -> float:
        """One drain, one look, one connection, and the whole queue of those that moved: at one process, when that has
        just been started and has room for all of them, as fair shares ask for."""
        login_s = self._login_s(moved * (TO_LIVE + FOR_PRICES), 1)
        return DRAIN_S + LOOK_S + max(login_s, self._second_s(1)) + 5

    async def _of(self, owner: str) -> tuple[dict[str, list[str]], int]:
        """The keys that a process owns, by broker, and how many at the first one are at risk."""
        rows = await self._fleet.rows(
            "select broker, user_key, at_risk from public.bridge_sessions where wanted and owner = $1", owner
        )
        keys: dict[str, list[str]] = {"ctrader": []}
        for row in rows:
            keys.setdefault(row["broker"], []).append(f"{row['broker']}_account_{row['user_key']}")
        return keys, sum(row["at_risk"] for row in rows if row["broker"] == "ctrader")

    async def _live(
        self, *, within_s: float, but: Collection[str] = (), of: Collection[str] = ("ctrader", "alpaca")
    ) -> None:
        """Until every wanted session is live and fresh at a process that has a lease."""
        last: dict[str, tuple[int, int]] = {}

        async def live() -> bool:
            last.update(await self._fleet.auditor.served(but=but))
            return all(wanted == live for broker, (wanted, live) in last.items() if broker in of)

        await eventually(
            live,
            within_s=within_s * self._plan.slack,
            every_s=self._look_s,
            what=lambda: f"all live: (wanted, live) is {last}",
        )

    async def _away(self, since: Any, until: Any) -> list[Away]:
        """Times away of sessions that nobody stopped."""
        steady = {record_key(user, place.broker) for place in self._places for user in self._steady}
        return [gap for gap in await self._fleet.auditor.away(since, until) if gap.key in steady]

    async def _truths(self) -> dict[str, Any]:
        """What the brokers believe of each account, by key of its record; None: its session was stopped."""
        gate, truths = asyncio.Semaphore(16), dict[str, Any]()

        async def ask(place: World, user: str) -> None:
            async with gate:
                truths[record_key(user, place.broker)] = await place.sim("GET", f"/truth/{place.accounts[user]}")

        async with asyncio.TaskGroup() as group:
            for place in self._places:
                for user in place.users:
                    group.create_task(ask(place, user))
        stopped = [user for user, wanted in self._load.wanted.items() if not wanted]
        return truths | {record_key(user, self._first.broker): None for user in stopped}

    async def _true(self, truths: dict[str, Any], wrong: dict[str, Any]) -> bool:
        """Every record is live, and equal to the truth, at this moment."""
        wrong.clear()
        for place in self._places:
            primary = await primary_records(self._fleet.database_url, place.users, place.broker)
            for user, copy in zip(place.users, place.records(), strict=True):
                truth = truths[record_key(user, place.broker)]
                if found := [*_judged(primary[user], truth), *_judged(copy, truth)]:
                    wrong[f"{place.broker} {user}"] = found
        return not wrong


def _judged(record: Any, truth: Any) -> list[str]:
    """`truth` None: the session was stopped."""
    if truth is not None:
        return differences(record, truth)
    return [] if record and record["status"] == "stopped" else [f"not stopped: {record and record['status']}"]


def _gave_back(process: BridgeProcess) -> float:
    """Seconds from the signal until others could take over; infinite when they had to wait for the end of the lease."""
    lines = [*said(process, '"draining"'), *said(process, "left the fleet")]
    times = [datetime.fromisoformat(line["at"]) for line in lines]
    return (times[-1] - times[0]).total_seconds() if len(times) == 2 else float("inf")


def _of(times: Sequence[float], share: float) -> float:
    return times[min(len(times) - 1, round(len(times) * share))]


async def run_fleet_storm(fleet: Fleet, plan: Plan, *, say: Say = lambda line: None) -> Verdicts:
    """Run the drill on a fleet of three processes without sessions."""
    return await FleetStorm(fleet, plan, say).run()


def _error(line: Mapping[str, Any]) -> str:
    """A logged error with its count of records, where it has one."""
    records = f" ({line['records']})" if "records" in line else ""
    return f"{line['message']}{records}"
