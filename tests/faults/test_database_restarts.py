"""Postgres is restarted with `immediate` again and again under load: nothing that was accepted is lost.

Trading, starts and stops go on all the while. Afterwards every session is as its last accepted command says, the
sessions that nobody touched have never been interrupted, and every record equals the broker's truth.
"""

import asyncio
import random
from pathlib import Path
from typing import Any

import asyncpg
import orjson
import pytest

from tests.faults.test_cache_outage import keep_trading
from tests.support.fault_table import fault
from tests.support.storm import differences
from tests.support.waiting import eventually
from tests.support.world import APP_KEY, World, record_key, running_world

USERS = 60
RESTARTS = 5
COMMANDS = 25  # before, during and after each restart
LEFT_ALONE = 40  # sessions that nobody starts or stops


class Commands:
    """Starts and stops users at random, one command of a user at a time, and remembers what was accepted.

    `last[user]`: whether the session is wanted by the last accepted command, None after one whose outcome is not known.
    """

    def __init__(self, world: World, users: list[str], rng: random.Random) -> None:
        self._world = world
        self._users = users
        self._rng = rng
        self.last: dict[str, bool | None] = dict.fromkeys(users, True)
        self.accepted = self.refused = 0

    @property
    def answered(self) -> int:
        return self.accepted + self.refused

    async def more(self, what: str, count: int) -> None:
        """Wait until so many more were accepted, or answered at all."""
        before = getattr(self, what)
        await eventually(lambda: getattr(self, what) >= before + count, within_s=40, every_s=0.02, what=f"more {what}")

    async def keep_going(self, stop: asyncio.Event) -> None:
        await asyncio.gather(*(self._toggle(user, stop) for user in self._users))

    async def _toggle(self, user: str, stop: asyncio.Event) -> None:
        while not stop.is_set():
            wanted = self._rng.random() < 0.5
            body = {"userId": user, "broker": "ctrader"}
            path = f"/api/{'start' if wanted else 'stop'}-session"
            answer = await self._world.api("POST", path, key=APP_KEY, body=body)
            assert answer["_status"] in (202, 429, 503), answer
            if answer["_status"] == 202:
                self.last[user] = wanted
                self.accepted += 1
            elif answer["_status"] == 503:
                self.last[user] = None
                self.refused += 1
            await asyncio.sleep(self._rng.uniform(0.05, 0.3))  # the pace of the load


async def stored(url: str) -> tuple[dict[str, bool], dict[str, Any]]:
    """What an independent reader finds in the database: wanted by account, and the records by key."""
    connection = await asyncpg.connect(url)
    try:
        sessions = await connection.fetch("select account_id, wanted from public.bridge_sessions")
        records = await connection.fetch("select key, document::text as document from public.account_cache")
    finally:
        await connection.close()
    return (
        {row["account_id"]: row["wanted"] for row in sessions},
        {row["key"]: orjson.loads(row["document"]) for row in records if row["document"]},
    )


async def listed(world: World) -> dict[str, Any]:
    """All sessions by account."""
    page = await world.api("GET", "/api/sessions?limit=200")
    assert page["total"] == len(page["sessions"]) == USERS, page
    return {row["accountId"]: row for row in page["sessions"]}


@pytest.mark.slow
@pytest.mark.timeout(300)
@fault(
    "C09",
    "five immediate restarts under trading, starts and stops of 60 sessions",
    "no accepted command lost, sessions never interrupted, every record true",
)
async def test_nothing_accepted_is_lost_when_postgres_restarts_five_times_under_load(
    tmp_path: Path, postgres_factory: Any
) -> None:
    server = await asyncio.to_thread(postgres_factory)
    rng = random.Random(11)
    async with running_world(tmp_path, users=USERS, bridge_env={"DATABASE_URL": server.url()}) as world:
        await world.start_all()
        await world.all_live(within_s=60)
        untouched = [world.accounts[user] for user in world.users[:LEFT_ALONE]]
        commands, over = Commands(world, list(world.users[LEFT_ALONE:]), rng), asyncio.Event()
        trading = asyncio.create_task(keep_trading(world, rng, over))
        for number in range(RESTARTS):
            await restart_under_commands(server, commands, through=bool(number % 2))
            assert not trading.done()
            wanted = await settled(world, server.url(), commands)
        over.set()
        assert await trading > 100
        await world.sim("POST", "/prices", {"freeze": True})
        print(f"{commands.accepted} commands accepted, {commands.refused} refused")
        assert commands.refused > 0

        sessions = await listed(world)
        for account in untouched:
            assert (sessions[account]["status"], sessions[account]["reconnects"]) == ("live", 0), sessions[account]
        await records_are_true(world, server.url(), wanted)


async def restart_under_commands(server: Any, commands: Commands, *, through: bool) -> None:
    """One immediate restart amid starts and stops, which go `through` it, or end while the database is down."""
    stop = asyncio.Event()
    going = asyncio.create_task(commands.keep_going(stop))
    await commands.more("accepted", COMMANDS)
    await asyncio.to_thread(server.kill)
    if not through:
        await commands.more("answered", COMMANDS)
        stop.set()
        await going
    await asyncio.to_thread(server.start)
    if through:
        await commands.more("accepted", COMMANDS)
        stop.set()
        await going


async def settled(world: World, url: str, commands: Commands) -> dict[str, bool]:
    """Wait until what runs is what is stored; returns by user whether it is wanted. Nothing accepted may be missing."""

    async def agree() -> bool:
        by_account, _ = await stored(url)
        sessions = await listed(world)
        return all(sessions[account]["status"] == ("live" if yes else "stopped") for account, yes in by_account.items())

    by_account, _ = await stored(url)
    wanted = {user: by_account[world.accounts[user]] for user in world.users}
    lost = {user: last for user, last in commands.last.items() if last is not None and wanted[user] is not last}
    assert lost == {}, f"accepted commands that are not stored: {lost}"
    assert all(wanted[user] for user in world.users[:LEFT_ALONE])
    await eventually(agree, within_s=60, every_s=0.25, what="every session as it is stored")
    return wanted


async def records_are_true(world: World, url: str, wanted: dict[str, bool]) -> None:
    """In the database and in its copy: live records equal the truth, and those of stopped sessions say so."""
    truths = {user: await world.sim("GET", f"/truth/{world.accounts[user]}") for user in world.users if wanted[user]}
    wrong: dict[str, Any] = {}

    async def true() -> bool:
        _, primary = await stored(url)
        copies = dict(zip(world.users, world.records(), strict=True))
        wrong.clear()
        for user in world.users:
            for record in (primary.get(record_key(user)), copies[user]):
                if wanted[user]:
                    found = differences(record, truths[user])
                else:
                    found = [] if record and record["status"] == "stopped" else [f"not stopped: {record}"]
                if found:
                    wrong[user] = found
        return not wrong

    try:
        await eventually(true, within_s=15, every_s=0.25, what="every record true")
    except AssertionError as late:
        raise AssertionError(f"{late}: {dict(list(wrong.items())[:4])}") from None
