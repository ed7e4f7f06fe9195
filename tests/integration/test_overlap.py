"""A deploy that overlaps: the new process starts while the old one still serves the same database.

With a release of before ownership on one side: what counts is that each session ends up with one process that is still
there afterwards, and that no record goes back and forth. Among releases that know owners: `test_fleet_drill.py`.
"""

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bridge.embedded.surroundings import free_port
from tests.support.fault_table import fault
from tests.support.fleet_world import watched
from tests.support.kill_drill import records_true, stored_sessions
from tests.support.processes import bridge_process
from tests.support.waiting import eventually
from tests.support.world import APP_KEY, World, running_world

USERS = 12
FOLLOWED_S = 5.0  # several rounds in which each process looks at what is stored
BEFORE, NOW = "tests.support.previous_release", "tests.support.quick_bridge"


async def states(world: World) -> dict[str, str]:
    """By account, what a process says of its own sessions."""
    page = await world.api("GET", "/api/sessions?limit=100")
    return {row["accountId"]: row["state"] for row in page["sessions"]}


async def until_states(world: World, state: str, *, within_s: float = 20.0) -> None:
    last: dict[str, str] = {}

    async def reached() -> bool:
        last.update(await states(world))
        return all(last.get(account) == state for account in world.accounts.values())

    try:
        await eventually(reached, within_s=within_s, every_s=0.1, what=f"{state} everywhere")
    except AssertionError as late:
        raise AssertionError(f"{late}: {last}") from None


async def trade_a_little(world: World) -> None:
    for user in world.users:
        await world.sim("POST", f"/accounts/{world.accounts[user]}/deposit", {"amount": 10})


async def until_fenced(old: World) -> None:
    """A process learns that it was overtaken when it writes: with the next change, at the latest with the renewal."""

    async def overtaken() -> bool:
        await trade_a_little(old)
        return set((await states(old)).values()) == {"fenced"}

    await eventually(overtaken, within_s=20, every_s=0.5, what="the old process has let go")


def second(world: World) -> tuple[dict[str, str], str]:
    port = str(free_port())
    return {**world.env, "PORT": port}, f"http://127.0.0.1:{port}"


@pytest.mark.timeout(150)
@fault("P06", "the release before still serves", "each record changes hands once; no double login")
async def test_this_release_takes_over_from_the_one_before_and_nothing_is_lost(
    tmp_path: Path, database_url: str
) -> None:
    env: dict[str, Any] = {"DATABASE_URL": database_url, "LEASE_TTL": "3"}
    async with running_world(tmp_path, users=USERS, bridge_env=env, bridge_module=BEFORE) as old:
        await old.sim("POST", "/prices", {"freeze": True})
        await old.start_all()
        await old.all_live(within_s=30)
        wanted, _ = await stored_sessions(database_url)
        full, url = second(old)
        async with watched(old) as stamps, bridge_process("serve", env=full, module=NOW) as process:
            await eventually(lambda: all(stamps.fences.values()), within_s=30, what="the first fences")
            new = replace(old, bridge=process, url=url)
            await new.ready()
            await until_states(new, "live")
            await until_fenced(old)
            body = {"userId": old.users[0], "broker": "ctrader"}
            answer = await old.api("POST", "/api/stop-session", key=APP_KEY, body=body)  # who still reaches the old one
            assert answer["_status"] == 202

            async def stopped() -> bool:
                return (await states(new))[old.accounts[old.users[0]]] == "stopped"

            await eventually(stopped, within_s=10, every_s=0.2, what="the new one follows")
            await asyncio.sleep(FOLLOWED_S)  # what must not happen needs time to happen
            assert await old.bridge.stop() == 0
            await trade_a_little(new)
            running = set(new.users[1:])
            await records_true(new, database_url, running, within_s=10)
            assert (await stored_sessions(database_url))[0] == wanted - {old.accounts[old.users[0]]}
            assert all(len(stamps.fences[user]) <= 3 for user in running)  # once over; claims are part of it
            counters = await new.sim("GET", "/counters")
            assert (counters["budgetViolations"], counters["doubleLogins"]) == (0, 0)
            assert await new.bridge.stop() == 0


@pytest.mark.timeout(150)
async def test_going_back_by_one_release_leaves_nobody_without_a_process(tmp_path: Path, database_url: str) -> None:
    """The older release starts and takes every record over; this one, which owns them, ends before it claims back."""
    env: dict[str, Any] = {"DATABASE_URL": database_url}
    async with running_world(tmp_path, users=USERS, bridge_env=env, bridge_module=NOW) as new:
        await new.sim("POST", "/prices", {"freeze": True})
        await new.start_all()
        await new.all_live(within_s=30)
        full, url = second(new)
        async with bridge_process("serve", env=full, module=BEFORE) as process:
            old = replace(new, bridge=process, url=url)
            await old.ready()
            await until_states(old, "live")
            assert await new.bridge.stop() == 0
            await trade_a_little(old)
            await until_states(old, "live", within_s=5)
            await records_true(old, database_url, set(old.users), within_s=10)


@pytest.mark.timeout(150)
@fault("P06", "the release before comes and goes", "the owner serves them again")
async def test_owner_takes_back_what_somebody_else_wrote_over(tmp_path: Path, database_url: str) -> None:
    """A process of the release before comes and goes again: whoever owns the sessions serves them on."""
    env: dict[str, Any] = {"DATABASE_URL": database_url, "LEASE_TTL": "3"}
    async with running_world(tmp_path, users=4, bridge_env=env, bridge_module=NOW) as new:
        await new.sim("POST", "/prices", {"freeze": True})
        await new.start_all()
        await new.all_live(within_s=30)
        full, url = second(new)
        async with bridge_process("serve", env=full, module=BEFORE) as process:
            old = replace(new, bridge=process, url=url)
            await old.ready()
            await until_states(old, "live")
            await old.bridge.stop()

        async def back() -> bool:
            await trade_a_little(new)
            return set((await states(new)).values()) == {"live"}

        await eventually(back, within_s=30, every_s=0.5, what="the owner serves them again")
        await records_true(new, database_url, set(new.users), within_s=10)
