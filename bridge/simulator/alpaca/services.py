"""Everything one simulated Alpaca consists of, in one bag that its parts share.

Holds references only; `server.py` fills it in and decides the order of construction.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from bridge.runtime.clock import Clock
from bridge.simulator.alpaca.access import AccessBook
from bridge.simulator.alpaca.accounts.watchlists import Watchlists
from bridge.simulator.alpaca.counters import Counters
from bridge.simulator.alpaca.hooks import FaultHooks
from bridge.simulator.alpaca.rates import Rates
from bridge.simulator.alpaca.settings import SimulatorSettings
from bridge.simulator.alpaca.world import World


@dataclass(slots=True)
class Services:
    """The parts of one running simulator."""

    settings: SimulatorSettings
    clock: Clock
    world: World
    watchlists: Mapping[str, Watchlists]  # by account
    access: AccessBook
    rates: Rates
    faults: FaultHooks
    random: random.Random  # of the faults
    counters: Counters
    streams: Any = field(init=False)  # a `Streams`, made last: it looks at everything else, so it cannot be named here


# What a handler finds in its application.
SERVICES: web.AppKey[Services] = web.AppKey("services", Services)
ENVIRONMENT: web.AppKey[str] = web.AppKey("environment", str)  # paper | live
