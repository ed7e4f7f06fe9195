"""`python -m bridge user-keys migrate` and `user-keys finish`. They print counts only."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from bridge.cache.store import Store
from bridge.config import Settings
from bridge.credentials.vault import Vault
from bridge.db.database import Database
from bridge.db.locks import Locks
from bridge.runtime.clock import SystemClock
from bridge.user_data.key_material import check_user_keys
from bridge.user_data.key_migration import finish_keys, migrate_keys
from bridge.user_data.places import needed, opened_places
from core.user_key import UserKeyMode

LONGEST_S = 3600.0  # of one run; then another may take over, each user moves in one step anyway


async def run_migrate_keys(settings: Settings, stores: Sequence[Store], brokers: Sequence[str]) -> int:
    """Move every user from the plain key to the keyed one. With the bridge stopped; may be repeated.

    Raises ConfigurationError, SealBroken, UnknownKey, Unavailable, LockBusy when somebody else is at it.
    """
    async with opened_places(settings, stores, brokers) as places, _alone(settings):
        vault = Vault(settings.token_encryption_keys) if settings.token_encryption_keys else None
        moved = await migrate_keys(places, vault)
    print(f"users moved: {moved.users} (of {moved.of})")
    print(f"grants sealed anew: {moved.grants}, records copied: {moved.records}")
    if settings.user_key_mode is UserKeyMode.DUAL:
        print("start the bridge again with USER_KEY_MODE=dual: it writes every record under both keys")
        print("when all readers use the keyed ones, set USER_KEY_MODE=keyed, restart it and run")
        print("`python -m bridge user-keys finish`")
    else:
        print("start the bridge again; `python -m bridge user-keys finish` removes the records under plain keys")
    print("settings rows of the app under plain keys are the app's: it should name them anew")
    return 0


async def run_finish_keys(settings: Settings, stores: Sequence[Store], brokers: Sequence[str]) -> int:
    """Remove the copies under plain keys from every store. Raises ConfigurationError, Unavailable, LockBusy."""
    async with opened_places(settings, stores, brokers) as places, _alone(settings):
        await check_user_keys(needed(places.database), places.scheme)
        done = await finish_keys(places)
    print(f"records removed under plain keys: {done.records} (of {done.of} users, in {len(stores)} stores)")
    return 0


@asynccontextmanager
async def _alone(settings: Settings) -> AsyncIterator[None]:
    """One command at a time moves user keys, wherever it was started."""
    if settings.database_url is None:
        yield
        return
    database = Database(settings.database_url, size=1, name="pulse-bridge user-keys")
    await database.open()
    try:
        async with Locks(database, SystemClock()).with_lock("user keys", timeout_s=1.0, hold_s=LONGEST_S):
            yield
    finally:
        await database.close()
