"""The server's end of a WebSocket, without sockets: bytes in, whole messages out, and frames for the way back.

Built on the sans-I/O core of `websockets`. Fragments are put together here, permessage-deflate is accepted when it is
offered, pings are answered by the core. It never touches a transport.
"""

from __future__ import annotations

import logging
import struct
from dataclasses import dataclass

from websockets.extensions.permessage_deflate import ServerPerMessageDeflateFactory
from websockets.frames import Frame, Opcode
from websockets.http11 import Request, Response
from websockets.protocol import State
from websockets.server import ServerProtocol

# The library prints whole frames at DEBUG, secrets included.
_QUIET = logging.getLogger("bridge.simulator.websocket")
_QUIET.setLevel(logging.WARNING)


@dataclass(frozen=True, slots=True)
class Message:
    """A whole message of the client."""

    data: bytes
    is_text: bool


class StreamWire:
    """One WebSocket. `client_closed`: the client has said goodbye."""

    def __init__(self, max_message_bytes: int) -> None:
        self._protocol = ServerProtocol(
            extensions=[ServerPerMessageDeflateFactory()], max_size=max_message_bytes, logger=_QUIET
        )
        self._fragments: list[bytes] = []
        self._is_text = False
        self.client_closed = False

    def upgrade(self, head: bytes) -> Response:
        """Take the handshake, answer it: status 101 when the connection is a WebSocket from here on."""
        self._protocol.receive_data(head)
        request = next((each for each in self._protocol.events_received() if isinstance(each, Request)), None)
        if request is None:
            raise ValueError("not the head of an HTTP request")
        response = self._protocol.accept(request)
        self._protocol.send_response(response)
        return response

    def feed(self, data: bytes) -> list[Message]:
        """Take received bytes; the messages that they complete."""
        self._protocol.receive_data(data)
        messages = []
        for event in self._protocol.events_received():
            if isinstance(event, Frame):
                message = self._collect(event)
                if message is not None:
                    messages.append(message)
        return messages

    def replies(self) -> tuple[bytes, bool]:
        """Protocol bytes to send now (handshake, pong, close) and whether to close the socket after them."""
        chunks = self._protocol.data_to_send()
        # An empty chunk is the core's word for end of stream.
        return b"".join(chunks), b"" in chunks or self._protocol.close_expected()

    @property
    def ready(self) -> bool:
        """Whether messages may be sent: handshake done, no goodbye said."""
        return self._protocol.state is State.OPEN

    def frame(self, data: bytes, *, is_text: bool) -> bytes:
        """A message as bytes on the wire; empty when none may be sent any more."""
        if not self.ready:
            return b""
        if self._protocol.extensions:
            if is_text:
                self._protocol.send_text(data)
            else:
                self._protocol.send_binary(data)
            return b"".join(self._protocol.data_to_send())
        return header(len(data), is_text=is_text) + data

    def close(self, code: int, reason: str) -> None:
        """Say goodbye unless one side has; `replies` then has the bytes."""
        if self.ready:
            self._protocol.send_close(code, reason)

    def _collect(self, frame: Frame) -> Message | None:
        """A whole message, or None while it is incomplete or the frame is not data."""
        if frame.opcode is Opcode.CLOSE:
            self.client_closed = True
        if frame.opcode not in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
            return None
        if frame.opcode is not Opcode.CONT:
            self._is_text = frame.opcode is Opcode.TEXT
        self._fragments.append(bytes(frame.data))
        if not frame.fin:
            return None
        message = Message(b"".join(self._fragments), self._is_text)
        self._fragments.clear()
        return message


def header(length: int, *, is_text: bool) -> bytes:
    """Head of an unfragmented frame. Server frames are unmasked, so it is all there is to one."""
    first = 0x81 if is_text else 0x82
    if length < 126:
        return bytes((first, length))
    if length < 65_536:
        return struct.pack(">BBH", first, 126, length)
    return struct.pack(">BBQ", first, 127, length)
