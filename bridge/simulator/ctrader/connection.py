"""One client connection: what is authorised on it, and the way out for bytes.

Everything a client does is decided in `dispatch` and `requests`; here is only state and output. Output is gathered
and written once per turn of the event loop. A client that does not read stops getting prices (the newest ones follow
when it reads again) and is cut when MAX_UNREAD_BYTES pile up, so memory stays bounded.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from bridge.runtime.clock import Clock
from bridge.simulator.ctrader.budget import Budget
from bridge.simulator.ctrader.envelope import Outgoing
from bridge.simulator.ctrader.wire import Wire

HIGH_WATER_BYTES = 4 * 1024 * 1024
MAX_UNREAD_BYTES = 128 * 1024 * 1024


@dataclass(slots=True)
class Authorisation:
    """One account authorised on one connection: whether its token may trade, and what it subscribed to."""

    account_id: int
    trade: bool
    spots: dict[int, bool] = field(default_factory=dict)  # symbol id -> wants timestamps
    bars: set[tuple[int, int]] = field(default_factory=set)  # (symbol id, period)
    depth: set[int] = field(default_factory=set)


class House(Protocol):
    """What a connection needs of the simulator around it."""

    clock: Clock

    def outgoing(self, connection: Connection, message: Outgoing) -> list[Outgoing]:
        """What really goes out for a message: faults may drop, change or multiply it."""

    def connection_ended(self, connection: Connection) -> None:
        """Forget a connection; called once."""


class Connection:
    """Output and state of one socket; `number` counts connections of this simulator from 1."""

    def __init__(
        self, number: int, environment: str, house: House, transport: asyncio.Transport, budget: Budget
    ) -> None:
        self.number = number
        self.environment = environment
        self.app_authorised = False
        self.authorisations: dict[int, Authorisation] = {}
        self.budget = budget
        self.wire: Wire | None = None
        self.open = True
        self.paused = False
        self.missed: set[tuple[str, int]] = set()  # (server, symbol id) whose ticks were skipped while paused
        # Half-open (fault N03, N04): `deaf` ignores what comes in, `mute` lets nothing out.
        self.deaf = False
        self.mute = False
        self.last_in = self.last_out = house.clock.monotonic()
        self.sink: Callable[[bytes], None] = transport.write
        self._house = house
        self._transport = transport
        self._out: list[bytes] = []
        self._flush_due = False
        self._timers: set[asyncio.TimerHandle] = set()
        transport.set_write_buffer_limits(high=HIGH_WATER_BYTES)

    def __repr__(self) -> str:
        return f"<connection {self.number} {self.environment}>"

    def send(self, outgoing: Outgoing) -> None:
        """Send one message, through the faults on outgoing frames if there are any."""
        for each in self._house.outgoing(self, outgoing):
            self.send_raw(each.encode())

    def send_raw(self, message: bytes) -> None:
        """Frame and queue a serialized ProtoMessage, past the faults."""
        if self.wire is not None and self.wire.ready:
            self.write(self.wire.header(len(message)) + message)

    def write(self, data: bytes) -> None:
        """Queue finished bytes for this turn's write."""
        if not data or self.mute or not self.open:
            return
        self._out.append(data)
        if not self._flush_due:
            self._flush_due = True
            asyncio.get_running_loop().call_soon(self.flush)

    def flush(self) -> None:
        """Write everything queued now."""
        self._flush_due = False
        if not self._out or not self.open:
            self._out.clear()
            return
        data = self._out[0] if len(self._out) == 1 else b"".join(self._out)
        self._out.clear()
        self.last_out = self._house.clock.monotonic()
        self.sink(data)
        if self._transport.get_write_buffer_size() > MAX_UNREAD_BYTES:
            self.abort()

    def later(self, delay_s: float, action: Callable[[], None]) -> None:
        """Do `action` after `delay_s` unless the connection has ended by then."""

        def run() -> None:
            self._timers.discard(timer)
            if self.open:
                action()

        timer = asyncio.get_running_loop().call_later(delay_s, run)
        self._timers.add(timer)

    def close(self, code: int = 1000, reason: str = "") -> None:
        """Close cleanly: what is queued goes out first, then the wire's goodbye."""
        if not self.open:
            return
        self.flush()
        if self.wire is not None and not self.mute:
            self.wire.close(code, reason)
            data, _ = self.wire.replies()
            self._transport.write(data)
        self._transport.close()
        self.ended()

    def finish(self) -> None:
        """The wire has said goodbye itself: write what is left and close."""
        self.flush()
        self._transport.close()
        self.ended()

    def abort(self) -> None:
        """Drop the socket without a word; unsent data is lost."""
        self._transport.abort()
        self.ended()

    def reset(self) -> None:
        """Reset the TCP connection (RST), as a broken peer does."""
        raw = self._transport.get_extra_info("socket")
        if raw is not None:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.abort()

    def ended(self) -> None:
        """The socket is gone or going: stop timers, forget output, leave every account."""
        if not self.open:
            return
        self.open = False
        self._out.clear()
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()
        self._house.connection_ended(self)
        self.authorisations.clear()
