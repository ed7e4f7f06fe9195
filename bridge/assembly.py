"""Builds the parts that the settings name: stores, brokers, keys. The composition root's other half, beside `app.py`.

Makes objects and connects them; must not start anything or talk to anybody. Together with `app` and the command line
the only place that names concrete classes.
"""

from __future__ import annotations

import logging
import random

from bridge.api.dispatch import Policy
from bridge.api.keys import ApiKey, KeyRing
from bridge.brokers.base import Broker
from bridge.brokers.ctrader.broker import CtraderBroker
from bridge.brokers.ctrader.settings import CtraderSettings
from bridge.cache.store import Store
from bridge.cache.stores.memory import MemoryStore
from bridge.cache.stores.redis import RedisStore
from bridge.config import Settings
from bridge.runtime.clock import Clock

log = logging.getLogger(__name__)


def build_stores(settings: Settings, clock: Clock) -> list[Store]:
    """The stores of CACHE_STORES, primary first."""
    stores: list[Store] = []
    for name in settings.store_names:
        if name == "redis" and settings.redis_target is not None:
            stores.append(RedisStore(settings.redis_target))
        else:
            stores.append(MemoryStore(clock))
    return stores


def build_brokers(settings: Settings, clock: Clock, rng: random.Random) -> dict[str, Broker]:
    """The brokers that an application is configured for, by name."""
    if settings.ctrader_client_id is None or settings.ctrader_client_secret is None:
        log.warning("no cTrader application is configured, no session can start; set CTRADER_CLIENT_ID and _SECRET")
        return {}
    ctrader = CtraderSettings(
        client_id=settings.ctrader_client_id,
        client_secret=settings.ctrader_client_secret,
        live_url=settings.ctrader_live_url,
        demo_url=settings.ctrader_demo_url,
        auth_url=settings.ctrader_auth_url,
        token_url=settings.ctrader_token_url,
        channels=settings.ctrader_channels,
        accounts_per_channel=settings.ctrader_accounts_per_channel or None,
        requests_per_second=settings.ctrader_requests_per_second,
        history_requests_per_second=settings.ctrader_history_requests_per_second,
    )
    return {"ctrader": CtraderBroker(ctrader, clock, rng)}


def build_keys(settings: Settings) -> KeyRing | None:
    """The admitted API keys; None when there are none."""
    if settings.api_key_secret is None or not settings.api_keys:
        return None
    return KeyRing(settings.api_key_secret, [ApiKey(each.id, each.scopes, each.digest) for each in settings.api_keys])


def build_policy(settings: Settings) -> Policy:
    """What the operator chose for the HTTP edge."""
    return Policy(
        cors_origins=frozenset(settings.cors_origins),
        https=bool(settings.public_url and settings.public_url.startswith("https://")),
    )
