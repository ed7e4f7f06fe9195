"""The composition root: makes the parts that the settings name (stores, brokers, credentials, keys).

Makes objects and connects them; must not start anything or talk to anybody, which `daemon` does. The only place that
names concrete brokers and stores.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Mapping, Sequence

from bridge.api.callers import CallerResolver
from bridge.api.dispatch import Policy
from bridge.api.jwks import KeySet
from bridge.api.keys import ApiKey, KeyRing
from bridge.api.user_tokens import SharedSecret, UserTokens
from bridge.audit.log import LoggedAudit
from bridge.brokers import transports
from bridge.brokers.alpaca.broker import AlpacaBroker
from bridge.brokers.alpaca.settings import AlpacaSettings
from bridge.brokers.base import Broker
from bridge.brokers.ctrader.broker import CtraderBroker
from bridge.brokers.ctrader.settings import CtraderSettings, Quotes
from bridge.cache.general import GeneralCache
from bridge.cache.store import Store
from bridge.cache.stores.memory import MemoryStore
from bridge.cache.stores.postgres import PostgresStore
from bridge.cache.stores.redis import RedisStore
from bridge.cache.tiers.postgres import PostgresTier
from bridge.cache.tiers.redis import RedisTier
from bridge.cache.tiers.tier import Tier
from bridge.config import VERSION, Settings
from bridge.credentials.connect import Connect
from bridge.credentials.consents import ConsentTable
from bridge.credentials.file import CredentialsFile
from bridge.credentials.importing import KvTableRows
from bridge.credentials.vault_source import VaultCredentials
from bridge.db.database import Database
from bridge.foundation import FOR_RECORDS, Foundation
from bridge.runtime.clock import Clock
from bridge.runtime.tasks import CrashHandler
from bridge.sessions.durable import DurableSessions
from bridge.sessions.lease import Lease
from bridge.sessions.ownership.fencing import RecordFences
from bridge.sessions.ownership.fleet_table import FleetTable
from bridge.sessions.ownership.steward import Membership, new_name
from bridge.sessions.standing import Standing
from core.secret import Secret
from core.user_key import UserKeyScheme

log = logging.getLogger(__name__)

DEFAULT_BROKER = "ctrader"  # where a caller of the older routes names none
BROKERS = ("ctrader", "alpaca")  # every broker that this version knows, configured or not


def stores_of(settings: Settings, clock: Clock) -> list[Store]:
    """The stores for a command that looks at them from outside a running bridge. Not opened."""
    records = Database(settings.database_url, size=FOR_RECORDS) if settings.database_url else None
    return build_stores(settings, Foundation(LoggedAudit(), records=records), clock)


def build_stores(settings: Settings, foundation: Foundation, clock: Clock) -> list[Store]:
    """The stores of CACHE_STORES, primary first."""
    return [_store(name, settings, foundation, clock) for name in settings.store_names]


def _store(name: str, settings: Settings, foundation: Foundation, clock: Clock) -> Store:
    if name == "redis" and settings.redis_target is not None:
        return RedisStore(settings.redis_target, deployment_id=foundation.deployment_id)
    if name == "postgres" and foundation.records is not None:
        unlogged, table = settings.cache_unlogged, settings.supabase_kv_table
        return PostgresStore(foundation.records, kv_table=table, unlogged=unlogged)
    if name == "supabase" and settings.supabase_url and settings.supabase_key:
        from bridge.cache.stores.supabase import SupabaseStore  # 25 MiB of packages that nobody else needs

        url, key = settings.supabase_url, settings.supabase_key
        return SupabaseStore(url, key, clock=clock, table=settings.supabase_kv_table)
    return MemoryStore(clock)


def build_brokers(settings: Settings, clock: Clock, rng: random.Random) -> dict[str, Broker]:
    """The brokers that sessions can start at, by name. Raises ConfigurationError."""
    transports.named(settings.bridge_transport)  # not installed: better told now than at every dial
    brokers: dict[str, Broker] = {}
    if settings.ctrader_client_id is None or settings.ctrader_client_secret is None:
        log.warning("no cTrader application: no session can start there; set CTRADER_CLIENT_ID and _SECRET")
    else:
        application = settings.ctrader_client_id, settings.ctrader_client_secret
        brokers["ctrader"] = CtraderBroker(_ctrader(settings, *application), clock, rng)
    brokers["alpaca"] = AlpacaBroker(_alpaca(settings), clock, rng)
    return brokers


def _ctrader(settings: Settings, client_id: str, client_secret: Secret) -> CtraderSettings:
    return CtraderSettings(
        client_id=client_id,
        client_secret=client_secret,
        transport=settings.bridge_transport,
        live_url=settings.ctrader_live_url,
        demo_url=settings.ctrader_demo_url,
        auth_url=settings.ctrader_auth_url,
        token_url=settings.ctrader_token_url,
        channels=settings.ctrader_channels,
        accounts_per_channel=settings.ctrader_accounts_per_channel or None,
        requests_per_second=settings.ctrader_requests_per_second,
        history_requests_per_second=settings.ctrader_history_requests_per_second,
        quotes=Quotes(settings.ctrader_quotes),
    )


def _alpaca(settings: Settings) -> AlpacaSettings:
    return AlpacaSettings(
        transport=settings.bridge_transport,
        live_url=settings.alpaca_live_url,
        paper_url=settings.alpaca_paper_url,
        live_stream_url=settings.alpaca_live_stream_url,
        paper_stream_url=settings.alpaca_paper_stream_url,
        data_url=settings.alpaca_data_url,
        data_feed=settings.alpaca_data_feed,
        data_key_id=settings.alpaca_data_key_id,
        data_secret=settings.alpaca_data_secret_key,
        client_id=settings.alpaca_client_id,
        client_secret=settings.alpaca_client_secret,
        auth_url=settings.alpaca_auth_url,
        token_url=settings.alpaca_token_url,
        requests_per_minute=settings.alpaca_requests_per_minute,
        dials_per_second=settings.alpaca_dials_per_second,
        poll_s=settings.alpaca_poll_seconds,
    )


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


def build_credentials(
    settings: Settings,
    foundation: Foundation,
    brokers: Mapping[str, Broker],
    user_keys: UserKeyScheme,
    *,
    clock: Clock,
    rng: random.Random,
    owner: str,
    on_crash: CrashHandler,
) -> VaultCredentials | CredentialsFile | None:
    """Where users' credentials are: the vault, behind it the file; the file alone; or nowhere."""
    path, file = settings.bridge_credentials_file, None
    if path is not None:
        readers = {name: broker.read_credential for name, broker in brokers.items()}
        file = CredentialsFile(path, readers=readers, on_crash=on_crash)
    if foundation.database is None or foundation.vault is None:
        if file is None:
            log.warning("no user has credentials: set TOKEN_ENCRYPTION_KEYS (with DATABASE_URL) or a credentials file")
        return file
    table = settings.supabase_kv_table
    return VaultCredentials(
        foundation.database,
        foundation.vault,
        brokers=brokers,
        user_keys=user_keys,
        clock=clock,
        rng=rng,
        owner=owner,
        fallback=file,
        settings_rows=KvTableRows(foundation.database, table) if table else None,
        audit=foundation.audit,
        on_crash=on_crash,
    )


def build_connect(
    settings: Settings,
    foundation: Foundation,
    brokers: Mapping[str, Broker],
    user_keys: UserKeyScheme,
    grants: VaultCredentials | CredentialsFile | None,
    clock: Clock,
) -> Connect | None:
    """Connecting a broker by consent; None where an address or a place for tokens is missing."""
    vault, database = foundation.vault, foundation.database
    if not (
        settings.public_url and settings.return_urls and vault and database and isinstance(grants, VaultCredentials)
    ):
        return None
    return Connect(
        consents=ConsentTable(database),
        brokers=brokers,
        sealer=vault,
        grants=grants,
        user_keys=user_keys,
        clock=clock,
        public_url=settings.public_url,
        return_urls=settings.return_urls,
        audit=foundation.audit,
    )


def build_token_keys(settings: Settings, clock: Clock) -> SharedSecret | KeySet | None:
    """What user tokens are verified with; None when users do not call."""
    if settings.supabase_jwt_secret is not None:
        return SharedSecret(settings.supabase_jwt_secret)
    return KeySet(settings.jwks_url, clock) if settings.jwks_url else None


def build_resolver(
    settings: Settings, token_keys: SharedSecret | KeySet | None, user_keys: UserKeyScheme, clock: Clock
) -> CallerResolver:
    """Who may call."""
    users = None
    if token_keys is not None and settings.token_issuer is not None:
        issuer, audience, claim = settings.token_issuer, settings.jwt_audience, settings.user_id_claim
        users = UserTokens(token_keys, issuer=issuer, audience=audience, claim=claim, clock=clock)
    hops = settings.trusted_proxy_hops
    return CallerResolver(build_keys(settings), proxy_hops=hops, user_keys=user_keys, users=users)


def build_standing(settings: Settings, foundation: Foundation, clock: Clock, rng: random.Random) -> Standing:
    """What this process may do: with a database, as long as it has its lease."""
    lease = Lease(settings.lease_ttl) if foundation.database is not None else None
    return Standing(new_name(rng), clock, lease)


def build_desired(foundation: Foundation, stores: Sequence[Store], user_keys: UserKeyScheme) -> DurableSessions | None:
    """Where starts and stops are stored; None: in the memory of this process."""
    if foundation.database is None:
        return None
    return DurableSessions(foundation.database, fences=_record_fences(stores, user_keys))


def build_membership(
    settings: Settings, foundation: Foundation, stores: Sequence[Store], user_keys: UserKeyScheme
) -> Membership | None:
    """How this process belongs to those that share the database."""
    if foundation.database is None:
        return None
    fences = _record_fences(stores, user_keys)
    fleet = FleetTable(foundation.database, foundation.leases, fences=fences)
    return Membership(fleet, version=VERSION, capacity=settings.process_capacity)


def _record_fences(stores: Sequence[Store], user_keys: UserKeyScheme) -> RecordFences | None:
    """Records in the same database get their fences with the owner."""
    store = next((store for store in stores if isinstance(store, PostgresStore)), None)
    return None if store is None else RecordFences(store.claim_within, user_keys)


def build_cache(
    settings: Settings, foundation: Foundation, *, clock: Clock, rng: random.Random, on_crash: CrashHandler
) -> GeneralCache:
    """The general cache over whatever is shared among processes."""
    tiers: list[Tier] = []
    if settings.redis_target is not None:
        tiers.append(RedisTier(settings.redis_target))
    if foundation.database is not None:
        tiers.append(PostgresTier(foundation.database))
    return GeneralCache(tiers, clock=clock, rng=rng, on_crash=on_crash)
