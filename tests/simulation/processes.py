"""One bridge process: the real service, supervisor, steward, keeper, flusher and adapters, put together as in `daemon`.

What differs from a running one: no HTTP edge (commands go to the service), stores and database behind simulated doors,
and an end that can come at any moment. Whatever it does runs in its own context, so that a crash stops all of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextvars import copy_context
from random import Random
from typing import TYPE_CHECKING, Any, cast

from bridge.brokers.alpaca.broker import AlpacaBroker
from bridge.brokers.base import Broker
from bridge.brokers.ctrader.broker import CtraderBroker
from bridge.cache.flusher import Flusher
from bridge.cache.planning import FlushMode
from bridge.cache.reader import Reader
from bridge.cache.store import Store, Stored, StoreUnavailable
from bridge.credentials.guarded import GuardedCredentials
from bridge.credentials.vault_source import VaultCredentials
from bridge.db.notices import EVERYBODY
from bridge.sessions.desired import DesiredSessions
from bridge.sessions.lease import Lease
from bridge.sessions.ownership.fleet import Fleet
from bridge.sessions.ownership.steward import Membership, new_name
from bridge.sessions.service import SessionService
from bridge.sessions.standing import Standing
from bridge.telemetry.audit import Action, Detail
from core.errors import Unavailable
from core.user_key import UserKeyScheme
from tests.simulation.grants import GrantsBehindDoor
from tests.simulation.leaks import EPOCH_S
from tests.simulation.loop import OWNER, VirtualLoop
from tests.simulation.network import Line
from tests.simulation.ports import Behind, Door

if TYPE_CHECKING:
    from tests.simulation.world import World

DRAIN_S = 2.5
SHARES = (0.2, 0.45, 0.15)  # of the drain's time, as in `daemon`
_NO_DATABASE = cast(Any, None)


class SimClock:
    """The clocks of one machine. `skew_ms`: how far its wall clock is off."""

    def __init__(self, loop: VirtualLoop, skew_ms: int = 0) -> None:
        self.monotonic = loop.time
        self.skew_ms = skew_ms

    def now_ms(self) -> int:
        return int((EPOCH_S + self.monotonic()) * 1000) + self.skew_ms


class AuditTrail:
    """Takes down what one process says it did."""

    def __init__(self, process: BridgeProcess) -> None:
        self._process = process

    def record(
        self, action: Action, *, user_key: str | None, actor: str, outcome: str = "ok", detail: Detail | None = None
    ) -> None:
        process = self._process
        if not process.dead:
            process.world.audited(process, action, user_key, outcome, dict(detail or {}))


class SimulatedVault(VaultCredentials):
    """The vault over rows in memory."""

    def behind(self, table: GrantsBehindDoor) -> SimulatedVault:
        self._table = cast(Any, table)
        self._renewals._table = cast(Any, table)
        return self


class BridgeProcess:
    """`begin` starts it, `drain` ends it in order, `die` at once. `lines`: its ways to the brokers, by service."""

    def __init__(self, world: World, number: int) -> None:
        self.world = world
        self.name = f"p{number}"
        self.dead = self.frozen = self.draining = self.serving = False
        self.context = copy_context()
        self.context.run(OWNER.set, self)
        self.rng = Random(f"{world.seed} {self.name}")
        skew = world.knobs.wall_skew_ms
        self.clock = SimClock(world.loop, self.rng.randint(-skew, skew))
        self.lines: dict[str, Line] = {}
        self.tasks: dict[asyncio.Task[Any], None] = {}
        self.unwell_at = world.loop.time()
        self.thawed_at = float("-inf")
        self.context.run(self._compose)

    # ------------------------------------------------------------ parts

    def _compose(self) -> None:
        world, knobs, clock, rng = self.world, self.world.knobs, self.clock, self.rng
        database = Door(world.database, self, Unavailable)
        self.standing = Standing(new_name(rng), clock, Lease(knobs.lease_s), hears=lambda: knobs.hears)
        self.stores = [self._store(name) for name in knobs.layout.split("+")]
        self.reader = Reader(self.stores, clock=clock)
        self.flusher = Flusher(
            self.stores,
            clock=clock,
            rng=rng,
            interval_s=knobs.flush_s,
            mode=FlushMode.ALWAYS if knobs.always else FlushMode.CHANGED,
            on_written=self.reader.offer,
            on_crash=self._crash,
            allowed=self.standing.may_write,
        )
        self.brokers: dict[str, Broker] = {}
        if "ctrader" in knobs.brokers:
            self.brokers["ctrader"] = CtraderBroker(world.ctrader_settings, clock, rng)
        if "alpaca" in knobs.brokers:
            self.brokers["alpaca"] = AlpacaBroker(world.alpaca_settings, clock, rng)
        user_keys = UserKeyScheme()
        self.vault = SimulatedVault(
            _NO_DATABASE,
            world.vault,
            brokers=self.brokers,
            user_keys=user_keys,
            clock=clock,
            rng=rng,
            owner=self.standing.owner,
            audit=AuditTrail(self),
            on_crash=self._crash,
        ).behind(GrantsBehindDoor(world.grants, database, self))
        self.service = SessionService(
            brokers=self.brokers,
            credentials=GuardedCredentials(self.vault),
            recorder=self.flusher,
            user_keys=user_keys,
            clock=clock,
            rng=rng,
            standing=self.standing,
            membership=Membership(
                cast(Fleet, Behind(world.fleet, database, world.raising_fences(self))), version="sim", capacity=1000
            ),
            records=self.reader,
            desired=cast(DesiredSessions, Behind(world.desired, database, world.raising_fences(self))),
            audit=AuditTrail(self),
            on_crash=self._crash,
        )

    def _store(self, name: str) -> Store:
        world = self.world
        door = Door(world.database if name == "postgres" else world.redis, self, StoreUnavailable)
        return cast(Store, Behind(world.stores[name], door, world.writing_as(self)))

    # ------------------------------------------------------------ life

    def begin(self) -> None:
        """As `daemon` starts."""
        self.spawn(self._start_up(), "start up")

    def spawn(self, work: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        """Run something as this process."""
        return self.world.loop.create_task(work, name=f"{self.name}:{name}", context=self.context.copy())

    async def _start_up(self) -> None:
        await self.flusher.start()
        await self.service.start_up()
        self.serving = True

    async def service_reader(self, key: str) -> Stored | None:
        """Read a record as this process's API does; None when it cannot be read now."""
        try:
            return await self.reader.get(key)
        except StoreUnavailable:
            return None

    def told(self, whom: str) -> None:
        """A notice of another process comes in."""
        if self.serving and not self.draining:
            self.service.notice(whom)

    async def drain(self) -> None:
        """As `daemon` does on SIGTERM, and then the end, in time whatever hangs."""
        self.draining = True
        loop = self.world.loop
        loop.call_later(DRAIN_S, self.world.ended, self, context=self.world.context)
        sessions_s, flush_s, closing_s = (DRAIN_S * share for share in SHARES)
        await self._in_time(self.service.drain(sessions_s), DRAIN_S)
        await self._in_time(self.flusher.drain(flush_s), DRAIN_S)
        closing = [
            *(broker.close for broker in self.brokers.values()),
            self.service.leave,
            self.service.close,
            self.vault.close,
            self.flusher.close,
        ]
        for close in closing:
            await self._in_time(close(), closing_s)
        loop.call_soon(self.world.ended, self, context=self.world.context)

    async def _in_time(self, work: Coroutine[Any, Any, object], seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await work
        except (TimeoutError, Unavailable):
            self.world.sometimes("a part did not end in order")

    def _crash(self, task: str, error: BaseException) -> None:
        """No task may end by an exception that nobody expected."""
        self.world.report(0, f"{self.name}: task {task} crashed: {error!r}")

    # ------------------------------------------------------------ the end

    def die(self, *, silently: bool = False) -> None:
        """Kill it. The kernel resets its connections, unless the machine is gone as well (`silently`)."""
        if self.dead:
            return
        self.dead, self.serving = True, False
        for line in self.lines.values():
            for pipe in list(line.pipes):
                if silently:
                    pipe.vanish()
                else:
                    pipe.reset()

    async def cross(self, where: str) -> None:
        """This process leaves its own memory here: the seed may crash it. A dead one never comes back."""
        self.world.crossing(self, where)
        if self.dead:
            await self.world.loop.create_future()


def is_for(process: BridgeProcess, whom: str) -> bool:
    """Whether a notice concerns this process."""
    return whom in (EVERYBODY, process.standing.owner)
