"""Who holds which token: access tokens, single-use refresh tokens and one-minute consent codes.

Source: reference/ctrader.md §2.1. A refresh spends its token and kills the access token issued with it. The book
knows nothing of sockets: `refresh` and `revoke` return what died and the caller ends those sessions.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Grant:
    """One consent. `trade` False means scope `accounts` (view only)."""

    user: int
    access_token: str
    refresh_token: str
    expires_at_ms: int
    trade: bool = True
    generation: int = 0


class TokenBook:
    """All grants of one simulator; one live grant per user, as a new consent kills the one before."""

    def __init__(self, access_token_life_s: int, code_life_s: float) -> None:
        self.life_s = access_token_life_s
        self._code_life_ms = int(code_life_s * 1000)
        self._by_access: dict[str, Grant] = {}
        self._by_refresh: dict[str, Grant] = {}
        self._by_user: dict[int, Grant] = {}
        self._codes: dict[str, tuple[int, bool, int, str | None]] = {}
        self._minted = 0
        self._consents: dict[int, int] = {}

    def issue_first(self, user: int, now_ms: int) -> Grant:
        """Give user n the published pair `sim-access-n`, `sim-refresh-n`."""
        grant = Grant(user, f"sim-access-{user}", f"sim-refresh-{user}", now_ms + self.life_s * 1000)
        self._index(grant)
        return grant

    def grant_of_access(self, access_token: str, now_ms: int) -> Grant | None:
        """The grant behind a valid access token, None when unknown, revoked, replaced or expired."""
        grant = self._by_access.get(access_token)
        return grant if grant is not None and now_ms < grant.expires_at_ms else None

    def grant_of_user(self, user: int) -> Grant | None:
        return self._by_user.get(user)

    def refresh(self, refresh_token: str, now_ms: int) -> Grant | None:
        """Spend a refresh token for a new pair; None when it is unknown or was spent before."""
        old = self._by_refresh.get(refresh_token)
        if old is None:
            return None
        self._forget(old)
        return self._renew(old, old.trade, now_ms)

    def mint_code(self, user: int, trade: bool, now_ms: int, redirect_uri: str | None = None) -> str:
        """A consent code for `user`: single use, good for a minute, for whoever names the same `redirect_uri`."""
        self._minted += 1
        code = f"sim-code-{user}-{self._minted}"
        self._codes[code] = (user, trade, now_ms + self._code_life_ms, redirect_uri)
        return code

    def exchange(self, code: str, now_ms: int, redirect_uri: str | None = None) -> tuple[Grant, str | None] | None:
        """Spend a code: the new grant and the access token it replaces (None if there was none).

        None for an unknown, spent or old code, or one that was given to another address.
        """
        user, trade, until_ms, bound_to = self._codes.pop(code, (0, False, 0, None))
        if now_ms >= until_ms or bound_to not in (None, redirect_uri):
            return None
        old = self._by_user.get(user)
        if old is None:
            old = Grant(user, "", "", 0, trade, self._consents.get(user, 0))
            return self._renew(old, trade, now_ms), None
        self._forget(old)
        return self._renew(old, trade, now_ms), old.access_token

    def revoke(self, user: int) -> Grant | None:
        """The user withdraws consent: both tokens die. Returns what died."""
        grant = self._by_user.get(user)
        if grant is not None:
            self._forget(grant)
        return grant

    def expire(self, user: int, now_ms: int) -> Grant | None:
        """The access token runs out now; its refresh token still works."""
        grant = self._by_user.get(user)
        if grant is not None:
            grant.expires_at_ms = now_ms
        return grant

    def _renew(self, old: Grant, trade: bool, now_ms: int) -> Grant:
        generation = old.generation + 1
        suffix = f"{old.user}-{generation}"
        grant = Grant(
            old.user,
            f"sim-access-{suffix}",
            f"sim-refresh-{suffix}",
            now_ms + self.life_s * 1000,
            trade,
            generation,
        )
        self._index(grant)
        return grant

    def _index(self, grant: Grant) -> None:
        self._by_access[grant.access_token] = grant
        self._by_refresh[grant.refresh_token] = grant
        self._by_user[grant.user] = grant
        self._consents[grant.user] = grant.generation

    def _forget(self, grant: Grant) -> None:
        self._by_access.pop(grant.access_token, None)
        self._by_refresh.pop(grant.refresh_token, None)
        if self._by_user.get(grant.user) is grant:
            del self._by_user[grant.user]
