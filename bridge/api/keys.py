"""API keys (DESIGN §11): `<id>.<secret>`, known to the bridge only as an HMAC of the whole.

Must not tell, by answer or by time, whether an id exists. Invariant: every check costs one HMAC and one constant-time
comparison.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Iterable
from dataclasses import dataclass

from core.secret import Secret

LONGEST = 512  # characters of a presented key
_NOBODY = "0" * 64


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key as configured: its public id, scopes (app, ops) and digest."""

    id: str
    scopes: frozenset[str]
    digest: str


def digest_of(key: str, secret: Secret) -> str:
    """Hex HMAC-SHA-256 of the whole key."""
    return hmac.new(secret.reveal().encode(), key.encode("utf-8", "surrogateescape"), hashlib.sha256).hexdigest()


def new_key(key_id: str | None = None) -> tuple[str, Secret]:
    """Make a key with 256 random bits. Returns its id and the whole key."""
    key_id = key_id or secrets.token_hex(4)
    return key_id, Secret(f"{key_id}.{secrets.token_urlsafe(32)}")


class KeyRing:
    """The admitted keys."""

    def __init__(self, secret: Secret, keys: Iterable[ApiKey]) -> None:
        self._secret = secret
        self._keys = {key.id: key for key in keys}

    def find(self, presented: str) -> ApiKey | None:
        """The key that `presented` is, or None."""
        key_id, dot, _ = presented.partition(".")
        known = self._keys.get(key_id)
        digest = digest_of(presented[:LONGEST], self._secret)
        same = hmac.compare_digest(digest, known.digest if known else _NOBODY)
        return known if same and dot and len(presented) <= LONGEST else None
