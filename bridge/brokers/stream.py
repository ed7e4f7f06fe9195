"""Opening a socket to a broker host: one deadline, one shared TLS context, and every error translated here, once."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Mapping
from typing import Protocol

from bridge.brokers import transports
from bridge.brokers.base import BrokerFault, FaultKind, Reason, ReasonCode
from bridge.brokers.sockets import DialRefused, Socket, SocketListener
from bridge.brokers.tls import shared_tls

log = logging.getLogger(__name__)


class DialSettings(Protocol):
    """What dialling needs of an adapter's settings."""

    @property
    def transport(self) -> str:
        """The implementation, by a name of `transports.KNOWN`."""

    @property
    def tls_ca_file(self) -> str | None:
        """An extra trusted certificate."""

    @property
    def connect_timeout_s(self) -> float:
        """For name, connection, TLS and upgrade together."""

    @property
    def close_timeout_s(self) -> float:
        """For a close that the peer does not answer."""

    @property
    def certificate_retry_s(self) -> float:
        """The least wait after a certificate that was not acceptable."""


class DialFault(BrokerFault):
    """No socket could be opened. `status`: the HTTP status with which the upgrade was refused, None without one."""

    def __init__(self, what: str, *, retry_after_s: float | None, status: int | None) -> None:
        reason = Reason(ReasonCode.BROKER_UNREACHABLE, f"The broker cannot be reached: {what}.")
        super().__init__(FaultKind.TRANSIENT, reason, retry_after_s=retry_after_s, shared=True)
        self.status = status


async def open_socket(
    listener: SocketListener, url: str, settings: DialSettings, headers: Mapping[str, str] | None = None
) -> Socket:
    """Dial, TLS and upgrade (with these extra headers) within the connect timeout. Raises DialFault."""
    tls = shared_tls(settings.tls_ca_file) if url.startswith("wss://") else None
    connect = transports.named(settings.transport)
    try:
        async with asyncio.timeout(settings.connect_timeout_s):
            return await connect(listener, url, tls=tls, headers=headers, close_timeout_s=settings.close_timeout_s)
    except (OSError, DialRefused) as error:
        raise _dial_fault(error, settings) from error


def _dial_fault(error: Exception, settings: DialSettings) -> DialFault:
    """Why a dial failed, in words for the user, and the least wait it asks for."""
    wait_s: float | None = None
    status: int | None = None
    if isinstance(error, ssl.SSLError):
        what, wait_s = "its certificate or encryption was not acceptable", settings.certificate_retry_s
        log.error("the broker's TLS was refused", extra={"error": type(error).__name__})
    elif isinstance(error, DialRefused) and error.status is not None:
        status = error.status
        what = f"it answered with HTTP status {status}"
        wait_s = _retry_after_s(error.retry_after)
    elif isinstance(error, TimeoutError):
        what = "the connection took too long"
    elif isinstance(error, ConnectionRefusedError):
        what = "the connection was refused"
    else:
        what = "no connection could be made"
    return DialFault(what, retry_after_s=wait_s, status=status)


def _retry_after_s(header: str | None) -> float | None:
    """Seconds of a Retry-After header, capped at an hour; a date is not worth parsing here."""
    return min(float(header), 3600.0) if header is not None and header.isdecimal() and len(header) < 9 else None
