"""A deploy that overlaps: the new process starts while the old one still serves the same database.

Nobody divides the sessions among them yet; what counts is that the newer one ends up with all, that no record goes back
and forth, and that neither the overlap nor the end of the old process changes what is wanted.
"""

import asyncio
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bridge.embedded.surroundings import free_port
from tests.support.kill_drill import records_true, stored_sessions
from tests.support.processes import bridge_process
from tests.support.waiting import eventually
from tests.support.world import APP_KEY, World, running_world

USERS = 12
FOLLOWED_S = 5.0  # several rounds in which each process looks at what is stored
MODULE = "tests.support.quick_bridge"


class Fences:
    """Reads every record many times a second: `(fence, version)` only grows, and fences change seldom."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.seen: dict[str, list[int]] = {user: [] for user in world.users}
        self._last: dict[str, tuple[int, int]] = {}

    async def watch(self) -> None:
        while True:
            for user, record in zip(self._world.users, await asyncio.to_thread(self._world.records), strict=True):
                if record is None:
                    continue  # the copy gets it a moment later
                stamp = (record["fence"], record["version"])
                assert stamp >= self._last.get(user, (0, 0)), f"{user}: {stamp} after {self._last[user]}"
                self._last[user] = stamp
                if self.seen[user][-1:] != [record["fence"]]:
                    self.seen[user].append(record["fence"])
            await asyncio.sleep(0.03)  # the pace of the reader

    def newest(self) -> dict[str, int]:
        return {user: fences[-1] for user, fences in self.seen.items()}


async def command(world: World, what: str, user: str) -> None:
    body = {"userId": user, "broker": "ctrader"}
    answer = await world.api("POST", f"/api/{what}-session", key=APP_KEY, body=body)
    assert answer["_status"] == 202, answer


async def states(world: World) -> dict[str, str]:
    """By account, what a process says of its own sessions."""
    page = await world.api("GET", "/api/sessions?limit=100")
    return {row["accountId"]: row["state"] for row in page["sessions"]}


async def until_states(world: World, state: str, users: Iterable[str], *, within_s: float = 20.0) -> None:
    accounts = [world.accounts[user] for user in users]
    last: dict[str, str] = {}

    async def reached() -> bool:
        last.update(await states(world))
        return all(last.get(account) == state for account in accounts)

    try:
        await eventually(reached, within_s=within_s, every_s=0.1, what=f"{state} everywhere")
    except AssertionError as late:
        raise AssertionError(f"{late}: {last}") from None


async def trade_a_little(world: World) -> None:
    for user in world.users:
        await world.sim("POST", f"/accounts/{world.accounts[user]}/deposit", {"amount": 10})


async def _until_fenced(old: World) -> None:
    """A process learns that it was overtaken when it writes: with the next change, at the latest with the renewal."""

    async def overtaken() -> bool:
        await trade_a_little(old)
        return set((await states(old)).values()) == {"fenced"}

    await eventually(overtaken, within_s=20, every_s=0.5, what="the old process has let go")


@pytest.mark.timeout(150)
async def test_the_newer_process_takes_over_and_nothing_is_lost_when_two_overlap(
    tmp_path: Path, database_url: str
) -> None:
    env: dict[str, Any] = {"DATABASE_URL": database_url}
    async with running_world(tmp_path, users=USERS, bridge_env=env, bridge_module=MODULE) as old:
        await old.sim("POST", "/prices", {"freeze": True})
        await old.start_all()
        await old.all_live(within_s=30)
        fences = Fences(old)
        watching = asyncio.create_task(fences.watch())
        await eventually(lambda: all(fences.seen.values()), within_s=30, what="the first fences")
        first = fences.newest()
        wanted, _ = await stored_sessions(database_url)
        port = str(free_port())
        async with bridge_process("serve", env={**old.env, "PORT": port}, module=MODULE) as process:
            new = replace(old, bridge=process, url=f"http://127.0.0.1:{port}")
            await new.ready()
            await until_states(new, "live", new.users)
            await _until_fenced(old)
            taken = fences.newest()
            assert all(taken[user] > first[user] for user in old.users)

            stopped, stopped_there = old.users[0], old.users[1]
            await command(new, "stop", stopped)
            await until_states(new, "stopped", [stopped])
            await command(old, "stop", stopped_there)  # a caller who still reaches the old one
            await until_states(new, "stopped", [stopped_there])
            running = [user for user in new.users if user not in (stopped, stopped_there)]
            await trade_a_little(new)
            await asyncio.sleep(FOLLOWED_S)  # what must not happen needs time to happen
            kept = wanted - {old.accounts[stopped], old.accounts[stopped_there]}
            assert (await stored_sessions(database_url))[0] == kept
            await until_states(new, "live", running, within_s=1)
            settled = fences.newest()
            assert {user: settled[user] for user in running} == {user: taken[user] for user in running}

            assert await old.bridge.stop() == 0
            await trade_a_little(new)
            await records_true(new, database_url, set(running), within_s=10)
            assert (await stored_sessions(database_url))[0] == kept
            await until_states(new, "live", running, within_s=1)
            assert {user: fences.newest()[user] for user in running} == {user: taken[user] for user in running}
            counters = await new.sim("GET", "/counters")
            assert (counters["budgetViolations"], counters["doubleLogins"]) == (0, 0)
            assert not watching.done() or watching.exception() is None, watching.exception()
            watching.cancel()
            assert await new.bridge.stop() == 0
        assert (await stored_sessions(database_url))[0] == kept


@pytest.mark.timeout(150)
async def test_start_at_the_old_process_ends_up_in_one_of_them_when_two_overlap(
    tmp_path: Path, database_url: str
) -> None:
    env: dict[str, Any] = {"DATABASE_URL": database_url}
    async with running_world(tmp_path, users=3, bridge_env=env, bridge_module=MODULE) as old:
        await old.sim("POST", "/prices", {"freeze": True})
        await old.start_all()
        await old.all_live(within_s=30)
        port = str(free_port())
        async with bridge_process("serve", env={**old.env, "PORT": port}, module=MODULE) as process:
            new = replace(old, bridge=process, url=f"http://127.0.0.1:{port}")
            await new.ready()
            await until_states(new, "live", new.users)
            await _until_fenced(old)
            user = old.users[0]
            await command(new, "stop", user)
            await until_states(new, "stopped", [user])
            await command(old, "start", user)
            account = old.accounts[user]

            async def served_once() -> bool:
                return sorted([(await states(old))[account], (await states(new))[account]]) == ["fenced", "live"]

            await eventually(served_once, within_s=15, every_s=0.2, what="one of them serves it")
            fence = old.records([user])[0]["fence"]
            await asyncio.sleep(FOLLOWED_S)  # what must not happen needs time to happen
            assert await served_once()
            assert old.records([user])[0]["fence"] == fence


@pytest.mark.timeout(150)
@pytest.mark.parametrize("when", ["ready", "live"])
async def test_records_stay_those_of_the_newer_process_when_the_old_one_ends(
    tmp_path: Path, database_url: str, when: str
) -> None:
    """The old one has not noticed anything: its last records come late, and are refused."""
    env: dict[str, Any] = {"DATABASE_URL": database_url}
    async with running_world(tmp_path, users=USERS, bridge_env=env, bridge_module=MODULE) as old:
        await old.sim("POST", "/prices", {"freeze": True})
        await old.start_all()
        await old.all_live(within_s=30)
        port = str(free_port())
        async with bridge_process("serve", env={**old.env, "PORT": port}, module=MODULE) as process:
            new = replace(old, bridge=process, url=f"http://127.0.0.1:{port}")
            await new.ready()
            if when == "live":
                await until_states(new, "live", new.users)
            assert await old.bridge.stop() == 0
            await until_states(new, "live", new.users)
            await records_true(new, database_url, set(new.users), within_s=10)
            wanted, _ = await stored_sessions(database_url)
            assert wanted == {*old.accounts.values()}
