"""Grants as the rest of the bridge knows them: where credentials come from and who may refresh them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from bridge.brokers.base import BrokerAccount, BrokerFault, Credential, FaultKind, IssuedTokens, Reason, ReasonCode

Refresher = Callable[[Credential], Awaitable[IssuedTokens]]


class CredentialSource(Protocol):
    """Where a user's credential for a broker is kept.

    Raises InvalidInput (with the field's path) for an entry that is malformed, Unavailable when the source cannot be
    read now.
    """

    async def get(self, user_id: str, broker: str) -> Credential | None:
        """The stored credential, or None. Always the newest committed pair."""

    async def refresh(self, user_id: str, broker: str, stale: Credential, refresher: Refresher) -> Credential:
        """Return a credential newer than `stale`; single flight per grant.

        When another caller has refreshed meanwhile, its result is returned and `refresher` is not called. The new pair
        is committed before this returns. Raises BrokerFault from the refresher, or FATAL_USER `token_expired` when
        refreshing is impossible here (no refresh token, source not writable), `token_revoked` when the pair was refused
        for good or may have been spent as often as it is tried.
        """

    async def keep_accounts(
        self, user_id: str, broker: str, credential: Credential, accounts: Sequence[BrokerAccount]
    ) -> None:
        """Keep what the broker said these secrets cover, so that `Credential.accounts` tells it from now on.

        Nothing happens where other secrets are stored by now, or where this source has no place for it.
        """


class ClosableSource(CredentialSource, Protocol):
    """A source with work of its own to end."""

    async def close(self) -> None:
        """Give refreshes under way a moment to be stored, then end them. Never raises."""


def none_stored() -> BrokerFault:
    """What was stored is gone."""
    reason = Reason(ReasonCode.NO_CREDENTIALS, "No credentials are stored for this broker any more.")
    return BrokerFault(FaultKind.FATAL_USER, reason)
