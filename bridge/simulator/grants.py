"""Token changes and what they do to open sessions: refresh, code exchange, revocation, expiry.

Both ways to refresh (in band, and the OAuth endpoint) come through `renew`, so both end the old token's sessions
alike (reference/ctrader.md §2.1, §2.3).
"""

from __future__ import annotations

from bridge.simulator.services import Services
from bridge.simulator.settings import RefreshVariant
from bridge.simulator.tokens import Grant, Rotation

REFRESHED = "access token was refreshed"
REVOKED = "access token was revoked"
EXPIRED = "access token expired"


def renew(services: Services, refresh_token: str) -> Rotation | None:
    """Spend a refresh token; None when it is spent or unknown. The caller answers, then calls `end_sessions`."""
    rotation = services.tokens.refresh(refresh_token, services.clock.now_ms())
    if rotation is None:
        services.counters.refresh_failures += 1
        return None
    services.counters.refreshes += 1
    return rotation


def exchange(services: Services, code: str) -> Grant | None:
    """Spend a consent code; the new consent ends the sessions of the one before."""
    result = services.tokens.exchange(code, services.clock.now_ms())
    if result is None:
        return None
    grant, replaced = result
    if replaced:
        end_sessions(services, replaced)
    return grant


def revoke(services: Services, user: int) -> bool:
    """The user withdraws consent: both tokens die and the sessions end."""
    grant = services.tokens.revoke(user)
    if grant is None:
        return False
    services.hub.end_token(grant.access_token, REVOKED, drop=True, disconnect=False)
    return True


def expire(services: Services, user: int) -> bool:
    """The access token runs out; the refresh token still works."""
    grant = services.tokens.expire(user, services.clock.now_ms())
    if grant is None:
        return False
    services.hub.end_token(grant.access_token, EXPIRED, drop=True, disconnect=False)
    return True


def end_sessions(services: Services, access_token: str, reason: str = REFRESHED) -> None:
    """Tell the sessions of a replaced token and, by the `refresh_variant` setting, end them."""
    variant = services.settings.refresh_variant
    services.hub.end_token(
        access_token,
        reason,
        drop=variant is not RefreshVariant.SURVIVE,
        disconnect=variant is RefreshVariant.DISCONNECT,
    )
