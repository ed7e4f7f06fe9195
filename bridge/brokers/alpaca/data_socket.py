"""One connection of a market data stream: from the dial to its end (alpaca.md §3). A new object for each connection.

Prices leave in the receive callback. It never reconnects: `run` returns why it ended. Frames and keys are never logged.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Protocol

from bridge.brokers.alpaca import frames
from bridge.brokers.alpaca.dials import Dialer
from bridge.brokers.alpaca.feed_trouble import ALREADY_AUTHENTICATED, Trouble, of_code, of_status
from bridge.brokers.alpaca.liveness import Act, Pinging
from bridge.brokers.alpaca.settings import AlpacaSettings
from bridge.brokers.alpaca.subscriptions import Subscriptions
from bridge.brokers.base import BrokerFault
from bridge.brokers.sockets import Socket
from bridge.brokers.stats import Stats
from bridge.brokers.stream import DialFault
from bridge.runtime.clock import Clock
from core.errors import ProtocolViolation

_HEADERS = {"Content-Type": "application/msgpack"}  # as every official client asks
_PRICE_LIMIT = 9_000_000.0  # above, a float no longer holds nine decimals
_SCALE = 1_000_000_000
_NUMBERS = (float, int)


class DataOwner(Protocol):
    """The feed behind a connection. Called from the receive callback; must not raise."""

    def traded(self, symbol: str, price: int) -> None:
        """The last price of a symbol, in 10^-9."""

    def fed(self) -> None:
        """The list of symbols that are sent has changed."""


class DataSocket:
    """Implements `SocketListener`. `ready`: authenticated; then `pump` sends what must be subscribed to."""

    __slots__ = (
        "_clock",
        "_deadline",
        "_dialer",
        "_finished",
        "_greeting",
        "_owner",
        "_pinging",
        "_settings",
        "_socket",
        "_stats",
        "_subscriptions",
        "_timer",
        "_traffic",
        "data_at",
        "opened_at",
        "ready",
        "ready_at",
    )

    def __init__(
        self,
        owner: DataOwner,
        subscriptions: Subscriptions,
        greeting: Mapping[str, Any],
        dialer: Dialer,
        settings: AlpacaSettings,
        clock: Clock,
        stats: Stats,
    ) -> None:
        """`greeting`: the message that authenticates."""
        self._owner = owner
        self._subscriptions = subscriptions
        self._greeting = greeting
        self._dialer = dialer
        self._settings = settings
        self._clock = clock
        self._stats = stats
        self._pinging = Pinging(settings.ping_s, settings.pong_timeout_s)
        self._socket: Socket | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._traffic = dialer.traffic
        self._finished: asyncio.Future[Trouble] = asyncio.get_running_loop().create_future()
        self.ready = False
        self.ready_at: float | None = None
        self.opened_at = self.data_at = self._deadline = clock.monotonic()  # monotonic s; `data_at`: of the last price

    async def run(self, url: str) -> Trouble:
        """Connect and stay connected; returns why it ended."""
        try:
            self._socket = await self._dialer.dial(self, url, _HEADERS)
            now = self.opened_at = self.data_at = self._clock.monotonic()
            self._deadline = now + self._settings.auth_timeout_s
            self._pinging.heard(now)
            self._greet()
            self._set_timer(now)
            return await self._finished
        except DialFault as fault:
            return of_status(fault.status)
        except BrokerFault:
            return Trouble.BROKEN  # no turn to dial
        finally:
            await self._close()

    def end(self, why: Trouble) -> None:
        """Finish: `run` says goodbye and returns."""
        if not self._finished.done():
            self._finished.set_result(why)

    def pump(self) -> None:
        """Send the next change of what is subscribed to, unless one is under way."""
        if not self.ready or self._socket is None:
            return
        change = self._subscriptions.next()
        if change is not None:
            action, symbols = change
            self._socket.transmit(frames.pack({"action": action, "trades": symbols}))

    # ------------------------------------------------------------ what arrives

    def heard(self, socket: Socket, size: int) -> None:
        """Bytes alone are no sign of life."""
        self._traffic.size += size

    def pong(self, socket: Socket) -> None:
        """The answer to a ping."""
        self._pinging.heard(self._clock.monotonic())

    def ended(self, socket: Socket) -> None:
        """The peer closed, or the transport is gone."""
        self.end(Trouble.BROKEN)

    def receive(self, data: frames.Frame) -> None:
        """One whole message: a list of documents."""
        now = self._clock.monotonic()
        self._pinging.heard(now)
        self._traffic.frames += 1
        try:
            messages = frames.unpack(data)
        except ProtocolViolation:
            self._odd()
            return
        self._take(messages, now)

    def receive_text(self, data: frames.Frame) -> None:
        """A server that answers in JSON although MessagePack was asked for."""
        now = self._clock.monotonic()
        self._pinging.heard(now)
        self._traffic.frames += 1
        try:
            messages = frames.read(data)
        except ProtocolViolation:
            self._odd()
            return
        self._take(messages, now)

    def _take(self, messages: Any, now: float) -> None:
        if type(messages) is not list:
            self._odd()
            return
        for message in messages:
            if type(message) is not dict:
                self._odd()
            elif message.get("T") == "t":
                price: Any = message.get("p")
                symbol = message.get("S")
                if type(price) not in _NUMBERS or not 0 < price < _PRICE_LIMIT or type(symbol) is not str:
                    self._odd()
                    continue
                self.data_at = now
                self._owner.traded(symbol, round(price * _SCALE))
            else:
                self._control(message)

    def _control(self, message: dict[str, Any]) -> None:
        match message.get("T"):
            case "success":
                if message.get("msg") == "authenticated":
                    self._authenticated()
            case "subscription":
                trades = message.get("trades")
                listed = trades if isinstance(trades, list) else ()
                self._subscriptions.listed(symbol for symbol in listed if type(symbol) is str)
                self._owner.fed()
                self.pump()
            case "error":
                code = message.get("code")
                self._error(code if type(code) is int else 0)
            case _:
                pass  # a channel that goes with trades: corrections, cancelled trades

    def _error(self, code: int) -> None:
        self._stats.count(f"feed_errors.{code}")
        trouble = of_code(code)
        if trouble is Trouble.SUBSCRIPTION and self.ready:
            self._subscriptions.refused(code)
            self.pump()
        elif code == ALREADY_AUTHENTICATED:
            self._authenticated()
        elif trouble is not Trouble.NONE:
            self.end(trouble if trouble is not Trouble.SUBSCRIPTION else Trouble.BROKEN)

    def _authenticated(self) -> None:
        if not self.ready:
            self.ready = True
            self.ready_at = self._clock.monotonic()
            self._subscriptions.renew()
            self.pump()

    def _odd(self) -> None:
        self._stats.count("feed_garbage")

    # ------------------------------------------------------------ life

    def _greet(self) -> None:
        """Authenticate without waiting for the welcome, which says nothing that is needed."""
        if self._socket is not None:
            self._socket.transmit(frames.pack(dict(self._greeting)))

    def _set_timer(self, now: float) -> None:
        due = self._pinging.due_at() if self.ready else min(self._pinging.due_at(), self._deadline)
        self._timer = asyncio.get_running_loop().call_later(max(due - now, 0.001), self._on_timer)

    def _on_timer(self) -> None:
        now = self._clock.monotonic()
        act = self._pinging.check(now)
        if act is Act.DEAD or (not self.ready and now >= self._deadline):
            self.end(Trouble.BROKEN)
            return
        if act is Act.PING and self._socket is not None:
            self._socket.transmit_ping()
        self._set_timer(now)

    async def _close(self) -> None:
        """Say goodbye, so that the broker frees the slot at once."""
        self.end(Trouble.BROKEN)
        self.ready = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        socket, self._socket = self._socket, None
        if socket is None:
            return
        try:
            async with asyncio.timeout(self._settings.close_timeout_s):
                await socket.close()
        except TimeoutError:
            socket.abort()
