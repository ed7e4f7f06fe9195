"""One request being answered, and the type of what answers it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from google.protobuf.message import Message

from bridge.simulator.ctrader.connection import Authorisation, Connection
from bridge.simulator.ctrader.envelope import Outgoing
from bridge.simulator.ctrader.services import Services
from bridge.simulator.ctrader.world import Account

R_co = TypeVar("R_co", bound=Message, covariant=True)


@dataclass(slots=True)
class Call(Generic[R_co]):
    """A decoded request with its connection. `account` raises KeyError for requests about no account."""

    services: Services
    connection: Connection
    request: R_co
    client_msg_id: str
    account_id: int | None

    @property
    def account(self) -> Account:
        return self.services.world.accounts[self.account_id or 0]

    @property
    def authorisation(self) -> Authorisation:
        return self.connection.authorisations[self.account_id or 0]

    @property
    def now_ms(self) -> int:
        return self.services.clock.now_ms()

    def reply(self, message: Message) -> None:
        """Send the correlated answer now; a handler that returns a message need not call this."""
        self.connection.send(Outgoing(message, self.account_id, self.client_msg_id))

    def push(self, message: Message) -> None:
        """Send an event to this connection, uncorrelated."""
        self.connection.send(Outgoing(message, self.account_id))


# Returns the answer, or None when the handler replied by itself. Raises Refused.
Handler = Callable[[Call[Any]], Message | None]
Handlers = Mapping[int, Handler]
