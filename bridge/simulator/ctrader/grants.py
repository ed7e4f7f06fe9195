"""Token changes and what they do to open sessions: refresh, code exchange, revocation, expiry.

Both ways to refresh (in band, and the OAuth endpoint) come through `renew`, so both end the old token's sessions
alike (reference/ctrader.md §2.1, §2.3).
"""

from __future__ import annotations

from bridge.simulator.ctrader.services import Services
from bridge.simulator.ctrader.settings import RefreshVariant
from bridge.simulator.ctrader.tokens import Grant

REFRESHED = "access token was refreshed"
REVOKED = "access token was revoked"
EXPIRED = "access token expired"


def renew(services: Services, refresh_token: str) -> Grant | None:
    """Spend a refresh token; None when it is spent or unknown. The caller answers, then calls `end_sessions`."""
    grant = services.tokens.refresh(refresh_token, services.clock.now_ms())
    if grant is None:
        services.counters.refresh_failures += 1
        return None
    services.counters.refreshes += 1
    return grant


def exchange(services: Services, code: str, redirect_uri: str | None) -> Grant | None:
    """Spend a consent code; the new consent ends the sessions of the one before."""
    result = services.tokens.exchange(code, services.clock.now_ms(), redirect_uri)
    if result is None:
        return None
    grant, replaced = result
    if replaced:
        end_sessions(services, grant.user)
    return grant


def revoke(services: Services, user: int) -> bool:
    """The user withdraws consent: both tokens die and the sessions end. False when there was no consent."""
    if services.tokens.revoke(user) is None:
        return False
    services.hub.end_grant(_accounts(services, user), REVOKED, drop=True, disconnect=False)
    return True


def expire(services: Services, user: int) -> bool:
    """The access token runs out and the sessions end; the refresh token still works."""
    if services.tokens.expire(user, services.clock.now_ms()) is None:
        return False
    services.hub.end_grant(_accounts(services, user), EXPIRED, drop=True, disconnect=False)
    return True


def end_sessions(services: Services, user: int) -> None:
    """Tell the sessions of a user whose token was replaced and, by the `refresh_variant` setting, end them."""
    variant = services.settings.refresh_variant
    services.hub.end_grant(
        _accounts(services, user),
        REFRESHED,
        drop=variant is not RefreshVariant.SURVIVE,
        disconnect=variant is RefreshVariant.DISCONNECT,
    )


def _accounts(services: Services, user: int) -> set[int]:
    return {account.id for account in services.world.of_user[user]}
