"""Who may enter: key pairs of accounts, and OAuth tokens with their codes. Values and decisions, no I/O.

Source: reference/alpaca.md §1.5. Paper and live have key pairs of their own. A token covers a user's paper account,
live account or both; it has no expiry and no refresh token, and dies when it is revoked. A code is good once.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

PAPER = "paper"
LIVE = "live"
SCOPES = ("account:write", "trading", "data")


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks: an account, and with what. `scopes` None for a key pair: everything is allowed."""

    account_id: str
    user: int
    environment: str
    token: str | None = None
    scopes: frozenset[str] | None = None

    def may(self, scope: str) -> bool:
        return self.scopes is None or scope in self.scopes


@dataclass(frozen=True, slots=True)
class KeyPair:
    """The key pair of one account."""

    key_id: str
    secret_key: str
    account_id: str
    user: int
    environment: str


@dataclass(frozen=True, slots=True)
class Grant:
    """What a user allowed an application."""

    token: str
    user: int
    environments: frozenset[str]
    scopes: frozenset[str]


@dataclass(frozen=True, slots=True)
class _Code:
    user: int
    environments: frozenset[str]
    scopes: frozenset[str]
    redirect_uri: str | None
    dies_at_ms: int


@dataclass(frozen=True, slots=True)
class Holder:
    """An account and whose it is, as the book needs it."""

    account_id: str
    user: int
    environment: str


@dataclass(slots=True)
class AccessBook:
    """Every credential of the simulated broker. `on_revoked` are told the user whose credentials died."""

    code_life_s: float
    _pairs: dict[str, KeyPair] = field(default_factory=dict)
    _accounts: dict[tuple[int, str], str] = field(default_factory=dict)
    _key_of: dict[str, str] = field(default_factory=dict)  # the key id of an account's pair, dead or alive
    _grants: dict[str, Grant] = field(default_factory=dict)
    _codes: dict[str, _Code] = field(default_factory=dict)
    _granted: dict[int, int] = field(default_factory=dict)
    _minted: int = 0
    _dead_pairs: dict[str, KeyPair] = field(default_factory=dict)
    on_revoked: list[Callable[[int], None]] = field(default_factory=list)

    @classmethod
    def of(cls, holders: Iterable[Holder], code_life_s: float) -> AccessBook:
        """A book with the published key pairs and one token for each user, good for all of their accounts."""
        book = cls(code_life_s)
        for holder in holders:
            book._accounts[holder.user, holder.environment] = holder.account_id
            pair = _published(holder)
            book._pairs[pair.key_id] = pair
            book._key_of[holder.account_id] = pair.key_id
        for user in sorted({user for user, _ in book._accounts}):
            book._issue(user, book.environments_of(user), frozenset(SCOPES))
        return book

    def environments_of(self, user: int) -> frozenset[str]:
        """Where the user has an account; empty for a stranger."""
        return frozenset(environment for environment in (PAPER, LIVE) if (user, environment) in self._accounts)

    def pair_of(self, user: int, environment: str) -> KeyPair | None:
        """The user's key pair, for the credentials file."""
        key_id = self._key_of.get(self._accounts.get((user, environment), ""), "")
        return self._pairs.get(key_id)

    def token_of(self, user: int) -> str | None:
        """The user's newest token that lives."""
        return next((each.token for each in reversed(self._grants.values()) if each.user == user), None)

    def by_pair(self, key_id: str, secret_key: str) -> Caller | None:
        """The account of a key pair, of whichever environment; None when the pair is wrong."""
        pair = self._pairs.get(key_id)
        if pair is None or not _same(pair.secret_key, secret_key):
            return None
        return Caller(pair.account_id, pair.user, pair.environment)

    def by_token(self, token: str, environment: str) -> Caller | None:
        """The account that a token opens in an environment; None when the token is dead or does not cover it."""
        grant = self._grants.get(token)
        if grant is None or environment not in grant.environments:
            return None
        account_id = self._accounts[grant.user, environment]
        return Caller(account_id, grant.user, environment, token, grant.scopes)

    def by_headers(self, headers: Mapping[str, str], environment: str) -> Caller | None:
        """Who a request's headers speak for. A key pair may be of the other environment: the caller must look."""
        if "APCA-API-KEY-ID" in headers:
            return self.by_pair(headers["APCA-API-KEY-ID"], headers.get("APCA-API-SECRET-KEY", ""))
        scheme, _, token = headers.get("Authorization", "").partition(" ")
        return self.by_token(token.strip(), environment) if scheme.lower() == "bearer" else None

    def mint_code(
        self,
        user: int,
        *,
        environments: frozenset[str],
        scopes: frozenset[str],
        now_ms: int,
        redirect_uri: str | None = None,
    ) -> str:
        """A consent code: good once, for `code_life_s`, at its redirect address (None: at any)."""
        self._codes = {code: each for code, each in self._codes.items() if each.dies_at_ms > now_ms}
        self._minted += 1
        code = f"sim-alpaca-code-{self._minted}"
        dies_at_ms = now_ms + round(self.code_life_s * 1000)
        self._codes[code] = _Code(user, environments, scopes, redirect_uri, dies_at_ms)
        return code

    def exchange(self, code: str, redirect_uri: str | None, now_ms: int) -> Grant | None:
        """Spend a code. None when it is unknown, spent, too old, or was made for another address."""
        found = self._codes.pop(code, None)
        if found is None or found.dies_at_ms <= now_ms or found.redirect_uri not in (None, redirect_uri):
            return None
        return self._issue(found.user, found.environments, found.scopes)

    def revoke_tokens(self, user: int) -> int:
        """The user withdraws every consent; how many tokens died."""
        dead = [token for token, grant in self._grants.items() if grant.user == user]
        for token in dead:
            del self._grants[token]
        self._tell(user)
        return len(dead)

    def revoke_pairs(self, user: int) -> int:
        """The user deletes their API keys; how many pairs died."""
        dead = {key_id: pair for key_id, pair in self._pairs.items() if pair.user == user}
        for key_id in dead:
            del self._pairs[key_id]
        self._dead_pairs |= dead
        self._tell(user)
        return len(dead)

    def restore_pairs(self, user: int) -> int:
        """Bring the user's deleted key pairs back; how many."""
        back = {key_id: pair for key_id, pair in self._dead_pairs.items() if pair.user == user}
        for key_id in back:
            del self._dead_pairs[key_id]
        self._pairs |= back
        return len(back)

    def holds(self, caller: Caller) -> bool:
        """Whether what a caller came with is still good."""
        if caller.token is not None:
            return caller.token in self._grants
        return self._key_of.get(caller.account_id) in self._pairs

    def _issue(self, user: int, environments: frozenset[str], scopes: frozenset[str]) -> Grant:
        count = self._granted.get(user, 0)
        self._granted[user] = count + 1
        token = f"sim-alpaca-oauth-{user}" + (f"-{count}" if count else "")
        grant = Grant(token, user, environments, scopes)
        self._grants[token] = grant
        return grant

    def _tell(self, user: int) -> None:
        for tell in self.on_revoked:
            tell(user)


def _published(holder: Holder) -> KeyPair:
    """The key pair that DESIGN §13 publishes for an account."""
    if holder.environment == PAPER:
        key_id, secret = f"SIMKEY{holder.user}", f"sim-alpaca-secret-{holder.user}"
    else:
        key_id, secret = f"SIMLIVE{holder.user}", f"sim-alpaca-live-secret-{holder.user}"
    return KeyPair(key_id, secret, holder.account_id, holder.user, holder.environment)


def _same(one: str, other: str) -> bool:
    return hmac.compare_digest(one.encode(), other.encode("utf-8", "surrogateescape"))
