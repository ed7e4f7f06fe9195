"""The simulator as one object: builds its parts, opens its ports, and offers what tests and the admin routes do.

    async with Simulator(SimulatorSettings(users=3)) as sim:
        sim.ports, sim.actions.truth(account_id), sim.actions.order(account_id, ...), sim.actions.fault("N01") …

Must be used inside a running event loop. Everything it starts ends with `close()`.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
import random
import shutil
import ssl
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from bridge.runtime.clock import Clock, SystemClock
from bridge.runtime.tasks import Tasks
from bridge.simulator.admin_http import Stop
from bridge.simulator.certificates import Certificates, make_certificates
from bridge.simulator.credentials_file import write_credentials
from bridge.simulator.ctrader.actions import Actions
from bridge.simulator.ctrader.admin import start_admin
from bridge.simulator.ctrader.counters import Counters
from bridge.simulator.ctrader.depth import DepthBoard
from bridge.simulator.ctrader.desk import Desk
from bridge.simulator.ctrader.dispatch import Dispatcher
from bridge.simulator.ctrader.faults import FaultTable
from bridge.simulator.ctrader.hooks import FaultHooks
from bridge.simulator.ctrader.hub import Hub
from bridge.simulator.ctrader.listener import Socket
from bridge.simulator.ctrader.prices import Prices
from bridge.simulator.ctrader.services import Services
from bridge.simulator.ctrader.settings import SimulatorSettings
from bridge.simulator.ctrader.spots import SpotBoard, Tick
from bridge.simulator.ctrader.tokens import TokenBook
from bridge.simulator.ctrader.world import World

CLOSE_TIMEOUT_S = 3.0
StartAdmin = Callable[[Actions, str, int], Awaitable[tuple[Stop, int]]]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Ports:
    """Ports that are open; `ctrader_tls` and `ca` None when there is no TLS port."""

    ctrader: int
    ctrader_live: int
    admin: int
    ctrader_tls: int | None = None
    ca: Path | None = None

    def as_json(self) -> dict[str, Any]:
        """The ready line of DESIGN §13."""
        line: dict[str, Any] = {"ctrader": self.ctrader, "ctraderLive": self.ctrader_live}
        if self.ctrader_tls is not None:
            line["ctraderTls"] = self.ctrader_tls
        line["admin"] = self.admin
        if self.ca is not None:
            line["ca"] = str(self.ca)
        return line


def make_services(settings: SimulatorSettings, clock: Clock, faults: FaultHooks) -> Services:
    """Build the parts of a simulator without opening anything. Deterministic for settings and clock."""
    # Separate streams, so that a fault's dice never change the prices.
    engine_random, price_random, fault_random = (random.Random(settings.seed * 3 + index) for index in range(3))
    counters = Counters()
    world = World(settings.users, settings.deposit, engine_random, clock.now_ms())
    prices = Prices(
        world,
        price_random,
        clock,
        source=settings.prices,
        speed=settings.speed,
        seed=settings.seed,
        strangers=settings.strangers,
    )
    spots = SpotBoard(counters, prices.latest, prices.bars.live)
    depth = DepthBoard()
    hub = Hub(spots, depth)
    desk = Desk(world, hub, counters)
    desk.deliver(world.opening)
    world.opening.clear()
    tokens = TokenBook(settings.access_token_life_s, settings.code_life_s)
    for user in world.of_user:
        tokens.issue_first(user, clock.now_ms())
    services = Services(
        settings=settings,
        clock=clock,
        world=world,
        tokens=tokens,
        prices=prices,
        spots=spots,
        depth=depth,
        hub=hub,
        desk=desk,
        faults=faults,
        random=fault_random,
        counters=counters,
    )

    def publish(tick: Tick) -> None:
        spots.publish(tick, faulty=bool(faults.on_frames))
        depth.publish(prices.latest(tick.server, tick.symbol_id) or tick)

    prices.publish = publish
    prices.deliver = desk.deliver
    return services


class Simulator:
    """A running cTrader broker; use as an async context manager or with `start()` and `close()`."""

    def __init__(
        self,
        settings: SimulatorSettings | None = None,
        clock: Clock | None = None,
        admin: StartAdmin = start_admin,
    ) -> None:
        self.settings = settings or SimulatorSettings()
        faults = FaultTable()
        self.services = make_services(self.settings, clock or SystemClock(), faults)
        self.actions = Actions(self.services, faults)
        self._dispatcher = Dispatcher(self.services)
        self._tasks = Tasks("simulator")
        self._servers: list[asyncio.Server] = []
        self._own_cert_dir: Path | None = None
        self._start_admin = admin
        self._stop_admin: Stop | None = None
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
        """Open all ports and let prices move. Raises OSError when a port is taken."""
        settings = self.settings
        try:
            demo = await self._listen("demo", settings.ctrader_port)
            live = await self._listen("live", settings.ctrader_live_port)
            tls, ca = None, None
            if settings.ctrader_tls_port is not None:
                certificates = self._certificates()
                tls = await self._listen("demo", settings.ctrader_tls_port, self._tls_context(certificates))
                ca = certificates.ca_path
            self._stop_admin, admin = await self._start_admin(self.actions, settings.host, settings.admin_port)
        except BaseException:
            await self.close()
            raise
        self._ports = Ports(demo, live, admin, tls, ca)
        if settings.credentials is not None:
            write_credentials(settings.credentials, self.credentials())
        self._tasks.start(self._run_prices(), name="prices", essential=True)

    async def close(self) -> None:
        """Close ports, connections and background work."""
        await self._tasks.close()
        for server in self._servers:
            server.close()
        for connection in list(self.services.hub.connections.values()):
            connection.abort()
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                for server in self._servers:
                    await server.wait_closed()
        except TimeoutError:  # from Python 3.12 on this also waits for TLS handshakes in progress
            log.warning("connections were still being made when the simulator closed")
        self._servers.clear()
        if self._stop_admin is not None:
            await self._stop_admin()
            self._stop_admin = None
        if self._own_cert_dir is not None:
            shutil.rmtree(self._own_cert_dir, ignore_errors=True)
            self._own_cert_dir = None

    def credentials(self) -> dict[str, dict[str, dict[str, str]]]:
        """Credential entries of DESIGN §10 for `user-1` … `user-n`: the first account of each."""
        entries = {}
        for user, accounts in self.services.world.of_user.items():
            grant = self.services.tokens.grant_of_user(user)
            if grant is not None:
                entry = {
                    "accessToken": grant.access_token,
                    "refreshToken": grant.refresh_token,
                    "environment": "demo",
                    "accountId": str(accounts[0].id),
                }
                entries[f"user-{user}"] = {"ctrader": entry}
        return entries

    async def _listen(self, environment: str, port: int, tls: ssl.SSLContext | None = None) -> int:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(
            lambda: Socket(self.services, self._dispatcher, environment),
            self.settings.host,
            port,
            ssl=tls,
            backlog=4_096,
        )
        self._servers.append(server)
        bound: int = server.sockets[0].getsockname()[1]
        return bound

    def _certificates(self) -> Certificates:
        folder = self.settings.cert_dir
        if folder is None:
            folder = self._own_cert_dir = Path(tempfile.mkdtemp(prefix="simulator-certs-"))
        now = dt.datetime.fromtimestamp(self.services.clock.now_ms() / 1000, dt.UTC)
        return make_certificates(folder, now)

    def _tls_context(self, certificates: Certificates) -> ssl.SSLContext:
        """The good context, which hands over to a bad one while fault N08 is on."""
        good = certificates.contexts["good"]

        def choose(connection: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> int | None:
            kind = self.services.faults.certificate()
            if kind == "refused":
                return int(ssl.ALERT_DESCRIPTION_HANDSHAKE_FAILURE)
            if kind != "good":
                connection.context = certificates.contexts[kind]
            return None

        good.sni_callback = choose
        return good

    async def _run_prices(self) -> None:
        while True:
            await asyncio.sleep(self.services.prices.step_s)
            self.services.prices.step()
            self.services.faults.tick()
