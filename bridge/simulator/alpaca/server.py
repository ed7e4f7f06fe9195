"""The simulated Alpaca as one object: builds its parts, opens its two ports, and offers what tests and admin routes do.

    async with Simulator(SimulatorSettings(users=3)) as sim:
        sim.ports.alpaca, sim.actions.truth(account_id), sim.actions.order(account_id, ...), sim.actions.fault("N01") …

Must be used inside a running event loop. Everything it starts ends with `close()`.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from aiohttp import web

from bridge.runtime.clock import Clock, SystemClock
from bridge.runtime.tasks import Tasks
from bridge.simulator.alpaca.access import LIVE, PAPER, AccessBook, Holder
from bridge.simulator.alpaca.accounts.watchlists import Watchlists
from bridge.simulator.alpaca.actions import Actions
from bridge.simulator.alpaca.counters import Counters
from bridge.simulator.alpaca.faults import FaultTable
from bridge.simulator.alpaca.oauth.routes import oauth_routes
from bridge.simulator.alpaca.rates import Rates
from bridge.simulator.alpaca.rest import make_app
from bridge.simulator.alpaca.services import ENVIRONMENT, SERVICES, Services
from bridge.simulator.alpaca.settings import SimulatorSettings
from bridge.simulator.alpaca.streams.streams import Streams
from bridge.simulator.alpaca.world import World, WorldSettings
from bridge.simulator.credentials_file import write_credentials

BACKLOG = 4_096
SHUTDOWN_S = 1.0
STEP_S = 0.05  # how often pending things may take effect


@dataclass(frozen=True, slots=True)
class Ports:
    """Ports that are open: paper and live."""

    alpaca: int
    alpaca_live: int

    def as_json(self) -> dict[str, Any]:
        """Its part of the ready line (DESIGN §13)."""
        return {"alpaca": self.alpaca, "alpacaLive": self.alpaca_live}


def make_services(settings: SimulatorSettings, clock: Clock) -> Services:
    """Build the parts of a simulator without opening anything. Deterministic for settings and clock."""
    # Separate streams, so that a fault's dice never change prices and fills.
    world_random, fault_random = (random.Random(settings.seed * 2 + index) for index in range(2))
    world = World(
        WorldSettings(
            users=settings.users,
            prices=settings.prices,
            strangers=settings.strangers,
            speed=settings.speed,
            partial_fill_share=settings.partial_fill_share,
            pending_ms=round(settings.pending_seconds * 1000),
            paper_deposit=settings.paper_deposit,
            live_deposit=settings.live_deposit,
        ),
        world_random,
        clock.now_ms(),
    )
    holders = [Holder(each.id, each.user, each.environment) for each in world.accounts.values()]
    faults = FaultTable()
    services = Services(
        settings=settings,
        clock=clock,
        world=world,
        watchlists={holder.account_id: Watchlists(holder.account_id, world.asset) for holder in holders},
        access=AccessBook.of(holders, settings.code_life_s),
        rates=Rates(settings.requests_per_minute),
        faults=faults,
        random=fault_random,
        counters=Counters(),
    )
    streams = services.streams = Streams(services, faults)

    def publish(account_id: str, payload: dict[str, Any]) -> None:
        services.counters.executions_by_account[account_id] += payload["event"] in ("fill", "partial_fill")
        streams.publish(account_id, payload)

    world.on_update = publish
    world.prices.on_tick = streams.tick
    return services


class Simulator:
    """A running Alpaca; use as an async context manager or with `start()` and `close()`."""

    def __init__(self, settings: SimulatorSettings | None = None, clock: Clock | None = None) -> None:
        self.settings = settings or SimulatorSettings()
        self.services = make_services(self.settings, clock or SystemClock())
        self.actions = Actions(self.services)
        self._tasks = Tasks("simulated alpaca")
        self._runners: list[web.AppRunner] = []
        self._ports: Ports | None = None

    @property
    def ports(self) -> Ports:
        if self._ports is None:
            raise RuntimeError("the simulator is not started")
        return self._ports

    @property
    def counters(self) -> Counters:
        return self.services.counters

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def start(self) -> None:
        """Open both ports and let prices move. Raises OSError when a port is taken."""
        try:
            paper = await self._listen(PAPER, self.settings.alpaca_port)
            live = await self._listen(LIVE, self.settings.alpaca_live_port)
        except BaseException:
            await self.close()
            raise
        self._ports = Ports(paper, live)
        if self.settings.credentials is not None:
            write_credentials(self.settings.credentials, self.credentials())
        self._tasks.start(self._run(), name="world", essential=True)

    async def close(self) -> None:
        """Close streams, ports and background work."""
        await self._tasks.close()
        await self.services.streams.close()
        for runner in self._runners:
            await runner.cleanup()
        self._runners.clear()

    def credentials(self) -> dict[str, dict[str, dict[str, str]]]:
        """Credential entries of DESIGN §10 for `user-1` … `user-n`: the key pair of each one's paper account."""
        entries = {}
        for user in self.services.world.of_user:
            pair = self.services.access.pair_of(user, PAPER)
            if pair is not None:
                entry = {"keyId": pair.key_id, "secretKey": pair.secret_key, "environment": PAPER}
                entries[f"user-{user}"] = {"alpaca": entry}
        return entries

    async def _listen(self, environment: str, port: int) -> int:
        app = make_app()
        app.add_routes([*oauth_routes(), *self.services.streams.routes()])
        app[SERVICES] = self.services
        app[ENVIRONMENT] = environment
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=SHUTDOWN_S)
        self._runners.append(runner)
        await runner.setup()
        await web.TCPSite(runner, self.settings.host, port, backlog=BACKLOG).start()
        bound: int = runner.addresses[0][1]
        return bound

    async def _run(self) -> None:
        """Time passes: prices move, what is pending takes effect, minutes end."""
        services = self.services
        world, clock = services.world, services.clock
        prices_at = clock.monotonic()
        while True:
            await asyncio.sleep(STEP_S)
            now_ms = clock.now_ms()
            if clock.monotonic() >= prices_at:
                world.prices.step(now_ms)
                prices_at = clock.monotonic() + world.prices.step_s
            world.advance(now_ms)
            services.streams.step()
            services.faults.tick()
