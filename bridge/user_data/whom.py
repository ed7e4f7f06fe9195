"""Whom a command is about: a user named by their id, by a user key of either mode, or by the first digits of one.

Invariant: one name means one user; what could mean two is refused.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from bridge.db.database import Database
from bridge.db.users import User, find_user
from core.errors import Conflict, NotFound
from core.secret import Secret
from core.user_key import UserKeyMode, UserKeyScheme, normalise_user_id

_KEY = re.compile(r"[0-9a-f]{64}")
_DIGITS = re.compile(r"[0-9a-f]{12,64}")


@dataclass(frozen=True, slots=True)
class Whom:
    """A user. `keys`: every key that anything of theirs may be stored under, the canonical one first.

    `user_id` None: only the key is known. `audit_id` None: the database does not know them.
    """

    user_id: str | None = field(repr=False)
    keys: tuple[str, ...]
    audit_id: str | None = None

    @property
    def user_key(self) -> str:
        """The canonical one."""
        return self.keys[0]


def plain_key(user_id: str) -> str:
    """The key of the mode sha256, which anybody can compute. Raises InvalidInput."""
    return UserKeyScheme().keys(user_id).canonical


def keyed_key(user_id: str, secret: Secret) -> str:
    """The key of the modes keyed and dual. Raises InvalidInput."""
    return UserKeyScheme(UserKeyMode.KEYED, secret).keys(user_id).canonical


def every_key(user_id: str, mode: UserKeyMode, secret: Secret | None) -> tuple[str, ...]:
    """The keys of a user in every mode that can be computed, that of `mode` first."""
    plain = (plain_key(user_id),)
    keyed = () if secret is None else (keyed_key(user_id, secret),)
    return plain + keyed if mode is UserKeyMode.SHA256 else keyed + plain


async def find_whom(database: Database | None, name: str, mode: UserKeyMode, secret: Secret | None) -> Whom:
    """The user named so. Raises Conflict for what names several, NotFound for first digits that nobody has, and
    InvalidInput for what can be no id."""
    found = None if database is None else await _stored(database, name)
    if found is not None:
        keys = dict.fromkeys((found.user_key, *every_key(found.user_id, mode, secret)))
        return Whom(found.user_id, tuple(keys), found.audit_id)
    if _KEY.fullmatch(name):
        return Whom(None, (name,))
    if _DIGITS.fullmatch(name):
        raise NotFound("no stored user has a key that begins so; give the user id or the whole key")
    return Whom(normalise_user_id(name), every_key(name, mode, secret))


async def _stored(database: Database, name: str) -> User | None:
    by_id = await find_user(database, plain_key(name))
    by_key = await find_user(database, name) if _DIGITS.fullmatch(name) else None
    if by_id is not None and by_key is not None and by_id != by_key:
        raise Conflict("that is the id of one user and the key of another: give more digits of the key")
    return by_id or by_key
