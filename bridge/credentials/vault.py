"""The vault: what is sealed here opens only with one of our keys and only as what it was sealed as.

AES-256-GCM with a random nonce. The associated data is `about`, a text that says whose secret it is and what for, and
the header, which names the key: a blob that is changed in any bit, moved to another row or used for another purpose
does not open. Of the keys the first one seals and all open. Must never log or raise anything of what it is given.

    blob = format (1 byte) · length of the key id (1) · key id · nonce (12) · ciphertext and tag
"""

from __future__ import annotations

import base64
import secrets
from collections.abc import Sequence
from typing import Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from core.errors import BridgeError, ConfigurationError
from core.secret import Secret

KEY_BYTES = 32
NONCE_BYTES = 12
TAG_BYTES = 16
_FORMAT = 1
_FIXED = 2  # bytes before the key id


class SealingKey(Protocol):
    """One key: its public id, and the base64 of 32 bytes."""

    @property
    def id(self) -> str: ...

    @property
    def key(self) -> Secret: ...


class SealBroken(BridgeError):
    """It does not open: changed, sealed as something else, or sealed by another key of the same id."""


class UnknownKey(BridgeError):
    """It was sealed by a key that is not configured here."""

    def __init__(self, key_id: str) -> None:
        super().__init__(f"sealed by key {key_id!r}, which TOKEN_ENCRYPTION_KEYS does not hold")
        self.key_id = key_id


class Vault:
    """Seals and opens. `keys`: the first one seals, all open."""

    def __init__(self, keys: Sequence[SealingKey]) -> None:
        if not keys:
            raise ConfigurationError("TOKEN_ENCRYPTION_KEYS: there is no key to seal with")
        self._keys = {each.id: AESGCM(base64.b64decode(each.key.reveal(), validate=True)) for each in keys}
        self.sealing_key_id = keys[0].id

    @property
    def key_ids(self) -> frozenset[str]:
        """The ids of all keys that open."""
        return frozenset(self._keys)

    def seal(self, plain: bytes, *, about: str) -> bytes:
        """A blob that opens with the same `about` only."""
        key_id = self.sealing_key_id.encode()
        header = bytes((_FORMAT, len(key_id))) + key_id
        nonce = secrets.token_bytes(NONCE_BYTES)
        cipher = self._keys[self.sealing_key_id]
        return header + nonce + cipher.encrypt(nonce, plain, _associated(header, about))

    def open(self, sealed: bytes, *, about: str) -> bytes:
        """What was sealed. Raises SealBroken, UnknownKey."""
        key_id = key_of(sealed)
        cipher = self._keys.get(key_id)
        if cipher is None:
            raise UnknownKey(key_id)
        start = _FIXED + len(key_id.encode())
        nonce, ciphertext = sealed[start : start + NONCE_BYTES], sealed[start + NONCE_BYTES :]
        try:
            return cipher.decrypt(nonce, ciphertext, _associated(sealed[:start], about))
        except InvalidTag:
            raise SealBroken("it does not open") from None


def key_of(sealed: bytes) -> str:
    """Id of the key that a blob says it was sealed by. Raises SealBroken."""
    if len(sealed) < _FIXED or sealed[0] != _FORMAT:
        raise SealBroken("it is not in the form that this version seals")
    length = sealed[1]
    if len(sealed) < _FIXED + length + NONCE_BYTES + TAG_BYTES:
        raise SealBroken("it has been cut")
    try:
        return sealed[_FIXED : _FIXED + length].decode("ascii")
    except UnicodeDecodeError:
        raise SealBroken("it names no key") from None


def new_key_entry(key_id: str) -> str:
    """A new entry for TOKEN_ENCRYPTION_KEYS: `id:base64`."""
    return f"{key_id}:{base64.b64encode(secrets.token_bytes(KEY_BYTES)).decode()}"


def _associated(header: bytes, about: str) -> bytes:
    return header + b"\0" + about.encode()
