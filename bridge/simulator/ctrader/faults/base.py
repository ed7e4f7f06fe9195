"""What every fault has: whom it hits, how often, how long; and the hooks it may use.

A fault is a validated admin request that then acts at a few points: when it begins, before a request is answered, on
each outgoing message, and when a connection is made. Randomness and time come from the simulator.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr

from bridge.simulator.ctrader.envelope import Outgoing

if TYPE_CHECKING:
    from bridge.simulator.ctrader.connection import Connection
    from bridge.simulator.ctrader.requests.call import Call
    from bridge.simulator.ctrader.services import Services


class Fault(BaseModel):
    """One active fault. `effects` counts what it did."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)
    title: ClassVar[str]
    # Strikes when begun and is over; anything else stays until its count, its duration or a DELETE ends it.
    instant: ClassVar[bool] = False

    accounts: list[int] | None = Field(None, description="account ids it is limited to; absent: all")
    environment: Literal["demo", "live"] | None = Field(None, description="limit to one environment")
    count: int | None = Field(None, ge=1, description="effects after which it ends; absent: no limit")
    probability: float = Field(1.0, ge=0, le=1, description="chance of each effect")
    duration_s: float | None = Field(None, alias="durationSeconds", gt=0, description="ends after so many seconds")

    _services: Any = PrivateAttr()
    _until: float | None = PrivateAttr(None)
    _effects: int = PrivateAttr(0)

    @property
    def services(self) -> Services:
        services: Services = self._services
        return services

    @property
    def effects(self) -> int:
        return self._effects

    @property
    def over(self) -> bool:
        """Spent or out of time."""
        if self.count is not None and self._effects >= self.count:
            return True
        return self._until is not None and self.services.clock.monotonic() >= self._until

    def start(self, services: Services) -> None:
        """Bind to a simulator and begin."""
        self._services = services
        if self.duration_s is not None:
            self._until = services.clock.monotonic() + self.duration_s
        self.begin()

    def begin(self) -> None:
        """Act at once, if the fault does."""

    def end(self) -> None:
        """Undo what lasts, if anything."""

    def hits(self, account_id: int | None, connection: Connection) -> bool:
        """Whether this effect happens; counts it when it does."""
        if not self.concerns(account_id, connection):
            return False
        return self.strikes()

    def concerns(self, account_id: int | None, connection: Connection) -> bool:
        """Whether account and connection are within the fault's limits."""
        if self.over or self.environment not in (None, connection.environment):
            return False
        return self.accounts is None or account_id in self.accounts

    def strikes(self) -> bool:
        """Draw the chance; count the effect when it happens."""
        if self.probability < 1 and self.services.random.random() >= self.probability:
            return False
        self.note()
        return True

    def note(self) -> None:
        """Count one effect."""
        self._effects += 1
        self.services.counters.faults[type(self).__name__] += 1

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
