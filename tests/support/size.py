"""A run at size: thousands of sessions at both brokers in one bridge process, the simulators in another.

Start, steady load, a mass cut of everything, recovery in order of risk, a comparison with both truths, drain. All is
measured through the doors that users have, and from what the system says of the processes. `run_size` fills a
`Verdicts`; it raises AssertionError only when a step cannot be gone on from.
"""

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tests.support.measures import Metrics, Usage, grown, percentile, quantile, read_metrics, total, usage
from tests.support.size_load import Load, all_of, start_all
from tests.support.storm import differences
from tests.support.two_brokers import not_live
from tests.support.verdicts import Verdicts
from tests.support.world import World, running_world

FIRST, SECOND = "ctrader", "alpaca"
TO_LIVE, FOR_PRICES, FOR_LIST = 3, 1, 1  # requests: authorise, trader, reconcile; prices when it holds; first time only
SLOTS = {FIRST: 200, SECOND: 20}  # logins in work at once: by so many places one may pass another
UNLIMITED = "tests.support.unlimited_bridge"  # who starts ten thousand is not to wait for 100 a second
TELLING = ("bridge_broker_requests", "bridge_broker_counts", "bridge_logins", "bridge_sessions_", "bridge_reconnects")
LOOK_S = 1.0
SAMPLE_EVERY_S, SAMPLED = 2.0, 500
EQUAL_WITHIN_S = 80.0  # prices that stand still are told once more by the second broker's polls; a reconcile, 72 s
DRAIN_S = 2.5  # DRAIN_SECONDS as it is by default
FLUSH_AGE_S, LAG_S = 2.5, 0.05  # faults.md §5, p99 of each
KIB_PER_SESSION = 30.0  # faults.md §5

Say = Callable[[str], object]


@dataclass(frozen=True, slots=True)
class Plan:
    """How large and how fast. `holders`: the share of accounts that hold something; rates per second."""

    users: int = 10_000
    second_users: int = 1_000
    channels: int = 8
    requests_per_second: int = 50  # what the broker allows on a channel; we keep to 90 %
    dials: int = 20  # at the second broker, where every account has a stream of its own
    holders: float = 0.5
    operations_per_second: float = 40.0
    steady_s: float = 60.0
    speed: float = 1.0  # moves of each symbol's price a second
    quotes: str = ""  # CTRADER_QUOTES
    seed: int = 1

    @property
    def rate(self) -> float:
        """Requests per second of the bridge at the first broker."""
        return round(self.requests_per_second * 0.9) * self.channels

    def limit_s(self, broker: str, holders: int, *, first: bool = False) -> float:
        """How long all may take to be live (DESIGN §15)."""
        if broker == SECOND:
            return 1.1 * self.second_users / self.dials + 10  # who traded at the cut may have to wait for REST, 5 s
        requests = self.users * (TO_LIVE + FOR_LIST * first) + holders * FOR_PRICES
        return 1.1 * requests / self.rate + 5


@asynccontextmanager
async def size_world(folder: Path, plan: Plan, *, bridge_module: str = UNLIMITED) -> AsyncIterator[World]:
    """One user more than take part: the price streams of the second broker are opened with that one's key."""
    house = plan.users + 1
    env = {
        "CTRADER_CHANNELS": str(plan.channels),
        "ALPACA_DIALS_PER_SECOND": str(plan.dials),
        "ALPACA_DATA_KEY_ID": f"SIMKEY{house}",
        "ALPACA_DATA_SECRET_KEY": f"sim-alpaca-secret-{house}",
        "LOG_LEVEL": "INFO",
        **({"CTRADER_QUOTES": plan.quotes} if plan.quotes else {}),
    }
    async with running_world(
        folder,
        users=house,
        requests_per_second=plan.requests_per_second,
        simulator_arguments=("--speed", str(plan.speed)),
        bridge_env=env,
        bridge_module=bridge_module,
    ) as world:
        world.users = world.users[:-1]
        yield world


async def run_size(world: World, plan: Plan, verdicts: Verdicts, say: Say = lambda line: None) -> None:
    """All phases, one after another."""
    run = _Run(world, plan, verdicts, say)
    await run.prepare()
    await run.start()
    await run.steady()
    await run.cut()
    await run.compare()
    await run.drain()


class _Run:
    def __init__(self, world: World, plan: Plan, verdicts: Verdicts, say: Say) -> None:
        self.world = world
        self.plan = plan
        self.verdicts = verdicts
        self.say = say
        self.first, self.second = world, world.at(SECOND, world.users[: plan.second_users])
        self.places = {FIRST: self.first, SECOND: self.second}
        self.wanted = {broker: len(place.users) for broker, place in self.places.items() if place.users}
        self.load = Load(self.first, self.second, random.Random(plan.seed), plan.holders)
        self.trading = asyncio.Event()
        self.trader: asyncio.Task[None] | None = None
        self.idle_rss = 0

    # ------------------------------------------------------------ phases

    async def prepare(self) -> None:
        """Holders hold before anybody is live."""
        for row in (await self.world.sim("GET", "/accounts"))["accounts"]:
            if row["environment"] == "demo":
                self.places[row["broker"]].accounts.setdefault(row["userId"], row["accountId"])
        await self.load.seed()
        self.idle_rss = usage(self.world.bridge.pid).rss_bytes
        holders = {broker: len(users) for broker, users in self.load.holders.items()}
        self.say(f"sessions to be: {self.wanted}; accounts that hold something: {holders}")

    async def start(self) -> None:
        async with self._phase("start"):
            begun = time.monotonic()
            limits = {each: self.plan.limit_s(each, self._holders(each), first=True) for each in self.wanted}
            async with asyncio.TaskGroup() as group:
                for place in self.places.values():
                    group.create_task(start_all(place))
                live = await self._all_live(begun, within_s=2 * max(limits.values()) + 30)
            for broker, seconds in live.items():
                self.verdicts.most(f"{broker}: {self.wanted[broker]:,} live after", seconds, limits[broker], "s", 1)

    async def steady(self) -> None:
        """Prices flow, people trade."""
        self.trader = asyncio.create_task(self.load.keep_going(self.plan.operations_per_second, self.trading))
        before = await read_metrics(self.world)
        ages: list[float] = []
        async with self._phase("steady", lag_s=LAG_S):
            end = time.monotonic() + self.plan.steady_s
            while (left := end - time.monotonic()) > 0:
                ages += self._ages()
                await asyncio.sleep(min(left, SAMPLE_EVERY_S))  # until the next sample
        after = await read_metrics(self.world)
        seconds = self.plan.steady_s
        for broker, name in ((FIRST, "events.spot"), (SECOND, "events.trade")):
            prices = grown(before, after, f'bridge_broker_counts_total{{broker="{broker}",what="{name}"')
            self.verdicts.note(f"{broker}: prices taken", f"{prices / seconds:,.0f}/s")
        self.verdicts.note("records written", f"{grown(before, after, 'bridge_flushed_records') / seconds:,.0f}/s")
        self.verdicts.note("age of holders' records, p50", f"{percentile(ages, 0.5):.2f} s")
        self.verdicts.most("age of holders' records, p99", percentile(ages, 0.99), FLUSH_AGE_S, "s", 2)
        self.verdicts.note("age of holders' records, max", f"{max(ages, default=0):.2f} s")
        for share, what in ((0.5, "p50"), (0.99, "p99"), (1.0, "max")):
            chunk = quantile(before, after, "bridge_flush_seconds", share)
            self.verdicts.note(f"a chunk of 500 records to the store, {what}", f"<= {1000 * chunk:g} ms")
        rss = usage(self.world.bridge.pid).rss_bytes
        sessions = sum(self.wanted.values())
        self.verdicts.note(
            "bridge: resident", f"{rss / 2**20:,.0f} MiB ({self.idle_rss / 2**20:,.0f} without sessions)"
        )
        self.verdicts.most(
            "bridge: KiB per session", (rss - self.idle_rss) / 1024 / sessions, KIB_PER_SESSION, "KiB", 1
        )
        simulator = usage(self.world.simulator.pid)
        self.verdicts.note("simulators: resident", f"{simulator.rss_bytes / 2**20:,.0f} MiB")

    async def cut(self) -> None:
        """Everything at once, amid the trading, and everybody back."""
        before = {broker: await place.broker_sim("GET", "/counters") for broker, place in self.places.items()}
        async with self._phase("recovery"):
            cut_at, cut_at_ms = time.monotonic(), time.time_ns() // 1_000_000
            await self.first.broker_sim("POST", "/faults", {"id": "N40"})
            await self.second.broker_sim("POST", "/faults", {"id": "N40", "holdSlot": False})
            await self._cut_seen(before)
            limits = {each: self.plan.limit_s(each, self._holders(each)) for each in self.wanted}
            live = await self._all_live(cut_at, within_s=2 * max(limits.values()) + 30)
            for broker, seconds in live.items():
                self.verdicts.most(f"{broker}: all live again after", seconds, limits[broker], "s", 1)
        for broker in self.wanted:
            after = await self.places[broker].broker_sim("GET", "/counters")
            self._judge_order(broker, before[broker], after, cut_at_ms)

    async def compare(self) -> None:
        """Nothing moves any more: every record must equal what its broker believes."""
        self.trading.set()
        assert self.trader is not None
        await self.trader
        for place in self.places.values():
            await place.broker_sim("POST", "/prices", {"freeze": True})
        begun = time.monotonic()
        self.verdicts.note("operations", f"{self.load.operations:,}")
        for broker in self.wanted:
            place = self.places[broker]
            wrong = await self._differing(place, EQUAL_WITHIN_S)
            seen = f"{self.wanted[broker] - len(wrong):,} after {time.monotonic() - begun:.1f} s"
            self.verdicts.true(f"{broker}: records equal to the truth", not wrong, seen, f"{self.wanted[broker]:,}")
            if wrong:
                self.say(f"{broker}: such as {dict(list(wrong.items())[:4])}")
        for broker in self.wanted:
            self._judge_counters(broker, await self.places[broker].broker_sim("GET", "/counters"))

    async def drain(self) -> None:
        """SIGTERM, and what it leaves."""
        begun = time.monotonic()
        code = await self.world.bridge.stop(within_s=DRAIN_S + 5)
        self.verdicts.most("ended by SIGTERM after", time.monotonic() - begun, DRAIN_S, "s", 2)
        ended = self.world.bridge.lines('"message":"ended"')
        self.verdicts.note("ended", "in order" if ended else "by its guard, before all parts had closed")
        self.verdicts.true("exit code", code == 0, str(code), "0")
        said = Counter(
            (record["status"], (record["reason"] or {}).get("code"))
            for broker in self.wanted
            for record in self.places[broker].records()
        )
        seen = ", ".join(f"{count:,} {status} ({code})" for (status, code), count in said.items())
        self.verdicts.true("records afterwards", set(said) == {("stale", "draining")}, seen, "all stale (draining)")

    # ------------------------------------------------------------ what is looked at

    @asynccontextmanager
    async def _phase(self, name: str, *, lag_s: float | None = None) -> AsyncIterator[None]:
        """Measure both processes and the bridge's loop meanwhile."""
        before, used = await read_metrics(self.world), self._usages()
        yield
        after, now = await read_metrics(self.world), self._usages()
        shares = {what: now[what].percent_since(used[what]) for what in now}
        self.verdicts.note(
            f"{name}: processor, bridge and simulators", f"{shares['bridge']:.0f} %, {shares['sim']:.0f} %"
        )
        lags = [quantile(before, after, "bridge_loop_beat_lag_seconds", share) for share in (0.5, 0.99, 1.0)]
        seen = ", ".join(f"{1000 * lag:g}" for lag in lags)
        holds, allowed = (True, "") if lag_s is None else (lags[1] <= lag_s, f"p99 <= {1000 * lag_s:g} ms")
        self.verdicts.true(f"{name}: loop lag p50, p99, max at most", holds, f"{seen} ms", allowed)
        self.say(f"{name}: {now['bridge'].at - used['bridge'].at:.0f} s")

    def _usages(self) -> dict[str, Usage]:
        return {"bridge": usage(self.world.bridge.pid), "sim": usage(self.world.simulator.pid)}

    def _holders(self, broker: str) -> int:
        return len(self.load.holders[broker])

    def _ages(self) -> list[float]:
        """How old records are which change with every price: a few of them, seconds."""
        users = random.Random(0).sample(self.load.holders[FIRST], min(SAMPLED, self._holders(FIRST)))
        records = self.first.records(users)
        now_ms = time.time_ns() // 1_000_000
        return [(now_ms - record["_cacheTimestamp"]) / 1000 for record in records if record is not None]

    async def _live(self) -> dict[str, float]:
        found: Metrics = await read_metrics(self.world)
        return {each: total(found, f'bridge_sessions{{broker="{each}",status="live"') for each in self.wanted}

    async def _all_live(self, begun: float, *, within_s: float) -> dict[str, float]:
        """When each broker's sessions were all live, in seconds since `begun`."""
        found: dict[str, float] = {}
        live: dict[str, float] = {}
        while time.monotonic() - begun < within_s:
            live = await self._live()
            for broker, count in live.items():
                if count >= self.wanted[broker]:
                    found.setdefault(broker, time.monotonic() - begun)
            if len(found) == len(self.wanted):
                return found
            await asyncio.sleep(LOOK_S)  # until the next look
        figures = await read_metrics(self.world)
        told = {name: value for name, value in figures.items() if value and name.startswith(TELLING)}
        states = await not_live(self.world)
        raise AssertionError(f"not all live within {within_s:.0f} s: {live} of {self.wanted}; {states}; {told}")

    async def _cut_seen(self, before: dict[str, Any]) -> None:
        """Half of each broker's sessions are gone, or on their way back: a small fleet is quicker than a look."""
        unseen, deadline = set(self.wanted), time.monotonic() + 10
        while True:
            live = await self._live()
            for broker in sorted(unseen):
                after = await self.places[broker].broker_sim("GET", "/counters")
                again = len(after["authOrder"]) - len(before[broker]["authOrder"])
                if min(live[broker], self.wanted[broker] - again) < self.wanted[broker] / 2:
                    unseen.discard(broker)
            if not unseen:
                return
            assert time.monotonic() < deadline, f"the cut was not noticed: {unseen}"
            await asyncio.sleep(LOOK_S / 5)  # until the next look

    async def _differing(self, place: World, within_s: float) -> dict[str, list[str]]:
        """Users whose records differ from the truth, and how; none when they are equal in time."""
        users = list(place.users)
        truths = await all_of([partial(place.sim, "GET", f"/truth/{place.accounts[user]}") for user in users])
        deadline = time.monotonic() + within_s
        while True:
            found = zip(users, place.records(), truths, strict=True)
            wrong = {user: odd for user, record, truth in found if (odd := differences(record, truth))}
            if not wrong or time.monotonic() > deadline:
                return wrong
            await asyncio.sleep(1.0)  # until the next look at the records

    # ------------------------------------------------------------ what is judged

    def _judge_order(self, broker: str, before: Any, after: Any, cut_at_ms: int) -> None:
        """Of the logins after the cut, those of holders come first, give or take the logins in work at once."""
        logins = after["authOrder"][len(before["authOrder"]) :]
        holders = self.load.accounts_of_holders(self.places[broker])
        places = [place for place, login in enumerate(logins) if str(login["accountId"]) in holders]
        known = {str(login["accountId"]) for login in logins}
        allowed = len(holders) + SLOTS[broker]
        held = "holders back first: the last one's place"
        self.verdicts.most(f"{broker}: {held}", max(places, default=-1) + 1, allowed)
        self.verdicts.true(f"{broker}: holders back", holders <= known, f"{len(places):,}", f"{len(holders):,}")
        if places:
            seconds = (logins[max(places)]["atMs"] - cut_at_ms) / 1000
            self.verdicts.note(f"{broker}: last holder logged in after", f"{seconds:.1f} s")

    def _judge_counters(self, broker: str, counters: Any) -> None:
        self.verdicts.most(f"{broker}: budget violations", counters["budgetViolations"], 0)
        self.verdicts.most(f"{broker}: double logins", counters["doubleLogins"] + counters.get("parallelLogins", 0), 0)
        errors = sum(counters["errors"].values())
        self.verdicts.most(f"{broker}: rejects", errors + counters.get("refusedSlots", 0), 0)
        if counters["errors"]:
            self.say(f"{broker}: errors {counters['errors']}")
