"""OAuth 2 over HTTP: where a user consents, and a code for an access token (reference/alpaca.md §1.5).

The exchange is one form-encoded POST; tokens have no end and there is nothing to renew them with. Forms and answers
hold secrets: neither is logged, nor stands in an error that leaves this module. Invariant: one call makes at most one
request; a fault says (`in_doubt`) whether the code may be spent all the same.
"""

from __future__ import annotations

import asyncio
import logging
from http import HTTPStatus
from urllib.parse import urlencode, urlsplit

import aiohttp

from bridge.brokers.alpaca import faults
from bridge.brokers.alpaca.rest import Rates, read_rates
from bridge.brokers.alpaca.settings import AlpacaSettings
from bridge.brokers.base import BrokerFault, ConsentScope, FaultKind, IssuedTokens, Reason, ReasonCode
from bridge.brokers.entries import LARGEST_ANSWER, answer_document, issued_token
from bridge.brokers.tls import shared_tls
from bridge.runtime.clock import Clock
from bridge.telemetry.redaction import REDACTOR
from core.errors import ConfigurationError
from core.secret import Secret

log = logging.getLogger(__name__)

THROTTLE_S, LONGEST_THROTTLE_S = 5.0, 900.0
_SCOPES = {ConsentScope.ACCOUNTS: "data", ConsentScope.TRADING: "trading data"}  # reading the account is implied
_MAYBE_DONE = frozenset({HTTPStatus.INTERNAL_SERVER_ERROR, HTTPStatus.BAD_GATEWAY, HTTPStatus.GATEWAY_TIMEOUT})
_REFUSED_APP = frozenset({"invalid_client", "unauthorized_client", "unsupported_grant_type", "invalid_scope"})
_HEADERS = {"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": "pulse-bridge"}


def consent_url(settings: AlpacaSettings, *, state: str, redirect_uri: str, scope: ConsentScope) -> str:
    """The address of the consent page for this application. Whether live or paper is the user's choice there."""
    client_id, _ = _application(settings)
    parameters = {
        "response_type": "code",
        "client_id": client_id,
        "redirect_uri": redirect_uri,
        "scope": _SCOPES[scope],
        "state": state,
    }
    joint = "&" if urlsplit(settings.auth_url).query else "?"
    return f"{settings.auth_url}{joint}{urlencode(parameters)}"


async def exchange_code(settings: AlpacaSettings, clock: Clock, code: Secret, redirect_uri: str) -> IssuedTokens:
    """Spend a consent code. Raises BrokerFault: FATAL_USER when the broker refuses the code."""
    client_id, client_secret = _application(settings)
    form = {
        "grant_type": "authorization_code",
        "code": code.reveal(),
        "client_id": client_id,
        "client_secret": client_secret.reveal(),
        "redirect_uri": redirect_uri,
    }
    try:
        async with asyncio.timeout(settings.token_timeout_s):
            status, rates, body = await _post(settings, clock, form)
    except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
        fault, cause = _unreachable(), type(error).__name__
    except (aiohttp.ClientError, OSError, ValueError) as error:  # a TimeoutError is an OSError
        fault, cause = _unclear("The broker's sign-in server gave no usable answer."), type(error).__name__
    else:
        return read_answer(status, rates, body)
    log.warning("no answer from the token endpoint", extra={"cause": cause, "in_doubt": fault.in_doubt})
    raise fault  # without the cause: its text may hold more than the address


async def _post(settings: AlpacaSettings, clock: Clock, form: dict[str, str]) -> tuple[int, Rates, bytes]:
    """Status, waits and at most LARGEST_ANSWER + 1 bytes of the body. No proxy, redirect or cookie."""
    connector = aiohttp.TCPConnector(ssl=shared_tls(settings.tls_ca_file), force_close=True)
    session = aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        headers=_HEADERS,
        trust_env=False,
        auto_decompress=False,
        timeout=aiohttp.ClientTimeout(total=None, connect=settings.token_timeout_s / 2),
    )
    async with session, session.post(settings.token_url, data=form, allow_redirects=False) as answer:
        body = bytearray()
        while len(body) <= LARGEST_ANSWER and (chunk := await answer.content.readany()):
            body += chunk
        return answer.status, read_rates(answer.headers, clock.now_ms()), bytes(body[: LARGEST_ANSWER + 1])


def read_answer(status: int, rates: Rates, body: bytes) -> IssuedTokens:
    """The token in an answer, or what the answer means. Raises BrokerFault. Pure but for the log filter."""
    document = answer_document(body)
    if status == HTTPStatus.OK:
        access = issued_token(document.get("access_token"))
        if access is None:
            raise _unclear("The broker's sign-in server gave an answer that cannot be used.")
        REDACTOR.register(access)
        return IssuedTokens({"accessToken": access})
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        wait_s = rates.retry_after_s if rates.retry_after_s is not None else rates.resets_in_s
        raise faults.throttled(min(max(wait_s or THROTTLE_S, 1.0), LONGEST_THROTTLE_S), code="HTTP_429")
    error = document.get("error")
    if status == HTTPStatus.UNAUTHORIZED or (isinstance(error, str) and error in _REFUSED_APP):
        reason = Reason(ReasonCode.APPLICATION_REFUSED, "The broker refuses this application; its operator is told.")
        raise BrokerFault(FaultKind.FATAL_APP, reason, broker_code=f"HTTP_{status}")
    if document and HTTPStatus.BAD_REQUEST <= status < HTTPStatus.INTERNAL_SERVER_ERROR:
        reason = Reason(ReasonCode.TOKEN_REVOKED, "The broker did not accept the consent; please connect again.")
        raise BrokerFault(FaultKind.FATAL_USER, reason, broker_code=f"HTTP_{status}")
    reason = Reason(ReasonCode.BROKER_ERROR, "The broker's sign-in server is out of order; it is tried again.")
    in_doubt = status in _MAYBE_DONE
    raise BrokerFault(FaultKind.TRANSIENT, reason, broker_code=f"HTTP_{status}", in_doubt=in_doubt)


def _application(settings: AlpacaSettings) -> tuple[str, Secret]:
    if settings.client_id is None or settings.client_secret is None:
        raise ConfigurationError("no OAuth application is configured for this broker")
    return settings.client_id, settings.client_secret


def _unreachable() -> BrokerFault:
    message = "The broker's sign-in server cannot be reached; it is tried again."
    return faults.transient(ReasonCode.BROKER_UNREACHABLE, message)


def _unclear(message: str) -> BrokerFault:
    """No usable answer to a request that the broker may have carried out."""
    return faults.unanswered(message)
