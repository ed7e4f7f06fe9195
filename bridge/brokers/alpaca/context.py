"""What all accounts of one adapter share: settings, clock, counters, sockets, REST, market data and assets."""

from __future__ import annotations

import random
from dataclasses import dataclass

from bridge.brokers.alpaca.dials import Dialer
from bridge.brokers.alpaca.instruments import Assets
from bridge.brokers.alpaca.market import Market
from bridge.brokers.alpaca.rest import RestClient
from bridge.brokers.alpaca.settings import AlpacaSettings
from bridge.brokers.base import Environment
from bridge.brokers.stats import Stats
from bridge.runtime.clock import Clock
from bridge.runtime.tasks import Tasks


@dataclass(frozen=True, slots=True)
class Context:
    """Shared parts of one adapter."""

    settings: AlpacaSettings
    clock: Clock
    rng: random.Random
    tasks: Tasks
    stats: Stats
    client: RestClient
    dialer: Dialer
    market: Market
    assets: dict[Environment, Assets]


def make_context(settings: AlpacaSettings, clock: Clock, rng: random.Random, tasks: Tasks, stats: Stats) -> Context:
    """All parts, before any I/O."""
    dialer = Dialer(settings, clock, stats)
    market = Market(settings, clock, rng, tasks, stats, dialer)
    assets = {environment: Assets() for environment in Environment}
    return Context(settings, clock, rng, tasks, stats, RestClient(settings, clock), dialer, market, assets)
