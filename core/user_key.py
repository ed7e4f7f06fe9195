"""User keys: the only user identifier in caches, logs and listings (DESIGN §7)."""

from __future__ import annotations

import hashlib
import hmac
import unicodedata
from dataclasses import dataclass
from enum import StrEnum

from core.errors import ConfigurationError, InvalidInput
from core.secret import Secret

MAX_USER_ID_BYTES = 512


class UserKeyMode(StrEnum):
    """How a user id becomes a key."""

    SHA256 = "sha256"
    KEYED = "keyed"
    DUAL = "dual"


def normalise_user_id(user_id: str) -> str:
    """Apply the one rule: Unicode NFC, surrounding white space removed, no case folding.

    Raises InvalidInput for an empty id, control characters, lone surrogates, characters that this Unicode does not know
    (a database with a newer one may put them in another order, and take one user for another), or more than 512 bytes.
    """
    normal = unicodedata.normalize("NFC", user_id).strip()
    if not normal:
        raise InvalidInput("the user id is empty", field="userId")
    if any(unicodedata.category(c) in ("Cc", "Cs", "Cn") for c in normal):
        raise InvalidInput("the user id contains control characters or broken or unknown Unicode", field="userId")
    if len(normal.encode()) > MAX_USER_ID_BYTES:
        raise InvalidInput(f"the user id is longer than {MAX_USER_ID_BYTES} bytes", field="userId")
    return normal


@dataclass(frozen=True, slots=True)
class UserKeys:
    """The keys of one user: `canonical` names the session; `copies` are written beside it (dual mode)."""

    canonical: str
    copies: tuple[str, ...] = ()

    @property
    def all(self) -> tuple[str, ...]:
        """Canonical first, then the copies."""
        return (self.canonical, *self.copies)


class UserKeyScheme:
    """Computes user keys for one configured mode."""

    def __init__(self, mode: UserKeyMode = UserKeyMode.SHA256, secret: Secret | None = None) -> None:
        if mode is not UserKeyMode.SHA256 and (secret is None or len(secret.reveal()) < 32):
            raise ConfigurationError(f"USER_KEY_MODE={mode.value} needs USER_KEY_SECRET of at least 32 characters")
        self.mode = mode
        self._secret = secret

    def keys(self, user_id: str) -> UserKeys:
        """Return the keys of `user_id` (64 hex digits each). Raises InvalidInput for an unusable id."""
        raw = normalise_user_id(user_id).encode()
        plain = hashlib.sha256(raw).hexdigest()
        if self._secret is None or self.mode is UserKeyMode.SHA256:
            return UserKeys(plain)
        keyed = hmac.new(self._secret.reveal().encode(), raw, hashlib.sha256).hexdigest()
        return UserKeys(keyed, (plain,)) if self.mode is UserKeyMode.DUAL else UserKeys(keyed)


def short_key(key: str) -> str:
    """The first 12 hex digits: what logs show."""
    return key[:12]
