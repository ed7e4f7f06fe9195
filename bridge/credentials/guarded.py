"""Credentials on their way out: whatever is handed to anybody is first made known to the log filter (DESIGN §1.4)."""

from __future__ import annotations

from collections.abc import Sequence

from bridge.brokers.base import BrokerAccount, Credential
from bridge.credentials.grants import ClosableSource, Refresher
from bridge.telemetry.redaction import REDACTOR
from core.errors import Unavailable


class GuardedCredentials:
    """A `CredentialSource` that makes every secret it hands out known to the log filter. Empty without a source."""

    def __init__(self, source: ClosableSource | None) -> None:
        self._source = source

    async def get(self, user_id: str, broker: str) -> Credential | None:
        if self._source is None:
            return None
        credential = await self._source.get(user_id, broker)
        if credential is not None:
            REDACTOR.register(*credential.secrets.values())
        return credential

    async def refresh(self, user_id: str, broker: str, stale: Credential, refresher: Refresher) -> Credential:
        if self._source is None:
            raise Unavailable("no credentials are stored")
        credential = await self._source.refresh(user_id, broker, stale, refresher)
        REDACTOR.register(*credential.secrets.values())
        return credential

    async def keep_accounts(
        self, user_id: str, broker: str, credential: Credential, accounts: Sequence[BrokerAccount]
    ) -> None:
        if self._source is not None:
            await self._source.keep_accounts(user_id, broker, credential, accounts)

    async def close(self) -> None:
        if self._source is not None:
            await self._source.close()
