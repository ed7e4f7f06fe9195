"""Do the user keys in the database belong to the settings? Looked at before anything is started.

With the wrong USER_KEY_MODE or USER_KEY_SECRET every user would look new: sessions would not come back, and a second
set of records would be written beside the first. Facts in the database: `user_key_mode`, the last mode it was used
with, and `user_key_check`, the key that the mode and the secret give to a user id that nobody has.
"""

from __future__ import annotations

from bridge.db.database import Connection, Database
from core.errors import ConfigurationError
from core.user_key import UserKeyMode, UserKeyScheme

MODE, CHECK = "user_key_mode", "user_key_check"
MIGRATING = "migrating"
PROBE = "nobody: the check value of the user keys"
MIGRATE = "stop the bridge and run `python -m bridge user-keys migrate`"

_FACTS = "select name, value from public.bridge_facts where name = any($1::text[])"
_FACT = """
insert into public.bridge_facts as f (name, value) values ($1, $2)
on conflict (name) do update set value = excluded.value where f.value <> excluded.value
"""
_FIRST = "insert into public.bridge_facts (name, value) values ($1, $2) on conflict do nothing"
_LOCK = "select 1 from public.bridge_facts where name = $1 for update"
_ANYBODY = "select exists (select from public.bridge_users)"


async def check_user_keys(database: Database, scheme: UserKeyScheme) -> None:
    """See that the users' keys in an open, migrated database are those of `scheme`, or that there are no users yet.

    Raises ConfigurationError with one line that says what to do.
    """
    async with database.transaction() as connection:
        await lock_facts(connection, scheme)
        await _judge(connection, scheme)
        await write_facts(connection, scheme.mode.value, check_value(scheme))


async def look_at_user_keys(database: Database, scheme: UserKeyScheme) -> None:
    """Raise what `check_user_keys` would raise, and store nothing."""
    async with database.transaction() as connection:
        await _judge(connection, scheme)


async def store_user_id_claim(database: Database, claim: str) -> None:
    """Tell the database which claim of a user's token is the user id: what `bridge_my_user_key` goes by."""
    await database.execute(_FACT, "user_id_claim", claim)


def check_value(scheme: UserKeyScheme) -> str:
    """Tells schemes apart that give different canonical keys, and nothing about the secret."""
    return scheme.keys(PROBE).canonical


async def lock_facts(connection: Connection, first: UserKeyScheme) -> None:
    """Lock the facts to the end of the transaction. A database without any has the check value of `first` from now."""
    await connection.execute(_FIRST, CHECK, check_value(first))
    await connection.execute(_LOCK, CHECK)


async def read_facts(connection: Connection) -> tuple[str | None, str | None]:
    """The stored mode and check value."""
    facts = {row["name"]: row["value"] for row in await connection.fetch(_FACTS, [MODE, CHECK])}
    return facts.get(MODE), facts.get(CHECK)


async def write_facts(connection: Connection, mode: str, check: str) -> None:
    """Store them."""
    await connection.execute(_FACT, MODE, mode)
    await connection.execute(_FACT, CHECK, check)


async def _judge(connection: Connection, scheme: UserKeyScheme) -> None:
    stored_mode, stored_check = await read_facts(connection)
    if stored_check not in (None, check_value(scheme)) and await connection.fetchval(_ANYBODY):
        raise ConfigurationError(_refusal(stored_mode, scheme.mode))
    if stored_mode == MIGRATING:
        raise ConfigurationError(f"USER_KEY_MODE: user keys are being moved: {MIGRATE} to its end")


def _refusal(stored: str | None, mode: UserKeyMode) -> str:
    if stored == MIGRATING:
        return f"USER_KEY_SECRET: wrong key material, and user keys are being moved: {MIGRATE} as it was begun"
    if stored == UserKeyMode.SHA256:
        return f"USER_KEY_MODE={mode.value}: wrong key material: this database has plain user keys; {MIGRATE} first"
    if mode is UserKeyMode.SHA256:
        return (
            "USER_KEY_MODE: wrong key material: this database has keyed user keys; set USER_KEY_MODE=keyed (or dual)"
            " and their USER_KEY_SECRET"
        )
    return (
        "USER_KEY_SECRET: wrong key material: the users' keys in this database were made with another secret; set that"
        " one again (`python -m bridge whois <userId>` shows the keys that a secret gives)"
    )
