"""Sockets of `websockets`, the default, with messages handed over in the receive callback.

Frames are never logged: the library would print them at DEBUG, tokens included. Invariant: whole messages in small
frames never touch the library's parser; every other frame does, one by one.
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import Mapping
from functools import partial
from typing import Any, cast

from websockets.asyncio.client import ClientConnection
from websockets.asyncio.client import connect as dial
from websockets.client import ClientProtocol
from websockets.exceptions import InvalidHandshake, InvalidStatus, InvalidURI
from websockets.frames import Frame, Opcode
from websockets.protocol import Event, State
from websockets.uri import parse_uri

from bridge.brokers.addresses import connected
from bridge.brokers.sockets import MAX_MESSAGE_BYTES, SLICE_BYTES, DialRefused, Message, SocketListener

_log = logging.getLogger(__name__)
_log.setLevel(logging.WARNING)

_BINARY = Opcode.BINARY
_MESSAGES = frozenset({Opcode.BINARY, Opcode.TEXT, Opcode.CONT})

_END_OF_HEADERS = b"\r\n\r\n"
_WHOLE_TEXT, _WHOLE_BINARY = 0x81, 0x82  # first byte of a frame that is a whole message (RFC 6455 §5.2)
_TWO_BYTES_MORE, _EIGHT_BYTES_MORE = 126, 127  # second byte when the length stands in so many that follow
_SHORT_HEADER, _LONG_HEADER, _LARGE_HEADER = 2, 4, 10  # bytes


class WebsocketsSocket(ClientConnection):
    """The library's connection, with messages handed over in the receive callback instead of queued for `recv()`."""

    def __init__(self, listener: SocketListener, protocol: ClientProtocol, **options: Any) -> None:
        super().__init__(protocol, **options)
        self._listener = listener
        self._receive = listener.receive
        self._parts: list[Message] = []
        self._deliver = listener.receive  # whom the message in parts is for
        self._unread = memoryview(b"")  # the rest of a large read; nothing more is read meanwhile
        self._begun = b""  # the beginning of a frame whose end is still to come
        self._owed = 0  # bytes still to come of a large frame that the library has the beginning of
        self._library_only = False

    def data_received(self, data: bytes) -> None:
        """Handle a read. A large one goes in slices, or the loop would do nothing else for as long as bytes wait."""
        self._listener.heard(self, len(data))
        if self._unread:
            self._unread = memoryview(
                bytes(self._unread) + data
            )  # a transport may still hold some when it is told to pause
        elif len(data) <= SLICE_BYTES or self.transport.is_closing():
            self._take(data)
        else:
            self.transport.pause_reading()
            self._unread = memoryview(data)
            self._take_slice()

    def _take_slice(self) -> None:
        data, self._unread = self._unread[:SLICE_BYTES], self._unread[SLICE_BYTES:]
        if data:
            self._take(bytes(data))
        if self.transport.is_closing():
            self._unread = memoryview(b"")
        elif data:
            self.loop.call_soon(self._take_slice)
        else:
            self.transport.resume_reading()

    def _take(self, data: bytes) -> None:
        if self._library_only:
            super().data_received(data)
        elif self.response is None:
            self._shake_hands(data)
        elif self._owed:
            theirs, rest = data[: self._owed], data[self._owed :]
            self._owed -= len(theirs)
            super().data_received(theirs)
            self._take_frames(rest)
        else:
            self._take_frames(self._begun + data if self._begun else data)
        if self.protocol.state is not State.OPEN and self.response is not None:
            self._listener.ended(self)  # a close frame, or framing that cannot be followed

    def _shake_hands(self, data: bytes) -> None:
        """The answer to the upgrade is the library's; what follows it in the same read may be frames already."""
        end = data.find(_END_OF_HEADERS) + len(_END_OF_HEADERS)
        if end < len(_END_OF_HEADERS):
            super().data_received(data)
            self._library_only = self.response is not None  # the end came in two reads: who knows what it has begun
            return
        super().data_received(data[:end])
        if self.protocol.state is State.OPEN:
            self._take_frames(data[end:])
        else:
            self._leave_to_library(data[end:])

    def _take_frames(self, data: bytes) -> None:
        """Hand over whole messages in small frames, which is most of what comes, without the library: its parser takes
        several times as long for each. Every other frame is the library's, one by one."""
        at, end = 0, len(data)
        self._begun = b""
        while end - at >= _SHORT_HEADER:
            size, start = data[at + 1], at + _SHORT_HEADER
            if size >= _TWO_BYTES_MORE:
                if size > _TWO_BYTES_MORE or end - at < _LONG_HEADER:
                    break
                size, start = data[at + 2] << 8 | data[at + 3], at + _LONG_HEADER
            stop = start + size
            if stop > end:
                break
            first = data[at]
            if first == _WHOLE_BINARY and not self._parts:
                self._receive(data[start:stop])
            elif first == _WHOLE_TEXT and not self._parts:
                self._listener.receive_text(data[start:stop])
            else:
                super().data_received(data[at:stop])
                if self.protocol.state is not State.OPEN:
                    self._leave_to_library(data[stop:])
                    return
            at = stop
        if at < end:
            self._keep(data[at:])

    def _keep(self, rest: bytes) -> None:
        """The beginning of a frame. A large one is the library's as it comes, and its bytes are counted."""
        size = rest[1] if len(rest) > 1 else 0
        if size <= _TWO_BYTES_MORE or (size == _EIGHT_BYTES_MORE and len(rest) < _LARGE_HEADER):
            self._begun = rest
        elif size == _EIGHT_BYTES_MORE:
            whole = _LARGE_HEADER + int.from_bytes(rest[2:_LARGE_HEADER], "big")
            self._owed = max(whole - len(rest), 0)
            super().data_received(rest[:whole])
            if whole < len(rest):
                self._take_frames(rest[whole:])
        else:
            self._leave_to_library(rest)  # masked, which a server must not do

    def _leave_to_library(self, data: bytes) -> None:
        """The connection ends: the library knows how."""
        self._library_only = True
        if data:
            super().data_received(data)

    def process_event(self, event: Event) -> None:
        if type(event) is Frame and event.opcode in _MESSAGES:
            if event.fin and event.opcode is _BINARY:
                self._receive(event.data)
            else:
                self._piece(event)
        else:
            super().process_event(event)
            if type(event) is Frame and event.opcode is Opcode.PONG:
                self._listener.pong(self)

    def _piece(self, frame: Frame) -> None:
        """A text message, or a part of one of either kind. The library bounds the whole size."""
        if frame.opcode is not Opcode.CONT:
            self._deliver = self._listener.receive_text if frame.opcode is Opcode.TEXT else self._receive
            if frame.fin:
                self._deliver(frame.data)
                return
        self._parts.append(frame.data)
        if frame.fin:
            whole, self._parts = b"".join(self._parts), []
            self._deliver(whole)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._listener.ended(self)

    def transmit(self, data: bytes) -> bool:
        """Write one binary message now. False when the connection is not open."""
        if not self._writable():
            return False
        self.protocol.send_binary(data)
        self.send_data()
        return True

    def transmit_text(self, data: bytes) -> bool:
        """Write one text message, in UTF-8, now. False when the connection is not open."""
        if not self._writable():
            return False
        self.protocol.send_text(data)
        self.send_data()
        return True

    def transmit_ping(self) -> bool:
        """Write a ping now; the answer comes as `SocketListener.pong`. False when the connection is not open."""
        if not self._writable():
            return False
        self.protocol.send_ping(b"")
        self.send_data()
        return True

    def drop(self) -> None:
        """End the transport; a close frame that was answered is still sent."""
        if self.protocol.state is State.OPEN:
            self.transport.abort()
        else:
            self.transport.close()

    def abort(self) -> None:
        """End the transport at once, whatever is still to be sent."""
        self.transport.abort()

    def _writable(self) -> bool:
        return self.protocol.state is State.OPEN and not self.transport.is_closing()


class _Dial(dial):
    """The library's dialler without redirects: secrets go to the configured host only."""

    def process_redirect(self, exc: Exception) -> Exception | str:
        return exc


async def connect(
    listener: SocketListener,
    url: str,
    *,
    tls: ssl.SSLContext | None,
    headers: Mapping[str, str] | None,
    close_timeout_s: float,
) -> WebsocketsSocket:
    """See `sockets.Connect`."""
    options: dict[str, Any] = {} if tls is None else {"ssl": tls}
    try:
        at = parse_uri(url)
        options["sock"] = await connected(at.host, at.port)
        dialled = _Dial(
            url,
            create_connection=cast("type[ClientConnection]", partial(WebsocketsSocket, listener)),
            additional_headers=headers,
            compression=None,
            ping_interval=None,
            proxy=None,
            max_size=MAX_MESSAGE_BYTES,
            open_timeout=None,
            close_timeout=close_timeout_s,
            logger=_log,
            **options,
        )
        return cast("WebsocketsSocket", await dialled)
    except InvalidStatus as error:
        raise DialRefused(error.response.status_code, error.response.headers.get("Retry-After")) from error
    except (InvalidHandshake, InvalidURI, EOFError) as error:
        raise DialRefused from error
