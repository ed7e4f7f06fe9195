"""What a connected WebSocket to a broker host is, whichever library speaks: messages come in its receive callback.

Adapters know these protocols only; the implementations are in `transports`. Frames are never logged. Invariant: every
implementation behaves the same: no pings of its own, no compression, messages up to `MAX_MESSAGE_BYTES`, a reading that
gives way in a flood, and an end that is told at once.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from typing import Protocol

Message = bytes | bytearray | memoryview

MAX_MESSAGE_BYTES = 16 * 2**20
SLICE_BYTES = 16 * 2**10  # of one large read, handled in one turn of the loop: some four hundred prices


class SocketListener(Protocol):
    """Who owns a socket. Called from transport callbacks, perhaps before the dial has returned; must not raise."""

    def heard(self, socket: Socket, size: int) -> None:
        """Bytes arrived."""

    def receive(self, data: Message) -> None:
        """One whole binary message."""

    def receive_text(self, data: Message) -> None:
        """One whole text message, as UTF-8 that nobody has checked."""

    def pong(self, socket: Socket) -> None:
        """The peer answered a ping."""

    def ended(self, socket: Socket) -> None:
        """The peer closed, broke the framing, or the transport is gone. May come more than once."""


class Socket(Protocol):
    """A connection that is open, or has been."""

    def transmit(self, data: bytes) -> bool:
        """Write one binary message now. False when the connection is not open."""

    def transmit_text(self, data: bytes) -> bool:
        """Write one text message, in UTF-8, now. False when the connection is not open."""

    def transmit_ping(self) -> bool:
        """Write a ping now; the answer comes as `SocketListener.pong`. False when the connection is not open."""

    async def close(self) -> None:
        """Say goodbye and wait until the transport is gone. Whoever cannot wait for ever sets a deadline and aborts."""

    def drop(self) -> None:
        """End the transport; a close frame that was answered is still sent."""

    def abort(self) -> None:
        """End the transport at once, whatever is still to be sent."""


class DialRefused(Exception):
    """There is no WebSocket at the other end. `status` and `retry_after`: of the HTTP answer, None without one."""

    def __init__(self, status: int | None = None, retry_after: str | None = None) -> None:
        super().__init__(status)
        self.status = status
        self.retry_after = retry_after


class Connect(Protocol):
    """How an implementation opens a socket: name, connection, TLS and upgrade, without redirects and proxies.

    Cancelled, it leaves nothing open. Raises DialRefused or OSError, which includes TLS errors.
    """

    async def __call__(
        self,
        listener: SocketListener,
        url: str,
        *,
        tls: ssl.SSLContext | None,
        headers: Mapping[str, str] | None,
        close_timeout_s: float,
    ) -> Socket: ...
