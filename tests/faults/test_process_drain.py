"""SIGTERM while the stores are up, slow or gone: an end in time, last records where one answers, nothing unwanted."""

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import pytest

from bridge.embedded.postgres import PostgresServer
from tests.integration.test_serve import run_script
from tests.support.databases import make_database
from tests.support.fault_table import fault
from tests.support.kill_drill import primary_records, stored_sessions
from tests.support.processes import bridge_process
from tests.support.waiting import eventually
from tests.support.world import APP_KEY, World, running_world

pytestmark = pytest.mark.timeout(120)

USERS = 5
DRAIN_S = 2.5  # DRAIN_SECONDS as it is by default
QUICK_LEASE = {"LEASE_TTL": "6"}  # the next process waits for it where this one cannot give it back
NOTICED_S = 0.5  # until the test sees that it has ended


@contextmanager
def frozen(server: PostgresServer) -> Iterator[None]:
    """Stop the whole server in its tracks, present sessions too: it takes what is sent and says nothing."""
    assert server._process is not None
    first = server._process.pid
    os.kill(first, signal.SIGSTOP)  # from now on it has no more children
    family = [first, *map(int, Path(f"/proc/{first}/task/{first}/children").read_text().split())]
    for pid in family[1:]:
        _tell(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in family:
            _tell(pid, signal.SIGCONT)


def _tell(pid: int, what: signal.Signals) -> None:
    with suppress(ProcessLookupError):  # a session or a worker that was just ending
        os.kill(pid, what)


@contextmanager
def state(server: Any, name: str) -> Iterator[None]:
    """Bring a server into a state for the time of the block."""
    match name:
        case "frozen" if isinstance(server, PostgresServer):
            with frozen(server):
                yield
        case "frozen" | "paused":
            with server.paused():
                yield
        case "down":
            server.kill()
            try:
                yield
            finally:
                server.start()
        case _:
            yield


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """One server for this module; it is itself again after every test."""
    with PostgresServer() as started:
        yield started


@pytest.fixture
async def url(server: PostgresServer) -> str:
    """A new database there; the bridge migrates it."""
    return await make_database(server)


async def live_world(world: World, count: int = USERS) -> None:
    await world.start_all()
    await world.all_live(within_s=30)

    def stored() -> bool:
        return all(record and record["status"] == "live" for record in world.records())

    await eventually(stored, within_s=10, what="live records")


def says_draining(record: Any) -> bool:
    return record["status"] == "stale" and record["reason"]["code"] == "draining"


BAD = [("frozen", "up"), ("down", "up"), ("up", "frozen"), ("up", "down"), ("frozen", "frozen"), ("down", "down")]
CASES = [("up", "up", False), ("paused", "up", False), *((*each, noticed) for each in BAD for noticed in (False, True))]


@pytest.mark.parametrize(("primary", "copy", "noticed"), CASES)
@fault(
    "P01",
    "SIGTERM with stores up, frozen or down",
    "exit 0 within 3 s; draining said in every store that answers; live again afterwards",
)
async def test_the_process_ends_in_time_and_says_so_in_every_store_that_answers(
    tmp_path: Path, server: PostgresServer, url: str, primary: str, copy: str, noticed: bool
) -> None:
    async with running_world(tmp_path, users=USERS, bridge_env={"DATABASE_URL": url, **QUICK_LEASE}) as world:
        await live_world(world)
        fences = [record["fence"] for record in world.records()]
        wanted, _ = await stored_sessions(url)
        with ExitStack() as stack:
            stack.enter_context(state(server, primary))
            stack.enter_context(state(world.valkey, copy))
            if noticed:
                await _noticed(world, primary, copy)
            begun = time.monotonic()
            world.bridge.send(signal.SIGTERM)
            code = await world.bridge.ended(within_s=DRAIN_S + NOTICED_S)
            assert code == 0
            assert time.monotonic() - begun <= DRAIN_S + NOTICED_S
            if primary in ("up", "paused"):
                assert all(map(says_draining, await _in_primary(server, url, world, primary)))
            if copy == "up":
                assert all(map(says_draining, world.records()))
        assert (await stored_sessions(url))[0] == wanted == {*world.accounts.values()}
        async with bridge_process("serve", env=world.env) as world.bridge:
            await world.ready()
            await world.all_live(within_s=30)
            await _true_everywhere(url, world)
            if copy != "down":
                assert all(new["fence"] > old for new, old in zip(world.records(), fences, strict=True))


async def _in_primary(server: PostgresServer, url: str, world: World, name: str) -> list[Any]:
    if name == "paused":
        assert server._process is not None
        os.kill(server._process.pid, signal.SIGCONT)  # to let us in; what the bridge wrote is there or is not
    found = await primary_records(url, world.users)
    return [found[user] for user in world.users]


async def _noticed(world: World, primary: str, copy: str) -> None:
    async def seen() -> bool:
        states = {name: each["state"] for name, each in (await world.api("GET", "/health"))["stores"].items()}
        return all(states[name] == "down" for name in bad)

    bad = [name for name, now in (("postgres", primary), ("redis", copy)) if now not in ("up", "paused")]
    await eventually(seen, within_s=15, every_s=0.1, what="the bridge knows")


async def _true_everywhere(url: str, world: World) -> None:
    async def live() -> bool:
        primary = await primary_records(url, world.users)
        return all(record and record["status"] == "live" for record in [*primary.values(), *world.records()])

    await eventually(live, within_s=10, every_s=0.1, what="live records in both stores")


@fault("P03", "SIGKILL right after SIGTERM", "what was wanted is back, what was stopped is not")
async def test_a_process_killed_right_after_the_signal_leaves_what_was_wanted(
    tmp_path: Path, database_url: str
) -> None:
    async with running_world(tmp_path, users=USERS, bridge_env={"DATABASE_URL": database_url, **QUICK_LEASE}) as world:
        await live_world(world)
        stop = {"userId": world.users[0], "broker": "ctrader"}
        assert (await world.api("POST", "/api/stop-session", key=APP_KEY, body=stop))["_status"] == 202
        world.bridge.send(signal.SIGTERM)
        world.bridge.send(signal.SIGKILL)
        await world.bridge.ended()
        for record in world.records()[1:]:
            assert record["status"] == "live" or says_draining(record)
            assert record["staleAfter"] <= time.time() * 1000 + 60_000
        async with bridge_process("serve", env=world.env) as world.bridge:
            await world.ready()

            async def back() -> bool:
                statuses = [record["status"] for record in world.records()]
                return statuses == ["stopped", *["live"] * (USERS - 1)]

            await eventually(back, within_s=30, every_s=0.1, what="what was wanted is back, what was stopped is not")


@fault("P02", "the second signal with a frozen database", "ended within 1 s, nothing wanted is lost")
async def test_a_second_signal_ends_it_at_once_while_the_database_is_frozen(
    tmp_path: Path, server: PostgresServer, url: str
) -> None:
    env = {"DATABASE_URL": url, "DRAIN_SECONDS": "60"}
    async with running_world(tmp_path, users=USERS, bridge_env=env) as world:
        await live_world(world)
        wanted, _ = await stored_sessions(url)
        with frozen(server):
            world.bridge.send(signal.SIGTERM)
            await world.bridge.line(lambda line: '"message":"draining"' in line)
            begun = time.monotonic()
            world.bridge.send(signal.SIGTERM)
            assert await world.bridge.ended() == 128 + signal.SIGTERM
            assert time.monotonic() - begun < 1.0
        assert (await stored_sessions(url))[0] == wanted


@fault("P01", "SIGTERM while a thread hangs", "exit 0 in time")
async def test_the_end_is_in_time_when_a_thread_hangs() -> None:
    """As a name server that does not answer would have one hang."""
    script = """
        import asyncio, sys, time
        from bridge.cli import main
        from bridge.sessions.service import SessionService
        start_up = SessionService.start_up
        async def hang(self):
            asyncio.get_running_loop().run_in_executor(None, time.sleep, 60)
            await start_up(self)
        SessionService.start_up = hang
        sys.exit(main(["serve"]))
    """
    begun = time.monotonic()
    code, output = await run_script(script, until=b'"message":"serving"', then=signal.SIGTERM)
    assert code == 0, output.decode()
    assert time.monotonic() - begun < 20  # not the sixty seconds that it would sleep


@fault("P01", "commands through the end of the process", "each is stored or refused")
async def test_nothing_accepted_is_lost_when_commands_arrive_while_the_process_ends(
    tmp_path: Path, database_url: str
) -> None:
    """Starts and stops go on through SIGTERM: each is stored or refused."""
    async with running_world(tmp_path, users=USERS, bridge_env={"DATABASE_URL": database_url}) as world:
        await live_world(world)
        last: dict[str, bool | None] = {}

        async def keep_asking(user: str) -> None:
            wanted = False
            while world.bridge.returncode is None:
                path = f"/api/{'start' if wanted else 'stop'}-session"
                last[user] = None
                try:
                    answer = await world.api("POST", path, key=APP_KEY, body={"userId": user, "broker": "ctrader"})
                except (aiohttp.ClientError, OSError):
                    return
                if answer["_status"] == 202:
                    last[user] = wanted
                    wanted = not wanted
                elif answer["_status"] == 503:
                    last[user] = not wanted  # as it was
                    return

        async with asyncio.TaskGroup() as group:
            for user in world.users:
                group.create_task(keep_asking(user))
            await asyncio.sleep(0.3)  # the load's duration
            world.bridge.send(signal.SIGTERM)
        assert await world.bridge.ended(within_s=DRAIN_S + NOTICED_S) == 0
        connection = await asyncpg.connect(database_url)
        try:
            rows = await connection.fetch("select account_id, wanted from public.bridge_sessions")
        finally:
            await connection.close()
        by_account = {row["account_id"]: row["wanted"] for row in rows}
        known = {user: wanted for user, wanted in last.items() if wanted is not None}
        assert known == {user: by_account[world.accounts[user]] for user in known}
        assert known
