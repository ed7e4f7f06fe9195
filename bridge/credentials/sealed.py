"""Token pairs as they rest in a grant's row: sealed for one user, one broker and this purpose. Pure."""

from __future__ import annotations

from collections.abc import Mapping

import orjson

from bridge.credentials.grant_table import Grant
from bridge.credentials.vault import SealBroken, Vault
from core.secret import Secret


def seal_secrets(vault: Vault, user_key: str, broker: str, secrets: Mapping[str, Secret]) -> bytes:
    """The blob for that user's row."""
    plain = orjson.dumps({name: secret.reveal() for name, secret in sorted(secrets.items())})
    return vault.seal(plain, about=_about(user_key, broker))


def open_secrets(vault: Vault, grant: Grant) -> dict[str, Secret]:
    """The secrets in a row that has them. Raises SealBroken, UnknownKey."""
    if grant.sealed is None:
        raise SealBroken("nothing is sealed there")
    return open_blob(vault, grant.user_key, grant.broker, grant.sealed)


def open_blob(vault: Vault, user_key: str, broker: str, sealed: bytes) -> dict[str, Secret]:
    """The secrets in a blob. Raises SealBroken, UnknownKey."""
    try:
        document = orjson.loads(vault.open(sealed, about=_about(user_key, broker)))
    except orjson.JSONDecodeError:
        raise SealBroken("it holds no token pair") from None
    return {name: Secret(value) for name, value in document.items()}


def resealed(vault: Vault, sealed: bytes, broker: str, old_key: str, new_key: str) -> bytes:
    """The same pair for a user whose key has changed, or under the first key. Raises SealBroken, UnknownKey."""
    return vault.seal(vault.open(sealed, about=_about(old_key, broker)), about=_about(new_key, broker))


def _about(user_key: str, broker: str) -> str:
    return f"tokens:{broker}:{user_key}"
