"""What every fault has: whom it hits, how often, how long; and the hooks it may use.

A fault is a validated admin request that then acts at a few points: when it begins, before a request is answered, on
each outgoing message, and when a connection is made. Randomness and time come from the simulator.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from bridge.simulator import faults
from bridge.simulator.ctrader.envelope import Outgoing

if TYPE_CHECKING:
    from bridge.simulator.ctrader.connection import Connection
    from bridge.simulator.ctrader.requests.call import Call
    from bridge.simulator.ctrader.services import Services


class Fault(faults.Fault):
    """A fault of this broker, limited to accounts and an environment where it is asked to."""

    accounts: list[int] | None = Field(None, description="account ids it is limited to; absent: all")
    environment: Literal["demo", "live"] | None = Field(None, description="limit to one environment")

    @property
    def services(self) -> Services:
        services: Services = self._services
        return services

    def hits(self, account_id: int | None, connection: Connection) -> bool:
        """Whether this effect happens; counts it when it does."""
        return self.concerns(account_id, connection) and self.strikes()

    def concerns(self, account_id: int | None, connection: Connection) -> bool:
        """Whether account and connection are within the fault's limits."""
        if self.over or self.environment not in (None, connection.environment):
            return False
        return self.accounts is None or account_id in self.accounts

    def connections(self) -> Iterator[Connection]:
        """Open connections within the limits: of the environment, and carrying one of the accounts if any are named."""
        for connection in list(self.services.hub.connections.values()):
            if self.environment not in (None, connection.environment):
                continue
            if self.accounts is None or any(each in connection.authorisations for each in self.accounts):
                yield connection

    def sessions(self) -> Iterator[tuple[Connection, int]]:
        """Account sessions within the limits."""
        for connection in self.connections():
            for account_id in list(connection.authorisations):
                if self.accounts is None or account_id in self.accounts:
                    yield connection, account_id


class FrameFault(Fault):
    """Sees every outgoing message of every connection."""

    def frame(self, connection: Connection, outgoing: Outgoing) -> list[Outgoing]:
        """What goes out instead; `[outgoing]` leaves it alone."""
        raise TypeError(f"{type(self).__name__} handles no frames")


class RequestFault(Fault):
    """Sees every request before the gates."""

    def request(self, call: Call[Any], proceed: Callable[[], None]) -> bool:
        """True when the request was dealt with; `proceed` answers it in the ordinary way, now or later."""
        raise TypeError(f"{type(self).__name__} handles no requests")
