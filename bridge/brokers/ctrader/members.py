"""Who uses an account hub: its members, and what one of them asks for when it logs in. Plain values."""

from __future__ import annotations

from dataclasses import dataclass

from bridge.brokers.base import SessionListener
from core.secret import Secret


@dataclass(frozen=True, slots=True)
class LoginRequest:
    """What one login needs: the token, its fingerprint, and whether the account holds anything."""

    token: Secret
    fingerprint: str
    at_risk: bool


class Member:
    """One session on a hub: its listener, its token's fingerprint, and whether its own login has succeeded."""

    __slots__ = ("fingerprint", "joined", "listener", "waiting")

    def __init__(self, listener: SessionListener) -> None:
        self.listener = listener
        self.fingerprint: str | None = None
        self.joined = False
        self.waiting = False
