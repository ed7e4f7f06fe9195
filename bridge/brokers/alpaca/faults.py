"""What each refusal and each failed request means for a session: HTTP status, code and network errors, as one table.

Status and code are stable, texts are not (reference/alpaca.md §1.6): a text decides only where the same status says
two things. Unknown ones are transient and counted by the caller. Pure. Nothing of a body reaches a user or a log.
"""

from __future__ import annotations

from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import orjson

from bridge.brokers.base import BrokerFault, FaultKind, Reason, ReasonCode

LONGEST_TEXT = 500  # characters of a body's message that are looked at

_NOT_AUTHORISED = ("unauthorized", "not authorized", "access key verification failed", "invalid credentials")
_RESTRICTED = ("restricted", "blocked", "suspended", "account is not active", "account not active")


@dataclass(frozen=True, slots=True)
class Refusal:
    """What a refused request said. `code`: the body's 8 digits; `json`: whether the broker's own API answered."""

    status: int
    code: int | None = None
    message: str = ""
    json: bool = False

    @property
    def shown(self) -> str:
        """The broker's code for logs and /explain."""
        return f"HTTP_{self.status}" if self.code is None else str(self.code)


def read_refusal(status: int, body: bytes) -> Refusal:
    """Status and body of an answer that is no success. Never raises: a body may be anything."""
    try:
        said: Any = orjson.loads(body)
    except orjson.JSONDecodeError:
        return Refusal(status)
    if not isinstance(said, dict):
        return Refusal(status)
    code, message = said.get("code"), said.get("message")
    if isinstance(code, bool) or not isinstance(code, int) or not 0 < code < 10**9:
        code = None
    return Refusal(status, code, message[:LONGEST_TEXT] if isinstance(message, str) else "", json=True)


def fault_of(refusal: Refusal, *, oauth: bool, retry_after_s: float | None) -> BrokerFault:
    """What a refused request means. `retry_after_s`: what the headers of a 429 or 503 say."""
    status, text = refusal.status, refusal.message.lower()
    if status == HTTPStatus.UNAUTHORIZED:
        return not_accepted(oauth=oauth, code=refusal.shown)
    if status == HTTPStatus.FORBIDDEN and refusal.json:
        if any(words in text for words in _NOT_AUTHORISED) or text.strip(" .") == "forbidden":
            return not_accepted(oauth=oauth, code=refusal.shown)
        if any(words in text for words in _RESTRICTED):
            return account_closed(code=refusal.shown)
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        return throttled(retry_after_s, code=refusal.shown)
    if status == HTTPStatus.SERVICE_UNAVAILABLE and retry_after_s is not None:
        reason = Reason(ReasonCode.BROKER_MAINTENANCE, "The broker is under maintenance.")
        return BrokerFault(FaultKind.MAINTENANCE, reason, retry_after_s=retry_after_s, broker_code=refusal.shown)
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return transient(ReasonCode.BROKER_ERROR, "The broker is out of order; it is tried again.", code=refusal.shown)
    message = "The broker refused a request for now; it is tried again."
    return transient(ReasonCode.BROKER_ERROR, message, code=refusal.shown)


def not_accepted(*, oauth: bool, code: str | None = None) -> BrokerFault:
    """The keys or the token are not accepted: only the user can help (tokens have no end but this one, §1.5)."""
    if oauth:
        reason = Reason(ReasonCode.TOKEN_REVOKED, "The broker no longer accepts the consent; please connect again.")
    else:
        message = "The broker does not accept these keys; they may have been reset, or be those of another environment."
        reason = Reason(ReasonCode.CREDENTIALS_INVALID, message)
    return BrokerFault(FaultKind.FATAL_USER, reason, broker_code=code)


def throttled(retry_after_s: float | None, *, code: str | None = None) -> BrokerFault:
    """Too many requests, ours or those of others on the same account."""
    reason = Reason(ReasonCode.RATE_LIMITED, "The broker asked to slow down.")
    return BrokerFault(FaultKind.THROTTLE, reason, retry_after_s=retry_after_s, broker_code=code)


def slot_busy(wait_s: float, *, code: str | None = None) -> BrokerFault:
    """The account's one stream is taken, or a half-dead one still holds the slot (§2.3)."""
    reason = Reason(ReasonCode.CONNECTION_LIMIT, "The broker allows one stream per account, and it is still taken.")
    return BrokerFault(FaultKind.THROTTLE, reason, retry_after_s=wait_s, broker_code=code)


def account_closed(*, code: str | None = None) -> BrokerFault:
    """The account is closed, rejected or restricted."""
    reason = Reason(ReasonCode.ACCOUNT_DISABLED, "The broker has closed or restricted this account.")
    return BrokerFault(FaultKind.FATAL_USER, reason, broker_code=code)


def foreign_account() -> BrokerFault:
    """The credential is of another account than the one asked for."""
    reason = Reason(ReasonCode.ACCOUNT_NOT_COVERED, "The stored credential is not that of this account.")
    return BrokerFault(FaultKind.FATAL_USER, reason)


def snapshot_refused() -> BrokerFault:
    """A reading could not be used."""
    message = "The broker's reading of the account could not be used; it is read again."
    return transient(ReasonCode.SNAPSHOT_REFUSED, message)


def unreachable(what: str, *, retry_after_s: float | None = None) -> BrokerFault:
    """No connection, so nothing was sent. `what`: why, in words for the user."""
    reason = Reason(ReasonCode.BROKER_UNREACHABLE, f"The broker cannot be reached: {what}.")
    return BrokerFault(FaultKind.TRANSIENT, reason, retry_after_s=retry_after_s)


def unanswered(message: str = "The broker did not answer in time.") -> BrokerFault:
    """A request left and no usable answer came: it may have been carried out."""
    return BrokerFault(FaultKind.TRANSIENT, Reason(ReasonCode.BROKER_ERROR, message), in_doubt=True)


def unreadable() -> BrokerFault:
    """An answer that is not what it should be."""
    return transient(ReasonCode.BROKER_ERROR, "The broker's answer could not be read.")


def transient(reason: ReasonCode, message: str, *, code: str | None = None) -> BrokerFault:
    """A fault that time heals."""
    return BrokerFault(FaultKind.TRANSIENT, Reason(reason, message), broker_code=code)
