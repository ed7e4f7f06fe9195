"""Faults of streams as connections: cuts, silence, a drip, refused handshakes, taken slots, slow or lying logins."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Literal

from aiohttp import web
from pydantic import Field

from bridge.simulator.alpaca.access import Caller
from bridge.simulator.alpaca.faults.base import ConnectionFault, Fault, HandshakeFault, LoginFault, StreamFault
from bridge.simulator.alpaca.streams.socket import StreamSocket

_HOLD = Field(True, alias="holdSlot", description="the dead stream keeps its slot for slot_seconds")


class Reset(StreamFault):
    title: ClassVar[str] = "TCP RST of the streams"
    instant: ClassVar[bool] = True

    hold_slot: bool = _HOLD

    def begin(self) -> None:
        for client in self.clients():
            if self.strikes():
                client.reset(orderly=not self.hold_slot)


class CleanClose(StreamFault):
    title: ClassVar[str] = "clean close of the streams with a WebSocket code"
    instant: ClassVar[bool] = True

    code: Literal[1000, 1001, 1011, 1012] = Field(1001, description="WebSocket close code")

    def begin(self) -> None:
        for client in self.clients():
            if self.strikes():
                client.close(self.code, "server says goodbye")


class CutAll(StreamFault):
    title: ClassVar[str] = "every stream dropped at once"
    instant: ClassVar[bool] = True

    hold_slot: bool = _HOLD

    def begin(self) -> None:
        for client in self.clients():
            self.note()
            client.abort(orderly=not self.hold_slot)


class HalfOpen(ConnectionFault):
    title: ClassVar[str] = "half-open: the peer is silent and deaf while the socket stays up"

    new_connections: bool = Field(False, alias="newConnections", description="hit later streams too")

    def begin(self) -> None:
        for client in list(self.clients()):
            self._strike(client)

    def accepted(self, client: StreamSocket) -> None:
        if self.new_connections and self.is_mine(client):
            self._strike(client)

    def _strike(self, client: StreamSocket) -> None:
        self.note()
        client.deaf = client.mute = True

    def end(self) -> None:
        for client in self.streams.clients():
            client.deaf = client.mute = False


class OneWayLoss(HalfOpen):
    title: ClassVar[str] = "one-way loss: what the client says is heard, nothing comes back"

    def _strike(self, client: StreamSocket) -> None:
        self.note()
        client.mute = True


class SlowDrip(ConnectionFault):
    title: ClassVar[str] = "slow server: bytes of the streams trickle out"

    bytes_per_second: int = Field(1, alias="bytesPerSecond", ge=1, description="pace")

    def begin(self) -> None:
        for client in list(self.clients()):
            self._strike(client)

    def accepted(self, client: StreamSocket) -> None:
        if self.is_mine(client):
            self._strike(client)

    def _strike(self, client: StreamSocket) -> None:
        self.note()
        write, waiting = client.sink, bytearray()
        most = self.services.settings.max_unread_bytes
        pause = 1.0 if self.bytes_per_second < 10 else 0.1

        def drip() -> None:
            piece = len(waiting) if self.over else max(1, self.bytes_per_second // 10)
            write(bytes(waiting[:piece]))
            del waiting[:piece]
            if waiting:
                client.later(pause, drip)

        def sink(data: bytes) -> None:
            if not waiting:
                client.later(pause, drip)
            waiting.extend(data)
            if len(waiting) > most:
                client.abort()

        client.sink = sink

    def end(self) -> None:
        if self._until is None:
            self._until = self.services.clock.monotonic()


class Flapping(ConnectionFault):
    title: ClassVar[str] = "flapping: every stream is dropped a while after it was made"

    up_s: float = Field(3.0, alias="upSeconds", gt=0, description="life of a stream")
    hold_slot: bool = Field(False, alias="holdSlot", description="a dropped stream keeps its slot for slot_seconds")

    def begin(self) -> None:
        for client in list(self.clients()):
            self.accepted(client)

    def accepted(self, client: StreamSocket) -> None:
        if self.is_mine(client):
            client.later(self.up_s, lambda: self._drop(client))

    def _drop(self, client: StreamSocket) -> None:
        if not self.over:
            self.note()
            client.abort(orderly=not self.hold_slot)

    def end(self) -> None:
        if self._until is None:
            self._until = self.services.clock.monotonic()


class SlotBusy(HandshakeFault):
    title: ClassVar[str] = "slot busy: HTTP 429 at the handshake, or 'exceeded' and 406 after authentication"

    stream: Literal["trading", "data", "both"] = Field("trading", description="which streams it hits")
    at: Literal["handshake", "login"] = Field(
        "handshake", description="handshake: HTTP 429 to all (with accounts: to handshakes that say whose they are)"
    )
    retry_after_s: int | None = Field(None, alias="retryAfter", description="Retry-After header, seconds")

    def handshake(self, stream: str, environment: str, caller: Caller | None) -> web.Response | None:
        if self.at != "handshake" or self.stream not in (stream, "both"):
            return None
        if not self.hits(None if caller is None else caller.account_id, environment):
            return None
        self.services.counters.refused_slots += 1
        headers = {} if self.retry_after_s is None else {"Retry-After": str(self.retry_after_s)}
        return web.json_response({"code": 42910000, "message": "too many connections"}, status=429, headers=headers)

    def takes(self, stream: str, caller: Caller) -> bool:
        """Whether the slot looks taken to an authentication."""
        if self.at != "login" and self.accounts is None:
            return False
        return self.stream in (stream, "both") and self.hits(caller.account_id, caller.environment)


class LoginRefused(LoginFault):
    title: ClassVar[str] = "stream authentication refused although the credential is good"

    stream: Literal["trading", "data", "both"] = Field("trading", description="which streams it hits")
    close: bool = Field(False, description="close the stream afterwards")

    def login(self, client: StreamSocket, caller: Caller, proceed: Callable[[], None]) -> bool:
        is_trading = self.streams.is_trading(client)
        if self.stream != "both" and (self.stream == "trading") is not is_trading:
            return False
        if not self.hits(caller.account_id, client.environment):
            return False
        if is_trading:
            data = {"status": "unauthorized", "action": "authenticate", "message": "access key verification failed"}
            client.send({"stream": "authorization", "data": data})
        else:
            self.streams.data.refuse(client, 402)
        if self.close:
            client.close(1008, "unauthorized")
        return True


class SlowLogin(LoginFault):
    title: ClassVar[str] = "stream authentication answered late or never"

    delay_s: float | None = Field(30.0, alias="delaySeconds", ge=0, description="null: never answered")

    def login(self, client: StreamSocket, caller: Caller, proceed: Callable[[], None]) -> bool:
        if not self.hits(caller.account_id, client.environment):
            return False
        if self.delay_s is not None:
            client.later(self.delay_s, proceed)
        return True


class Revoked(Fault):
    title: ClassVar[str] = "credentials revoked: REST answers 401, streams that used them end"
    instant: ClassVar[bool] = True

    users: list[int] | None = Field(None, description="numbers of the users concerned; absent: owners of `accounts`")
    what: Literal["all", "keys", "tokens"] = Field("all", description="which credentials die")

    def begin(self) -> None:
        access = self.services.access
        for user in sorted(self._users()):
            if not self.strikes():
                continue
            if self.what in ("all", "keys"):
                access.revoke_pairs(user)
            if self.what in ("all", "tokens"):
                access.revoke_tokens(user)

    def _users(self) -> set[int]:
        if self.users is not None:
            return set(self.users)
        accounts = self.services.world.accounts.values()
        return {each.user for each in accounts if self.concerns(each.id, each.environment)}


class MuteData(StreamFault):
    title: ClassVar[str] = "market-data streams are open and mute: pings are answered, no data come"

    stream: Literal["data"] = Field("data", description="data streams only")

    def mutes(self, client: StreamSocket) -> bool:
        """Whether this client gets no data; each message withheld is an effect."""
        return self.is_mine(client) and self.strikes()
