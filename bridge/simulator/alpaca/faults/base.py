"""What every fault has: whom it hits, how often, how long; and the hooks it may use.

A fault is a validated admin request that then acts at a few points: when it begins, before and after a REST request,
on each outgoing stream message, at a stream's handshake and login. Randomness and time come from the simulator.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Literal

from aiohttp import web
from pydantic import Field, field_validator

from bridge.simulator import faults
from bridge.simulator.alpaca.access import Caller
from bridge.simulator.alpaca.hooks import RestCall
from bridge.simulator.alpaca.streams.socket import Outgoing, StreamSocket

if TYPE_CHECKING:
    from bridge.simulator.alpaca.services import Services
    from bridge.simulator.alpaca.streams.streams import Streams

StreamChoice = Literal["trading", "data", "both"]


class Fault(faults.Fault):
    """A fault of this broker, limited to accounts and an environment where it is asked to."""

    accounts: list[str] | None = Field(None, description="account ids it is limited to; absent: all")
    environment: Literal["paper", "live"] | None = Field(None, description="limit to one environment (demo = paper)")

    @field_validator("environment", mode="before")
    @classmethod
    def _in_own_words(cls, value: object) -> object:
        """The bridge says demo where Alpaca says paper."""
        return "paper" if value == "demo" else value

    @property
    def services(self) -> Services:
        services: Services = self._services
        return services

    @property
    def streams(self) -> Streams:
        streams: Streams = self.services.streams
        return streams

    def hits(self, account_id: str | None, environment: str) -> bool:
        """Whether this effect happens; counts it when it does."""
        return self.concerns(account_id, environment) and self.strikes()

    def concerns(self, account_id: str | None, environment: str) -> bool:
        """Whether account and environment are within the fault's limits."""
        if self.over or self.environment not in (None, environment):
            return False
        return self.accounts is None or account_id in self.accounts


class StreamFault(Fault):
    """Has to do with open streams; `stream` says which."""

    stream: StreamChoice = Field("both", description="which streams it hits")

    def is_mine(self, client: StreamSocket) -> bool:
        """Whether a stream is of the kind, the environment and the accounts that the fault is limited to."""
        is_trading = self.streams.is_trading(client)
        if self.stream != "both" and (self.stream == "trading") is not is_trading:
            return False
        return self.concerns(client.account_id, client.environment)

    def clients(self) -> Iterator[StreamSocket]:
        """Open streams within the limits."""
        for client in self.streams.clients():
            if self.is_mine(client):
                yield client


class ConnectionFault(StreamFault):
    """Also told of every new stream; it has no account yet, so a fault limited to accounts leaves it alone."""

    def accepted(self, client: StreamSocket) -> None:
        """A stream was opened."""


class HandshakeFault(Fault):
    """Sees every stream handshake."""

    def handshake(self, stream: str, environment: str, caller: Caller | None) -> web.Response | None:
        """A plain HTTP answer in place of the stream, or None."""
        raise TypeError(f"{type(self).__name__} handles no handshakes")


class LoginFault(Fault):
    """Sees every good authentication on a stream."""

    def login(self, client: StreamSocket, caller: Caller, proceed: Callable[[], None]) -> bool:
        """True when the authentication was dealt with; `proceed` carries it out, now or later."""
        raise TypeError(f"{type(self).__name__} handles no logins")


class FrameFault(StreamFault):
    """Sees every outgoing stream message."""

    def frame(self, client: StreamSocket, message: Outgoing) -> list[Outgoing]:
        """What goes out instead; `[message]` leaves it alone."""
        raise TypeError(f"{type(self).__name__} handles no frames")


class RestFault(Fault):
    """Sees every REST request; the hooks of `hooks.FaultHooks`."""

    async def before(self, call: RestCall) -> web.StreamResponse | None:
        return None

    async def after(self, call: RestCall, response: web.Response) -> web.StreamResponse | None:
        return None

    def hits_call(self, call: RestCall) -> bool:
        """`hits` for a request."""
        return self.concerns_call(call) and self.strikes()

    def concerns_call(self, call: RestCall) -> bool:
        """`concerns` for a request."""
        return self.concerns(None if call.caller is None else call.caller.account_id, call.environment)
