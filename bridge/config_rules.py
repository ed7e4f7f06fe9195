"""Rules over several settings: what does not fit together, one sentence each that begins with the variable.

Must not read the environment or print a value. Rules about one broker's settings stand with those settings.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bridge.config_values import is_loopback
from core.user_key import UserKeyMode

if TYPE_CHECKING:
    from bridge.config import Settings

STORES = ("postgres", "supabase", "redis", "memory")


def rules_of(settings: Settings) -> tuple[str | None, ...]:
    """Every rule; None where it holds."""
    return (*_stores(settings), *_callers(settings), *_others(settings))


def _stores(settings: Settings) -> tuple[str | None, ...]:
    unknown = [name for name in settings.cache_stores if name not in STORES]
    names, named = settings.store_names, settings.cache_stores
    return (
        f"CACHE_STORES: unknown store, use {', '.join(STORES)}" if unknown else None,
        "CACHE_STORES: a store is named twice" if len(set(named)) < len(named) else None,
        "CACHE_STORES: redis needs REDIS_URL or REDIS_HOST" if "redis" in names and not settings.redis_target else None,
        "CACHE_STORES: postgres needs DATABASE_URL" if "postgres" in names and not settings.database_url else None,
        "SUPABASE_SECRET_KEY: the supabase store needs SUPABASE_URL and SUPABASE_SECRET_KEY"
        if "supabase" in names and not (settings.supabase_url and settings.supabase_key)
        else None,
        "REDIS_HOST: set either REDIS_URL or REDIS_HOST, not both"
        if settings.redis_url and settings.redis_host
        else None,
        "CACHE_UNLOGGED: needs the postgres store with its own table (no SUPABASE_KV_TABLE)"
        if settings.cache_unlogged and ("postgres" not in names or settings.supabase_kv_table)
        else None,
    )


def _callers(settings: Settings) -> tuple[str | None, ...]:
    open_door = "API_KEYS: every route would be open to everyone; set API_KEYS and API_KEY_SECRET"
    platform = f"{open_door} (running on a platform: {settings.paas} is set)"
    verified = bool(settings.supabase_jwt_secret or settings.jwks_url)
    return (
        "API_KEY_SECRET: needed with API_KEYS" if settings.api_keys and not settings.api_key_secret else None,
        platform if settings.paas and settings.auth_open else None,
        "HOST: without API_KEYS every route is open, so only loopback addresses may be bound"
        if settings.auth_open and not all(is_loopback(address) for address in settings.host)
        else None,
        "JWKS_URL: set either SUPABASE_JWT_SECRET or JWKS_URL, not both"
        if settings.supabase_jwt_secret and settings.jwks_url
        else None,
        "JWT_ISSUER: needed with SUPABASE_JWT_SECRET unless SUPABASE_URL is set"
        if verified and settings.token_issuer is None
        else None,
    )


def _others(settings: Settings) -> tuple[str | None, ...]:
    return (
        f"USER_KEY_SECRET: needed with USER_KEY_MODE={settings.user_key_mode.value}"
        if settings.user_key_mode is not UserKeyMode.SHA256 and not settings.user_key_secret
        else None,
        "DATABASE_SESSION_URL: needs DATABASE_URL, to the same database"
        if settings.database_session_url and not settings.database_url
        else None,
        "TOKEN_ENCRYPTION_KEYS: needs DATABASE_URL, where sealed tokens are kept"
        if settings.token_encryption_keys and not settings.database_url
        else None,
    )
