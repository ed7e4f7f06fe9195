"""One connection of an account's trading stream: from the dial to its end. A new object for each connection.

Messages are read in the receive callback and handed to the account at once (DESIGN §4). It never reconnects: its owner
is told why it ended, once, and decides. Frames and credentials are never logged.
"""

from __future__ import annotations

import asyncio
from typing import Any, Protocol

from bridge.brokers.alpaca import faults, frames
from bridge.brokers.alpaca.dials import Dialer
from bridge.brokers.alpaca.liveness import Act, Pinging
from bridge.brokers.alpaca.settings import AlpacaSettings
from bridge.brokers.alpaca.talk import LISTEN, Said, meaning
from bridge.brokers.base import BrokerFault, FaultKind, Reason, ReasonCode
from bridge.brokers.sockets import Socket
from bridge.brokers.stats import Stats
from bridge.brokers.stream import DialFault
from bridge.runtime.clock import Clock
from core.errors import ProtocolViolation

GARBAGE_IN_A_ROW = 10
_NOT_AUTHORISED, _FORBIDDEN, _TOO_MANY = 401, 403, 429


class StreamRefused(BrokerFault):
    """The stream says that the credential is not good. To be believed when REST says so too."""

    def __init__(self) -> None:
        reason = Reason(ReasonCode.BROKER_ERROR, "The broker's stream refused this login; it is tried again.")
        super().__init__(FaultKind.TRANSIENT, reason, shared=True)


class StreamOwner(Protocol):
    """The account behind a stream. Called from the receive callback; must not raise."""

    def usual(self, frame: frames.Frame) -> bool:
        """A frame, whatever is in it. True when it was a trade update and was used, with nothing left to do."""

    def update(self, data: dict[str, Any]) -> None:
        """One trade update; may come before `open` has returned."""

    def unusable(self) -> None:
        """Something came in that cannot be used: an update may have been lost."""

    def stream_ended(self, stream: TradingStream, fault: BrokerFault) -> None:
        """An open stream ended."""


class TradingStream:
    """Implements `SocketListener`."""

    __slots__ = (
        "_answered",
        "_clock",
        "_dialer",
        "_ended",
        "_garbage",
        "_owner",
        "_pinging",
        "_settings",
        "_socket",
        "_stats",
        "_timer",
        "_traffic",
        "up",
    )

    def __init__(
        self, owner: StreamOwner, dialer: Dialer, settings: AlpacaSettings, clock: Clock, stats: Stats
    ) -> None:
        self._owner = owner
        self._dialer = dialer
        self._settings = settings
        self._clock = clock
        self._stats = stats
        self._pinging = Pinging(settings.ping_s, settings.pong_timeout_s)
        self._socket: Socket | None = None
        self._answered: asyncio.Future[BrokerFault | None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._traffic = dialer.traffic
        self._garbage = 0
        self._ended = False
        self.up = False  # authorised and listening

    @property
    def last_heard(self) -> float:
        """When the last whole frame or pong came in (monotonic s)."""
        return self._pinging.last_heard

    async def open(self, url: str, greeting: bytes) -> None:
        """Dial, authenticate with `greeting` and listen. Raises BrokerFault; then nothing stays open."""
        self._answered = asyncio.get_running_loop().create_future()
        try:
            self._socket = await self._dialer.dial(self, url)
            self._socket.transmit_text(greeting)
            async with asyncio.timeout(self._settings.auth_timeout_s):
                fault = await self._answered
            if fault is not None:
                raise fault
        except DialFault as fault:
            meant = self._dial_fault(fault)
            if meant is fault:
                raise  # not "from" itself: whoever follows the causes would never come to an end
            raise meant from fault
        except TimeoutError as error:
            raise _transient(ReasonCode.BROKER_SILENT, "The broker's stream did not answer.") from error
        finally:
            if not self.up:
                self._drop()

    async def close(self) -> None:
        """Say goodbye, so that the broker frees the account's only slot at once. The owner is not told."""
        socket = self._socket
        self._forget()
        if socket is None:
            return
        try:
            async with asyncio.timeout(self._settings.close_timeout_s):
                await socket.close()
        except TimeoutError:
            socket.abort()
        except asyncio.CancelledError:  # no more time is given: nobody may be logged in here afterwards
            socket.abort()
            raise

    # ------------------------------------------------------------ what arrives

    def heard(self, socket: Socket, size: int) -> None:
        """Bytes alone are no sign of life."""
        self._traffic.size += size

    def pong(self, socket: Socket) -> None:
        """The answer to a ping."""
        self._pinging.heard(self._clock.monotonic())

    def receive(self, data: frames.Frame) -> None:
        """One whole message, in a frame of either kind."""
        if self._ended:
            return
        self._pinging.heard(self._clock.monotonic())
        self._traffic.frames += 1
        if self._owner.usual(data):
            self._garbage = 0
            return
        try:
            document = frames.read(data)
        except ProtocolViolation:
            self._unreadable()
            return
        self._garbage = 0
        said = meaning(document)
        if said is Said.UPDATE:
            self._owner.update(document["data"])
        else:
            self._hear(said)

    receive_text = receive

    def ended(self, socket: Socket) -> None:
        """The peer closed, or the transport is gone."""
        self._end(_transient(ReasonCode.CONNECTION_LOST, "The connection to the broker was lost."))

    def _hear(self, said: Said) -> None:
        match said:
            case Said.AUTHORISED if not self.up and self._socket is not None:
                self._socket.transmit_text(LISTEN)
            case Said.LISTENING:
                self._listening()
            case Said.REFUSED:
                self._end(StreamRefused())
            case Said.EXCEEDED:
                self._end(self.slot_busy())
            case Said.DEAF:
                self._end(_transient(ReasonCode.BROKER_ERROR, "The broker's stream tells nothing of trades."))
            case Said.ERROR:
                self._stats.count("stream_errors")
                if not self.up:
                    self._end(_transient(ReasonCode.BROKER_ERROR, "The broker's stream reported an error."))
            case Said.EMPTY:
                self._stats.count("empty_updates")
                self._owner.unusable()
            case _:
                self._stats.count("unknown_messages")

    def _listening(self) -> None:
        if self.up or self._answered is None or self._answered.done():
            return
        self.up = True
        self._answered.set_result(None)
        self._set_timer(self._clock.monotonic())

    def _unreadable(self) -> None:
        self._stats.count("garbage_frames")
        self._garbage += 1
        if self._garbage >= GARBAGE_IN_A_ROW:
            self._end(_transient(ReasonCode.BROKER_ERROR, "The broker sent data that cannot be read."))
        else:
            self._owner.unusable()

    # ------------------------------------------------------------ liveness and end

    def _set_timer(self, now: float) -> None:
        delay = max(self._pinging.due_at() - now, 0.001)
        self._timer = asyncio.get_running_loop().call_later(delay, self._on_timer)

    def _on_timer(self) -> None:
        now = self._clock.monotonic()
        act = self._pinging.check(now)
        if act is Act.DEAD:
            self._end(_transient(ReasonCode.BROKER_SILENT, "The broker went silent."))
            return
        if act is Act.PING and self._socket is not None:
            self._stats.count("pings")
            self._socket.transmit_ping()
        self._set_timer(now)

    def _end(self, fault: BrokerFault) -> None:
        """Drop the socket and say why, once: to who waits for `open`, or to the owner."""
        was_up = self.up
        self._drop()
        if was_up:
            self._owner.stream_ended(self, fault)
        elif self._answered is not None and not self._answered.done():
            self._answered.set_result(fault)

    def _drop(self) -> None:
        socket = self._socket
        self._forget()
        if socket is not None:
            socket.drop()

    def _forget(self) -> None:
        self._ended, self.up, self._socket = True, False, None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _dial_fault(self, fault: DialFault) -> BrokerFault:
        if fault.status == _TOO_MANY:
            return self.slot_busy(fault.retry_after_s)
        if fault.status in (_NOT_AUTHORISED, _FORBIDDEN):
            return StreamRefused()
        return fault

    def slot_busy(self, at_least_s: float | None = None) -> BrokerFault:
        """The account's only stream is open elsewhere, or the broker has not noticed yet that the last one is gone."""
        wait_s = max(self._settings.slot_wait_s, at_least_s or 0.0)
        fault = faults.slot_busy(wait_s)
        fault.shared = True
        return fault


def _transient(code: ReasonCode, message: str) -> BrokerFault:
    fault = faults.transient(code, message)
    fault.shared = True
    return fault
