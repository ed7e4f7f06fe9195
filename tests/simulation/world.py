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
from bridge.brokers.ctrader.settings import CtraderSettings
from bridge.config_values import TokenKey
from bridge.credentials.grant_table import Grant
from bridge.credentials.vault import Vault
from bridge.runtime.clock import Clock
from bridge.sessions.ownership.fencing import RecordFences
from bridge.sessions.ownership.fleet_in_memory import FleetInMemory
from bridge.sessions.remembered import DesiredInMemory
from bridge.simulator.running import Brokers
from bridge.telemetry.audit import Action
from core.secret import Secret
from core.user_key import UserKeyScheme
from tests.simulation import invariants
from tests.simulation.grants import GrantRows
from tests.simulation.knobs import Knobs
from tests.simulation.ledger import Ledgers
from tests.simulation.loop import OWNER, NumberedTask, Owner, VirtualLoop
from tests.simulation.market_place import open_market
from tests.simulation.network import End, Line, Network
from tests.simulation.operations import Commands
from tests.simulation.ports import Service, at_once
from tests.simulation.processes import BridgeProcess, SimClock, is_for
from tests.simulation.questions import Questions
from tests.simulation.watching import Readings, WatchedStore, Watcher

TRACE_KEPT = 60


class Violation(AssertionError):
    """An invariant does not hold."""


class World(Questions):
    """`broken`: what was found wrong. `seen`: how often each rare thing happened. `armed`: faults may happen now.

    `rough`: lines or brokers have failed, so a login may have been cut off half-way. `half_open`: something happened
    after which a broker may think that a login is alive that is not. `refusing_until`: until when (loop seconds) a
    broker may refuse things, and adapters wait because it did.
    `tainted`: until when (loop seconds) what a broker
    said may have got lost. `loose`: users at a
    broker of whom nobody knows which commands were carried out.
    """

    brokers: Brokers
    ctrader_settings: CtraderSettings
    alpaca_settings: AlpacaSettings

    def __init__(self, seed: int, knobs: Knobs, loop: VirtualLoop) -> None:
        self.seed = seed
        self.knobs = knobs
        self.loop = loop
        loop.set_task_factory(_owned_task)
        loop.set_exception_handler(self._unexpected)
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
        self.pairs: list[tuple[BridgeProcess, str, float]] = []
        self.refreshes_sent: Counter[str] = Counter()
        self.services_by_port: dict[int, str] = {}
        self.tainted: dict[str, float] = {}
        self.loose: set[tuple[str, str]] = set()
        self.armed = self.over = False
        self.half_open = self.rough = False
        self.refusing_until = 0.0
        self.log: list[str] = []
        self._born = 0
        self._hash = hashlib.blake2b(digest_size=16)
        self.tail: deque[str] = deque(maxlen=TRACE_KEPT)
        self._share()

    def _share(self) -> None:
        self.desired = DesiredInMemory(self.clock)
        self.desired.shared = True
        self.fleet = FleetInMemory(self.desired, self.clock, told=self._tell)
        self.stores = {name: WatchedStore(self, self.clock, name=name) for name in ("postgres", "redis")}
        self.grants = GrantRows(self.clock, self.dice("grants"))
        self.grants.paired = self._paired
        self.grants.raced = lambda: self.sometimes("token refresh race")
        self.vault = Vault([TokenKey("k1", Secret(base64.b64encode(self.dice("vault").randbytes(32)).decode()))])
        self.user_keys = UserKeyScheme()
        self.watcher = Watcher(self)
        self.ledgers = Ledgers(self)
        self.commands = Commands(self)
        self.readings = Readings(self)
        Questions.__init__(self, self)

    def dice(self, what: str) -> Random:
        """A stream of randomness of its own, so that one part's draws do not change another's."""
        return Random(f"{self.seed} {what}")

    async def open(self) -> None:
        """Start both brokers, and the first processes."""
        await open_market(self)
        for _ in range(self.knobs.processes):
            self.spawn()

    async def close(self) -> None:
        """End everything, the dead too, so that nothing is left for the garbage collector."""
        self.over = True
        for process in self.processes:
            process.die()
        self.loop.end()
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
        self.note("process starts", process.name, process.standing.owner)
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
        silently = self._crash_dice.random() < 0.3
        self.note("crash", process.name, where, silently)
        self.sometimes("crash at a boundary")
        self.half_open |= silently
        process.die(silently=silently)
        self.loop.call_later(self._crash_dice.uniform(0.1, 10.0), self._replace, context=self.context)

    def _replace(self) -> None:
        """As a platform starts a service that has crashed."""
        if self.armed and len(self.alive) < self.knobs.processes:
            self.spawn()

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
            typical = self.knobs.latency_s
            line = owner.lines[service] = Line(service, latency=(typical / 2, typical * 1.5), slices=self.knobs.slices)
        return line

    def _tell(self, whom: str) -> None:
        """A notice of the database: to whoever hears, a moment later."""
        if not self.knobs.hears:
            return
        for process in self.alive:
            if is_for(process, whom) and self.database.up and self.database.reaches(process):
                self.loop.call_later(self.rng.uniform(0.001, 0.02), process.told, whom, context=process.context)

    def well_for_s(self, process: BridgeProcess, broker: str) -> float:
        """For how long a process and all that it needs have been well."""
        line = process.lines.get(broker)
        now, services = self.loop.time(), (self.database, self.redis)
        well = not process.frozen and all(each.well and each.reaches(process) for each in services)
        if not well or line is None or not line.good or self.is_tainted(broker):
            process.unwell_at = now
        return now - process.unwell_at

    def taint(self, broker: str, seconds: float) -> None:
        """From now on for so long, what a session shows may lack what the broker said."""
        self.tainted[broker] = max(self.tainted.get(broker, 0.0), self.loop.time() + seconds)

    def is_tainted(self, broker: str) -> bool:
        return self.loop.time() < self.tainted.get(broker, 0.0)

    def lose_redis(self) -> None:
        """A failover that lost what was acknowledged."""
        self.stores["redis"].lose()

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
            outcome = work()
            rows = self.desired.rows()
            moved = [row for row in rows if row.identity in before and before[row.identity][1] < row.fence]
            moved = [self.desired._shown(row) for row in moved]
            self.watcher.owners_changed(process, before, rows)
            if self.knobs.layout.startswith("postgres") and moved:
                at_once(RecordFences(self._claim, self.user_keys).follow(None, moved))  # type: ignore[arg-type]
            return outcome

        return around

    async def _claim(self, connection: Any, keys: Any, at_least: int) -> None:
        await self.stores["postgres"].claim(keys, at_least=at_least)

    def _paired(self, grant: Grant, process: Owner) -> None:
        assert isinstance(process, BridgeProcess)
        self.note("new pair", process.name, grant.user_key[:6], grant.version)
        self.sometimes("token refreshed")
        self.pairs.append((process, grant.user_key, self.loop.time()))

    # ------------------------------------------------------------ what was seen

    def note(self, *what: object) -> None:
        """One line of the trace."""
        if self.over:
            return
        line = f"{self.loop.time():.6f} {what}"
        self._hash.update(line.encode())
        self.tail.append(line)

    @property
    def trace(self) -> str:
        """The whole trace, as one number."""
        return self._hash.hexdigest()

    def sometimes(self, what: str) -> None:
        """Something rare has happened."""
        if not self.over:
            self.seen[what] += 1

    def audited(
        self, process: BridgeProcess, action: Action, user_key: str | None, outcome: str, detail: dict[str, Any]
    ) -> None:
        """A process took something down."""
        self.note("audit", process.name, action.value, outcome)
        self.audit.append((self.loop.time(), process.name, action, user_key, outcome, detail))
        self.sometimes(f"audit: {action.value}")

    def take_log(self) -> list[str]:
        """What was logged since it was last asked."""
        taken, self.log = self.log, []
        return taken

    def _unexpected(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self.report(0, f"{context.get('message')}: {context.get('exception')!r}")

    def report(self, number: int, text: str) -> None:
        """Something is wrong; 0: an error that nobody expected."""
        if not self.over and len(self.broken) < 50:
            self.broken.append((number, f"at {self.loop.time():.3f}: {text}"))

    def step(self) -> None:
        """Check what must always hold. Raises Violation with all that was found wrong so far."""
        for check in invariants.EVERY_STEP:
            check(self)
        self._look_around()
        self.judge()

    def _look_around(self) -> None:
        """Which states and reasons sessions are in, and what processes have had to do."""
        for process in self.alive:
            for session in process.service._table:
                self.sometimes(f"state {session.state.value}")
                if session.reason is not None:
                    self.sometimes(f"reason {session.reason.code.value}")
            for cause in process.service._supervisor.machine.counters.reconnects:
                self.sometimes(f"back after {cause}")
            steward = process.service.steward
            for name in () if steward is None else steward.counters:
                self.sometimes(f"steward {name}")

    def judge(self) -> None:
        if self.broken:
            raise Violation("\n".join(f"invariant {number}: {text}" for number, text in self.broken))


def _owned_task(loop: Any, work: Any, context: Any = None) -> asyncio.Task[Any]:
    """A task, known to the process that starts it."""
    task: asyncio.Task[Any] = NumberedTask(work, loop=loop, context=context)
    owner = OWNER.get() if context is None else context.get(OWNER)
    if isinstance(owner, BridgeProcess):
        owner.tasks[task] = None
        task.add_done_callback(lambda done: owner.tasks.pop(done, None))
    return task
