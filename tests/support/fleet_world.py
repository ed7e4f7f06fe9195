"""Several bridge processes on one Postgres, and an eye on what they may never do.

`fleet_audit` watches what is written; the simulator counts logins of an account that is logged in elsewhere.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from bridge.embedded.surroundings import free_port
from tests.support.fleet_audit import Auditor
from tests.support.kill_drill import primary_records
from tests.support.processes import BridgeProcess, bridge_process
from tests.support.storm import differences
from tests.support.vaulted import VAULT_ENV, enter_credentials
from tests.support.waiting import eventually
from tests.support.world import World, record_key, running_world

LEASE_S = 3.0


class Fleet:
    """Handles on the processes. `world`: the first one, and everything around; others by number."""

    def __init__(
        self, world: World, database_url: str, stack: AsyncExitStack, auditor: Auditor, *, module: str = "bridge"
    ) -> None:
        self.world = world
        self.database_url = database_url
        self.auditor = auditor
        self._stack = stack
        self._module = module
        self.running: dict[str, World] = {"1": world}
        self.ever = [world.bridge]

    async def add(self, name: str, **env: str) -> World:
        """Start one more process, and wait until it serves."""
        port = str(free_port())
        full = {**self.world.env, **env, "PORT": port}
        process = await self._stack.enter_async_context(bridge_process("serve", env=full, module=self._module))
        self.ever.append(process)
        added = replace(self.world, bridge=process, url=f"http://127.0.0.1:{port}", env=full)
        await added.ready()
        self.running[name] = added
        return added

    async def owner_of(self, name: str) -> str:
        """The name under which a process has its lease now."""
        health = await self.running[name].api("GET", "/health")
        return str(health["ownership"]["owner"])

    async def sessions(self) -> dict[str, tuple[str, str | None]]:
        """By account id: status and owner, as any process lists them."""
        for world in self.running.values():
            try:
                page = await world.api("GET", "/api/sessions?limit=1000")
            except (aiohttp.ClientError, OSError, TimeoutError):
                continue
            if page["_status"] == 200:
                return {row["accountId"]: (row["status"], row["owner"]) for row in page["sessions"]}
        raise AssertionError("no process answers")

    async def owners(self) -> dict[str, str | None]:
        """By account id, as the database has it."""
        rows = await self.rows("select account_id, owner from public.bridge_sessions where wanted")
        return {row["account_id"]: row["owner"] for row in rows}

    async def rows(self, sql: str, *arguments: object) -> list[Any]:
        return await self.auditor.rows(sql, *arguments)

    async def shared_out(self, *names: str, within_s: float = 30.0) -> None:
        """Every session is live at one of these processes, and each of them has some."""
        last: Any = None

        async def done() -> bool:
            nonlocal last
            wanted = {await self.owner_of(name) for name in names}
            found = await self.sessions()
            last = (wanted, found)
            live = all(found[account][0] == "live" for account in self.world.accounts.values())
            return live and {owner for _, owner in found.values()} == wanted

        try:
            await eventually(done, within_s=within_s, every_s=0.2, what=f"live and shared among {names}")
        except AssertionError as late:
            raise AssertionError(f"{late}: {last}") from None

    async def true(self, *, within_s: float = 15.0) -> None:
        """Every record in Postgres and Valkey is live and equal to the broker's truth."""
        wrong: dict[str, Any] = {}
        users = list(self.world.users)

        async def done() -> bool:
            wrong.clear()
            primary = await primary_records(self.database_url, users)
            copies = dict(zip(users, self.world.records(users), strict=True))
            for user in users:
                truth = await self.world.sim("GET", f"/truth/{self.world.accounts[user]}")
                if found := [*differences(primary[user], truth), *differences(copies[user], truth)]:
                    wrong[user] = found
            return not wrong

        try:
            await eventually(done, within_s=within_s, every_s=0.25, what="every record true")
        except AssertionError as late:
            raise AssertionError(f"{late}: {len(wrong)} wrong, such as {list(wrong.items())[:3]}") from None

    async def judged(self, *, parallel: int | None = 0) -> None:
        """No late write, no double login; `parallel` None: a frozen process stays logged in at the broker."""
        late, twice = await self.auditor.late(), await self.auditor.twice_owned()
        assert not late, f"late writes: {late[:5]} of {len(late)}"
        assert not twice, f"fences of two processes: {twice[:5]} of {len(twice)}"
        counters = await self.world.sim("GET", "/counters")
        assert (counters["budgetViolations"], counters["doubleLogins"]) == (0, 0)
        if parallel is not None:
            assert counters["parallelLogins"] == parallel, counters["parallelLogins"]


class Stamps:
    """Reads every record many times a second: `(fence, version)` only grows, and fences change seldom."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.fences: dict[str, list[int]] = {user: [] for user in world.users}
        self.not_live: dict[str, float] = dict.fromkeys(world.users, 0.0)  # s, the longest time so far
        self._since: dict[str, float] = {}
        self._last: dict[str, tuple[int, int]] = {}

    async def watch(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            records = await asyncio.to_thread(self._world.records)
            for user, record in zip(self._world.users, records, strict=True):
                if record is None:
                    continue
                stamp = (record["fence"], record["version"])
                assert stamp >= self._last.get(user, (0, 0)), f"{user}: {stamp} after {self._last[user]}"
                self._last[user] = stamp
                if self.fences[user][-1:] != [record["fence"]]:
                    self.fences[user].append(record["fence"])
                if record["status"] == "live":
                    since = self._since.pop(user, None)
                    if since is not None:
                        self.not_live[user] = max(self.not_live[user], loop.time() - since)
                else:
                    self._since.setdefault(user, loop.time())
            await asyncio.sleep(0.05)  # the pace of the reader


@asynccontextmanager
async def watched(world: World) -> AsyncIterator[Stamps]:
    """Watch until the block ends; what was seen wrong is raised then."""
    stamps = Stamps(world)
    task = asyncio.create_task(stamps.watch())
    try:
        yield stamps
    finally:
        task.cancel()
        (ended,) = await asyncio.gather(task, return_exceptions=True)
    if isinstance(ended, AssertionError):
        raise ended


@asynccontextmanager
async def empty_fleet(
    folder: Path,
    database_url: str,
    *,
    users: int,
    processes: int = 1,
    lease_s: float = LEASE_S,
    env: Mapping[str, str] | None = None,
    module: str = "bridge",
    vaulted: Mapping[str, int] | None = None,
    **more: Any,
) -> AsyncIterator[Fleet]:
    """Start everything, no session yet, and stop it again. `vaulted`: of how many users the vault gets the credentials,
    by broker; without it they are in a file. `more`: see `running_world`."""
    async with AsyncExitStack() as stack:
        auditor = await stack.enter_async_context(Auditor(database_url))
        full = {
            "DATABASE_URL": database_url,
            "LEASE_TTL": str(lease_s),
            **(VAULT_ENV if vaulted else {}),
            **(env or {}),
        }
        world = await stack.enter_async_context(
            running_world(folder, users=users, bridge_env=full, bridge_module=module, **more)
        )
        fleet = Fleet(world, database_url, stack, auditor, module=module)
        await world.sim("POST", "/prices", {"freeze": True})
        for number in range(2, processes + 1):
            await fleet.add(str(number))
        for broker, count in (vaulted or {}).items():
            await enter_credentials(world.at(broker, ()), folder, world.users[:count])
        try:
            yield fleet
        except BaseException:
            for name, each in fleet.running.items():
                print(f"---- process {name}\n{each.bridge.output}")  # a failed run explains itself
            raise


@asynccontextmanager
async def running_fleet(folder: Path, database_url: str, **options: Any) -> AsyncIterator[Fleet]:
    """The same with all sessions live, started as a load balancer spreads them. `options`: see `empty_fleet`."""
    async with empty_fleet(folder, database_url, **options) as fleet:
        world = fleet.world
        for world_n, user in zip((*fleet.running.values(),) * len(world.users), world.users, strict=False):
            world.accounts[user] = str((await world_n.start(user, environment="demo"))["accountId"])
        await fleet.shared_out(*fleet.running)
        yield fleet


class CuttableProxy:
    """A TCP proxy in front of Postgres: `cut` silences it (connections stay, nothing passes), `heal` ends that."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._target = (parts.hostname or "", parts.port or 0)
        self._parts = parts
        self._open = asyncio.Event()
        self._open.set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = 0

    @property
    def url(self) -> str:
        parts = self._parts
        return parts._replace(netloc=f"{parts.username}:{parts.password}@127.0.0.1:{self.port}").geturl()

    def cut(self) -> None:
        self._open.clear()

    def heal(self) -> None:
        """As after a real outage: what was open before is dead."""
        for writer in self._writers:
            writer.close()
        self._open.set()

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            await self._open.wait()
            there, back = await asyncio.open_connection(*self._target)
            self._writers.add(back)
            await asyncio.gather(self._pass(reader, back), self._pass(there, writer))
        except (OSError, asyncio.CancelledError):
            return
        finally:
            writer.close()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            await self._open.wait()
            writer.write(data)
        writer.close()


@asynccontextmanager
async def cuttable(url: str) -> AsyncIterator[CuttableProxy]:
    proxy = CuttableProxy(url)
    server = await asyncio.start_server(proxy.accept, "127.0.0.1", 0)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        proxy.heal()
        server.close()
        await server.wait_closed()


def said(process: BridgeProcess, text: str) -> list[dict[str, Any]]:
    """The log lines of a process that contain `text`."""
    return [json.loads(line) for line in [*process.stdout, *process.stderr] if text in line and line.startswith("{")]


def key_of(user: str) -> str:
    return record_key(user)
