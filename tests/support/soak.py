"""A soak: rounds of random deeds, after each of which everything must be live and true again, and what the bridge holds
is sampled; in the end nothing may have kept growing.

Everything is measured through the doors that users have and from what the system says of the process. `run_soak` fills
a `Verdicts`; it raises AssertionError when a round does not end as it must, with the line that plays it again.
"""

import asyncio
import random
import signal
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tests.support import soak_deeds
from tests.support.leaks import Bound, judge
from tests.support.measures import Metrics, quantile, read_metrics, usage
from tests.support.soak_world import SECOND, SoakWorld
from tests.support.storm import differences
from tests.support.verdicts import Verdicts
from tests.support.waiting import eventually
from tests.support.world import World

LIVE_WITHIN_S = 60.0
EQUAL_WITHIN_S = 75.0  # a broker that loses answers on a line that stays up: a reconcile is given up after 30 s
LOOK_S = 0.25

MIB = 2**20
# What may be grown by after the warm-up, however long the run: what is made once late, what is bounded (the executions
# of each account that are remembered) and fills slowly, and noise.
BOUNDS: Mapping[str, Bound] = {
    "resident memory": Bound(6 * MIB, share=0.03, unit=" MiB", scale=MIB),
    "blocks of memory in use": Bound(30_000),
    "tasks": Bound(3),
    "open files": Bound(3),
    "records": Bound(0.5),
    "accounts": Bound(0.5),
    "channels": Bound(2),
}

Say = Callable[[str], object]


@dataclass(frozen=True, slots=True)
class Plan:
    """How long, how many, and which deeds: `seed` decides them; with `rough` things go wrong, too."""

    minutes: float = 10.0
    users: int = 24
    second_users: int = 8
    seed: int = 1
    rounds: int | None = None  # at most
    rough: bool = True


async def run_soak(world: SoakWorld, plan: Plan, verdicts: Verdicts, say: Say = lambda line: None) -> None:
    """Rounds until the time is over; then the judgement."""
    soak = _Soak(world, plan, verdicts, say)
    await soak.settle("at first")
    await soak.go()
    await soak.judge()


class _Soak:
    def __init__(self, world: SoakWorld, plan: Plan, verdicts: Verdicts, say: Say) -> None:
        self.world = world
        self.plan = plan
        self.verdicts = verdicts
        self.say = say
        self.rng = random.Random(plan.seed)
        self.series: dict[str, list[tuple[float, float]]] = defaultdict(list)
        self.deeds: Counter[str] = Counter()
        self.begun = time.monotonic()
        self.rounds = 0
        self.slowest_s = 0.0
        self.start: Metrics = {}

    async def go(self) -> None:
        self.start = await read_metrics(self.world.first)
        end = self.begun + 60 * self.plan.minutes
        while time.monotonic() < end and self.rounds != self.plan.rounds:
            self.rounds += 1
            chosen = soak_deeds.choose(self.rng, rough=self.plan.rough)
            names = ", ".join(deed.__name__ for deed in chosen)
            self.deeds.update(deed.__name__ for deed in chosen)
            generators = [random.Random(self.rng.getrandbits(64)) for _ in chosen]
            self.world.said.clear()
            await self._prices(frozen=False)
            async with asyncio.TaskGroup() as group:
                for deed, rng in zip(chosen, generators, strict=True):
                    group.create_task(soak_deeds.tolerant(deed, self.world, rng))
            await soak_deeds.tidy(self.world)
            await self.settle(names)
            await self._sample(names)

    async def settle(self, after: str) -> None:
        """Everybody live, nothing moving, every record true; no promise broken on the way."""
        began = time.monotonic()
        after += "".join(f", {each}" for each in self.world.said)
        where = f"in round {self.rounds} of seed {self.plan.seed} ({after})"
        await self._prices(frozen=True)
        try:
            await eventually(self._all_live, within_s=LIVE_WITHIN_S, every_s=LOOK_S, what="all sessions live")
            for place in self.world.places.values():
                await self._equal(place)
        except AssertionError as error:
            raise AssertionError(f"{where}: {error}\n{await self._not_live()}") from None
        broken = [each for watcher in self.world.watchers.values() for each in watcher.violations]
        assert not broken, f"{where}: " + "\n".join(broken)
        self.slowest_s = max(self.slowest_s, time.monotonic() - began)

    async def judge(self) -> None:
        """The table."""
        verdicts, seconds = self.verdicts, time.monotonic() - self.begun
        verdicts.note("rounds", f"{self.rounds:,} in {seconds / 60:.1f} min")
        for name, count in sorted(self.deeds.items()):
            verdicts.note(f"  {name}", f"{count:,}")
        verdicts.note("all live and true again after a round, slowest", f"{self.slowest_s:.1f} s")
        samples = sum(watcher.samples for watcher in self.world.watchers.values())
        verdicts.true("records that promised too much", True, f"0 in {samples:,} looks", "0")
        end = await read_metrics(self.world.first)
        lags = [quantile(self.start, end, "bridge_loop_beat_lag_seconds", share) for share in (0.5, 0.99, 1.0)]
        verdicts.note("loop lag p50, p99, max at most", f"{', '.join(f'{1000 * lag:g}' for lag in lags)} ms")
        for broker, place in self.world.places.items():
            counters = await place.broker_sim("GET", "/counters")
            verdicts.most(f"{broker}: budget violations", counters["budgetViolations"], 0)
            if broker == SECOND:  # at the first one faults of the broker itself make it look like one
                verdicts.most(f"{broker}: double logins", counters["doubleLogins"], 0)
        judge(self.series, BOUNDS, verdicts)

    # ------------------------------------------------------------ one round

    async def _sample(self, names: str) -> None:
        """What the bridge still holds, once it has let go of what it can."""
        first = self.world.first
        before = usage(first.bridge.pid).rss_bytes
        first.bridge.send(signal.SIGRTMIN)
        found = await read_metrics(first)
        at, rss = time.monotonic() - self.begun, usage(first.bridge.pid).rss_bytes
        figures = {
            "resident memory": float(rss),
            "blocks of memory in use": found["bridge_python_blocks"],
            "tasks": found["bridge_tasks"],
            "open files": found["process_open_fds"],
            "records": found["bridge_records"],
            "accounts": _both(found, "accounts"),
            "channels": _both(found, "channels"),
        }
        for name, value in figures.items():
            self.series[name].append((at, value))
        shown = " ".join(f"{name.split()[0]} {value:,.0f}" for name, value in figures.items() if value < 10**7)
        self.say(f"round {self.rounds}: {rss / MIB:.1f} MiB (before: {before / MIB:.1f}) {shown}; {names}")

    async def _prices(self, *, frozen: bool) -> None:
        for place in self.world.places.values():
            await place.broker_sim("POST", "/prices", {"freeze": frozen})

    async def _tell_prices(self) -> None:
        """A fault may have taken a symbol's last price, and who subscribes to what the broker thinks it has already is
        told none: where prices stand still no other would come."""
        first = self.world.first
        for server, quotes in (await first.broker_sim("GET", "/prices"))["servers"].items():
            await first.broker_sim("POST", "/prices", {"quotes": quotes, "server": server})

    async def _all_live(self) -> bool:
        assert self.world.first.bridge.returncode is None, self.world.first.bridge.output
        return await self.world.first.live() == self.world.sessions

    async def _equal(self, place: World) -> None:
        wrong: dict[str, list[str]] = {}

        async def equal() -> bool:
            """What a broker fills in parts goes on by itself, so the truth is asked for each time."""
            looked_at = list(wrong or place.users)
            wrong.clear()
            truths = {user: await place.sim("GET", f"/truth/{place.accounts[user]}") for user in looked_at}
            for user, record in zip(looked_at, place.records(looked_at), strict=True):
                if odd := differences(record, truths[user]):
                    wrong[user] = odd
            if wrong:
                await self._tell_prices()
            return not wrong

        await eventually(
            equal, within_s=EQUAL_WITHIN_S, every_s=LOOK_S, what=lambda: f"records true at {place.broker}: {wrong}"
        )

    async def _not_live(self) -> list[Any]:
        page = await self.world.first.api("GET", "/api/sessions?limit=1000")
        return [row for row in page["sessions"] if row["status"] != "live"]


def _both(metrics: Metrics, what: str) -> float:
    return sum(value for name, value in metrics.items() if name.endswith(f'what="{what}"}}'))
