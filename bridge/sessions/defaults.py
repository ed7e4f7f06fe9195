"""Which account is a user's default at a broker, and the record keys that follow from it (DESIGN §7).

The default is the first account ever started there, for good. It is stored with the desired sessions.
"""

from __future__ import annotations

from dataclasses import dataclass

from bridge.brokers.base import Environment


@dataclass(frozen=True, slots=True)
class DefaultAccount:
    """The account whose record has the plain key, and where it was last started."""

    account_id: str
    environment: Environment


def cache_keys(broker: str, user_keys: tuple[str, ...], account_id: str | None, default: str | None) -> tuple[str, ...]:
    """The record's keys, canonical first, one per user key. `account_id` None: the default account.

    Every account but the default one appends its id; while no default is known, a named account is not the default.
    """
    suffix = "" if account_id is None or account_id == default else f"_{account_id}"
    return tuple(f"{broker}_account_{key}{suffix}" for key in user_keys)


def keys_of_row(
    broker: str, user_keys: tuple[str, ...], account_id: str | None, default: str | None
) -> tuple[str, ...]:
    """The record keys of a session; () while a further account of the user is not known by id."""
    if account_id is None and default is not None:
        return ()
    return cache_keys(broker, user_keys, account_id, default)
