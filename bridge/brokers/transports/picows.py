"""Sockets of `picows`, which splits frames in compiled code; optional, chosen by BRIDGE_TRANSPORT.

The library leaves to us what `websockets` does by itself: reserved bits, messages in parts and their size, the answer
to a close frame, and how much is read at once. What it cannot follow ends the connection here at once; by itself it
would wait seconds and read on. Frames are never logged: the library quotes them when told to.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

from picows import (
    WSAutoPingStrategy,
    WSCloseCode,
    WSFrame,
    WSHandshakeError,
    WSListener,
    WSMsgType,
    WSProtocolError,
    WSTransport,
)
from picows.picows import WSProtocol  # type: ignore[attr-defined]  # what its own `ws_connect` makes, told of nowhere

from bridge.brokers.addresses import connected
from bridge.brokers.sockets import MAX_MESSAGE_BYTES, SLICE_BYTES, DialRefused, Message, SocketListener

logging.getLogger(__name__).setLevel(logging.CRITICAL)
_log = logging.LoggerAdapter(logging.getLogger(__name__), {})  # of a plain logger every connection would make a copy

_BINARY, _TEXT, _CONT = WSMsgType.BINARY, WSMsgType.TEXT, WSMsgType.CONTINUATION
_PONG, _CLOSE = WSMsgType.PONG, WSMsgType.CLOSE
_FIRST_BUFFER_BYTES = 2048  # of every connection; it grows where more comes at once


class PicowsSocket(WSListener):
    """One connection: what the library calls with every frame, and the socket that an adapter holds."""

    def __init__(self, listener: SocketListener) -> None:
        self.listener = listener
        self._receive = listener.receive
        self._parts: list[bytes] = []
        self._parts_bytes = 0
        self._deliver = listener.receive  # whom the message in parts is for
        self._transport: WSTransport | None = None
        self._leaving = False  # we said goodbye
        self._over = False  # nothing is told any more

    # ------------------------------------------------------------ what the library calls

    def on_ws_connected(self, transport: WSTransport) -> None:
        self._transport = transport

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        """Any frame but a ping, which the library has answered."""
        if frame.rsv1 or frame.rsv2 or frame.rsv3:  # compression, say, that was not agreed on
            self._fail(WSCloseCode.PROTOCOL_ERROR)
        elif frame.msg_type is _BINARY and frame.fin and not self._parts:
            self._receive(frame.get_payload_as_bytes())
        elif not self._over:
            self._unusual(frame)

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        self._end()

    def pause_writing(self) -> None:
        """What is sent is bounded by who sends it."""

    def resume_writing(self) -> None:
        pass

    def read(self, protocol: _Protocol, size: int) -> None:
        """All whole frames of a read have been handed over; the library may have given up on what is left of it."""
        transport = self._transport
        if transport is None:
            return
        if transport.is_close_frame_sent and not self._leaving:
            self._fail(WSCloseCode.PROTOCOL_ERROR)
        elif size == SLICE_BYTES:  # more is waiting, and so are others
            transport.underlying_transport.pause_reading()
            protocol.loop.call_soon(self._read_on)

    def _read_on(self) -> None:
        transport = self._transport
        if transport is not None and not transport.underlying_transport.is_closing():
            transport.underlying_transport.resume_reading()

    # ------------------------------------------------------------ what is not most of what comes

    def _unusual(self, frame: WSFrame) -> None:
        kind = frame.msg_type
        if kind is _PONG:
            self.listener.pong(self)
        elif kind is _CLOSE:
            self._fail(WSCloseCode.OK)
        elif (kind is _CONT) is not bool(self._parts):  # a part of nothing, or a message within a message
            self._fail(WSCloseCode.PROTOCOL_ERROR)
        else:
            self._piece(frame, kind)

    def _piece(self, frame: WSFrame, kind: WSMsgType) -> None:
        """A text message, or a part of one of either kind."""
        if kind is not _CONT:
            self._deliver = self.listener.receive_text if kind is _TEXT else self._receive
        self._parts_bytes += frame.payload_size
        if self._parts_bytes > MAX_MESSAGE_BYTES:
            self._fail(WSCloseCode.MESSAGE_TOO_BIG)
            return
        self._parts.append(frame.get_payload_as_bytes())
        if frame.fin:
            whole = b"".join(self._parts)
            self._parts, self._parts_bytes = [], 0
            self._deliver(whole)

    def _fail(self, code: WSCloseCode) -> None:
        """Nothing more can be told: say with which code, if nobody has, and end."""
        transport = self._transport
        if transport is not None and not self._over:
            if not transport.is_close_frame_sent:
                transport.send_close(code)
            transport.disconnect()
        self._end()

    def _end(self) -> None:
        self._over, self._receive = True, _ignore
        self._parts = []
        self.listener.ended(self)

    # ------------------------------------------------------------ what an adapter calls

    def transmit(self, data: bytes) -> bool:
        """Write one binary message now. False when the connection is not open."""
        return self._write(_BINARY, data)

    def transmit_text(self, data: bytes) -> bool:
        """Write one text message, in UTF-8, now. False when the connection is not open."""
        return self._write(_TEXT, data)

    def transmit_ping(self) -> bool:
        """Write a ping now; the answer comes as `SocketListener.pong`. False when the connection is not open."""
        return self._write(WSMsgType.PING, b"")

    def _write(self, kind: WSMsgType, data: bytes) -> bool:
        transport = self._transport
        if transport is None or self._leaving or self._over or transport.underlying_transport.is_closing():
            return False
        transport.send(kind, data)
        return True

    async def close(self) -> None:
        """Say goodbye and wait until the transport is gone."""
        transport = self._transport
        if transport is None:
            return
        self._leaving = True
        if not transport.is_close_frame_sent:
            transport.send_close(WSCloseCode.OK)
        with suppress(WSProtocolError):  # what the peer sent instead of its goodbye
            await transport.wait_disconnected()

    def drop(self) -> None:
        """End the transport; a close frame that was answered is still sent."""
        if self._transport is not None:
            self._transport.disconnect(graceful=self._transport.is_close_frame_sent)

    def abort(self) -> None:
        """End the transport at once, whatever is still to be sent."""
        if self._transport is not None:
            self._transport.disconnect(graceful=False)


def _ignore(data: Message) -> None:
    """The connection is over."""


class _Protocol(WSProtocol):  # type: ignore[misc]  # compiled, without types
    """The library's, which says how much arrived, and reads no more at once than one turn of the loop should take."""

    def __init__(self, socket: PicowsSocket, url: str, headers: Mapping[str, str] | None) -> None:
        parts = urlsplit(url)
        super().__init__(
            host_port=parts.netloc,
            ws_path=f"{parts.path or '/'}{'?' if parts.query else ''}{parts.query}",
            is_client_side=True,
            ws_listener_factory=lambda request, response: socket,
            logger=_log,
            disconnect_on_exception=True,
            websocket_handshake_timeout=None,
            enable_auto_ping=False,
            auto_ping_idle_timeout=0,
            auto_ping_reply_timeout=0,
            auto_ping_strategy=WSAutoPingStrategy.PING_WHEN_IDLE,
            enable_auto_pong=True,
            max_frame_size=MAX_MESSAGE_BYTES,
            extra_headers=headers,
            read_buffer_init_size=_FIRST_BUFFER_BYTES,
        )
        self.loop = asyncio.get_running_loop()
        self._socket = socket
        self._heard = socket.listener.heard

    def get_buffer(self, size_hint: int) -> memoryview:
        buffer: memoryview = WSProtocol.get_buffer(self, size_hint)
        return buffer[:SLICE_BYTES]

    def buffer_updated(self, nbytes: int) -> None:
        self._heard(self._socket, nbytes)
        WSProtocol.buffer_updated(self, nbytes)
        self._socket.read(self, nbytes)

    def connection_lost(self, exc: Exception | None) -> None:
        WSProtocol.connection_lost(self, exc)
        self._tell_of_bugs()

    def _tell_of_bugs(self) -> None:
        """The library keeps an exception of ours for whoever waits for the end. Nobody may: ask, without waiting."""
        try:
            self.transport.wait_disconnected().send(None)
        except (StopIteration, WSProtocolError):
            pass  # nothing is kept, or the peer's own fault
        except Exception as error:  # noqa: BLE001 - whatever it is, it goes where other callbacks' errors go
            self.loop.call_exception_handler({"message": "a socket's listener failed", "exception": error})


async def connect(
    listener: SocketListener,
    url: str,
    *,
    tls: ssl.SSLContext | None,
    headers: Mapping[str, str] | None,
    close_timeout_s: float,
) -> PicowsSocket:
    """See `sockets.Connect`. The loop's own transports carry it, as with `websockets`."""
    parts, socket = urlsplit(url), PicowsSocket(listener)
    if parts.hostname is None:
        raise DialRefused
    port = parts.port or (443 if tls is not None else 80)
    _, made = await asyncio.get_running_loop().create_connection(
        lambda: _Protocol(socket, url, headers),
        sock=await connected(parts.hostname, port),
        ssl=tls,
        server_hostname=None if tls is None else parts.hostname,
    )
    protocol: Any = made
    try:
        await protocol.wait_until_handshake_complete()
    except WSHandshakeError as error:
        raise _refused(error) from error
    except asyncio.CancelledError:
        protocol.transport.disconnect(graceful=False)
        raise
    if protocol.listener is None:
        raise DialRefused  # it ended before it answered
    return socket


def _refused(error: WSHandshakeError) -> DialRefused:
    """Of the status line itself, too: the library does not know every status that gateways give."""
    version, _, rest = (error.raw_header or b"").partition(b" ")
    status = rest[:3]
    if not version.startswith(b"HTTP/") or not status.isdigit() or status == b"101":
        return DialRefused()
    headers = {} if error.response is None else error.response.headers
    return DialRefused(int(status), headers.get("Retry-After"))
