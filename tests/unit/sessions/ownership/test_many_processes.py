"""Processes that come, go, are cut off and drained while users start and stop anywhere: in virtual time, by seed.

At every moment no account is logged in at two processes; when the trouble is over, what runs is what is wanted.
"""

import asyncio
import logging
from contextlib import suppress
from random import Random
from typing import Any

import pytest

from bridge.sessions.ownership.shares import LEAST_EXCESS, TOLERANCE, shares
from core.errors import Conflict, NotFound, Unavailable
from tests.unit.sessions.ownership.test_steward import Place, a_place
from tests.unit.sessions.stored import key, states
from tests.unit.sessions.world import LEASE_S, World

pytestmark = pytest.mark.looptime
USERS = [f"user{number:02}" for number in range(14)]
LONGEST_S = 8 * LEASE_S  # for everything to come to rest: a newcomer's proof, moves, a refusal's wait


class Trouble:
    """One random life of a place."""

    def __init__(self, place: Place, rng: Random) -> None:
        self.place = place
        self.rng = rng
        self.up: list[World] = []
        self.wanted: dict[str, bool] = {}

    async def join(self) -> None:
        if len(self.up) < 4:
            self.up.append(await self.place.join())

    async def end_in_order(self) -> None:
        if len(self.up) > 1:
            world = self.up.pop(self.rng.randrange(len(self.up)))
            await world.service.drain(1)
            for account in list(world.broker.live):
                await account.logout()  # as the broker's close does
            with suppress(Unavailable):  # it is cut off: its lease ends by itself
                await world.service.leave()
            await world.service.close()

    async def kill(self) -> None:
        if len(self.up) > 1:
            world = self.up.pop(self.rng.randrange(len(self.up)))
            world.service._tasks._closing = True
            for task in list(world.service._tasks._tasks):
                task.cancel()
            await asyncio.sleep(0)
            world.broker.live.clear()  # its sockets are gone with it

    async def cut(self) -> None:
        self.place.fleet.cut.add(self.rng.choice(self.up).standing.owner)

    async def heal(self) -> None:
        self.place.fleet.cut.clear()

    async def drain(self) -> None:
        owner = self.rng.choice(self.up).standing.owner
        with suppress(Conflict, NotFound):  # the last one, or without a lease
            await self.place.fleet.drain(owner, draining=self.rng.random() < 0.5)

    async def move(self) -> None:
        user = self.rng.choice(USERS)
        with suppress(Conflict, NotFound):  # nowhere to go, or not wanted
            await self.place.fleet.move(key(user), broker=None, account_id=None, to=None)

    async def command(self) -> None:
        user, world = self.rng.choice(USERS), self.rng.choice(self.up)
        start = self.rng.random() < 0.7
        try:
            await (world.start(user) if start else world.stop(user))
        except NotFound:
            return
        self.wanted[user] = start

    async def refuse(self) -> None:
        """A store refuses a record of a running session, as when a stranger wrote it."""
        world = self.rng.choice(self.up)
        for name, entry in list(world.recorder.entries.items())[:1]:
            if not entry.fenced:
                world.recorder.refuse(name)

    async def happen(self, steps: int) -> None:
        kinds: list[Any] = [self.command] * 12 + [self.join, self.end_in_order, self.kill, self.drain, self.refuse]
        kinds += [self.cut, self.heal, self.move, self.move]
        for _ in range(steps):
            await self.rng.choice(kinds)()
            await asyncio.sleep(self.rng.choice((0, 0.05, 0.5, 2, 6, 20)))

    async def end(self) -> None:
        """No more trouble."""
        await self.heal()
        for owner in list(self.place.fleet._processes):
            with suppress(NotFound):
                await self.place.fleet.drain(owner, draining=False)
        await asyncio.sleep(LONGEST_S)


async def _watch(place: Place, seen: list[dict[str, int]]) -> None:
    while True:
        twice = {account: count for account, count in place.served().items() if count > 1}
        if twice:
            seen.append(twice)
        await asyncio.sleep(0.1)


@pytest.mark.parametrize("seed", range(10))
async def test_nobody_is_served_twice_and_everything_wanted_is_served_in_the_end(
    seed: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, "bridge.sessions")  # thousands of expected warnings
    async with a_place() as place:
        trouble = Trouble(place, Random(seed))
        await trouble.join()
        await asyncio.sleep(1)
        twice: list[dict[str, int]] = []
        watching = asyncio.create_task(_watch(place, twice))
        await trouble.happen(60)
        await trouble.end()
        watching.cancel()
        assert twice == []
        rows = {row.user_id: row for row in place.desired.rows()}
        assert {user: rows[user].wanted for user in trouble.wanted} == trouble.wanted
        expected = {f"acc-{user}": 1 for user, wanted in trouble.wanted.items() if wanted}
        shown = {world.standing.owner: states(world) for world in trouble.up}
        assert place.served() == expected, f"seed {seed}: {shown}"
        assert {rows[user].owner for user, wanted in trouble.wanted.items() if not wanted} <= {None}
        look = await place.fleet.look("0" * 12, brokers=["fake"])
        for owner, share in shares(look.reading.members, look.reading.total).items():
            member = look.reading.member(owner)
            assert member is not None
            assert member.load <= share + max(LEAST_EXCESS, TOLERANCE * share) + 1
