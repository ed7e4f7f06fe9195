"""Which account is a user's default at a broker: the first one ever started there, for good (DESIGN §7).

A small protocol, because what is remembered in memory now belongs into a database once there is one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from bridge.brokers.base import Environment


@dataclass(frozen=True, slots=True)
class DefaultAccount:
    """The account whose record has the plain key, and where it was last started."""

    account_id: str
    environment: Environment


class DefaultAccounts(Protocol):
    """Remembers default accounts by canonical user key and broker."""

    def get(self, user_key: str, broker: str) -> DefaultAccount | None:
        """The default account, if one was ever started."""

    async def remember(self, user_key: str, broker: str, account: DefaultAccount) -> DefaultAccount:
        """Make this account the default unless there is one; returns the default that holds.

        The default never moves to another account; its environment follows the latest start of that same account.
        """


class DefaultsInMemory:
    """Remembers for the life of the process."""

    def __init__(self) -> None:
        self._defaults: dict[tuple[str, str], DefaultAccount] = {}

    def get(self, user_key: str, broker: str) -> DefaultAccount | None:
        return self._defaults.get((user_key, broker))

    async def remember(self, user_key: str, broker: str, account: DefaultAccount) -> DefaultAccount:
        held = self._defaults.get((user_key, broker))
        if held is None or held.account_id == account.account_id:
            self._defaults[user_key, broker] = held = account
        return held


def cache_keys(broker: str, user_keys: tuple[str, ...], account_id: str | None, default: str | None) -> tuple[str, ...]:
    """The record's keys, canonical first, one per user key. `account_id` None: the default account.

    Every account but the default one appends its id; while no default is known, a named account is not the default.
    """
    suffix = "" if account_id is None or account_id == default else f"_{account_id}"
    return tuple(f"{broker}_account_{key}{suffix}" for key in user_keys)
