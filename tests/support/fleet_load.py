"""What goes on while processes come and go: trades and deposits at both brokers, and starts and stops by the API.

Commands go to any process that runs, as behind a load balancer: whoever gets no answer asks another one, until one
accepts. Invariant: `wanted` is what was last accepted of each user that is started and stopped.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Sequence

import aiohttp

from tests.support.fleet_world import Fleet
from tests.support.storm import trade
from tests.support.two_brokers import trade_stocks
from tests.support.world import APP_KEY, World

COMMANDS_SHARE = 0.05  # of all operations
SECOND_SHARE = 0.05
BATCH_S = 2.5  # of the load, sent together
TRIES = 200
PAUSE_S = 0.1  # before another process is asked


class Load:
    """`toggled`: users that are started and stopped; all others stay started. `done`: operations by kind."""

    def __init__(
        self, fleet: Fleet, first: World, second: World | None, *, toggled: Sequence[str], rng: random.Random
    ) -> None:
        self._fleet = fleet
        self._first = first
        self._second = second
        self._toggled = toggled
        self._rng = rng
        self.wanted = dict.fromkeys(toggled, True)
        self.done: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()

    async def run(self, operations: int, per_s: float, *, until: asyncio.Event | None = None) -> None:
        """So many operations at about this pace; on with it until `until` is set."""
        while self.done.total() < operations or not (until is None or until.is_set()):
            batch = round(per_s * BATCH_S)
            paced = asyncio.create_task(asyncio.sleep(batch / per_s))  # the pace of the load
            await self._some(batch)
            await paced

    async def _some(self, count: int) -> None:
        commands = min(len(self._toggled), round(count * COMMANDS_SHARE))
        second = round(count * SECOND_SHARE) if self._second is not None else 0
        async with asyncio.TaskGroup() as group:
            for user in self._rng.sample(self._toggled, commands):
                group.create_task(self._command(user))
            if self._second is not None:
                group.create_task(trade_stocks(self._second, self._rng, second))
            rest = count - commands - second
            group.create_task(trade(self._first, self._rng, self._first.users, rest, deposits_for=self._first.users))
        self.done.update({"starts and stops": commands, "second broker": second, "first broker": rest})

    async def _command(self, user: str) -> None:
        start = self._rng.random() < 0.6
        body = {"userId": user, "broker": self._first.broker}
        path = f"/api/{'start' if start else 'stop'}-session"
        for _ in range(TRIES):
            process = self._rng.choice(list(self._fleet.running.values()))
            try:
                answer = await process.api("POST", path, key=APP_KEY, body=body)
            except (aiohttp.ClientError, OSError, TimeoutError):
                self.refused["no answer"] += 1
            else:
                if answer["_status"] == 202:
                    self.wanted[user] = start
                    return
                assert answer["_status"] in (429, 503), answer
                self.refused[str(answer["_status"])] += 1
            await asyncio.sleep(PAUSE_S)
        raise AssertionError(f"no process accepted the command for {user}")
