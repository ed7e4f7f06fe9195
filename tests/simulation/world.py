"""One simulated world: the shared things, the brokers, the processes that live in it, and what was seen of them.

Everything is derived from the seed. The world itself never fails: whatever may fail stands behind a line, a door or a
process. What is wrong is reported by number (faults.md §3) and ends the run.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
from collections import Counter, deque
from collections.abc import Callable
from contextvars import copy_context
from random import Random
from typing import Any

from bridge.brokers.alpaca.settings import AlpacaSettings
from bridge.brokers.base import Environment
from bridge.brokers.ctrader.settings import CtraderSettings
from bridge.cache.stores.memory import MemoryStore
from bridge.config_values import TokenKey
from bridge.credentials.sealed import seal_secrets
from bridge.credentials.vault import Vault
from bridge.runtime.clock import Clock
from bridge.sessions.desired import StoredSession
from bridge.sessions.ownership.fencing import RecordFences
from bridge.sessions.ownership.fleet_in_memory import FleetInMemory
from bridge.sessions.remembered import DesiredInMemory
from bridge.simulator import alpaca, ctrader
from bridge.simulator.bridge_env import bridge_env
from bridge.simulator.ctrader.settings import RefreshVariant
from bridge.simulator.running import Brokers
from bridge.telemetry.audit import Action
from core.secret import Secret
from core.user_key import UserKeyScheme
from tests.simulation.grants import GrantRows
from tests.simulation.knobs import Knobs
from tests.simulation.ledger import Ledgers
from tests.simulation.loop import OWNER, Owner, VirtualLoop
from tests.simulation.network import End, Line, Network
from tests.simulation.ports import Service, at_once
from tests.simulation.processes import BridgeProcess, SimClock, is_for
from tests.simulation.watching import WatchedStore, Watcher

TRACE_KEPT = 200


class Violation(AssertionError):
    """An invariant does not hold."""


class World:
    """`broken`: what was found wrong. `seen`: how often each rare thing happened. `armed`: faults may happen now."""

    def __init__(self, seed: int, knobs: Knobs, loop: VirtualLoop) -> None:
        self.seed = seed
        self.knobs = knobs
        self.loop = loop
        self.context = copy_context()
        self.clock: Clock = SimClock(loop)
        self.rng = self.dice("operations")
        self._crash_dice = self.dice("crashes")
        self.network = Network(loop, self.dice("network"))
        self.network.line_of = self._line_of
        self.network.crossing = self._bytes_leave
        self.network.note = self.note
        self.database = Service("database", self.dice("database"))
        self.redis = Service("redis", self.dice("redis"))
        self.processes: list[BridgeProcess] = []
        self.broken: list[tuple[int, str]] = []
        self.seen: Counter[str] = Counter()
        self.audit: list[tuple[float, str, Action, str | None, str, dict[str, Any]]] = []
        self.armed = False
        self.over = False
        self._born = 0
        self._hash = hashlib.blake2b(digest_size=16)
        self.tail: deque[str] = deque(maxlen=TRACE_KEPT)
        self._share()

    def _share(self) -> None:
        self.desired = DesiredInMemory(self.clock)
        self.desired.shared = True
        self.fleet = FleetInMemory(self.desired, self.clock, told=self._tell)
        self.stores = {
            name: WatchedStore(self, self.clock, name=name) for name in ("postgres", "redis")
        }
        self.grants = GrantRows(self.clock, self.dice("grants"))
        key = base64.b64encode(self.dice("vault").randbytes(32)).decode()
        self.vault = Vault([TokenKey("k1", Secret(key))])
        self.user_keys = UserKeyScheme()
        self.watcher = Watcher(self)
        self.ledgers = Ledgers(self)

    def dice(self, what: str) -> Random:
        """A stream of randomness of its own, so that one part's draws do not change another's."""
        return Random(f"{self.seed} {what}")

    # ------------------------------------------------------------ brokers and users

    async def open(self) -> None:
        """Start both brokers and store what users have entered."""
        knobs = self.knobs
        self.brokers = Brokers(
            ctrader.SimulatorSettings(
                seed=self.seed,
                users=knobs.users,
                prices="frozen",
                ctrader_tls_port=None,
                requests_per_second=knobs.requests_per_second,
                refresh_variant=RefreshVariant(knobs.refresh_variant),
            ),
            alpaca.SimulatorSettings(
                seed=self.seed, users=knobs.users, prices="frozen", partial_fill_share=knobs.partial_fills
            ),
            clock=self.clock,
        )
        await self.brokers.start()
        ports = self.brokers.ready_line()
        self.services_by_port = {ports["alpaca"]: "alpaca", ports["alpacaLive"]: "alpaca"}
        self.services_by_port |= {ports["ctrader"]: "ctrader", ports["ctraderLive"]: "ctrader"}
        self.services_by_port[ports["admin"]] = "sign-in"
        self._settings(bridge_env("127.0.0.1", ports, "sim-client", "sim-secret"))
        for user, entries in sorted(self.brokers.credentials().items()):
            for broker, entry in sorted(entries.items()):
                self._enter(user, broker, dict(entry))
        self.ledgers.begin()

    def _settings(self, env: dict[str, str]) -> None:
        knobs = self.knobs
        self.ctrader_settings = CtraderSettings(
            client_id=env["CTRADER_CLIENT_ID"],
            client_secret=Secret(env["CTRADER_CLIENT_SECRET"]),
            live_url=env["CTRADER_LIVE_URL"],
            demo_url=env["CTRADER_DEMO_URL"],
            token_url=env["CTRADER_TOKEN_URL"],
            channels=knobs.channels,
            accounts_per_channel=knobs.accounts_per_channel,
            requests_per_second=round(knobs.requests_per_second * 0.9),
            history_requests_per_second=max(1, round(knobs.requests_per_second * 0.08)),
        )
        self.alpaca_settings = AlpacaSettings(
            live_url=env["ALPACA_LIVE_URL"],
            paper_url=env["ALPACA_PAPER_URL"],
            data_url=env["ALPACA_DATA_URL"],
            token_url=env["ALPACA_TOKEN_URL"],
        )

    def _enter(self, user: str, broker: str, entry: dict[str, str]) -> None:
        environment = Environment.LIVE if entry.pop("environment") == "live" else Environment.DEMO
        account_id = entry.pop("accountId", None)
        secrets = {name: Secret(value) for name, value in entry.items()}
        user_key = self.user_keys.keys(user).canonical
        sealed = seal_secrets(self.vault, user_key, broker, secrets)
        self.grants.add(user_key, broker, environment, account_id, sealed)

    async def close(self) -> None:
        """End everything, the dead too, so that nothing is left for the garbage collector."""
        self.over = self.loop.ending = True
        for process in self.processes:
            process.die()
        await self.brokers.close()
        mine = asyncio.current_task()
        for _ in range(20):
            left = [task for task in asyncio.all_tasks() if task is not mine]
            if not left:
                return
            for task in left:
                task.cancel()
            await asyncio.wait(left, timeout=30)

    # ------------------------------------------------------------ processes

    @property
    def alive(self) -> list[BridgeProcess]:
        return [process for process in self.processes if not process.dead]

    @property
    def serving(self) -> list[BridgeProcess]:
        """Those that a command can be sent to."""
        return [each for each in self.alive if each.serving and not each.draining and not each.frozen]

    def spawn(self) -> BridgeProcess:
        """A new process starts."""
        self._born += 1
        process = BridgeProcess(self, self._born)
        self.processes.append(process)
        self.note("process starts", process.name)
        process.begin()
        return process

    def ended(self, process: BridgeProcess) -> None:
        """A process that was asked to end has, or its time is over."""
        if not process.dead:
            self.note("process ends", process.name)
            self.sometimes("drained process ended")
            process.die()

    def crossing(self, process: BridgeProcess, where: str) -> None:
        """A process leaves its own memory: the seed may crash it there."""
        if not self.armed or process.dead or self._crash_dice.random() >= self.knobs.crash_share:
            return
        self.note("crash", process.name, where)
        self.sometimes("crash at a boundary")
        process.die(silently=self._crash_dice.random() < 0.3)

    def _bytes_leave(self, end: End, size: int) -> None:
        owner = end.context.get(OWNER)
        if isinstance(owner, BridgeProcess):
            self.crossing(owner, "send")

    def _line_of(self, owner: Owner | None, port: int) -> Line:
        service = self.services_by_port.get(port, str(port))
        if not isinstance(owner, BridgeProcess):
            return Line(service)
        line = owner.lines.get(service)
        if line is None:
            low = self.knobs.latency_s
            line = owner.lines[service] = Line(service, latency=(low / 2, low * 1.5), slices=self.knobs.slices)
        return line

    def _tell(self, whom: str) -> None:
        """A notice of the database: to whoever hears, a moment later."""
        if not self.knobs.hears:
            return
        for process in self.alive:
            if is_for(process, whom) and self.database.up and self.database.reaches(process):
                self.loop.call_later(self.rng.uniform(0.001, 0.02), process.told, whom, context=process.context)

    # ------------------------------------------------------------ what happens behind the doors

    def writing_as(self, process: BridgeProcess) -> Callable[[str, Callable[[], Any]], Any]:
        """Calls to a store, with the caller known to the watcher."""

        def around(name: str, work: Callable[[], Any]) -> Any:
            self.watcher.writer = process
            try:
                return work()
            finally:
                self.watcher.writer = None

        return around

    def raising_fences(self, process: BridgeProcess) -> Callable[[str, Callable[[], Any]], Any]:
        """Calls to the database: where records are in it too, their fences follow the owner in the same step."""

        def around(name: str, work: Callable[[], Any]) -> Any:
            before = {row.identity: (row.owner, row.fence) for row in self.desired.rows()}
            self.watcher.writer = process
            try:
                outcome = work()
                rows = self.desired.rows()
                moved = [row for row in rows if before.get(row.identity, ("", row.fence))[1] < row.fence]
                self.watcher.owners_changed(process, before, rows)
                if self.knobs.layout.startswith("postgres") and moved:
                    self._follow(moved)
                return outcome
            finally:
                self.watcher.writer = None

        return around

    def _follow(self, rows: list[StoredSession]) -> None:
        async def claim(connection: Any, keys: Any, at_least: int) -> None:
            await self.stores["postgres"].claim(keys, at_least=at_least)

        defaults = [self.desired._shown(row) for row in rows]
        at_once(RecordFences(claim, self.user_keys).follow(None, defaults))  # type: ignore[arg-type]

    # ------------------------------------------------------------ what was seen

    def note(self, *what: object) -> None:
        """One line of the trace."""
        line = f"{self.loop.time():.6f} {what}"
        self._hash.update(line.encode())
        self.tail.append(line)

    @property
    def trace(self) -> str:
        """The whole trace, as one number."""
        return self._hash.hexdigest()

    def sometimes(self, what: str) -> None:
        """Something rare has happened."""
        self.seen[what] += 1

    def audited(
        self, process: BridgeProcess, action: Action, user_key: str | None, outcome: str, detail: dict[str, Any]
    ) -> None:
        """A process took something down."""
        self.note("audit", process.name, action.value, outcome)
        self.audit.append((self.loop.time(), process.name, action, user_key, outcome, detail))
        self.sometimes(f"audit: {action.value}")

    def report(self, number: int, text: str) -> None:
        """Something is wrong."""
        if not self.over and len(self.broken) < 50:
            self.broken.append((number, f"at {self.loop.time():.3f}: {text}"))

    def judge(self) -> None:
        """Raise what was found wrong."""
        if self.broken:
            raise Violation("\n".join(f"invariant {number}: {text}" for number, text in self.broken))
