"""What the API does with stored credentials: which accounts they cover, entering them by hand, removing them.

Must not hand a secret back to anybody. Invariant: what is entered was checked by the broker's own reader first.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Protocol

from bridge.brokers.base import Broker, BrokerAccount, BrokerFault, Credential, Environment, FaultKind
from bridge.credentials.grants import CredentialSource
from bridge.credentials.views import ConnectCode, ConnectRefused, CoveredAccounts, Entered
from bridge.runtime.clock import Clock
from bridge.telemetry.audit import NO_AUDIT, Action, Audit
from bridge.telemetry.redaction import REDACTOR
from core.errors import Conflict, InvalidInput, Unavailable
from core.user_key import UserKeyScheme

log = logging.getLogger(__name__)

ASKING_S = 5.0
SAID_S = 5.0  # how long an answer of the broker counts as fresh
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9]{0,31}")


class Fetching(Protocol):
    """A general cache, as far as it is needed here."""

    async def fetch(self, key: str, ttl_s: float, loader: Callable[[], Awaitable[Any]]) -> Any:
        """The value under `key`, or what `loader` makes, kept for `ttl_s`; one load at a time."""


class CredentialKeeper(Protocol):
    """Where credentials are kept, sealed. Raises Unavailable."""

    async def put_accounts(self, user_id: str, broker: str, accounts: Sequence[BrokerAccount]) -> None:
        """Keep what the grant covers, as said by the broker now."""

    async def accounts_as_of(self, user_id: str, broker: str) -> int | None:
        """When the broker said what `Credential.accounts` holds (Unix ms), None when it never did."""

    async def put_entered(self, user_id: str, broker: str, entry: Mapping[str, object]) -> Credential:
        """Keep what the user entered in place of what was there. Checked already."""

    async def remove(self, user_id: str, broker: str) -> bool:
        """Forget the user's credentials there. False when there were none."""


class CredentialDesk:
    """One per process. `source`: what sessions use; `keeper`: None where nothing can be kept. `cache`: keeps what the
    broker said for some seconds, so that a page that asks all the time does not use up the broker's budget."""

    def __init__(
        self,
        *,
        brokers: Mapping[str, Broker],
        source: CredentialSource,
        keeper: CredentialKeeper | None,
        user_keys: UserKeyScheme,
        clock: Clock,
        cache: Fetching | None = None,
        audit: Audit = NO_AUDIT,
    ) -> None:
        self._brokers = brokers
        self._source = source
        self._keeper = keeper
        self._user_keys = user_keys
        self._clock = clock
        self._cache = cache
        self._audit = audit

    async def accounts(self, *, user_id: str, broker: str) -> CoveredAccounts | None:
        """What the user's credentials cover: asked of the broker now, else as it was last said. None: none stored.

        Raises InvalidInput for an unknown broker; when nothing is known, Conflict where the broker refuses the
        credentials, else Unavailable.
        """
        adapter = self._adapter(broker)
        credential = await self._source.get(user_id, broker)
        if credential is None:
            return None
        try:
            async with asyncio.timeout(ASKING_S):
                return await self._heard(adapter, user_id, broker, credential)
        except (BrokerFault, Unavailable, TimeoutError) as error:
            log.info(
                "the broker could not say what is covered", extra={"broker": broker, "error": type(error).__name__}
            )
            return await self._kept(user_id, broker, _why(error), refused=_is_refusal(error))

    async def enter(self, *, user_id: str, broker: str, entry: Mapping[str, object], actor: str) -> Entered:
        """Check and keep. Raises InvalidInput with the path of the field (`credentials.accessToken`), Unavailable,
        ConnectRefused where nothing can be kept."""
        adapter = self._adapter(broker)
        user_key = self._user_keys.keys(user_id).canonical
        try:
            checked = adapter.read_credential("entered", entry)
        except InvalidInput as error:
            raise _named(error) from None
        REDACTOR.register(*checked.secrets.values())
        kept = await self._kept_here().put_entered(user_id, broker, entry)
        self._audit.record(Action.CONNECT, user_key=user_key, actor=actor, detail={"broker": broker, "step": "entered"})
        return Entered(user_key, broker, kept.environment, kept.account_id)

    async def remove(self, *, user_id: str, broker: str, actor: str) -> None:
        """Forget the user's credentials, if there are any. Sessions must have been stopped before."""
        self._adapter(broker)
        user_key = self._user_keys.keys(user_id).canonical
        if await self._kept_here().remove(user_id, broker):
            self._audit.record(Action.DISCONNECT, user_key=user_key, actor=actor, detail={"broker": broker})

    async def _heard(self, adapter: Broker, user_id: str, broker: str, credential: Credential) -> CoveredAccounts:
        """What the broker says, or said some seconds ago."""

        async def load() -> dict[str, Any]:
            accounts = await self._ask(adapter, user_id, broker, credential)
            if self._keeper is not None:
                await self._keeper.put_accounts(user_id, broker, accounts)
            return {"asOf": self._clock.now_ms(), "accounts": [asdict(each) for each in accounts]}

        user_key = self._user_keys.keys(user_id).canonical
        said = (
            await load()
            if self._cache is None
            else await self._cache.fetch(_key(user_key, broker, credential), SAID_S, load)
        )
        accounts = [
            BrokerAccount(**{**each, "environment": Environment(each["environment"])}) for each in said["accounts"]
        ]
        return CoveredAccounts(tuple(accounts), said["asOf"], fresh=True)

    async def _ask(self, adapter: Broker, user_id: str, broker: str, credential: Credential) -> Sequence[BrokerAccount]:
        """A token found expired is renewed once, as a session would."""
        try:
            return await adapter.accounts(credential)
        except BrokerFault as fault:
            if fault.kind is not FaultKind.TOKEN:
                raise
        renewed = await self._source.refresh(user_id, broker, credential, adapter.refresh)
        return await adapter.accounts(renewed)

    async def _kept(self, user_id: str, broker: str, why: str, *, refused: bool) -> CoveredAccounts:
        credential = await self._source.get(user_id, broker)
        as_of = await self._keeper.accounts_as_of(user_id, broker) if self._keeper is not None else None
        if credential is None or as_of is None:
            message = f"{why}, and it never said which accounts they cover"
            raise Conflict(message) if refused else Unavailable(message)
        return CoveredAccounts(credential.accounts, as_of, fresh=False)

    def _kept_here(self) -> CredentialKeeper:
        if self._keeper is None:
            message = "Keeping credentials is not configured here: it needs DATABASE_URL and TOKEN_ENCRYPTION_KEYS."
            raise ConnectRefused(ConnectCode.NOT_CONFIGURED, message)
        return self._keeper

    def _adapter(self, broker: str) -> Broker:
        adapter = self._brokers.get(broker)
        if adapter is None:
            raise InvalidInput("no such broker is configured", field="broker")
        return adapter


def _key(user_key: str, broker: str, credential: Credential) -> str:
    """Where an answer is kept: for this user and these tokens only, and without a part of either."""
    prints = ":".join(sorted(each.fingerprint() for each in credential.secrets.values()))
    return f"accounts:{broker}:{hashlib.sha256(f'{user_key}:{prints}'.encode()).hexdigest()}"


def _is_refusal(error: Exception) -> bool:
    return isinstance(error, BrokerFault) and error.kind in (FaultKind.TOKEN, FaultKind.FATAL_USER)


def _why(error: Exception) -> str:
    """Why the broker could not say it: refused credentials do not mend by asking again, and the user should know."""
    if _is_refusal(error):
        return "the broker refuses the stored credentials, please connect it again"
    return "the broker cannot be asked about the stored credentials now"


def _named(error: InvalidInput) -> InvalidInput:
    """The refusal with its path in the request. A name that looks like none is not repeated: it may be a secret."""
    if error.field is None:
        return InvalidInput(str(error), field="credentials")
    if not _NAME.fullmatch(error.field):
        return InvalidInput("a field is not known here", field="credentials")
    return InvalidInput(str(error), field=f"credentials.{error.field}")
