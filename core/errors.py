"""The error tree of the whole project: the class says what the caller must do.

    BridgeError
    ├── ConfigurationError   fix the configuration; the process does not start
    ├── InvalidInput         the caller's fault; nothing was changed; names the field
    ├── NotFound             the named thing does not exist
    ├── Conflict             the request contradicts the present state; ask the caller to choose
    ├── Unavailable          temporary; retry later (optionally after a number of seconds)
    ├── ProtocolViolation    a peer sent what it must not; drop the data, reconcile
    └── InDoubt              sent, outcome unknown; ask the broker, never resend

Broker faults (what a broker refused and what that means for a session) are in
`bridge.brokers.base`; they derive from BridgeError too.
"""

from __future__ import annotations


class BridgeError(Exception):
    """Root of every error this project raises on purpose."""


class ConfigurationError(BridgeError):
    """A setting is missing or wrong. One clear line, then exit."""


class InvalidInput(BridgeError):
    """Input was refused whole; nothing changed. `field` is a dotted path or None."""

    def __init__(self, message: str, *, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class NotFound(BridgeError):
    """The named thing does not exist."""


class Conflict(BridgeError):
    """The request contradicts the present state."""


class Unavailable(BridgeError):
    """Temporarily impossible; `retry_after_s` says when to try again, if known."""

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class ProtocolViolation(BridgeError):
    """A peer sent something its protocol forbids; the data was not used."""


class InDoubt(BridgeError):
    """A request was sent and its outcome is unknown."""
