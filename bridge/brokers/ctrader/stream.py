"""The WebSocket of a channel: dialling with one shared TLS context, and messages handed over in the receive callback.

Knows frames and transports, and nothing of what is in a message. Frames are never logged: the library would print them
at DEBUG, tokens included. Dial errors are translated here, once.
"""

from __future__ import annotations

import logging
import ssl
from functools import lru_cache, partial
from typing import Any, Protocol, cast

from websockets.asyncio.client import ClientConnection, connect
from websockets.client import ClientProtocol
from websockets.exceptions import InvalidHandshake, InvalidStatus, InvalidURI
from websockets.frames import Frame, Opcode
from websockets.protocol import Event, State

from bridge.brokers.base import BrokerFault, FaultKind, Reason, ReasonCode
from bridge.brokers.ctrader.settings import CtraderSettings
from core.errors import ConfigurationError

log = logging.getLogger(__name__)
_wire_log = logging.getLogger(f"{__name__}.wire")
_wire_log.setLevel(logging.WARNING)

MAX_MESSAGE_BYTES = 16 * 2**20
SLICE_BYTES = 16 * 2**10  # of one large read, handled in one turn of the loop: some four hundred prices
_BINARY = Opcode.BINARY
_MESSAGES = frozenset({Opcode.BINARY, Opcode.TEXT, Opcode.CONT})


class SocketListener(Protocol):
    """Who owns a socket. Called from the transport's callbacks; must not raise."""

    def heard(self, socket: Socket, size: int) -> None:
        """Bytes arrived."""

    def receive(self, data: bytes | bytearray | memoryview) -> None:
        """One whole binary message."""

    def garbage(self, what: str) -> None:
        """A message of a kind that this protocol never uses."""

    def ended(self, socket: Socket) -> None:
        """The peer closed, broke the framing, or the transport is gone. May come more than once."""


class Socket(ClientConnection):
    """The library's connection, with messages handed over in the receive callback instead of queued for `recv()`."""

    def __init__(self, listener: SocketListener, protocol: ClientProtocol, **options: Any) -> None:
        super().__init__(protocol, **options)
        self._listener = listener
        self._receive = listener.receive
        self._parts: list[bytes | bytearray | memoryview] = []
        self._unread = memoryview(b"")  # the rest of a large read; nothing more is read meanwhile

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
        super().data_received(data)
        if self.protocol.state is not State.OPEN and self.response is not None:
            self._listener.ended(self)  # a close frame, or framing that cannot be followed

    def process_event(self, event: Event) -> None:
        if type(event) is Frame and event.opcode in _MESSAGES:
            if event.fin and event.opcode is _BINARY:
                self._receive(event.data)
            else:
                self._piece(event)
        else:
            super().process_event(event)

    def _piece(self, frame: Frame) -> None:
        """A fragment, or a text message, which this protocol never uses. The library bounds the whole size."""
        if frame.opcode is Opcode.TEXT:
            self._listener.garbage("text message")
        self._parts.append(frame.data)
        if frame.fin:
            whole, self._parts = b"".join(self._parts), []
            if frame.opcode is not Opcode.TEXT:
                self._receive(whole)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._listener.ended(self)

    def transmit(self, data: bytes) -> bool:
        """Write one binary message now. False when the connection is not open."""
        if self.protocol.state is not State.OPEN or self.transport.is_closing():
            return False
        self.protocol.send_binary(data)
        self.send_data()
        return True

    def drop(self) -> None:
        """End the transport; a close frame that was answered is still sent."""
        if self.protocol.state is State.OPEN:
            self.transport.abort()
        else:
            self.transport.close()


class _Dial(connect):
    """The library's dialler without redirects: the application's secret goes to the configured host only."""

    def process_redirect(self, exc: Exception) -> Exception | str:
        return exc


async def open_socket(listener: SocketListener, url: str, settings: CtraderSettings) -> Socket:
    """Dial, TLS and upgrade within the connect timeout. Raises BrokerFault with the cause classified."""
    options: dict[str, Any] = {"ssl": shared_tls(settings.tls_ca_file)} if url.startswith("wss://") else {}
    try:
        dial = _Dial(
            url,
            create_connection=cast("type[ClientConnection]", partial(Socket, listener)),
            compression=None,
            ping_interval=None,
            proxy=None,
            max_size=MAX_MESSAGE_BYTES,
            open_timeout=settings.connect_timeout_s,
            close_timeout=settings.close_timeout_s,
            logger=_wire_log,
            **options,
        )
        return cast("Socket", await dial)
    except (OSError, InvalidHandshake, InvalidURI, EOFError) as error:
        raise _dial_fault(error, settings) from error


@lru_cache(maxsize=4)
def shared_tls(ca_file: str | None) -> ssl.SSLContext:
    """One TLS context for the process: one per connection would cost 900 KiB and 17 ms each (perf.md §B)."""
    try:
        context = ssl.create_default_context()
        if ca_file is not None:
            context.load_verify_locations(ca_file)
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationError(f"the certificate file {ca_file} cannot be read") from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _dial_fault(error: Exception, settings: CtraderSettings) -> BrokerFault:
    """Why a dial failed, in words for the user, and the least wait it asks for."""
    wait_s: float | None = None
    if isinstance(error, ssl.SSLError):
        what, wait_s = "its certificate or encryption was not acceptable", settings.certificate_retry_s
        log.error("the broker's TLS was refused", extra={"error": type(error).__name__})
    elif isinstance(error, InvalidStatus):
        what = f"it answered with HTTP status {error.response.status_code}"
        wait_s = _retry_after_s(error.response.headers.get("Retry-After"))
    elif isinstance(error, TimeoutError):
        what = "the connection took too long"
    elif isinstance(error, ConnectionRefusedError):
        what = "the connection was refused"
    else:
        what = "no connection could be made"
    reason = Reason(ReasonCode.BROKER_UNREACHABLE, f"The broker cannot be reached: {what}.")
    return BrokerFault(FaultKind.TRANSIENT, reason, retry_after_s=wait_s, shared=True)


def _retry_after_s(header: str | None) -> float | None:
    """Seconds of a Retry-After header, capped at an hour; a date is not worth parsing here."""
    return min(float(header), 3600.0) if header is not None and header.isdecimal() and len(header) < 9 else None
