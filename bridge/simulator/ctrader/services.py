"""Everything one simulator consists of, in one bag that its parts share.

Holds references only; `server.py` fills it in and decides the order of construction.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from bridge.runtime.clock import Clock
from bridge.simulator.ctrader.connection import Connection
from bridge.simulator.ctrader.counters import Counters
from bridge.simulator.ctrader.depth import DepthBoard
from bridge.simulator.ctrader.desk import Desk
from bridge.simulator.ctrader.envelope import Outgoing
from bridge.simulator.ctrader.hooks import FaultHooks
from bridge.simulator.ctrader.hub import Hub
from bridge.simulator.ctrader.prices import Prices
from bridge.simulator.ctrader.settings import SimulatorSettings
from bridge.simulator.ctrader.spots import SpotBoard
from bridge.simulator.ctrader.tokens import TokenBook
from bridge.simulator.ctrader.world import World


@dataclass(slots=True)
class Services:
    """The parts of one running simulator."""

    settings: SimulatorSettings
    clock: Clock
    world: World
    tokens: TokenBook
    prices: Prices
    spots: SpotBoard
    depth: DepthBoard
    hub: Hub
    desk: Desk
    faults: FaultHooks
    random: random.Random
    counters: Counters

    def outgoing(self, connection: Connection, message: Outgoing) -> list[Outgoing]:
        """What really goes out for a message."""
        return self.faults.frames(connection, message) if self.faults.on_frames else [message]

    def connection_ended(self, connection: Connection) -> None:
        """Forget a connection and its account sessions."""
        self.hub.connection_ended(connection)
        self.faults.connection_ended(connection.app_authorised, self.clock.monotonic())
