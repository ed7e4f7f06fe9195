"""User tokens (DESIGN §11): who a Supabase JWT proves its bearer to be, or nobody.

The verifier is chosen by configuration, never by the token: one algorithm per key, and every header by which a token
could name a key or a rule of its own is refused. Accepted: a signed-in person. Refused, all alike: tokens of the roles
anon and service_role, anonymous sign-ins (a new one costs nothing, so a limit per user would limit nobody), and, where
the e-mail address is the user id, addresses that were not confirmed. Must not log or keep a token.
Invariant: a user id comes out only of claims under a signature that one of our keys made.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from typing import Any, Literal, Protocol

from cachetools import LRUCache
from jwt import PyJWK, PyJWS
from jwt.exceptions import InvalidTokenError

from bridge.api.strict_json import NotStrict, strict_loads
from bridge.runtime.clock import Clock
from core.errors import InvalidInput
from core.secret import Secret
from core.user_key import normalise_user_id

LARGEST_TOKEN = 8 * 1024  # characters
LEEWAY_S = 30
LATEST_S = 2**40  # Unix seconds; what is later is no time
REMEMBERED = 4096  # verified tokens
REMEMBERED_S = 60.0  # a key that its issuer withdraws is out of use soon
LONGEST_KEY_ID = 256
_TYPES = ("jwt", "at+jwt")
_HEADERS = frozenset(
    {"alg", "kid", "typ"}
)  # no jku, jwk, x5u, x5c, crit, b64, zip, cty, enc: the token chooses nothing
_PERSON = "authenticated"


class TokenKeys(Protocol):
    """Where the keys are that tokens must be signed with."""

    @property
    def algorithms(self) -> tuple[str, ...]:
        """The signature algorithms that these keys are for."""

    async def find(self, algorithm: str, key_id: str | None) -> PyJWK | bytes | None:
        """The key; None when there is none of this id for this algorithm; raises Unavailable when that is unknown."""


class SharedSecret:
    """One secret that issuer and bridge share (HS256)."""

    algorithms = ("HS256",)

    def __init__(self, secret: Secret) -> None:
        self._secret = secret.reveal().encode()

    async def find(self, algorithm: str, key_id: str | None) -> bytes | None:
        """The secret, whatever the token calls it."""
        return self._secret


class UserTokens:
    """Verifies user tokens. Must be used on one event loop."""

    def __init__(
        self, keys: TokenKeys, *, issuer: str, audience: str, claim: Literal["sub", "email"], clock: Clock
    ) -> None:
        self._keys = keys
        self._issuer = issuer
        self._audience = audience
        self._claim = claim
        self._clock = clock
        self._signatures = PyJWS(algorithms=list(keys.algorithms))
        self._verified: LRUCache[bytes, tuple[str, float]] = LRUCache(REMEMBERED)  # digest -> user id, good until

    async def user_id(self, token: str) -> str | None:
        """The user id that the token proves, normalised; None when it proves nothing.

        Raises Unavailable when the keys to judge it by cannot be had at the moment.
        """
        if len(token) > LARGEST_TOKEN or not token.isascii():
            return None
        digest = hashlib.sha256(token.encode()).digest()
        now_s = self._clock.now_ms() / 1000
        known = self._verified.get(digest)
        if known is not None and now_s < known[1]:
            return known[0]
        claims = await self._signed_claims(token)
        if claims is None:
            return None
        try:
            user_id, expires_s = self._person(claims, now_s)
        except (_Refused, InvalidInput):
            return None
        self._verified[digest] = (user_id, min(expires_s, now_s + REMEMBERED_S))
        return user_id

    async def _signed_claims(self, token: str) -> Mapping[str, Any] | None:
        """What the token says, once its signature is found good."""
        try:
            algorithm, key_id = _choice(token, self._keys.algorithms)
            key = await self._keys.find(algorithm, key_id)
            if key is None:
                return None
            signed = self._signatures.decode_complete(token, key, algorithms=[algorithm])
            claims = strict_loads(signed["payload"])
        except (_Refused, NotStrict, InvalidTokenError):
            return None
        return claims if isinstance(claims, dict) else None

    def _person(self, claims: Mapping[str, Any], now_s: float) -> tuple[str, float]:
        """The user id, and until when the token is good (Unix seconds). Raises _Refused or InvalidInput."""
        expires_s = _time(claims, "exp")
        if expires_s <= now_s - LEEWAY_S:
            raise _Refused("expired")
        if _time(claims, "iat") > now_s + LEEWAY_S or _time(claims, "nbf", now_s) > now_s + LEEWAY_S:
            raise _Refused("not valid yet")
        if claims.get("iss") != self._issuer or self._audience not in _audiences(claims):
            raise _Refused("meant for others")
        if claims.get("role", _PERSON) != _PERSON or claims.get("is_anonymous", False) is not False:
            raise _Refused("not a person's")
        _text(claims, "sub")
        if self._claim == "email" and not _confirmed(claims):
            raise _Refused("the address is not confirmed")
        return normalise_user_id(_text(claims, self._claim)), expires_s + LEEWAY_S


class _Refused(Exception):
    """The token proves nothing; why is for whoever reads this code, never for the caller."""


def _choice(token: str, algorithms: tuple[str, ...]) -> tuple[str, str | None]:
    """The algorithm and key id that the header names. Raises _Refused for whatever else it tries to say."""
    first = token.partition(".")[0]
    try:
        header = strict_loads(base64.urlsafe_b64decode(first + "=" * (-len(first) % 4)))
    except ValueError:  # broken base64, or not strict JSON
        raise _Refused("the header is not readable") from None
    if not isinstance(header, dict) or not header.keys() <= _HEADERS:
        raise _Refused("the header holds more than it may")
    algorithm, key_id, kind = header.get("alg"), header.get("kid"), header.get("typ", "JWT")
    if algorithm not in algorithms:
        raise _Refused("another algorithm")
    if not isinstance(kind, str) or kind.lower() not in _TYPES:
        raise _Refused("not a token of this kind")
    if "kid" in header and not (isinstance(key_id, str) and 0 < len(key_id) <= LONGEST_KEY_ID):
        raise _Refused("the key id is not readable")
    return algorithm, key_id


def _time(claims: Mapping[str, Any], name: str, default: float | None = None) -> float:
    """Unix seconds."""
    value = claims.get(name, default)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < LATEST_S:
        raise _Refused(f"{name} is not a time")
    return value


def _audiences(claims: Mapping[str, Any]) -> list[str]:
    value = claims.get("aud")
    values = value if isinstance(value, list) else [value]
    texts = [each for each in values if isinstance(each, str)]
    return texts if len(texts) == len(values) else []


def _text(claims: Mapping[str, Any], name: str) -> str:
    value = claims.get(name)
    if not isinstance(value, str) or not value.strip():
        raise _Refused(f"{name} is missing")
    return value


def _confirmed(claims: Mapping[str, Any]) -> bool:
    """Whether nothing says that the e-mail address was not confirmed. Whose metadata it is, users may write it: it can
    only speak against them."""
    about = claims.get("user_metadata")
    places = (claims, about if isinstance(about, dict) else {})
    return all(place.get("email_verified", True) is True for place in places)
