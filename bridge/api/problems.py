"""Every error answer of the API: RFC 9457 problem documents with a stable `type`, and the one map from errors to them.

Must not echo what the caller sent, nor what an exception outside our tree says. Invariant: any `BridgeError` has an
answer here, and no other module chooses a status code for an error.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bridge.credentials.views import ConnectRefused
from bridge.sessions.views import AccountChoice, NoCredentials
from core.errors import BridgeError, Conflict, InvalidInput, NotFound, Unavailable

TYPE_PREFIX = "urn:pulse-bridge:problem:"
RETRY_AFTER_S = 5  # when a temporary failure does not say


@dataclass(frozen=True, slots=True)
class Kind:
    """One problem type: the stable end of its `type`, status, title, and what the caller should do."""

    slug: str
    status: int
    title: str
    advice: str

    @property
    def type(self) -> str:
        return TYPE_PREFIX + self.slug


KINDS = {
    kind.slug: kind
    for kind in (
        Kind("bad-request", 400, "Not understood", "The HTTP request itself is malformed."),
        Kind("unauthorized", 401, "Who is calling?", "Send `Authorization: Bearer` and a valid key or user token."),
        Kind("forbidden", 403, "Not allowed", "This caller may not do this; use a key with the scope the route names."),
        Kind("key-in-browser", 403, "API keys do not belong in browsers", "Call from your server, without Origin."),
        Kind("foreign-host", 403, "Unknown host name", "An open bridge answers to loopback names only."),
        Kind("not-found", 404, "Not found", "Check the path, or start the session first."),
        Kind("no-record", 404, "No record yet", "Start a session for this account first."),
        Kind("method-not-allowed", 405, "Method not allowed", "See the Allow header."),
        Kind("request-timeout", 408, "Too slow", "Send the whole request within 10 s."),
        Kind("conflict", 409, "Conflict", "The request contradicts the present state; the detail says how."),
        Kind("no-credentials", 409, "No credentials", "The user must connect the broker first."),
        Kind("choose-account", 409, "Choose an account", "Name one of the listed `accounts` as accountId."),
        Kind("connect-not-configured", 409, "Not configured", "The operator must set what connecting brokers needs."),
        Kind("connect-unknown", 404, "Unknown sign-in", "Start connecting again."),
        Kind("connect-expired", 410, "Too late", "Start connecting again, and finish within the time."),
        Kind("connect-used", 409, "Used already", "Start connecting again, unless the broker is connected now."),
        Kind("connect-other-browser", 403, "Another browser", "Start again, and stay in one browser with cookies on."),
        Kind("connect-other-user", 403, "Another user's sign-in", "It was destroyed; start connecting again."),
        Kind(
            "connect-refused", 409, "Refused by the broker", "The broker refused the consent; start connecting again."
        ),
        Kind("connect-failed", 502, "The broker did not answer", "The consent is lost; start connecting again."),
        Kind("too-large", 413, "Body too large", "Bodies may have 64 KiB."),
        Kind("unsupported-media-type", 415, "Wrong content type", "Send JSON as `application/json`, not compressed."),
        Kind("invalid-input", 422, "Invalid input", "Correct the fields listed in `errors`; nothing was changed."),
        Kind("rate-limited", 429, "Too many requests", "Wait for the seconds in Retry-After."),
        Kind("internal", 500, "Our fault", "Reported to the operator; try again later."),
        Kind("unavailable", 503, "Temporarily unavailable", "Try again after the seconds in Retry-After."),
        Kind("overloaded", 503, "Too busy", "Try again after the seconds in Retry-After."),
        Kind("draining", 503, "Shutting down", "Another process takes over; try again after Retry-After."),
        Kind("not-live", 503, "Not alive", "The process does not make progress and should be restarted."),
        Kind("not-ready", 503, "Not ready", "The primary store does not answer or the process is ending."),
    )
}


class Problem(Exception):
    """An answer that is an error. `errors`: (field path, message) pairs; `more`: further members of the document."""

    def __init__(
        self,
        slug: str,
        detail: str,
        *,
        errors: Sequence[tuple[str, str]] = (),
        headers: Mapping[str, str] | None = None,
        more: Mapping[str, Any] | None = None,
        close: bool = False,
    ) -> None:
        super().__init__(detail)
        self.kind = KINDS[slug]
        self.detail = detail
        self.errors = tuple(errors)
        self.headers = dict(headers or {})
        self.more = dict(more or {})
        self.close = close  # the connection cannot be used again

    def document(self) -> dict[str, Any]:
        """The JSON body."""
        body: dict[str, Any] = {
            "type": self.kind.type,
            "title": self.kind.title,
            "status": self.kind.status,
            "detail": self.detail,
        }
        if self.errors:
            body["errors"] = [{"field": field, "message": message} for field, message in self.errors]
        return {**body, **self.more}


def retry_after(seconds: float | None) -> dict[str, str]:
    """A Retry-After header: whole seconds, at least one."""
    return {"Retry-After": str(max(1, math.ceil(RETRY_AFTER_S if seconds is None else seconds)))}


def problem_of(error: BridgeError) -> Problem:
    """The answer to an error of our own tree."""
    match error:
        case InvalidInput():
            errors = [(error.field, str(error))] if error.field else []
            return Problem("invalid-input", str(error), errors=errors)
        case NotFound():
            return Problem("not-found", str(error))
        case NoCredentials():
            return Problem("no-credentials", str(error))
        case ConnectRefused():
            return Problem(f"connect-{error.code.value}", str(error))
        case AccountChoice():
            accounts = [
                {
                    "accountId": account.account_id,
                    "environment": account.environment.value,
                    "login": account.login,
                    "brokerTitle": account.broker_title,
                }
                for account in error.accounts
            ]
            return Problem("choose-account", str(error), more={"accounts": accounts})
        case Conflict():
            return Problem("conflict", str(error))
        case Unavailable():
            return Problem("unavailable", str(error), headers=retry_after(error.retry_after_s))
        case _:  # a broker's refusal that the service could not turn into a state: temporary for the caller
            return Problem("unavailable", str(error), headers=retry_after(getattr(error, "retry_after_s", None)))
