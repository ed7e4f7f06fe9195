"""What becomes of a data socket after an error, and when it is tried again (alpaca.md §3.4). Pure.

Its trouble never ends a session: prices are polled meanwhile.
"""

from __future__ import annotations

from enum import Enum, auto

from bridge.brokers.alpaca.settings import AlpacaSettings
from bridge.brokers.alpaca.subscriptions import BAD_SYNTAX, SYMBOL_LIMIT

ALREADY_AUTHENTICATED = 403
REFUSED_LONGER = 20  # times `data_retry_s`: what only a new plan, key or scope can change


class Trouble(Enum):
    """What an error code means for the connection it came on."""

    NONE = auto()  # goes on as if it had not come
    SUBSCRIPTION = auto()  # the last change was refused, the connection is good
    SLOT = auto()  # somebody else, or our own half-dead one, holds the only connection
    REFUSED = auto()  # this key, plan or scope gets no such data
    BROKEN = auto()  # connect again


def of_code(code: int) -> Trouble:
    """An `error` message on the socket."""
    if code in (SYMBOL_LIMIT, BAD_SYNTAX):
        return Trouble.SUBSCRIPTION
    return _CODES.get(code, Trouble.BROKEN)


def of_status(status: int | None) -> Trouble:
    """The HTTP status with which the handshake was refused, None without one."""
    if status is None:
        return Trouble.BROKEN
    return _STATUSES.get(status, Trouble.BROKEN)


def wait_s(trouble: Trouble, settings: AlpacaSettings, backoff_s: float) -> float:
    """How long to wait before the next connection; `backoff_s` is what the growing, random delay says now."""
    if trouble is Trouble.SLOT:
        return settings.slot_wait_s
    if trouble is Trouble.REFUSED:
        return settings.data_retry_s * REFUSED_LONGER
    return backoff_s


_CODES = {
    ALREADY_AUTHENTICATED: Trouble.NONE,
    402: Trouble.REFUSED,
    406: Trouble.SLOT,
    408: Trouble.REFUSED,
    409: Trouble.REFUSED,
    410: Trouble.REFUSED,
    411: Trouble.REFUSED,
    412: Trouble.REFUSED,
    413: Trouble.REFUSED,
}
_STATUSES = {
    401: Trouble.REFUSED,
    402: Trouble.REFUSED,
    403: Trouble.REFUSED,
    404: Trouble.REFUSED,
    429: Trouble.SLOT,
}
