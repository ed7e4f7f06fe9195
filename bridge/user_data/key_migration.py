"""Moves users from plain to keyed user keys: every row, every sealed token pair, every record.

Each user moves in one transaction or not at all; records are copied after that, and only where there is none yet. So it
can be cut short at any point and run again. While it is not at its end, no bridge starts (`key_material`). One that
still runs meanwhile ends the sessions of who was moved and stores nothing more for them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

import orjson

from bridge.cache.store import CHUNK, Store, Write
from bridge.credentials.rotation import check_keys
from bridge.credentials.user_data import rekey_grants
from bridge.credentials.vault import Vault
from bridge.db.database import Connection, Database
from bridge.db.users import User, rekey_user, users_after
from bridge.sessions.durable import rekey_rows
from bridge.telemetry.audit import Action, Detail
from bridge.user_data.key_material import MIGRATING, check_value, lock_facts, read_facts, write_facts
from bridge.user_data.places import Places, needed
from bridge.user_data.records import likely_keys, stored_keys
from bridge.user_data.whom import keyed_key, plain_key
from core.errors import ConfigurationError
from core.secret import Secret
from core.user_key import UserKeyMode, UserKeyScheme, short_key

BATCH = 100

_ACCOUNTS = """
select user_key, broker, account_id from public.bridge_sessions where user_key = any($1::text[])
union select user_key, broker, account_id from public.bridge_default_accounts where user_key = any($1::text[])
"""


@dataclass(slots=True)
class Moved:
    """Counts: users moved now, all users, grants sealed anew, records copied or removed."""

    users: int = 0
    of: int = 0
    grants: int = 0
    records: int = 0


async def migrate_keys(places: Places, vault: Vault | None) -> Moved:
    """Move everybody. Raises ConfigurationError when the settings do not fit, SealBroken, UnknownKey, Unavailable."""
    database, secret = needed(places.database), _secret(places)
    await _begin(database, places.scheme, vault)
    moved = Moved()
    async for users in pages(database):
        async with database.transaction() as connection:
            for user in users:
                moved.grants += await _move(connection, user, secret, vault, moved)
    async for users in pages(database):
        moved.of += len(users)
        for store in places.stores:
            moved.records += await _copy(database, store, users, places.brokers)
    async with database.transaction() as connection:
        await write_facts(connection, places.mode.value, check_value(places.scheme))
        if moved.users or moved.records:
            detail: Detail = {
                "what": "user_keys",
                "users": moved.users,
                "grants": moved.grants,
                "records": moved.records,
            }
            await places.take_down(connection, Action.ROTATE, None, detail)
    return moved


async def finish_keys(places: Places) -> Moved:
    """Remove everything under plain keys from every store, fences too, when nobody writes or reads it any more."""
    database = needed(places.database)
    if places.mode is not UserKeyMode.KEYED:
        raise ConfigurationError(
            "USER_KEY_MODE: set it to keyed and restart the bridge first: in the mode dual it would write the plain"
            " copies again"
        )
    done = Moved()
    plain: set[str] = set()
    async for users in pages(database):
        done.of += len(users)
        keys = [plain_key(user.user_id) for user in users]
        plain.update(keys)
        names = await _record_keys(database, users, places.brokers, keys)
        for store in places.stores:
            done.records += await _forget(store, sorted(names))
    for store in places.stores:
        for broker in places.brokers:
            done.records += await _forget_walking(store, f"{broker}_account_", plain)
    return done


async def pages(database: Database) -> AsyncIterator[list[User]]:
    """All users, in pages. Who gets a larger key meanwhile comes by twice."""
    after = ""
    while users := await users_after(database, after, limit=BATCH):
        yield users
        after = users[-1].user_key


# ------------------------------------------------------------ rows


async def _begin(database: Database, scheme: UserKeyScheme, vault: Vault | None) -> None:
    """From here on no bridge starts, until the end. Tokens are sealed for user keys, so their keys must be here."""
    await check_keys(database, vault)
    async with database.transaction() as connection:
        await lock_facts(connection, UserKeyScheme())
        stored_mode, stored_check = await read_facts(connection)
        known = {check_value(UserKeyScheme()), check_value(scheme)}
        if stored_check not in known:
            raise ConfigurationError(
                "USER_KEY_SECRET: wrong key material: the users' keys in this database were made with another secret"
            )
        if stored_mode == MIGRATING or stored_check != check_value(scheme):
            await write_facts(connection, MIGRATING, check_value(scheme))


async def _move(connection: Connection, user: User, secret: Secret, vault: Vault | None, moved: Moved) -> int:
    """Move one user within the caller's transaction; how many grants were sealed anew."""
    new_key = keyed_key(user.user_id, secret)
    if user.user_key == new_key:
        return 0
    if user.user_key != plain_key(user.user_id):
        raise ConfigurationError(
            f"USER_KEY_SECRET: wrong key material: user {short_key(user.user_key)} has a key that is neither plain nor"
            " of this secret"
        )
    if not await rekey_user(connection, user.user_key, new_key):
        return 0  # another run of this command was faster
    await rekey_rows(connection, user.user_key, new_key)
    moved.users += 1
    return 0 if vault is None else await rekey_grants(connection, vault, user.user_key, new_key)


def _secret(places: Places) -> Secret:
    if places.mode is UserKeyMode.SHA256 or places.secret is None:
        raise ConfigurationError(
            "USER_KEY_MODE: set it to dual (or keyed) and USER_KEY_SECRET to a new secret first, here and where the"
            " bridge runs"
        )
    return places.secret


# ------------------------------------------------------------ records


async def _record_keys(
    database: Database, users: Sequence[User], brokers: Sequence[str], user_keys: Sequence[str]
) -> dict[str, str]:
    """Likely record keys under `user_keys`, one for each of `users`, to the same keys under the users' own."""
    names: dict[str, str] = {}
    rows = await database.fetch(_ACCOUNTS, [user.user_key for user in users])
    for user, key in zip(users, user_keys, strict=True):
        own = [(row["broker"], row["account_id"]) for row in rows if row["user_key"] == user.user_key]
        every = sorted({*brokers, *(broker for broker, _ in own)})
        for name in likely_keys([key], every, [each for each in own if each[1]]):
            names[name] = name.replace(f"_account_{key}", f"_account_{user.user_key}", 1)
    return names


async def _copy(database: Database, store: Store, users: Sequence[User], brokers: Sequence[str]) -> int:
    """Copy records from plain to canonical keys where nothing is yet; how many."""
    keys = [plain_key(user.user_id) for user in users]
    names = await _record_keys(database, users, brokers, keys)
    copied = 0
    ordered = sorted(names)
    for start in range(0, len(ordered), CHUNK):
        chunk = ordered[start : start + CHUNK]
        old = await store.read(chunk)
        new = await store.read([names[key] for key in chunk])
        wanted = [
            each
            for each, there in zip(old, new, strict=True)
            if each and each.document and not (there and there.document)
        ]
        fences = await store.claim([names[each.key] for each in wanted], at_least=1)
        writes = [
            Write(names[each.key], fence, 1, _under(each.document, fence))
            for each, fence in zip(wanted, fences, strict=True)
        ]
        copied += len(writes) - len(await store.write(writes)) if writes else 0
    return copied


def _under(document: bytes, fence: int) -> bytes:
    """The same record as version 1 under another fence."""
    return orjson.dumps({**orjson.loads(document), "fence": fence, "version": 1})


async def _forget(store: Store, keys: Sequence[str]) -> int:
    there = 0
    for start in range(0, len(keys), CHUNK):
        chunk = list(keys[start : start + CHUNK])
        held = [each for each in await store.read(chunk) if each is not None]
        await store.forget([each.key for each in held])
        there += sum(bool(each.document) for each in held)
    return there


async def _forget_walking(store: Store, prefix: str, user_keys: set[str]) -> int:
    """What is left under these user keys and was not thought of: every record is looked at."""
    there = 0
    async for page in stored_keys(store, prefix):
        theirs = [key for key in page if key.removeprefix(prefix)[:64] in user_keys]
        there += await _forget(store, theirs)
    return there
