"""OAuth 2 over HTTP: where a user consents, a code for a token pair, a refresh token for the next pair.

Facts: reference/ctrader.md §2.1. Requests are GET with query parameters, as both official clients make them, so an
address here holds secrets: it must never be logged, nor stand in an error that leaves this module. Invariant: one call
makes at most one request; a fault says (`in_doubt`) whether the broker may have carried it out all the same.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from urllib.parse import urlencode, urlsplit

import aiohttp

from bridge.brokers.base import BrokerFault, ConsentScope, FaultKind, IssuedTokens, Reason, ReasonCode
from bridge.brokers.ctrader import faults
from bridge.brokers.ctrader.settings import CtraderSettings
from bridge.brokers.entries import LARGEST_ANSWER, answer_document, issued_token
from bridge.brokers.tls import shared_tls
from bridge.telemetry.redaction import REDACTOR
from core.secret import Secret

log = logging.getLogger(__name__)

LONGEST_LIFE_S = 10 * 365 * 86_400.0
THROTTLE_S, LONGEST_THROTTLE_S = 5.0, 900.0
_OK, _TOO_MANY = 200, 429
_MAYBE_DONE = frozenset({500, 502, 504})  # of what fails on the other side, it may have been carried out
_HEADERS = {"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": "pulse-bridge"}


def consent_url(settings: CtraderSettings, *, state: str, redirect_uri: str, scope: ConsentScope) -> str:
    """The address of the consent page for this application."""
    parameters = {
        "client_id": settings.client_id,
        "redirect_uri": redirect_uri,
        "scope": scope.value,
        "product": "web",
        "state": state,
    }
    joint = "&" if urlsplit(settings.auth_url).query else "?"
    return f"{settings.auth_url}{joint}{urlencode(parameters)}"


async def exchange_code(settings: CtraderSettings, code: Secret, redirect_uri: str) -> IssuedTokens:
    """Spend a consent code. Raises BrokerFault: FATAL_USER when the broker refuses the code."""
    parameters = {"grant_type": "authorization_code", "code": code.reveal(), "redirect_uri": redirect_uri}
    return await _ask(settings, parameters)


async def refresh(settings: CtraderSettings, refresh_token: Secret) -> IssuedTokens:
    """Spend a refresh token. Raises BrokerFault: FATAL_USER when the broker refuses it for good."""
    return await _ask(settings, {"grant_type": "refresh_token", "refresh_token": refresh_token.reveal()})


async def _ask(settings: CtraderSettings, parameters: Mapping[str, str]) -> IssuedTokens:
    """One request to the token endpoint."""
    secret = settings.client_secret.reveal()
    query = {**parameters, "client_id": settings.client_id, "client_secret": secret}
    try:
        async with asyncio.timeout(settings.token_timeout_s):
            status, retry_after_s, body = await _get(settings, query)
    except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
        fault, cause = _unreachable(), type(error).__name__
    except (aiohttp.ClientError, OSError) as error:  # a TimeoutError is an OSError
        fault, cause = _unclear("The broker's sign-in server gave no usable answer."), type(error).__name__
    else:
        return read_answer(status, retry_after_s, body)
    log.warning("no answer from the token endpoint", extra={"cause": cause, "in_doubt": fault.in_doubt})
    raise fault  # without the cause: its text may hold the address, and so the secrets


async def _get(settings: CtraderSettings, query: Mapping[str, str]) -> tuple[int, float | None, bytes]:
    """Status, Retry-After in seconds and at most LARGEST_ANSWER + 1 bytes of the body. No proxy, redirect or cookie."""
    connector = aiohttp.TCPConnector(ssl=shared_tls(settings.tls_ca_file), force_close=True)
    session = aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        headers=_HEADERS,
        trust_env=False,
        auto_decompress=False,
        timeout=aiohttp.ClientTimeout(connect=settings.token_timeout_s / 2),
        middlewares=(_only_once,),
    )
    async with session, session.get(settings.token_url, params=query, allow_redirects=False) as answer:
        body = bytearray()
        while len(body) <= LARGEST_ANSWER and (chunk := await answer.content.readany()):
            body += chunk
        return answer.status, _seconds(answer.headers.get("Retry-After")), bytes(body[: LARGEST_ANSWER + 1])


class _NoAnswerError(aiohttp.ClientError):
    """The connection ended before an answer."""


async def _only_once(request: aiohttp.ClientRequest, send: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
    """Keep the library from sending a GET a second time when the first got no answer: tokens are for one use."""
    try:
        return await send(request)
    except aiohttp.ClientConnectorError:
        raise
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError):
        raise _NoAnswerError from None


def read_answer(status: int, retry_after_s: float | None, body: bytes) -> IssuedTokens:
    """The token pair in an answer, or what the answer means. Raises BrokerFault. Pure but for the log filter."""
    document = answer_document(body)
    code, description = _text(document.get("errorCode")), _text(document.get("description"))
    if code or "access denied" in description.lower():
        raise _refusal(code, description, retry_after_s)
    if status == _TOO_MANY:
        raise _throttled(retry_after_s)
    if status != _OK:
        raise _out_of_order(status)
    access, refresh_token = issued_token(document.get("accessToken")), issued_token(document.get("refreshToken"))
    if access is None:
        raise _unclear("The broker's sign-in server gave an answer that cannot be used.")
    REDACTOR.register(access, refresh_token)
    secrets = {"accessToken": access}
    if refresh_token is not None:
        secrets["refreshToken"] = refresh_token
    return IssuedTokens(secrets, _life_s(document.get("expiresIn")))


def _refusal(code: str, description: str, retry_after_s: float | None) -> BrokerFault:
    """An error as the endpoint words it; it comes with any status, 200 too."""
    if code == "INVALID_CLIENT":
        code = "CH_CLIENT_AUTH_FAILURE"
    fault = faults.fault_of(faults.Refusal(code, description, retry_after_s=retry_after_s), now_ms=0)
    if "access denied" in description.lower():
        fault.broker_code = "ACCESS_DENIED"
    fault.in_doubt = faults.maybe_done(fault)
    return faults.refused_refresh(fault)


def refused_code(fault: BrokerFault) -> BrokerFault:
    """The fault of a refused code: whatever the broker says of a code is final, since it lives a minute."""
    if fault.kind is not FaultKind.TRANSIENT or fault.broker_code is None or fault.in_doubt:
        return fault
    reason = Reason(ReasonCode.TOKEN_REVOKED, "The broker did not accept the consent; please connect again.")
    return BrokerFault(FaultKind.FATAL_USER, reason, broker_code=fault.broker_code)


def _throttled(retry_after_s: float | None) -> BrokerFault:
    wait_s = min(max(retry_after_s or THROTTLE_S, 1.0), LONGEST_THROTTLE_S)
    reason = Reason(ReasonCode.RATE_LIMITED, "The broker asked to slow down.")
    return BrokerFault(FaultKind.THROTTLE, reason, retry_after_s=wait_s, broker_code="HTTP_429")


def _out_of_order(status: int) -> BrokerFault:
    reason = Reason(ReasonCode.BROKER_ERROR, "The broker's sign-in server is out of order; it is tried again.")
    return BrokerFault(FaultKind.TRANSIENT, reason, broker_code=f"HTTP_{status}", in_doubt=status in _MAYBE_DONE)


def _unreachable() -> BrokerFault:
    message = "The broker's sign-in server cannot be reached; it is tried again."
    return BrokerFault(FaultKind.TRANSIENT, Reason(ReasonCode.BROKER_UNREACHABLE, message))


def _unclear(message: str) -> BrokerFault:
    """No usable answer to a request that the broker may have carried out."""
    return BrokerFault(FaultKind.TRANSIENT, Reason(ReasonCode.BROKER_ERROR, message), in_doubt=True)


def _text(value: object) -> str:
    return value.strip()[:200] if isinstance(value, str) else ""


def _life_s(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= LONGEST_LIFE_S:
        return None
    return float(value)


def _seconds(value: str | None) -> float | None:
    """A Retry-After in whole seconds; the form with a date is not used for this."""
    return float(value) if value is not None and value.isascii() and value.isdigit() and len(value) < 9 else None
