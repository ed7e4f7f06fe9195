"""The places that a command about users works with, opened and looked at: the database and every configured store."""

from __future__ import annotations

import random
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from bridge.audit.chain import Sealer
from bridge.audit.entries import make_entry
from bridge.audit.table import Pending, append, check_sealer
from bridge.cache.store import Store
from bridge.config import Settings
from bridge.db.database import Connection, Database
from bridge.runtime.clock import Clock, SystemClock
from bridge.telemetry.audit import Action, Detail
from bridge.user_data.whom import Whom, find_whom
from core.errors import ConfigurationError
from core.secret import Secret
from core.user_key import UserKeyMode, UserKeyScheme

OPERATOR = "operator"


@dataclass(frozen=True, slots=True)
class Places:
    """`database` None: without DATABASE_URL. `brokers`: whose records there may be."""

    database: Database | None
    stores: Sequence[Store]
    brokers: Sequence[str]
    mode: UserKeyMode
    secret: Secret | None = field(repr=False)
    sealer: Sealer = field(default_factory=Sealer, repr=False)
    clock: Clock = field(default_factory=SystemClock, repr=False)
    rng: random.Random = field(default_factory=lambda: random.Random(secrets.randbits(64)), repr=False)

    @property
    def scheme(self) -> UserKeyScheme:
        """The configured one."""
        return UserKeyScheme(self.mode, self.secret)

    async def find(self, name: str) -> Whom:
        """The user named so. Raises Conflict, NotFound, InvalidInput."""
        return await find_whom(self.database, name, self.mode, self.secret)

    async def take_down(
        self, connection: Connection, action: Action, user_key: str | None, detail: Detail | None = None
    ) -> None:
        """An entry of the audit log in the caller's transaction; the last thing in it."""
        entry = make_entry(self.rng, self.clock.now_ms(), action, OPERATOR, "ok", detail)
        await append(connection, [Pending(entry, user_key)], self.sealer)


@asynccontextmanager
async def opened_places(settings: Settings, stores: Sequence[Store], brokers: Sequence[str]) -> AsyncIterator[Places]:
    """Open what is configured and see that it answers: nothing is begun that cannot be ended.

    Raises ConfigurationError, Unavailable.
    """
    database = None
    if settings.database_url is not None:
        database = Database(settings.database_url, size=2, name="pulse-bridge user data")
    sealer = Sealer(settings.token_encryption_keys)
    try:
        if database is not None:
            await database.open()
            await check_sealer(database, sealer)
        for store in stores:
            await store.open()
            await store.ping()
        yield Places(database, stores, brokers, settings.user_key_mode, settings.user_key_secret, sealer)
    finally:
        for store in stores:
            await store.close()
        if database is not None:
            await database.close()


def needed(database: Database | None) -> Database:
    """The database. Raises ConfigurationError where there is none."""
    if database is None:
        raise ConfigurationError("DATABASE_URL: is not set, and users are stored there")
    return database
