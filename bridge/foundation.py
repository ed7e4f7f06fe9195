"""What a process stands on: the database, and what is kept there for all of its parts. Laid before anything is started.

All of it is looked at first, so that whatever is wrong is one clear line and nothing is half-started. Without
DATABASE_URL the same parts live in memory, or are not there. Invariant: after `close` no connection is left.
"""

from __future__ import annotations

import random
import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

from bridge.audit.chain import Sealer
from bridge.audit.log import AuditLog, LoggedAudit
from bridge.audit.table import check_sealer
from bridge.config import Settings
from bridge.credentials.rotation import Resealer, check_keys
from bridge.credentials.vault import Vault
from bridge.db.database import Database, DatabaseUnavailable
from bridge.db.errors import DatabaseMisused
from bridge.db.startup import prepare_database
from bridge.runtime.clock import Clock, SystemClock
from bridge.telemetry.audit import Audit
from bridge.user_data.key_material import check_user_keys, store_user_id_claim
from core.errors import ConfigurationError
from core.user_key import UserKeyScheme

COMMAND_S = 5.0  # for what a command did to be written
FOR_RECORDS = 2  # connections that flushing and reading records have for themselves
FOR_LEASE = 1  # whatever else goes on, the lease is renewed


@dataclass(frozen=True, slots=True)
class Foundation:
    """The parts. `database`: what everything but the records works with; None without DATABASE_URL.

    `records`: a pool of its own, so that a flush never waits behind the API (faults.md C10); the store opens and closes
    it. `leases`: the pool for renewing this process's lease. `deployment_id` names the database. `vault` None: tokens
    cannot be kept here.
    """

    audit: AuditLog | LoggedAudit
    database: Database | None = None
    records: Database | None = None
    leases: Database | None = None
    deployment_id: str | None = None
    vault: Vault | None = None
    resealer: Resealer | None = None

    @property
    def pools(self) -> Mapping[str, Database]:
        """The pools of connections, by what they are for."""
        pools = {"main": self.database, "records": self.records, "lease": self.leases}
        return {name: pool for name, pool in pools.items() if pool is not None}

    def start(self) -> None:
        """Begin what goes on beside serving."""
        self.audit.start()
        if self.resealer is not None:
            self.resealer.start()

    async def close(self) -> None:
        """Close what was opened. Never raises."""
        if self.resealer is not None:
            await self.resealer.close()
        await self.audit.close()
        for database in (self.leases, self.database):
            if database is not None:
                await database.close()


async def lay_foundation(settings: Settings, clock: Clock, rng: random.Random) -> Foundation:
    """Reach the database, bring it up to date and look at everything that must fit. Raises ConfigurationError."""
    if settings.database_url is None:
        return Foundation(audit=LoggedAudit())
    database = Database(settings.database_url, size=settings.database_connections - FOR_RECORDS - FOR_LEASE)
    await database.open()
    try:
        await prepare_database(database, clock)
        return await _look(settings, database, clock, rng)
    except (DatabaseUnavailable, DatabaseMisused) as error:
        await database.close()
        raise ConfigurationError(f"DATABASE_URL: {error}") from error
    except BaseException:
        await database.close()
        raise


@asynccontextmanager
async def operators_audit(settings: Settings) -> AsyncIterator[Audit]:
    """The audit log for one command of an operator; what it does is written before it ends."""
    if settings.database_url is None:
        yield LoggedAudit()
        return
    database = Database(settings.database_url, size=1, name="pulse-bridge command")
    await database.open()
    try:
        sealer, rng = Sealer(settings.token_encryption_keys), random.Random(secrets.randbits(64))
        await check_sealer(database, sealer)
        audit = AuditLog(database, clock=SystemClock(), rng=rng, sealer=sealer)
        audit.start()
        try:
            yield audit
        finally:
            await audit.close(COMMAND_S)
    finally:
        await database.close()


async def _look(settings: Settings, database: Database, clock: Clock, rng: random.Random) -> Foundation:
    """What stands in the database must fit the settings."""
    await check_user_keys(database, UserKeyScheme(settings.user_key_mode, settings.user_key_secret))
    await store_user_id_claim(database, settings.user_id_claim)
    vault = Vault(settings.token_encryption_keys) if settings.token_encryption_keys else None
    await check_keys(database, vault)
    sealer = Sealer(settings.token_encryption_keys)
    await check_sealer(database, sealer)
    assert settings.database_url is not None  # noqa: S101  the caller has one
    leases = Database(settings.database_url, size=FOR_LEASE, name="pulse-bridge lease")
    await leases.open()
    return Foundation(
        audit=AuditLog(database, clock=clock, rng=rng, sealer=sealer),
        database=database,
        records=Database(settings.database_url, size=FOR_RECORDS, name="pulse-bridge records"),
        leases=leases,
        deployment_id=await database.fetch_value("select value from public.bridge_facts where name = 'database_id'"),
        vault=vault,
        resealer=Resealer(database, vault) if vault is not None else None,
    )
