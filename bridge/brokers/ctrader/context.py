"""What all accounts of one adapter share: settings, clock, counters, broker servers, listings, maintenance gates."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

from bridge.brokers.base import Environment
from bridge.brokers.ctrader.gates import Gate
from bridge.brokers.ctrader.listing import Listings
from bridge.brokers.ctrader.market import Market
from bridge.brokers.ctrader.recovery import Recovery
from bridge.brokers.ctrader.settings import CtraderSettings
from bridge.brokers.stats import Stats
from bridge.runtime.clock import Clock
from bridge.runtime.tasks import Tasks

_ISSUED_KEPT = 4096
_ISSUED_FRESH_S = 60.0


@dataclass(slots=True)
class Context:
    """Shared parts of one adapter."""

    settings: CtraderSettings
    clock: Clock
    tasks: Tasks
    stats: Stats
    listings: Listings = field(default_factory=Listings)
    markets: dict[tuple[Environment, str], Market] = field(default_factory=dict)
    gates: dict[tuple[Environment, str], Gate] = field(default_factory=dict)
    next_pnl_check: float = 0.0
    issued: OrderedDict[str, float] = field(default_factory=OrderedDict)
    recovery: Recovery = field(init=False)

    def __post_init__(self) -> None:
        self.recovery = Recovery(self.settings, self.clock, self.tasks, self.stats)

    def market(self, environment: Environment, server: str) -> Market:
        """The reference data of a broker server, by the name it gives itself."""
        key = (environment, server)
        market = self.markets.get(key)
        if market is None:
            market = self.markets[key] = Market(self.tasks)
        return market

    def gate(self, environment: Environment, server: str) -> Gate:
        """The maintenance gate of a broker server."""
        key = (environment, server)
        gate = self.gates.get(key)
        if gate is None:
            gate = self.gates[key] = Gate(self.settings.maintenance_default_s, self.settings.maintenance_cap_s)
        return gate

    def token_issued(self, fingerprint: str) -> None:
        """A refresh of ours returned this access token."""
        self.issued[fingerprint] = self.clock.monotonic()
        if len(self.issued) > _ISSUED_KEPT:
            self.issued.popitem(last=False)

    def just_issued(self, fingerprint: str) -> bool:
        """True for a token so new that an invalidation heard now is about its predecessor (ctrader.md §2.3)."""
        at = self.issued.get(fingerprint)
        return at is not None and self.clock.monotonic() - at < _ISSUED_FRESH_S
