"""What connecting a broker and stored credentials look like from outside: values and refusals, no secrets but the two
that a browser must carry (`Begun.cookie`, and the ticket in an address). Imports nothing of this room.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from bridge.brokers.base import BrokerAccount, ConsentScope, Environment
from core.errors import BridgeError


class ConnectCode(StrEnum):
    """Why a consent does not go on: the closed list."""

    UNKNOWN = "unknown"  # no such state or ticket
    EXPIRED = "expired"  # it took too long
    USED = "used"  # it has been used
    OTHER_BROWSER = "other-browser"  # another browser came back than went away
    OTHER_USER = "other-user"  # another user would complete it; it is destroyed
    REFUSED = "refused"  # the broker refuses the code
    FAILED = "failed"  # the broker could not be asked; the code is gone
    NOT_CONFIGURED = "not-configured"  # the operator has not set what this needs


class ConnectRefused(BridgeError):
    """A step of connecting that is refused; the user starts again. Nothing was stored."""

    def __init__(self, code: ConnectCode, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class Begun:
    """The browser goes to `url`, with a cookie that only its callback will get."""

    url: str = field(repr=False)
    cookie_name: str
    cookie: str = field(repr=False)
    cookie_path: str
    secure: bool
    max_age_s: int


@dataclass(frozen=True, slots=True)
class Returned:
    """The browser goes back to the app at `url`; the cookie is done with."""

    url: str = field(repr=False)
    cookie_name: str
    cookie_path: str


@dataclass(frozen=True, slots=True)
class CoveredAccounts:
    """The accounts that a grant covers; `as_of` (Unix ms) when the broker said so, None when it never could be asked.

    `fresh`: the broker said so just now.
    """

    accounts: tuple[BrokerAccount, ...]
    as_of: int | None
    fresh: bool


@dataclass(frozen=True, slots=True)
class Connected:
    """A completed consent."""

    user_key: str
    broker: str
    scope: ConsentScope
    covered: CoveredAccounts


@dataclass(frozen=True, slots=True)
class Entered:
    """Credentials as stored, without what is secret."""

    user_key: str
    broker: str
    environment: Environment
    account_id: str | None
