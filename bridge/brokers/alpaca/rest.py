"""HTTP to the broker's hosts: one client session for the whole adapter, one TLS context, one answer per request.

Knows nothing of budgets or of what is in a document. Headers and bodies hold secrets and money: neither is logged, nor
stands in an error. No redirect is followed, no proxy or cookie used. Invariant: only a GET may be sent a second time,
when a kept connection turns out to be dead; anything else leaves once or, if in doubt, says so.
"""

from __future__ import annotations

import asyncio
import logging
import math
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any

import aiohttp
from aiohttp.abc import ResolveResult

from bridge.brokers.alpaca import faults
from bridge.brokers.alpaca.settings import AlpacaSettings
from bridge.brokers.base import BrokerFault
from bridge.brokers.tls import shared_tls
from bridge.runtime.clock import Clock

log = logging.getLogger(__name__)

LARGEST_ANSWER = 16 * 2**20  # bytes
LONGEST_WAIT_S = 3600.0
_HEADERS = {"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": "pulse-bridge"}


@dataclass(frozen=True, slots=True)
class Rates:
    """What an answer's headers say of the budget (alpaca.md §1.6); None: nothing, or nothing sensible."""

    limit: int | None = None
    remaining: int | None = None
    resets_in_s: float | None = None
    retry_after_s: float | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer, whatever its status."""

    status: int
    body: bytes
    rates: Rates


class RestClient:
    """The adapter's one HTTP client. Does nothing before the first request; `close` at the end."""

    def __init__(self, settings: AlpacaSettings, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        self._session: aiohttp.ClientSession | None = None

    async def send(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str],
        parameters: Mapping[str, str] | None = None,
        body: bytes | None = None,
        timeout_s: float,
    ) -> Answer:
        """Send one request and read the whole answer. Raises BrokerFault when there is none (`in_doubt` when a request
        that changes something may have been carried out)."""
        try:
            async with asyncio.timeout(timeout_s):
                return await self._send(method, url, headers, parameters, body)
        except TimeoutError as error:  # of aiohttp too: its timeouts are TimeoutErrors, connecting or reading
            fault = faults.unreachable("the connection took too long") if _connecting(error) else faults.unanswered()
            cause = type(error).__name__
        except (aiohttp.ClientConnectorError, ssl.SSLError) as error:
            fault, cause = self._no_connection(error), type(error).__name__
        except (aiohttp.ClientError, OSError, ValueError) as error:
            fault, cause = faults.unanswered("The broker gave no usable answer."), type(error).__name__
        log.debug("no answer from the broker", extra={"cause": cause})
        raise fault  # without the cause: its text may hold the address

    async def close(self) -> None:
        """Close all connections."""
        if self._session is not None:
            session, self._session = self._session, None
            await session.close()

    async def _send(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        parameters: Mapping[str, str] | None,
        body: bytes | None,
    ) -> Answer:
        async with self._open().request(
            method, url, headers=headers, params=parameters, data=body, allow_redirects=False
        ) as answer:
            content = bytearray()
            while chunk := await answer.content.readany():
                content += chunk
                if len(content) > LARGEST_ANSWER:
                    raise aiohttp.ClientPayloadError
            return Answer(answer.status, bytes(content), read_rates(answer.headers, self._clock.now_ms()))

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            settings = self._settings
            connector = aiohttp.TCPConnector(
                ssl=shared_tls(settings.tls_ca_file),
                limit=2 * settings.rest_connections,
                limit_per_host=settings.rest_connections,
                keepalive_timeout=settings.keepalive_s,
                resolver=_Resolver(),
                use_dns_cache=False,  # a broker that moves is found by the next dial
            )
            self._session = aiohttp.ClientSession(
                connector=connector,
                cookie_jar=aiohttp.DummyCookieJar(),
                headers=_HEADERS,
                trust_env=False,
                auto_decompress=False,
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=settings.connect_timeout_s),
                middlewares=(_changes_leave_once,),
            )
        return self._session

    def _no_connection(self, error: Exception) -> BrokerFault:
        if isinstance(error, (aiohttp.ClientConnectorSSLError, aiohttp.ClientConnectorCertificateError, ssl.SSLError)):
            log.error("the broker's TLS was refused", extra={"error": type(error).__name__})
            what = "its certificate or encryption was not acceptable"
            return faults.unreachable(what, retry_after_s=self._settings.certificate_retry_s)
        refused = isinstance(getattr(error, "os_error", None), ConnectionRefusedError)
        return faults.unreachable("the connection was refused" if refused else "no connection could be made")


class _Resolver(aiohttp.ThreadedResolver):
    """The library takes it for granted that a name has an address."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = await super().resolve(host, port, family)
        if not found:
            raise OSError("the name has no address")
        return found


class _NoAnswerError(aiohttp.ClientError):
    """The connection ended before an answer."""


async def _changes_leave_once(
    request: aiohttp.ClientRequest, send: aiohttp.ClientHandlerType
) -> aiohttp.ClientResponse:
    """Keep the library from sending a DELETE or PUT again when a kept connection was dead: it may have arrived."""
    try:
        return await send(request)
    except aiohttp.ClientConnectorError:
        raise
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError):
        if request.method == "GET":
            raise
        raise _NoAnswerError from None


def _connecting(error: TimeoutError) -> bool:
    return isinstance(error, aiohttp.ConnectionTimeoutError)


def read_rates(headers: Mapping[str, str], now_ms: int) -> Rates:
    """The rate headers of an answer. The reset is in Unix seconds by the broker's clock, which its Date tells."""
    reset, resets_in_s = _whole(headers.get("X-RateLimit-Reset")), None
    if reset is not None:
        date_s = _date_s(headers.get("Date"))
        now_s = now_ms / 1000 if date_s is None else date_s
        resets_in_s = min(max(reset - now_s, 0.0) + 1.0, LONGEST_WAIT_S)  # whole seconds: it may be later within one
    retry = _whole(headers.get("Retry-After"))
    return Rates(
        limit=_whole(headers.get("X-RateLimit-Limit")),
        remaining=_whole(headers.get("X-RateLimit-Remaining")),
        resets_in_s=resets_in_s,
        retry_after_s=None if retry is None else min(float(retry), LONGEST_WAIT_S),
    )


def _whole(text: str | None) -> int | None:
    return int(text) if text is not None and text.isascii() and text.isdigit() and len(text) < 13 else None


def _date_s(text: str | None) -> float | None:
    try:
        moment: Any = parsedate_to_datetime(text) if text is not None else None
    except (ValueError, TypeError, OverflowError):
        return None
    seconds = moment.timestamp() if moment is not None and moment.tzinfo is not None else math.nan
    return seconds if math.isfinite(seconds) else None
