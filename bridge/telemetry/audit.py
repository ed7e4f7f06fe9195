"""What the rooms of the bridge know of the audit log: one call that takes down what was done, by whom, with what end.

A call never blocks and never fails: the log behind it has a bounded queue and counts what it could not take. Must never
be handed a secret, a user id, an e-mail address or a broker's account number in `detail`.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Protocol

Detail = Mapping[str, str | int | bool | None]


class Action(StrEnum):
    """What can be done: the closed list."""

    START = "start"
    STOP = "stop"
    RESUME = "resume"  # a process took a wanted session up: after a restart, or from another process
    HAND_OVER = "hand_over"  # a process gave a session up to another one
    MOVE = "move"  # an operator wanted a session elsewhere
    DRAIN = "drain"  # an operator wanted a process empty, or to take sessions again
    IDLE = "idle"  # a session ended because nobody used it
    CONSENT = "consent"  # a user began, parked or completed connecting a broker
    CONNECT = "connect"  # credentials were entered or replaced
    DISCONNECT = "disconnect"
    IMPORT = "import"  # credentials were taken over from existing settings
    REFRESH = "refresh"
    KEY_USE = "key_use"  # an API key was used for something that changes state or reads a user's data
    REFUSED = "refused"
    ROTATE = "rotate"
    EXPORT = "export"
    ERASE = "erase"


class Audit(Protocol):
    """Where actions are taken down."""

    def record(
        self, action: Action, *, user_key: str | None, actor: str, outcome: str = "ok", detail: Detail | None = None
    ) -> None:
        """Take down one action. `user_key`: whom it is about, canonical. `outcome`: "ok" or a stable code.

        `actor`: "user", "key:<id>", "bridge", "operator" or "ip".
        """


class NoAudit:
    """Takes nothing down; for parts that run without a log."""

    def record(
        self, action: Action, *, user_key: str | None, actor: str, outcome: str = "ok", detail: Detail | None = None
    ) -> None:
        """Nothing."""


NO_AUDIT = NoAudit()
