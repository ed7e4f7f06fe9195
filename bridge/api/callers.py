"""Who is calling and what they may do: one function resolves the caller, one decides, one checks whom a request names.

Invariants: no handler looks at credentials; the access table in `routes.py` is the only place that says who may call;
whatever user a request names, anywhere in it, is the caller when the caller is a user.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Protocol

from bridge.api.keys import KeyRing
from bridge.api.problems import Problem
from core.errors import InvalidInput, NotFound, Unavailable
from core.user_key import UserKeyScheme, normalise_user_id

UNKNOWN_USER = "no session of this user is known"


class Access(StrEnum):
    """Who may call a route."""

    PUBLIC = "public"
    APP = "app"  # the app's server for a user it names, or that user
    OPS = "ops"
    OPS_OR_USER = "ops-or-user"  # operations, or the user whose key the path names


@dataclass(frozen=True, slots=True)
class Caller:
    """One resolved caller. `name` is for rate limits: it holds no user id and no secret.

    `user_id` and `user_keys` (canonical first) are set for a verified user token only. `unproven`: why a token could
    not be judged; such a caller is nobody on a public route and is told to try again on every other.
    """

    name: str
    scopes: frozenset[str] = frozenset()
    key_id: str | None = None
    user_id: str | None = None
    user_keys: tuple[str, ...] = ()
    everything: bool = False  # an open bridge: no keys configured, loopback only
    unproven: Unavailable | None = None

    @property
    def actor(self) -> str:
        """What the audit log calls this caller."""
        if self.key_id is not None:
            return f"key:{self.key_id}"
        return "user" if self.user_id is not None else "ip"


class Headers(Protocol):
    """Request headers; names compare without case."""

    def get(self, name: str, default: str, /) -> str: ...

    def getall(self, name: str, default: list[str], /) -> list[str]: ...

    def __contains__(self, name: object, /) -> bool: ...


class UserVerifier(Protocol):
    """Turns a user's token into the user id it proves, or None when it proves nothing.

    Raises Unavailable when it cannot be judged at the moment.
    """

    async def user_id(self, token: str) -> str | None: ...


class CallerResolver:
    """Knows the keys, the verifier of user tokens and the proxies in front."""

    def __init__(
        self,
        keys: KeyRing | None,
        *,
        proxy_hops: int,
        user_keys: UserKeyScheme,
        users: UserVerifier | None = None,
    ) -> None:
        self._keys = keys
        self._users = users
        self._proxy_hops = proxy_hops
        self.user_keys = user_keys

    @property
    def open(self) -> bool:
        """Neither API keys nor user tokens are configured."""
        return self._keys is None and self._users is None

    @property
    def auth(self) -> str:
        """What callers may show: "open", "keys", "tokens" or "keys+tokens"."""
        shown = [name for name, known in (("keys", self._keys), ("tokens", self._users)) if known is not None]
        return "+".join(shown) or "open"

    def key_of(self, user_id: str | None) -> str | None:
        """The canonical key of a user id, None for none and for what is no user id."""
        try:
            return None if user_id is None else self.user_keys.keys(user_id).canonical
        except InvalidInput:
            return None

    async def resolve(self, headers: Headers, peer: str | None) -> Caller:
        """The caller of a request. Wrong credentials resolve to nobody. Raises Problem for a key beside an Origin."""
        nobody = Caller(f"ip:{network_of(self._address(headers, peer))}", everything=self.open)
        scheme, _, token = headers.get("Authorization", "").partition(" ")
        token = token.strip()
        if scheme.lower() != "bearer" or not token or self.open:
            return nobody
        if token.count(".") != 1:  # API keys hold one dot
            return await self._user(token, nobody)
        if "Origin" in headers:
            raise Problem("key-in-browser", "a request with an API key must not come from a browser page")
        key = self._keys.find(token) if self._keys else None
        return Caller(f"key:{key.id}", scopes=key.scopes, key_id=key.id) if key else nobody

    async def _user(self, token: str, nobody: Caller) -> Caller:
        try:
            user_id = await self._users.user_id(token) if self._users else None
        except Unavailable as error:
            return replace(nobody, unproven=error)
        if user_id is None:
            return nobody
        keys = self.user_keys.keys(user_id)
        return Caller(f"user:{keys.canonical}", user_id=user_id, user_keys=keys.all)

    def _address(self, headers: Headers, peer: str | None) -> str:
        """The caller's address: as many entries of X-Forwarded-For count, from the right, as proxies are trusted."""
        if self._proxy_hops == 0:
            return peer or "unknown"
        stated = ",".join(headers.getall("X-Forwarded-For", []))
        chain = [entry.strip() for entry in stated.split(",") if entry.strip()]
        return chain[-self._proxy_hops] if len(chain) >= self._proxy_hops else peer or "unknown"


def network_of(address: str) -> str:
    """What one caller can change at will counts as one: an IPv4 address, or an IPv6 /64."""
    try:
        parsed = ipaddress.ip_address(address.strip("[]"))
    except ValueError:
        return "unknown"
    if isinstance(parsed, ipaddress.IPv4Address):
        return str(parsed)
    if parsed.ipv4_mapped:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.ip_network((parsed, 64), strict=False))


def check_access(caller: Caller, access: Access) -> None:
    """Raise Problem (401 or 403) unless this kind of caller may use a route with this access.

    Raises Unavailable when that turns on a token that cannot be judged at the moment.
    """
    if access is Access.PUBLIC or caller.everything:
        return
    if caller.unproven is not None:
        raise caller.unproven
    if caller.key_id is None and caller.user_id is None:
        raise Problem(
            "unauthorized",
            "a valid API key or user token is needed here",
            headers={"WWW-Authenticate": 'Bearer realm="bridge"'},
        )
    needed = "app" if access is Access.APP else "ops"
    by_user = caller.user_id is not None and access in (Access.APP, Access.OPS_OR_USER)
    if not by_user and needed not in caller.scopes:
        raise Problem("forbidden", f"this needs an API key with scope {needed}")


def check_named(caller: Caller, *, user_ids: Iterable[str | None], user_keys: Iterable[str | None]) -> None:
    """Raise unless everybody whom a user's request names, by id or by key, is that user. Others may name anybody.

    Problem 403 for an id, NotFound for a key: the same answers whether or not there is such a user.
    """
    if caller.user_id is None:
        return
    for stated in user_ids:
        if stated is not None and normalise_user_id(stated) != caller.user_id:
            raise Problem("forbidden", "a user may act for themself only")
    for prefix in user_keys:
        if prefix is not None and not any(key.startswith(prefix) for key in caller.user_keys):
            raise NotFound(UNKNOWN_USER)


def acting_for(caller: Caller, stated: str | None, *, field: str) -> str:
    """The user id a request is about: a user acts for themself; the app's server must state the user.

    Raises Problem 403 when a user states somebody else, 422 when nobody is stated.
    """
    if caller.user_id is not None:
        check_named(caller, user_ids=[stated], user_keys=[])
        return caller.user_id
    if stated is None:
        message = "is required: it says for which user this is"
        raise Problem("invalid-input", f"{field} {message}", errors=[(field, message)])
    return stated
