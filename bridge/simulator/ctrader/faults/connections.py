"""Faults of sockets and sessions: cuts, half-open links, refused dials, lost authorisations."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from bridge.simulator.ctrader.envelope import Outgoing
from bridge.simulator.ctrader.faults.base import Fault
from bridge.simulator.ctrader.wire import HttpRefusal
from protos.ctrader import messages_pb2 as m

if TYPE_CHECKING:
    from bridge.simulator.ctrader.connection import Connection


class ConnectionFault(Fault):
    """Also told of every new connection."""

    def accepted(self, connection: Connection) -> None:
        """A connection was made."""


class Reset(Fault):
    title: ClassVar[str] = "TCP RST of the connections"
    instant: ClassVar[bool] = True

    def begin(self) -> None:
        for connection in self.connections():
            if self.strikes():
                connection.reset()


class CleanClose(Fault):
    title: ClassVar[str] = "clean close of the connections with a WebSocket code"
    instant: ClassVar[bool] = True

    code: Literal[1000, 1001, 1011, 1012] = Field(1001, description="WebSocket close code")

    def begin(self) -> None:
        for connection in self.connections():
            if self.strikes():
                connection.close(self.code, "server says goodbye")


class CutAll(Fault):
    title: ClassVar[str] = "every connection dropped at once"
    instant: ClassVar[bool] = True

    def begin(self) -> None:
        for connection in self.connections():
            self.note()
            connection.abort()


class HalfOpen(ConnectionFault):
    title: ClassVar[str] = "half-open: the peer is silent and deaf while the socket stays up"

    new_connections: bool = Field(False, alias="newConnections", description="hit later connections too")

    def begin(self) -> None:
        for connection in self.connections():
            self._strike(connection)

    def accepted(self, connection: Connection) -> None:
        if self.new_connections and not self.over and self.environment in (None, connection.environment):
            self._strike(connection)

    def _strike(self, connection: Connection) -> None:
        self.note()
        connection.deaf = connection.mute = True

    def end(self) -> None:
        for connection in self.services.hub.connections.values():
            connection.deaf = connection.mute = False


class OneWayLoss(HalfOpen):
    title: ClassVar[str] = "one-way loss: requests are carried out, nothing comes back"

    def _strike(self, connection: Connection) -> None:
        self.note()
        connection.mute = True


class BadCertificate(Fault):
    title: ClassVar[str] = "bad certificate on the TLS port, or refused handshakes"

    kind: Literal["expired", "wrong_host", "unknown_ca", "refused"] = Field("expired", description="what is wrong")


class HttpRefused(Fault):
    title: ClassVar[str] = "WebSocket upgrade answered with plain HTTP"

    status: Literal[200, 401, 403, 429, 500, 502, 503] = Field(503, description="HTTP status")
    body: str = Field("<html><body>no</body></html>", description="HTTP body")
    retry_after_s: int | None = Field(None, alias="retryAfter", description="Retry-After header, seconds")

    def refusal(self) -> HttpRefusal | None:
        if self.over or not self.strikes():
            return None
        headers = {} if self.retry_after_s is None else {"Retry-After": str(self.retry_after_s)}
        return HttpRefusal(self.status, headers, self.body)


class SlowDrip(ConnectionFault):
    title: ClassVar[str] = "slow server: bytes trickle out"

    bytes_per_second: int = Field(1, alias="bytesPerSecond", ge=1, description="pace")

    def begin(self) -> None:
        for connection in self.connections():
            self._strike(connection)

    def accepted(self, connection: Connection) -> None:
        if not self.over and self.accounts is None and self.environment in (None, connection.environment):
            self._strike(connection)

    def _strike(self, connection: Connection) -> None:
        self.note()
        write, waiting = connection.sink, bytearray()

        def drip() -> None:
            piece = len(waiting) if self.over else max(1, self.bytes_per_second // 10)
            write(bytes(waiting[:piece]))
            del waiting[:piece]
            if waiting:
                connection.later(pause, drip)

        def sink(data: bytes) -> None:
            if not waiting:
                connection.later(pause, drip)
            waiting.extend(data)

        pause = 1.0 if self.bytes_per_second < 10 else 0.1
        connection.sink = sink

    def end(self) -> None:
        if self._until is None:
            self._until = self.services.clock.monotonic()


class ConnectionLimit(Fault):
    title: ClassVar[str] = "CONNECTIONS_LIMIT_EXCEEDED at application auth"

    limit: int = Field(1, ge=0, description="connections with application auth that are allowed at once")
    hold_s: float = Field(0.0, alias="holdSeconds", ge=0, description="a closed connection keeps its slot so long")


class Flapping(ConnectionFault):
    title: ClassVar[str] = "flapping: every connection is dropped a while after it was made"

    up_s: float = Field(3.0, alias="upSeconds", gt=0, description="life of a connection")

    def begin(self) -> None:
        for connection in self.connections():
            self.accepted(connection)

    def accepted(self, connection: Connection) -> None:
        if not self.over and self.environment in (None, connection.environment):
            connection.later(self.up_s, lambda: self._drop(connection))

    def _drop(self, connection: Connection) -> None:
        if not self.over:
            self.note()
            connection.abort()

    def end(self) -> None:
        if self._until is None:
            self._until = self.services.clock.monotonic()


class TokenInvalidated(Fault):
    title: ClassVar[str] = "AccountsTokenInvalidatedEvent for account sessions, one event per connection"
    instant: ClassVar[bool] = True

    reason: str = Field("access token expired", description="text in the event")
    drop: bool = Field(True, description="end the account sessions")
    expire: bool = Field(True, description="the access tokens stop working, the refresh tokens still do")
    disconnect: bool = Field(False, description="send 2164 for each account afterwards")

    def begin(self) -> None:
        hit: dict[Connection, list[int]] = {}
        for connection, account_id in self.sessions():
            if self.strikes():
                hit.setdefault(connection, []).append(account_id)
        if self.expire:
            now_ms = self.services.clock.now_ms()
            for account_id in {each for ids in hit.values() for each in ids}:
                self.services.tokens.expire(self.services.world.accounts[account_id].user, now_ms)
        for connection, ids in hit.items():
            self.services.hub.invalidate(connection, ids, self.reason, drop=self.drop, disconnect=self.disconnect)


class AccountDisconnect(Fault):
    title: ClassVar[str] = "AccountDisconnectEvent: account sessions end, the socket stays"
    instant: ClassVar[bool] = True

    def begin(self) -> None:
        for connection, account_id in self.sessions():
            if self.strikes():
                self.services.hub.leave(connection, account_id)
                self.services.hub.disconnect_notice(connection, account_id)


class AuthLost(Fault):
    title: ClassVar[str] = "authorisation lost without a word; requests get INVALID_REQUEST 'not authorized'"
    instant: ClassVar[bool] = True

    def begin(self) -> None:
        for connection, account_id in self.sessions():
            if self.strikes():
                self.services.hub.leave(connection, account_id)


class ClientDisconnect(Fault):
    title: ClassVar[str] = "ClientDisconnectEvent, then close"
    instant: ClassVar[bool] = True

    reason: str = Field("Access blocked by administrator", description="text in the event")

    def begin(self) -> None:
        for connection in self.connections():
            if self.strikes():
                connection.send(Outgoing(m.ProtoOAClientDisconnectEvent(reason=self.reason)))
                asyncio.get_running_loop().call_soon(connection.close, 1000, "")
