"""`python -m bridge demo`: simulator and bridge as child processes, three users, their accounts live in the terminal.

Uses only doors that users have: environment variables, the HTTP API and the simulator's admin API. Invariant: no child
outlives a run, however it ends (short of SIGKILL); with `seconds`, exit 0 means that all three users were live and
fresh at the end.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import tempfile
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import orjson
from dotenv import dotenv_values
from rich.console import Console
from rich.live import Live
from rich.table import Table

from bridge.demo_child import Child, DemoFailed
from bridge.embedded.postgres import PostgresServer
from bridge.embedded.surroundings import free_port
from bridge.embedded.valkey import ValkeyServer
from bridge.runtime.tasks import Tasks
from core.secret import Secret
from core.user_key import UserKeyScheme

USERS = ("user-1", "user-2", "user-3")
LIVE_WITHIN_S = 30.0
CALL_S = 5.0
TERMINAL_EVERY_S = 0.5
PLAIN_EVERY_S = 5.0
TRADE_EVERY_S = 2.0
COLUMNS = (
    "user",
    "broker",
    "account",
    "status",
    "freshness",
    "balance",
    "equity",
    "P&L",
    "positions",
    "flushes",
    "events",
)
LEAST_NEEDED = ("P&L", "account", "flushes", "events", "positions", "balance")


@dataclass(frozen=True, slots=True)
class DemoKeys:
    """Keys made for this run: the hashing secret, the value of API_KEYS, both API keys, the key that seals tokens."""

    secret: Secret
    entries: str
    app: Secret
    ops: Secret
    tokens: Secret


@dataclass(frozen=True, slots=True)
class Row:
    """One user's session at one broker as shown."""

    user: str
    broker: str
    record: Mapping[str, Any] | None
    events: int

    @property
    def live(self) -> bool:
        """Live and fresh, by the record alone."""
        return self.record is not None and self.record.get("status") == "live" and self.record.get("fresh") is True

    def cells(self) -> list[str]:
        """user, broker, account, status, freshness, balance, equity, P&L, positions, flushes, events."""
        record = self.record or {}
        age = record.get("ageMs")
        fresh = "-" if age is None else f"{'fresh' if record.get('fresh') else 'STALE'} {age / 1000:.1f} s"
        balance, *money = [self._money(record, name) for name in ("balance", "equity", "unrealizedPnl")]
        balance = f"{balance} {record.get('currency') or ''}".rstrip()
        positions = record.get("positions")
        account = str(record.get("login") or record.get("accountId") or "-")
        status = str(record.get("status") or "-")
        held = "-" if positions is None else str(len(positions))
        counts = str(record.get("version") or 0), str(self.events)
        return [self.user, self.broker, account, status, fresh, balance, *money, held, *counts]

    @staticmethod
    def _money(record: Mapping[str, Any], name: str) -> str:
        value = record.get(name)
        return "-" if value is None else f"{value:,.{record.get('moneyDigits') or 0}f}"


class Demo:
    """One run."""

    def __init__(self, keys: DemoKeys, *, seconds: float | None, memory: bool, port: int) -> None:
        self._keys = keys
        self._seconds = seconds
        self._memory = memory
        self._port = port
        self._url = self._admin = ""
        self._rng = random.Random(1)
        self._stop = asyncio.Event()
        self._sessions: list[tuple[str, str]] = []  # user and broker
        self._user_keys: dict[str, str] = {}
        self._first_orders: dict[str, Mapping[str, Any]] = {}  # of each account: a symbol and a size that it can trade
        self._http: aiohttp.ClientSession

    async def run(self) -> int:
        """Run to the end; the exit code."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # the last: its terminal was closed
            if signal.getsignal(number) is signal.SIG_IGN:
                continue  # as nohup wants
            loop.add_signal_handler(number, self._stop.set)
        async with AsyncExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bridge-demo-")))
            timeout = aiohttp.ClientTimeout(total=CALL_S)
            self._http = await stack.enter_async_context(aiohttp.ClientSession(timeout=timeout))
            try:
                stores = {} if self._memory else await self._start_servers(stack)
                simulator = await self._start_simulator(stack, folder)
                bridge = await self._start_bridge(stack, folder, simulator, stores)
                if not self._memory:
                    await self._store_credentials(simulator)
                return await self._show([simulator.child, bridge])
            except (aiohttp.ClientError, TimeoutError) as error:
                raise DemoFailed(f"a part did not answer: {type(error).__name__}: {error}") from error

    async def _start_servers(self, stack: AsyncExitStack) -> dict[str, str]:
        """Real Postgres and Valkey of this run's own; the settings that name them."""
        servers = PostgresServer(), ValkeyServer()
        for server in servers:
            stack.push_async_callback(asyncio.to_thread, server.stop)
            try:
                await asyncio.to_thread(server.start)
            except RuntimeError as error:
                raise DemoFailed(str(error)) from error
        sealing = f"demo:{self._keys.tokens.reveal()}"
        return {"DATABASE_URL": servers[0].url(), "REDIS_URL": servers[1].url, "TOKEN_ENCRYPTION_KEYS": sealing}

    async def _store_credentials(self, simulator: Simulated) -> None:
        """Hand the users' tokens to the bridge as the app's server would; it seals them."""
        for user, brokers in simulator.users.items():
            for broker, credentials in brokers.items():
                body = {"userId": user, "broker": broker, "credentials": credentials}
                await self._api("PUT", "/api/credentials", app=True, body=body)

    async def _start_simulator(self, stack: AsyncExitStack, folder: Path) -> Simulated:
        credentials, variables = folder / "credentials.json", folder / "bridge.env"
        flags = ["--free-ports", "--users", str(len(USERS)), "--seed", "7"]
        files = ["--credentials", str(credentials), "--env", str(variables)]
        child = await Child.start("simulator", ["simulate", *flags, *files], env=_surroundings(), folder=folder)
        stack.push_async_callback(child.stop)
        found = await child.ready(lambda line: orjson.loads(line) if line.startswith("{") else None)
        self._admin = f"http://127.0.0.1:{found['admin']}/sim"
        users = orjson.loads(await asyncio.to_thread(credentials.read_bytes))["users"]
        env = {name: value for name, value in dotenv_values(variables).items() if value is not None}
        if not self._memory:
            env.pop("BRIDGE_CREDENTIALS_FILE", None)  # they are sealed in the vault instead
        return Simulated(child, users, env)

    async def _start_bridge(
        self, stack: AsyncExitStack, folder: Path, simulator: Simulated, stores: Mapping[str, str]
    ) -> Child:
        port = self._port or free_port()  # its public address must be known before it runs
        settings = {
            **stores,
            **simulator.env,
            "PORT": str(port),
            "PUBLIC_URL": f"http://127.0.0.1:{port}",
            "OAUTH_RETURN_URLS": f"http://127.0.0.1:{port}/docs",
            "HOST": "127.0.0.1",
            "API_KEY_SECRET": self._keys.secret.reveal(),
            "API_KEYS": self._keys.entries,
            "LOG_FORMAT": "json",
        }
        child = await Child.start("bridge", ["serve"], env={**_surroundings(), **settings}, folder=folder)
        stack.push_async_callback(child.stop)
        self._url = await child.ready(_url_of)
        self._sessions = [(user, broker) for user in USERS for broker in simulator.users[user]]
        self._introduce()
        return child

    def _introduce(self) -> None:
        app, ops = self._keys.app.reveal(), self._keys.ops.reveal()
        first = UserKeyScheme().keys(USERS[0]).canonical
        store = "kept in memory" if self._memory else "kept in an embedded PostgreSQL and copied to an embedded Valkey"
        for line in (
            self._url,
            f"records are {store}; documentation: {self._url}/docs",
            f"app key: {app}",
            f"ops key: {ops}",
            "try:",
            f"  curl {self._url}/health",
            f"  curl -H 'Authorization: Bearer {ops}' {self._url}/api/sessions",
            *(
                f"  curl -H 'Authorization: Bearer {app}' -H 'X-User-Id: {user}' '{self._url}/account?broker={broker}'"
                for user, broker in self._sessions
                if user == USERS[0]
            ),
            f"  curl -H 'Authorization: Bearer {ops}' {self._url}/api/sessions/{first}/explain",
            f"and what the simulated broker itself believes: {self._admin}/accounts, {self._admin}/truth/<accountId>",
        ):
            print(line, flush=True)

    async def _show(self, children: list[Child]) -> int:
        """Start the users, then show them until the time is up, a signal comes or a part ends."""
        tasks = Tasks("demo")
        endings = [tasks.start(child.drain_output(), name=child.name) for child in children]
        try:
            for user, broker in self._sessions:
                body = {"userId": user, "broker": broker}
                self._user_keys[user] = (await self._api("POST", "/api/start-session", app=True, body=body))["userKey"]
            await self._until_live()
            shown = await self._watch(lambda: any(ending.done() for ending in endings))
            ended = [child for child, ending in zip(children, endings, strict=True) if ending.done()]
            if ended:
                raise DemoFailed(f"{ended[0].name} ended unexpectedly\n{ended[0].tail()}")
        finally:
            await tasks.close()
        weak = [f"{row.user} at {row.broker}" for row in shown if not row.live]
        if self._seconds is not None and weak:
            raise DemoFailed(f"not live and fresh at the end: {', '.join(weak)}\n{children[1].tail()}")
        print(f"all {len(USERS)} users live and fresh" if not weak else "ended")
        return 0

    async def _until_live(self) -> None:
        try:
            async with asyncio.timeout(LIVE_WITHIN_S):
                while not all(row.live for row in await self._rows()) and not self._stop.is_set():
                    await self._pause(0.2)
        except TimeoutError:
            states = ", ".join(" ".join(row.cells()[:4]) for row in await self._rows())
            raise DemoFailed(f"not all users were live within {LIVE_WITHIN_S:g} s: {states}") from None

    async def _watch(self, broken: Callable[[], bool]) -> list[Row]:
        """Show and trade; returns what was shown last."""
        loop = asyncio.get_running_loop()
        end = loop.time() + self._seconds if self._seconds is not None else float("inf")
        console = Console()
        terminal = console.is_terminal
        every = TERMINAL_EVERY_S if terminal else PLAIN_EVERY_S
        rows, trade_at = await self._rows(), loop.time()
        with (
            Live(_table(rows, console.width), console=console, auto_refresh=False, transient=False)
            if terminal
            else _Nothing() as live
        ):
            while True:
                if live is not None:
                    live.update(_table(rows, console.width), refresh=True)
                else:
                    print(*(" | ".join(row.cells()) for row in rows), sep="\n", flush=True)
                if loop.time() >= end or self._stop.is_set() or broken():
                    return rows
                if loop.time() >= trade_at:
                    await self._trade(rows)
                    trade_at = loop.time() + TRADE_EVERY_S
                await self._pause(min(every, max(0.0, end - loop.time())))
                rows = await self._rows()

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._stop.wait()
        except TimeoutError:
            return

    async def _rows(self) -> list[Row]:
        listing = await self._api("GET", "/api/sessions")
        events = {(view["userKey"], view["accountId"]): view["events"] for view in listing["sessions"]}
        rows = []
        for user, broker in self._sessions:
            record = await self._api("GET", f"/account?broker={broker}", app=True, user=user, missing=True)
            shown = (self._user_keys.get(user), (record or {}).get("accountId"))  # a visitor may start further accounts
            rows.append(Row(user, broker, record, events.get(shown, 0)))
        return rows

    async def _trade(self, rows: list[Row]) -> None:
        """Open or close something for one user, so that things move."""
        row = self._rng.choice(rows)
        record = row.record or {}
        account, held = record.get("accountId"), record.get("positions") or []
        if account is None:
            return
        if account not in self._first_orders:
            self._first_orders = {str(each["accountId"]): each["example"] for each in await self._accounts()}
        if len(held) >= 4 or (held and self._rng.random() < 0.3):
            await self._sim(f"/accounts/{account}/close", {"positionId": self._rng.choice(held)["id"]})
        else:
            example = self._first_orders[account]
            units = example["units"] * self._rng.randint(1, 20)
            order = {"symbol": example["symbol"], "side": self._rng.choice(("buy", "sell")), "type": "market"}
            await self._sim(f"/accounts/{account}/order", {**order, "units": units})

    async def _accounts(self) -> list[Mapping[str, Any]]:
        """All accounts that the simulated brokers have."""
        async with self._http.get(f"{self._admin}/accounts") as answer:
            accounts: list[Mapping[str, Any]] = orjson.loads(await answer.read())["accounts"]
            return accounts

    async def _api(
        self, method: str, path: str, *, app: bool = False, user: str = "", body: Any = None, missing: bool = False
    ) -> Any:
        key = self._keys.app if app else self._keys.ops
        headers = {"Authorization": f"Bearer {key.reveal()}"} | ({"X-User-Id": user} if user else {})
        async with self._http.request(method, self._url + path, headers=headers, json=body) as answer:
            data = orjson.loads(await answer.read())
        if missing and answer.status == 404:
            return None
        if answer.status >= 300:
            raise DemoFailed(f"{method} {path}: {answer.status} {data.get('detail')}")
        return data

    async def _sim(self, path: str, body: Mapping[str, Any]) -> None:
        """Ask the simulator for something; that a position is gone meanwhile is nothing."""
        async with self._http.post(self._admin + path, json=body) as answer:
            await answer.read()


@dataclass(frozen=True, slots=True)
class Simulated:
    """The running simulator."""

    child: Child
    users: Mapping[str, Mapping[str, Mapping[str, str]]]  # credentials by user and broker
    env: Mapping[str, str]  # what a bridge needs to be told to use it


class _Nothing:
    """Stands where a live table would, when nobody watches a terminal."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, *error: object) -> None:
        return None


def _table(rows: list[Row], width: int) -> Table:
    """The rows, with as many columns as `width` characters hold; the least needed ones go first."""
    cells = [row.cells() for row in rows]
    widest = [max(map(len, column)) for column in zip(COLUMNS, *cells, strict=True)]
    shown = list(range(len(COLUMNS)))
    for dispensable in map(COLUMNS.index, LEAST_NEEDED):
        if sum(widest[number] + 1 for number in shown) <= width:
            break
        shown.remove(dispensable)
    table = Table(title="accounts as the cache has them (Ctrl-C ends)", box=None, pad_edge=False, collapse_padding=True)
    for number in shown:
        table.add_column(COLUMNS[number], justify="right" if number >= 5 else "left", no_wrap=True)
    for row, text in zip(rows, cells, strict=True):
        table.add_row(*(text[number] for number in shown), style=None if row.live else "yellow")
    return table


def _url_of(line: str) -> str | None:
    """The bridge's own address, from its start line."""
    try:
        event = orjson.loads(line)
    except orjson.JSONDecodeError:
        return None
    return (
        f"http://127.0.0.1:{event['port']}" if isinstance(event, dict) and event.get("message") == "serving" else None
    )


def _surroundings() -> dict[str, str]:
    """What a child needs of our environment; settings of the user's own bridge stay out."""
    wanted = ("PATH", "HOME", "LANG", "TMPDIR", "SYSTEMROOT", "VIRTUAL_ENV", "LD_LIBRARY_PATH")
    return {name: os.environ[name] for name in wanted if name in os.environ}
