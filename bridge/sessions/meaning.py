"""What a request means: which user, which account, in which environment. Reads what is stored; changes nothing."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping

from bridge.brokers.base import Broker, Credential, Environment
from bridge.credentials.grants import CredentialSource
from bridge.sessions.choosing import environment_of, unnamed_account
from bridge.sessions.desired import DesiredSessions
from bridge.sessions.table import SessionTable
from bridge.sessions.turns import Where
from bridge.sessions.views import AccountChoice, NoCredentials
from core.errors import BridgeError, Conflict, InvalidInput, Unavailable
from core.user_key import UserKeys, UserKeyScheme, normalise_user_id

MOST_ACCOUNTS = 100  # of one user at one broker, ever started: whatever callers make up is kept
CREDENTIAL_DEADLINE_S = 2.0
STORE_RETRY_S = 2.0
_ACCOUNT_ID = re.compile(r"[A-Za-z0-9-]{1,64}")


class Meaning:
    """Reads requests. `table`: what runs here."""

    def __init__(
        self,
        brokers: Mapping[str, Broker],
        credentials: CredentialSource,
        user_keys: UserKeyScheme,
        desired: DesiredSessions,
        table: SessionTable,
    ) -> None:
        self._brokers = brokers
        self._credentials = credentials
        self._user_keys = user_keys
        self._desired = desired
        self._table = table

    def user(self, user_id: str) -> tuple[str, UserKeys]:
        """The user id as it is kept, and the keys. Raises InvalidInput."""
        user_id = normalise_user_id(user_id)
        return user_id, self._user_keys.keys(user_id)

    def check(self, broker: str, account_id: str | None = None, environment: Environment | None = None) -> None:
        """Raises InvalidInput for a broker or environment that is not served, and for what is no account id."""
        adapter = self._brokers.get(broker)
        if adapter is None:
            known = ", ".join(sorted(self._brokers))
            raise InvalidInput(f"unknown broker; this bridge knows: {known}", field="broker")
        if account_id is not None and not _ACCOUNT_ID.fullmatch(account_id):
            raise InvalidInput("an account id is 1 to 64 letters, digits or dashes", field="accountId")
        if environment is not None and environment not in adapter.capabilities.environments:
            raise InvalidInput(f"{broker} has no {environment.value} environment", field="environment")

    async def which(
        self, user_id: str, where: Where, account_id: str | None, environment: Environment | None
    ) -> tuple[str | None, Environment]:
        """The account and environment that a start means.

        Raises NoCredentials, AccountChoice, Conflict, InvalidInput, Unavailable.
        """
        adapter = self._brokers[where[1]]
        credential = await self._stored_credential(user_id, where[1])
        try:
            known = await self._desired.known(*where)
        except Unavailable as error:
            raise not_stored() from error
        if account_id is not None:
            if known.of_account(account_id) is None and len(known.sessions) >= MOST_ACCOUNTS:
                raise Conflict(f"this user has {MOST_ACCOUNTS} accounts at this broker already")
            session = self._table.find(*where, account_id)
            return account_id, environment_of(account_id, environment, credential, known, session)
        target = environment or credential.environment
        return await unnamed_account(adapter, credential, target, known, self._table.find(*where, None)), target

    async def _stored_credential(self, user_id: str, broker: str) -> Credential:
        try:
            async with asyncio.timeout(CREDENTIAL_DEADLINE_S):
                credential = await self._credentials.get(user_id, broker)
        except TimeoutError as error:
            raise Unavailable("the stored credentials cannot be read at present") from error
        if credential is None:
            raise NoCredentials(f"no {broker} credentials are stored for this user")
        return credential


def not_stored() -> Unavailable:
    """A command that cannot be stored now is not carried out."""
    return Unavailable("the request cannot be stored at present; ask again", retry_after_s=STORE_RETRY_S)


def outcome(error: BridgeError) -> str:
    """A stable code for the audit log."""
    if isinstance(error, NoCredentials):
        return "no-credentials"
    return "choose-account" if isinstance(error, AccountChoice) else "unavailable"
