"""The app's users: which user id stands behind which user key (table `bridge_users`, DESIGN §7).

A row is made by whoever first stores something for a user, in the same transaction. Must never be read for a listing or
a log: the user id is personal data, everything else knows users by their key. Invariant: one key for each id and one id
for each key; a key that does not belong to its id is refused and nothing is stored under it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from bridge.db.database import Connection, Database, DatabaseMisused
from core.errors import Conflict, InvalidInput
from core.user_key import normalise_user_id, short_key

SHORTEST_PREFIX = 12  # hex digits: what logs show
_KEY = re.compile(r"[0-9a-f]{64}")
_PREFIX = re.compile(rf"[0-9a-f]{{{SHORTEST_PREFIX},64}}")

_KNOWN = "select user_key, user_id from public.bridge_users where user_key = $1 or user_id = $2"
_INSERT = "insert into public.bridge_users (user_key, user_id) values ($1, $2) on conflict do nothing"
_COLUMNS = "select user_key, user_id, audit_id::text as audit_id from public.bridge_users"
# the plain key of a user whose canonical key is another one names them too
_BEGINNING = f"""{_COLUMNS}
where starts_with(user_key, $1) or starts_with(encode(sha256(convert_to(user_id, 'UTF8')), 'hex'), $1)
order by user_key limit 2
"""


class UserKeyDiffers(DatabaseMisused):
    """The database knows this user under another key, or this key as another user's; nothing was stored."""


@dataclass(frozen=True, slots=True)
class User:
    """One row. `audit_id` names the user in the audit log; with the row erased it names nobody."""

    user_key: str
    user_id: str
    audit_id: str


async def ensure_user(connection: Connection, user_key: str, user_id: str) -> None:
    """Make sure that the user stands in the table, within the caller's transaction. Cheap when they do already.

    `user_key` is the canonical key of `user_id`. Raises InvalidInput for an unusable id, UserKeyDiffers when the
    database has the user under another key.
    """
    if not _KEY.fullmatch(user_key):
        raise InvalidInput("the user key is not 64 hex digits", field="userKey")
    normal = normalise_user_id(user_id)
    known = await connection.fetch(_KNOWN, user_key, normal)
    if not known:
        await connection.execute(_INSERT, user_key, normal)
        known = await connection.fetch(_KNOWN, user_key, normal)  # somebody else may have been faster
    if [(row["user_key"], row["user_id"]) for row in known] != [(user_key, normal)]:
        other = next((row["user_key"] for row in known if row["user_id"] == normal), None)
        stored = f" as {short_key(other)}" if other else " as somebody else's"
        raise UserKeyDiffers(
            f"user key {short_key(user_key)} is known{stored}: USER_KEY_MODE or USER_KEY_SECRET is not the one this"
            " database was filled with"
        )


async def find_user(database: Database, key: str) -> User | None:
    """The user with this key, canonical or plain, or with the only one that begins with these 12 or more hex digits.

    Raises InvalidInput when `key` is not that, Conflict when several users' keys begin so.
    """
    if not _PREFIX.fullmatch(key):
        raise InvalidInput(
            f"a user key has 64 hex digits, of which the first {SHORTEST_PREFIX} will do", field="userKey"
        )
    rows = await database.fetch(_BEGINNING, key)
    if len(rows) > 1:
        raise Conflict(f"several user keys begin with {key}: give more digits")
    return User(rows[0]["user_key"], rows[0]["user_id"], rows[0]["audit_id"]) if rows else None


async def users_after(database: Database, after: str = "", *, limit: int = 1000) -> list[User]:
    """Users in the order of their keys, those after the key `after`, at most `limit`."""
    rows = await database.fetch(f"{_COLUMNS} where user_key > $1 order by user_key limit $2", after, limit)
    return [User(row["user_key"], row["user_id"], row["audit_id"]) for row in rows]


async def rekey_user(connection: Connection, old_key: str, new_key: str) -> bool:
    """Give a user another key, within the caller's transaction; False when nobody has the old one."""
    moved = "update public.bridge_users set user_key = $2 where user_key = $1 returning true"
    return await connection.fetchval(moved, old_key, new_key) is True


async def forget_user(connection: Connection, user_key: str) -> bool:
    """Erase who the user is, within the caller's transaction; False when nobody has this key."""
    return (
        await connection.fetchval("delete from public.bridge_users where user_key = $1 returning true", user_key)
        is True
    )
