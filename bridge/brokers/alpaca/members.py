"""Who uses an account hub: its members, and what one of them showed when it logged in. Plain values."""

from __future__ import annotations

from dataclasses import dataclass, field

from bridge.brokers.base import Credential, SessionListener


@dataclass(frozen=True, slots=True)
class Login:
    """A credential that has answered for this very account, with its fingerprint."""

    credential: Credential = field(repr=False)
    fingerprint: str


class Member:
    """One session on a hub: its listener, its own proven login, and whether it shares the account now."""

    __slots__ = ("joined", "listener", "login", "waiting")

    def __init__(self, listener: SessionListener) -> None:
        self.listener = listener
        self.login: Login | None = None
        self.joined = False
        self.waiting = False
