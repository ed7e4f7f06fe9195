"""One open stream of a client: the TCP transport that aiohttp accepted, with a WebSocket of our own upon it.

Faults need the bytes (half frames, silence, resets, a drip), so a stream leaves aiohttp after the handshake, and a
`StreamSocket` stands in place of aiohttp's protocol. What goes out is gathered and written once per turn of the event
loop, in order. Invariant: a client that does not read is cut at `max_unread_bytes`, so memory stays bounded.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from bridge.simulator.alpaca.access import Caller
from bridge.simulator.alpaca.streams.frames import BadMessage, Encoding, decode, encode
from bridge.simulator.alpaca.streams.wire import Message, StreamWire

Kind = Literal["control", "update", "data"]


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message on its way out. `raw` overrides what the document would be encoded to: (is text, bytes)."""

    document: Any
    kind: Kind
    raw: tuple[bool, bytes] | None = None


class Talk(Protocol):
    """The stream that a socket belongs to."""

    max_unread_bytes: int

    def opened(self, client: StreamSocket) -> None:
        """The handshake is done."""

    def received(self, client: StreamSocket, message: dict[str, Any]) -> None:
        """A message of the client came in."""

    def unreadable(self, client: StreamSocket) -> None:
        """A message came in that nobody can read."""

    def outgoing(self, client: StreamSocket, message: Outgoing) -> list[Outgoing]:
        """What really goes out for a message: faults may drop, change or multiply it."""

    def slow(self, client: StreamSocket) -> None:
        """The client leaves too much unread and is about to be cut."""

    def ended(self, client: StreamSocket, *, orderly: bool) -> None:
        """The socket is gone. `orderly`: the client closed it, or we did with a word of goodbye."""


class StreamSocket(asyncio.Protocol):
    """State and output of one stream. `endpoint` is its path; `caller` None until it has authenticated."""

    def __init__(
        self,
        talk: Talk,
        wire: StreamWire,
        transport: asyncio.Transport,
        *,
        environment: str,
        endpoint: str,
        encoding: Encoding,
    ) -> None:
        self.environment = environment
        self.endpoint = endpoint
        self.encoding = encoding
        self.caller: Caller | None = None
        self.state: Any = None  # the stream's own
        self.open = True
        # Half-open (faults N03, N04): `deaf` ignores what comes in, `mute` lets nothing out.
        self.deaf = False
        self.mute = False
        self.sink: Callable[[bytes], None] = transport.write
        self.gone = asyncio.Event()
        self._talk = talk
        self._wire = wire
        self._transport = transport
        self._http = transport.get_protocol()
        self._out: list[bytes] = []
        self._flush_due = False
        self._timers: set[asyncio.TimerHandle] = set()
        self._orderly = False
        self._ended = False

    def __repr__(self) -> str:
        return f"<stream {self.environment}{self.endpoint}>"

    @property
    def account_id(self) -> str | None:
        return None if self.caller is None else self.caller.account_id

    def begin(self) -> None:
        """Take the transport and answer the handshake."""
        self._transport.set_protocol(self)
        self.write(self._wire.replies()[0])
        self._talk.opened(self)

    # ---- in

    def data_received(self, data: bytes) -> None:
        if self.deaf or not self.open:
            return
        for message in self._wire.feed(data):
            self._take(message)
        replies, closing = self._wire.replies()
        self.write(replies)
        if self._wire.client_closed:
            self._orderly = True
        if closing:
            self.finish()

    def _take(self, message: Message) -> None:
        if not self.open or self.deaf:
            return
        try:
            content = decode(message.data, self.encoding, is_text=message.is_text)
        except BadMessage:
            self._talk.unreadable(self)
            return
        self._talk.received(self, content)

    def eof_received(self) -> bool | None:
        # Of a half-open client nothing arrives, the end of its connection included.
        if not self.deaf:
            self._orderly = True
        return None

    def connection_lost(self, exc: Exception | None) -> None:
        self._http.connection_lost(exc)
        self._end()

    # ---- out

    def send(self, document: Any, kind: Kind = "control") -> None:
        """Send one message, through the faults on outgoing messages if there are any."""
        for each in self._talk.outgoing(self, Outgoing(document, kind)):
            self.emit(each)

    def emit(self, message: Outgoing) -> None:
        """Frame and queue a message, past the faults."""
        if self.mute:  # not even framed: what deflate has seen, the client must see
            return
        if message.raw is not None:
            is_text, data = message.raw
            self.write(self._wire.frame(data, is_text=is_text))
        else:
            data = encode(message.document, self.encoding)
            self.write(self._wire.frame(data, is_text=self.encoding.is_text))

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
        data = b"".join(self._out)
        self._out.clear()
        if not data or not self.open:
            return
        self.sink(data)
        if self._transport.get_write_buffer_size() > self._talk.max_unread_bytes:
            self._talk.slow(self)
            self._orderly = True  # we knew what we did: the slot is free
            self.abort()

    def later(self, delay_s: float, action: Callable[[], None]) -> None:
        """Do `action` after `delay_s` unless the stream has ended by then."""

        def run() -> None:
            self._timers.discard(timer)
            if self.open:
                action()

        timer = asyncio.get_running_loop().call_later(delay_s, run)
        self._timers.add(timer)

    # ---- the end

    def close(self, code: int = 1000, reason: str = "") -> None:
        """Close cleanly: what is queued goes out first, then the goodbye."""
        if not self.open:
            return
        self.flush()
        if not self.mute and self._wire.ready:
            self._wire.close(code, reason)
            data, _ = self._wire.replies()
            self._transport.write(data)
        self._orderly = True
        self._shut()

    def finish(self) -> None:
        """The wire has said goodbye itself: write what is left and close."""
        self.flush()
        self._orderly = True
        self._shut()

    def abort(self, *, orderly: bool = False) -> None:
        """Drop the socket without a word; unsent data is lost."""
        self._orderly = self._orderly or orderly
        self._transport.abort()
        self._end()

    def reset(self, *, orderly: bool = False) -> None:
        """Reset the TCP connection (RST), as a broken peer does."""
        raw = self._transport.get_extra_info("socket")
        if raw is not None:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.abort(orderly=orderly)

    def _shut(self) -> None:
        self._transport.close()
        self._end()

    def _end(self) -> None:
        """Stop timers, forget output, give the slot back; once."""
        if self._ended:
            return
        self._ended = True
        self.open = False
        self._out.clear()
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()
        self._talk.ended(self, orderly=self._orderly)
        self.gone.set()
