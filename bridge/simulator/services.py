"""Everything one simulator consists of, in one bag that its parts share.

Holds references only; `server.py` fills it in and decides the order of construction.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from bridge.runtime.clock import Clock
from bridge.simulator.counters import Counters
from bridge.simulator.depth import DepthBoard
from bridge.simulator.desk import Desk
from bridge.simulator.faults import FaultTable
from bridge.simulator.hub import Hub
from bridge.simulator.prices import Prices
from bridge.simulator.settings import SimulatorSettings
from bridge.simulator.spots import SpotBoard
from bridge.simulator.tokens import TokenBook
from bridge.simulator.world import World


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
    faults: FaultTable
    random: random.Random
    counters: Counters
