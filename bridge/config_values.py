"""What the text of a variable may be: secrets, lists, URLs, API keys. Each is a type that a setting is declared with.

Pure: text in, value out, or a refusal that names the rule and never quotes the value, since it may be a secret. Which
settings there are is `bridge.config`'s.
"""

from __future__ import annotations

import base64
import ipaddress
import re
from dataclasses import dataclass
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import BeforeValidator, StringConstraints
from pydantic_core import PydanticCustomError
from pydantic_settings import NoDecode

from core.secret import Secret

SCOPES = ("app", "ops")
SECRET_LENGTH = 32  # characters, at least
TOKEN_KEY_BYTES = 32
_KEY_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_ORIGIN = re.compile(r"https?://[A-Za-z0-9.\-\[\]:]+")


@dataclass(frozen=True, slots=True)
class ApiKeyEntry:
    """One entry of API_KEYS: public id, what it may do, hex HMAC-SHA-256 of the whole key."""

    id: str
    scopes: frozenset[str]
    digest: str


@dataclass(frozen=True, slots=True)
class TokenKey:
    """One entry of TOKEN_ENCRYPTION_KEYS: public id, and the base64 of 32 bytes."""

    id: str
    key: Secret


def _refuse(rule: str) -> PydanticCustomError:
    return PydanticCustomError("rule", "{rule}", {"rule": rule})


def _secret(value: object) -> object:
    return Secret(value) if isinstance(value, str) else value


def _long_secret(value: object) -> object:
    if isinstance(value, str) and len(value) < SECRET_LENGTH:
        raise _refuse(f"must have at least {SECRET_LENGTH} characters")
    return _secret(value)


def _words(value: object) -> object:
    """A list, separated by commas."""
    return tuple(word.strip() for word in value.split(",") if word.strip()) if isinstance(value, str) else value


def _lower(value: object) -> object:
    return value.strip().lower() if isinstance(value, str) else value


def _upper(value: object) -> object:
    return value.strip().upper() if isinstance(value, str) else value


def _api_keys(value: object) -> object:
    if not isinstance(value, str):
        return value
    entries: dict[str, ApiKeyEntry] = {}
    for number, text in enumerate((part.strip() for part in value.split(",") if part.strip()), start=1):
        parts = text.split(":")
        scopes = (parts[1],) if len(parts) == 3 else SCOPES
        if len(parts) not in (2, 3) or not _KEY_ID.fullmatch(parts[0]) or not set(scopes) <= set(SCOPES):
            raise _refuse(f"entry {number} is not id:scope:hash or id:hash with scope app or ops")
        if not _DIGEST.fullmatch(parts[-1].lower()):
            raise _refuse(f"entry {number}: the hash must be 64 hex digits (python -m bridge keys new prints an entry)")
        if parts[0] in entries:
            raise _refuse(f"entry {number} repeats the id of an earlier entry")
        entries[parts[0]] = ApiKeyEntry(parts[0], frozenset(scopes), parts[-1].lower())
    return tuple(entries.values())


def _token_keys(value: object) -> object:
    """`id:base64,…` of 32 bytes each; the first one seals."""
    if not isinstance(value, str):
        return value
    entries: dict[str, TokenKey] = {}
    for number, text in enumerate((part.strip() for part in value.split(",") if part.strip()), start=1):
        key_id, colon, encoded = text.partition(":")
        if not colon or not _KEY_ID.fullmatch(key_id):
            raise _refuse(f"entry {number} is not id:base64")
        try:
            raw = base64.b64decode(encoded, validate=True)
        except ValueError:
            raise _refuse(f"entry {number}: the key is not base64") from None
        if len(raw) != TOKEN_KEY_BYTES:
            raise _refuse(
                f"entry {number}: the key must be {TOKEN_KEY_BYTES} bytes (python -m bridge keys new-token-key)"
            )
        if key_id in entries:
            raise _refuse(f"entry {number} repeats the id of an earlier entry")
        entries[key_id] = TokenKey(key_id, Secret(encoded))
    return tuple(entries.values())


def _prefixes(value: object) -> object:
    """Addresses that a browser may be sent back to: exact origin, and a path that must begin so."""
    words = _words(value)
    for word in words if isinstance(words, tuple) else ():
        parts = urlsplit(str(word))
        weak = parts.scheme == "http" and not is_loopback(parts.hostname or "")
        if parts.scheme not in ("https", "http") or not parts.hostname or weak or "@" in parts.netloc or "*" in word:
            raise _refuse("must list https:// addresses (http:// for loopback only), without user names or *")
    return words


def _origins(value: object) -> object:
    words = _words(value)
    if isinstance(words, tuple) and not all(_ORIGIN.fullmatch(str(word)) for word in words):
        raise _refuse("must list exact origins such as https://app.example.com, without a path, * or null")
    return words


def _url(*schemes: str, loopback_only: str = "", secret: bool = False) -> BeforeValidator:
    """A check of scheme and host; `loopback_only` names the scheme that is too weak for any other host. Only a URL that
    is kept `secret` may hold a user and password: the others are shown."""

    def check(value: object) -> object:
        if not isinstance(value, str):
            return value
        try:
            parts = urlsplit(value)
            host, _ = parts.hostname, parts.port
        except ValueError:
            raise _refuse("is not a URL") from None
        if parts.scheme not in schemes or not host:
            raise _refuse(f"must be a URL that begins with {' or '.join(scheme + '://' for scheme in schemes)}")
        if not secret and "@" in parts.netloc:
            raise _refuse("must not hold a user name or password")
        if parts.scheme == loopback_only and not is_loopback(host):
            raise _refuse(f"{loopback_only}:// is accepted for loopback only, use {loopback_only}s://")
        return value

    return BeforeValidator(check)


def is_key_id(text: str) -> bool:
    """Whether a text may be the public id of an API key."""
    return bool(_KEY_ID.fullmatch(text))


def is_loopback(host: str) -> bool:
    """Whether a host name or address can only mean this machine."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


SecretText = Annotated[Secret, BeforeValidator(_secret)]
LongSecret = Annotated[Secret, BeforeValidator(_long_secret)]
Words = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_words)]
HttpUrl = Annotated[str, _url("https", "http", loopback_only="http")]
SocketUrl = Annotated[str, _url("wss", "ws", loopback_only="ws")]
PublicUrl = Annotated[str, _url("https", "http")]
RedisUrl = Annotated[Secret, BeforeValidator(_secret), _url("redis", "rediss", "unix", secret=True)]
ApiKeys = Annotated[tuple[ApiKeyEntry, ...], NoDecode, BeforeValidator(_api_keys)]
Origins = Annotated[Words, BeforeValidator(_origins)]
ReturnAddresses = Annotated[Words, BeforeValidator(_prefixes)]
TokenKeys = Annotated[tuple[TokenKey, ...], NoDecode, BeforeValidator(_token_keys)]
PostgresUrl = Annotated[Secret, BeforeValidator(_secret), _url("postgresql", "postgres", secret=True)]
SecretHttpUrl = Annotated[Secret, BeforeValidator(_secret), _url("https", "http", loopback_only="http", secret=True)]
KvTable = Annotated[str, StringConstraints(pattern=r"^kv_store_[a-z0-9_]{1,50}$")]
LOWER_CASE = BeforeValidator(_lower)
UPPER_CASE = BeforeValidator(_upper)
