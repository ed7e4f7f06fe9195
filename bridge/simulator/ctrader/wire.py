"""The two ways a ProtoMessage travels, without sockets: 4-byte length over TCP, or one binary WebSocket message.

Source: reference/ctrader.md §1. Both carry the same bytes and share a port, so `sniff` tells them apart by their
first bytes: a TCP length below 16 MiB begins with a zero byte, an upgrade begins with `GET `. A wire turns received
bytes into whole messages and messages into frames; it never touches a transport.
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Callable
from http import HTTPStatus
from typing import Protocol

from websockets.exceptions import InvalidState
from websockets.frames import CloseCode, Frame, Opcode
from websockets.http11 import Request
from websockets.protocol import State
from websockets.server import ServerProtocol

MAX_MESSAGE_BYTES = 15_000_000
# The WebSocket core refuses what is even longer by itself (close code 1009).
_MAX_WS_BYTES = MAX_MESSAGE_BYTES + 1_000_000

# The library prints whole frames at DEBUG, secrets included.
_QUIET = logging.getLogger("bridge.simulator.websocket")
_QUIET.setLevel(logging.WARNING)


class TooLong(Exception):
    """A frame announces more than MAX_MESSAGE_BYTES."""


class HttpRefusal:
    """Answer an upgrade with a plain HTTP response instead (fault N10)."""

    def __init__(self, status: int, headers: dict[str, str], body: str) -> None:
        self.status, self.headers, self.body = status, headers, body


class Wire(Protocol):
    """One direction-independent codec of a connection."""

    name: str

    def feed(self, data: bytes) -> list[bytes]:
        """Take received bytes; return the ProtoMessages they complete. Raises TooLong."""

    def replies(self) -> tuple[bytes, bool]:
        """Protocol bytes to send now (handshake, pong, close) and whether to close the socket after them."""

    @property
    def ready(self) -> bool:
        """Whether messages may be sent: handshake done, no goodbye said."""

    def header(self, length: int) -> bytes:
        """What precedes a message of `length` bytes."""

    def close(self, code: int, reason: str) -> None:
        """Say goodbye in the wire's own way, if it has one; `replies` then has the bytes."""


class TcpWire:
    """4-byte big-endian length, then the message."""

    name = "tcp"

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._closed = False

    def feed(self, data: bytes) -> list[bytes]:
        self._buffer += data
        messages = []
        start = 0
        while len(self._buffer) - start >= 4:
            (length,) = struct.unpack_from(">I", self._buffer, start)
            if length > MAX_MESSAGE_BYTES:
                raise TooLong
            if len(self._buffer) - start - 4 < length:
                break
            messages.append(bytes(self._buffer[start + 4 : start + 4 + length]))
            start += 4 + length
        del self._buffer[:start]
        return messages

    def replies(self) -> tuple[bytes, bool]:
        return b"", self._closed

    @property
    def ready(self) -> bool:
        return not self._closed

    def header(self, length: int) -> bytes:
        return struct.pack(">I", length)

    def close(self, code: int, reason: str) -> None:
        self._closed = True


class WebSocketWire:
    """Binary WebSocket messages over the sans-I/O core of `websockets`; no compression, no sub-protocol."""

    name = "websocket"

    def __init__(self, refuse: Callable[[], HttpRefusal | None] = lambda: None) -> None:
        self._protocol = ServerProtocol(max_size=_MAX_WS_BYTES, logger=_QUIET)
        self._refuse = refuse
        self._fragments: list[bytes] = []

    def feed(self, data: bytes) -> list[bytes]:
        self._protocol.receive_data(data)
        messages = []
        for event in self._protocol.events_received():
            if isinstance(event, Request):
                self._answer_upgrade(event)
            elif isinstance(event, Frame):
                message = self._collect(event)
                if message is not None:
                    messages.append(message)
        return messages

    def replies(self) -> tuple[bytes, bool]:
        chunks = self._protocol.data_to_send()
        # An empty chunk is the core's word for end of stream.
        return b"".join(chunks), b"" in chunks or self._protocol.close_expected()

    @property
    def ready(self) -> bool:
        return self._protocol.state is State.OPEN

    def header(self, length: int) -> bytes:
        # Server frames are unmasked, so the header is all there is to it; the core would add a generator per frame.
        if length < 126:
            return bytes((0x82, length))
        if length < 65536:
            return struct.pack(">BBH", 0x82, 126, length)
        return struct.pack(">BBQ", 0x82, 127, length)

    def close(self, code: int, reason: str) -> None:
        try:
            self._protocol.send_close(code, reason)
        except InvalidState:  # never opened, or the client closed first
            self._protocol.send_eof()

    def _answer_upgrade(self, request: Request) -> None:
        refusal = self._refuse()
        if refusal is None:
            self._protocol.send_response(self._protocol.accept(request))
            return
        response = self._protocol.reject(HTTPStatus(refusal.status), refusal.body)
        for name, value in refusal.headers.items():
            response.headers[name] = value
        self._protocol.send_response(response)

    def _collect(self, frame: Frame) -> bytes | None:
        """A whole binary message, or None while it is incomplete or the frame is not data."""
        if frame.opcode is Opcode.TEXT:
            self._protocol.fail(CloseCode.UNSUPPORTED_DATA, "binary messages only")
            return None
        if frame.opcode not in (Opcode.BINARY, Opcode.CONT):
            return None
        self._fragments.append(bytes(frame.data))
        if not frame.fin:
            return None
        message = b"".join(self._fragments)
        self._fragments.clear()
        if len(message) > MAX_MESSAGE_BYTES:
            raise TooLong
        return message


def sniff(first: bytes, refuse: Callable[[], HttpRefusal | None]) -> Wire | None:
    """Choose the wire by the first bytes; None while fewer than four have come."""
    if len(first) < 4:
        return None
    return WebSocketWire(refuse) if first[:4] in (b"GET ", b"HEAD", b"POST") else TcpWire()
