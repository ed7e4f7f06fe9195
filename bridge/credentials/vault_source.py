"""Credentials from the vault in Postgres, a `CredentialSource`; what it has wins over any other source (DESIGN §10).

Every read goes to the database, so it is always the newest committed pair, whoever committed it. A row that does not
open is refused for its user and hurts nobody else. Must never answer "none stored" because the database is away: that
is Unavailable. User ids are never logged.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Mapping, Sequence

from bridge.brokers.base import Broker, BrokerAccount, ConsentScope, Credential, Environment, IssuedTokens
from bridge.credentials.grant_table import Grant, GrantTable, HeldGrant, Source
from bridge.credentials.grants import ClosableSource, Refresher, none_stored
from bridge.credentials.importing import NOTHING_THERE, FoundSettings, SettingsRows, Step, find_settings, next_step
from bridge.credentials.renewing import Renewals, RenewalTimes
from bridge.credentials.sealed import open_secrets, seal_secrets
from bridge.credentials.vault import SealBroken, UnknownKey, Vault
from bridge.db.database import Database
from bridge.runtime.clock import Clock
from bridge.runtime.tasks import CrashHandler
from bridge.telemetry.audit import NO_AUDIT, Action, Audit
from bridge.telemetry.redaction import REDACTOR
from core.errors import InvalidInput, Unavailable
from core.secret import Secret
from core.user_key import UserKeyScheme, short_key

log = logging.getLogger(__name__)


class VaultCredentials:
    """One per process. `owner` names the process in leases. `fallback`: asked where the vault never had anything.

    `settings_rows`: where credentials of before are found, None for nowhere.
    """

    def __init__(  # noqa: PLR0913  named one by one where the process is put together
        self,
        database: Database,
        vault: Vault,
        *,
        brokers: Mapping[str, Broker],
        user_keys: UserKeyScheme,
        clock: Clock,
        rng: random.Random,
        owner: str,
        fallback: ClosableSource | None = None,
        settings_rows: SettingsRows | None = None,
        audit: Audit = NO_AUDIT,
        times: RenewalTimes | None = None,
        on_crash: CrashHandler | None = None,
    ) -> None:
        self._vault = vault
        self._brokers = brokers
        self._user_keys = user_keys
        self._fallback = fallback
        self._settings_rows = settings_rows
        self._audit = audit
        self._table = GrantTable(database)
        self._renewals = Renewals(
            self._table,
            vault,
            clock=clock,
            rng=rng,
            owner=owner,
            audit=audit,
            times=times or RenewalTimes(),
            on_crash=on_crash,
        )

    # ------------------------------------------------------------ CredentialSource

    async def get(self, user_id: str, broker: str) -> Credential | None:
        """The stored credential, or None. Raises InvalidInput for a row that cannot be used, Unavailable."""
        grant = await self._find(user_id, broker)
        if grant is None:
            return None if self._fallback is None else await self._fallback.get(user_id, broker)
        return None if grant.sealed is None else self._credential(grant)

    async def refresh(self, user_id: str, broker: str, stale: Credential, refresher: Refresher) -> Credential:
        """A credential newer than `stale`; see `CredentialSource.refresh`. Being cancelled does not end the refresh."""
        grant = await self._find(user_id, broker)
        if grant is None:
            if self._fallback is None:
                raise none_stored()
            return await self._fallback.refresh(user_id, broker, stale, refresher)
        if grant.sealed is None:
            raise none_stored()
        current = self._credential(grant)
        if current.secrets != stale.secrets:
            return current
        await self._renewals.renew(grant, current, refresher)
        renewed = await self.get(user_id, broker)
        if renewed is None:
            raise none_stored()
        if renewed.secrets == stale.secrets:
            raise Unavailable("the renewed credentials are not to be seen yet")
        return renewed

    async def close(self) -> None:
        """Give refreshes under way a moment to be stored, then end them. Never raises."""
        await self._renewals.close()
        if self._fallback is not None:
            await self._fallback.close()

    # ------------------------------------------------------------ storing

    async def put_entered(self, user_id: str, broker: str, entry: Mapping[str, object]) -> Credential:
        """Keep what was entered in place of what was there. Raises InvalidInput (the broker's own check), Unavailable.

        The same tokens once more change the choice of account only: an attempt to renew them still counts.
        """
        credential = self._adapter(broker).read_credential("entered", entry)
        seen = await self._seen(user_id, broker)
        REDACTOR.register(*credential.secrets.values())
        user_key = self._user_keys.keys(user_id).canonical
        async with self._table.held(user_key, user_id, broker, Source.ENTERED) as held:
            await self._write(held, credential, Source.ENTERED, _print(held.row, seen))
        return await self._stored(user_id, broker)

    async def put_issued(
        self, user_id: str, broker: str, issued: IssuedTokens, accounts: Sequence[BrokerAccount], scope: ConsentScope
    ) -> Credential:
        """Seal what the broker issued in place of the user's earlier grant there. Committed when it returns.

        An account chosen before stays chosen while it is not known to be left out. Raises Unavailable.
        """
        self._adapter(broker)
        seen = await self._seen(user_id, broker)
        REDACTOR.register(*issued.secrets.values())
        user_key = self._user_keys.keys(user_id).canonical
        async with self._table.held(user_key, user_id, broker, Source.CONSENT) as held:
            row = held.row
            await self._write_pair(held, issued.secrets, issued.expires_in_s)
            environment, account_id = settled(row.environment, row.account_id, accounts)
            await held.describe(environment, account_id, scope, Source.CONSENT, _print(row, seen))
            if accounts:
                await held.cover(accounts)
        return await self._stored(user_id, broker)

    async def put_accounts(self, user_id: str, broker: str, accounts: Sequence[BrokerAccount]) -> None:
        """Keep what the grant covers, as said by the broker now. Nothing happens when none is kept here.

        Of a grant that came by consent the environment and the account follow, since nobody else has said them.
        """
        async with self._table.held_if_any(self._user_keys.keys(user_id).canonical, broker) as held:
            if held is None or held.row.sealed is None:
                return
            await held.cover(accounts)
            if held.row.source is Source.CONSENT:
                await held.choose(*settled(held.row.environment, held.row.account_id, accounts))

    async def keep_accounts(
        self, user_id: str, broker: str, credential: Credential, accounts: Sequence[BrokerAccount]
    ) -> None:
        """See `CredentialSource.keep_accounts`: what a login has learnt besides. The user's choice stays as it is."""
        async with self._table.held_if_any(self._user_keys.keys(user_id).canonical, broker) as held:
            if held is None or held.row.sealed is None or held.row.id != credential.grant_id:
                return
            if self._credential(held.row).secrets == credential.secrets:
                await held.cover(accounts)

    async def accounts_as_of(self, user_id: str, broker: str) -> int | None:
        """When the broker said what `Credential.accounts` holds (Unix ms), None when it never did."""
        grant = await self._table.find(self._user_keys.keys(user_id).canonical, broker)
        return None if grant is None else grant.accounts_at_ms

    async def remove(self, user_id: str, broker: str) -> bool:
        """Forget the user's credentials. False when there were none here.

        Neither the file nor the settings row as it is now brings them back; a settings row changed later does.
        """
        seen = await self._seen(user_id, broker)
        async with self._table.held_if_any(self._user_keys.keys(user_id).canonical, broker) as held:
            if held is None or held.row.sealed is None:
                return False
            await held.remove(_print(held.row, seen))
            return True

    # ------------------------------------------------------------ existing settings

    async def _find(self, user_id: str, broker: str) -> Grant | None:
        """The user's row, after a look at the settings row. A row that cannot be read now or at all changes nothing
        where the vault has one."""
        user_key = self._user_keys.keys(user_id).canonical
        grant = await self._table.find(user_key, broker)
        adapter = self._brokers.get(broker)
        if self._settings_rows is None or adapter is None:
            return grant
        try:
            found = await find_settings(self._settings_rows, adapter, user_id, user_key)
        except (Unavailable, InvalidInput) as error:
            if grant is None:
                raise
            log.info("existing settings were not looked at", extra={"broker": broker, "error": type(error).__name__})
            return grant
        if next_step(grant, found) is Step.NOTHING:
            return grant
        await self._follow(user_id, user_key, broker, found)
        return await self._table.find(user_key, broker)

    async def _follow(self, user_id: str, user_key: str, broker: str, found: FoundSettings | None) -> None:
        """Carry out what the settings row leads to, decided anew on the locked row: another process may have."""
        if found is None:
            async with self._table.held_if_any(user_key, broker) as seen:
                if seen is not None and seen.row.source_print is None:
                    await seen.remember(NOTHING_THERE)
            return
        REDACTOR.register(*found.credential.secrets.values())
        async with self._table.held(user_key, user_id, broker, Source.SETTINGS) as held:
            step = next_step(None if held.is_new else held.row, found)
            if step is Step.IMPORT:
                await self._write(held, found.credential, Source.SETTINGS, found.print)
            elif step is not Step.NOTHING:
                await held.remember(found.print)
            if step is Step.CHOOSE:  # the row's own tokens may be worn out
                await held.choose(found.credential.environment, found.credential.account_id)
        if step is Step.IMPORT:
            self._imported(user_key, broker)

    def _imported(self, user_key: str, broker: str) -> None:
        log.info("existing settings were taken over", extra={"user": short_key(user_key), "broker": broker})
        self._audit.record(Action.IMPORT, user_key=user_key, actor="bridge", detail={"broker": broker})

    async def _seen(self, user_id: str, broker: str) -> str | None:
        """The print of the settings row as it is now; None when that cannot be said."""
        adapter = self._brokers.get(broker)
        if self._settings_rows is None or adapter is None:
            return None
        try:
            found = await find_settings(self._settings_rows, adapter, user_id, self._user_keys.keys(user_id).canonical)
        except (Unavailable, InvalidInput):
            return None
        return NOTHING_THERE if found is None else found.print

    # ------------------------------------------------------------ rows

    async def _write(self, held: HeldGrant, credential: Credential, source: Source, print_: str | None) -> None:
        scope = held.row.scope if await self._write_pair(held, credential.secrets, None) else None
        await held.describe(credential.environment, credential.account_id, scope, source, print_)

    async def _write_pair(self, held: HeldGrant, secrets: Mapping[str, Secret], expires_in_s: float | None) -> bool:
        """Store a token pair, unless it is the one that is stored; True when it is."""
        row = held.row
        try:
            if row.sealed is not None and open_secrets(self._vault, row) == secrets:
                return True
        except (SealBroken, UnknownKey):
            log.warning("a grant that does not open is replaced", extra={"user": short_key(row.user_key)})
        sealed = seal_secrets(self._vault, row.user_key, row.broker, secrets)
        await held.new_pair(sealed, self._vault.sealing_key_id, expires_in_s)
        await held.uncover()
        return False

    async def _stored(self, user_id: str, broker: str) -> Credential:
        grant = await self._table.find(self._user_keys.keys(user_id).canonical, broker)
        if grant is None or grant.sealed is None:
            raise Unavailable("what was stored has been removed meanwhile")
        return self._credential(grant)

    def _credential(self, grant: Grant) -> Credential:
        details = {"user": short_key(grant.user_key), "broker": grant.broker}
        try:
            secrets = open_secrets(self._vault, grant)
        except UnknownKey as error:
            log.error("stored credentials cannot be opened: %s", error, extra=details)
            raise Unavailable("the key that sealed these credentials is not configured") from error
        except SealBroken as error:
            log.error("stored credentials do not open: they were changed or moved here from another row", extra=details)
            raise InvalidInput("the stored credentials do not open") from error
        return Credential(
            grant_id=grant.id,
            environment=grant.environment,
            secrets=secrets,
            account_id=grant.account_id,
            expires_at_ms=grant.expires_at_ms,
            accounts=grant.accounts,
        )

    def _adapter(self, broker: str) -> Broker:
        adapter = self._brokers.get(broker)
        if adapter is None:
            raise InvalidInput("no such broker is configured", field="broker")
        return adapter


def settled(
    environment: Environment, account_id: str | None, accounts: Sequence[BrokerAccount]
) -> tuple[Environment, str | None]:
    """Environment and chosen account of a consent, now that the broker has listed `accounts`; () changes nothing.

    An account that is not listed is not chosen any more; a live account is the default only where all are.
    """
    chosen = next((each for each in accounts if each.account_id == account_id), None)
    if chosen is not None:
        return chosen.environment, account_id
    if not accounts:
        return environment, account_id
    listed = {each.environment for each in accounts}
    return (listed.pop() if len(listed) == 1 else Environment.DEMO), None


def _print(row: Grant, seen: str | None) -> str | None:
    """What is known of the settings row, kept where it could not be looked at now."""
    return row.source_print if seen is None else seen
