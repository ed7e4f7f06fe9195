"""The programs that the fan-in compares: our bridge (all sessions on one channel, or a socket each), the plain Node
bridge and the official Python client, each logged in as the same users at the same broker.

Each keeps its records in a database of its own on the same Valkey. Invariant: a program ends with its block.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import psutil

from bridge.embedded.surroundings import free_port
from scripts.benchmarks.children import Child, program
from scripts.benchmarks.crowd import start
from scripts.benchmarks.serving import production_reconcile_s
from tests.support.official_client import PEERS_PROJECT, official_client_python, peers_node
from tests.support.processes import ROOT, bridge_process
from tests.support.waiting import eventually
from tests.support.world import OPS_KEY, World

LIVE_WITHIN_S = 240.0
DIALS_PER_SECOND = 200
MEASURED_CORE = 0  # of every program while it is measured; broker and store run on the other


class Arm(Protocol):
    """One program under measurement."""

    name: str
    database: int | None  # on the Valkey, None: it stores nothing

    @property
    def pid(self) -> int: ...

    async def grow(self, to: int) -> None:
        """Be logged in as the first `to` users."""

    async def events(self) -> int:
        """How many price events it has taken so far."""


@dataclass(slots=True)
class OurBridge:
    name: str
    database: int | None
    world: World
    have: int = 0

    @property
    def pid(self) -> int:
        return self.world.bridge.pid

    async def grow(self, to: int) -> None:
        await start(self.world, self.world.users[self.have : to], live=to, within_s=LIVE_WITHIN_S)
        self.have = to

    async def events(self) -> int:
        headers = {"Authorization": f"Bearer {OPS_KEY}"}
        async with self.world.http.get(f"{self.world.url}/metrics", headers=headers) as answer:
            lines = (await answer.text()).splitlines()
        return sum(int(float(line.rsplit(" ", 1)[1])) for line in lines if line.startswith("bridge_events_total"))


@dataclass(slots=True)
class Peer:
    name: str
    database: int | None
    child: Child

    @property
    def pid(self) -> int:
        return self.child.pid

    async def grow(self, to: int) -> None:
        await self.child.ask(LIVE_WITHIN_S, to=to)

    async def events(self) -> int:
        return int((await self.child.ask(do="count"))["events"])


@asynccontextmanager
async def our_bridge(
    world: World, name: str, database: int, *, sessions: int, sockets: bool = False, **env: str
) -> AsyncIterator[OurBridge]:
    """A bridge in a process of its own beside the world's: all on one channel, or `sockets`: each session its own."""
    port = free_port()
    more = {"PORT": str(port), "PUBLIC_URL": f"http://127.0.0.1:{port}", "REDIS_URL": database_url(world, database)}
    if sockets:
        more |= {"CTRADER_ACCOUNTS_PER_CHANNEL": "1", "BENCH_DIALS_PER_SECOND": str(DIALS_PER_SECOND)}
    else:
        more["BENCH_RECONCILE_FLOOR_S"] = str(production_reconcile_s(sessions))
    running = bridge_process("serve", env={**world.env, **more, **env}, module="scripts.benchmarks.serving")
    async with running as process:
        beside = replace(world, bridge=process, url=f"http://127.0.0.1:{port}")
        await beside.ready()
        yield OurBridge(name, database, beside)


@asynccontextmanager
async def node_bridge(world: World, name: str, database: int, folder: Path) -> AsyncIterator[Peer]:
    """The bridge of scripts/bench_peers. RuntimeError when Node cannot be had."""
    node = await asyncio.to_thread(peers_node)
    parameters = folder / "node.json"
    known = {"url": f"ws://127.0.0.1:{world.ports['ctrader']}", "redis": database_url(world, database)}
    parameters.write_text(json.dumps({**known, **_application(world), "protos": str(ROOT), "users": _users(world)}))
    command = (str(node.program), str(PEERS_PROJECT / "bridge.cjs"), str(parameters))
    async with program(*command, env={"NODE_PATH": str(node.modules)}) as child:
        await child.answer()
        yield Peer(name, database, child)


@asynccontextmanager
async def official_client(world: World, name: str, folder: Path) -> AsyncIterator[Peer]:
    """The broker's own Python client, a connection per user. RuntimeError when it cannot be installed."""
    python = await asyncio.to_thread(official_client_python)
    parameters = folder / "official.json"
    known = {"host": "127.0.0.1", "port": world.ports["ctrader"]}
    parameters.write_text(json.dumps({**known, **_application(world), "users": await _with_symbols(world)}))
    command = (str(python), str(PEERS_PROJECT / "ctrader_fan.py"), str(parameters))
    async with program(*command) as child:
        await child.answer()
        yield Peer(name, None, child)


def database_url(world: World, database: int) -> str:
    return world.valkey.url.rsplit("/", 1)[0] + f"/{database}"


def cpu_s(pid: int) -> float:
    """Processor time of all threads of a process so far."""
    if sys.platform == "linux":
        return time.clock_gettime((~pid << 3) | 2)  # its own clock, in ns (clock_getcpuclockid); else steps of 10 ms
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def _application(world: World) -> dict[str, str]:
    return {"clientId": world.env["CTRADER_CLIENT_ID"], "clientSecret": world.env["CTRADER_CLIENT_SECRET"]}


def _users(world: World) -> list[dict[str, Any]]:
    entries = json.loads(Path(world.env["BRIDGE_CREDENTIALS_FILE"]).read_bytes())["users"]
    found = []
    for user in world.users:
        entry = entries[user]["ctrader"]
        found.append({"user": user, "account": int(entry["accountId"]), "token": entry["accessToken"]})
    return found


async def _with_symbols(world: World) -> list[dict[str, Any]]:
    """The users with the ids of what they hold: the official client does not read the account."""
    servers = {row["accountId"]: row["server"] for row in (await world.sim("GET", "/ctrader/accounts"))["accounts"]}
    ids = await world.sim("GET", "/feed/symbols")
    return [user | {"symbols": ids[servers[str(user["account"])]]} for user in _users(world)]


async def formed(world: World, arm: Arm, users: int) -> None:
    """Tell the broker which of its connections are this program's. AssertionError when it does not follow all users."""

    async def complete() -> bool:
        ports = [each.laddr.port for each in psutil.Process(arm.pid).net_connections("tcp4") if each.raddr]
        told = await world.sim("POST", "/feed/arm", {"name": arm.name, "ports": ports})
        return bool(told["accounts"] == users)

    await eventually(complete, within_s=60, every_s=1.0, what=f"{arm.name} follows {users} accounts")


def keep_on_core(pid: int, number: int) -> None:
    """Keep a process with all its threads on one core, where the system can."""
    if sys.platform != "linux":
        return
    core = {sorted(os.sched_getaffinity(0))[number % len(os.sched_getaffinity(0))]}
    for thread in psutil.Process(pid).threads():
        with contextlib.suppress(ProcessLookupError):  # it has ended meanwhile
            os.sched_setaffinity(thread.id, core)


def raise_file_limit() -> None:
    """Let the children open as many sockets as this machine allows at all."""
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def shape(document: bytes) -> Any:
    """The names in a JSON document, without its values: documents of one shape cost alike to write."""

    def names(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: names(each) for name, each in value.items()}
        return [names(each) for each in value] if isinstance(value, list) else None

    return names(json.loads(document))
