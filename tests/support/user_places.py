"""A database, a Valkey and a key-value table that hold all that can be stored of some users, without a running bridge.

Everything is stored by the code that stores it in a running one; only the records are written plainly.
"""

import hashlib
import random
from collections.abc import Sequence
from typing import Any

import asyncpg
from redis.asyncio import Redis

from bridge.audit.chain import Sealer, Verifier
from bridge.audit.command import follow
from bridge.audit.log import AuditLog
from bridge.brokers.base import Environment
from bridge.cache.store import Store, Write
from bridge.cache.stores.postgres import PostgresStore
from bridge.cache.stores.redis import RedisStore
from bridge.config import Settings
from bridge.credentials.consents import ConsentTable
from bridge.db.database import Database
from bridge.runtime.clock import SystemClock
from bridge.sessions.defaults import cache_keys
from bridge.sessions.desired import Start
from bridge.sessions.durable import DurableSessions
from bridge.telemetry.audit import Action
from core.secret import Secret
from core.user_key import UserKeyMode, UserKeyScheme
from tests.support.vaults import BROKER, entry, sealing_key, vault_credentials

SECRET = "user-key-secret-of-the-tests-0123456789"
BROKERS = (BROKER, "other")
DOCUMENT = b'{"schema":1,"accountId":"%s","balance":12345.67,"fence":%d,"version":%d}'
TABLES = ["account_cache", "bridge_cache_fences", "kv_store_bridge"]


def scheme_of(mode: UserKeyMode) -> UserKeyScheme:
    return UserKeyScheme(mode, None if mode is UserKeyMode.SHA256 else Secret(SECRET))


def plain(user: str) -> str:
    return hashlib.sha256(user.encode()).hexdigest()


class Places:
    """Where everything is. `mode`: of what is stored from now on."""

    def __init__(self, database: Database, url: str, redis_url: str) -> None:
        self.database = database
        self.url = url
        self.redis_url = redis_url
        self.mode = UserKeyMode.SHA256

    @property
    def scheme(self) -> UserKeyScheme:
        return scheme_of(self.mode)

    def settings(self, mode: UserKeyMode | None = None, **more: Any) -> Settings:
        """Like those of a bridge there."""
        mode = mode or self.mode
        secret = {} if mode is UserKeyMode.SHA256 else {"user_key_secret": SECRET}
        key = sealing_key("k1")
        values = {
            "database_url": self.url,
            "token_encryption_keys": f"{key.id}:{key.key.reveal()}",
            "user_key_mode": mode.value,
            **secret,
            **more,
        }
        return Settings(_env_file=None, **values)

    def stores(self) -> list[Store]:
        """New ones each time: a command closes what it is handed."""
        return [
            PostgresStore(Database(Secret(self.url), size=2)),
            RedisStore(Secret(self.redis_url)),
            PostgresStore(Database(Secret(self.url), size=2), kv_table="kv_store_bridge", name="kv"),
        ]

    async def settle(self, user: str, accounts: Sequence[str] = ("a1", "a2"), *, running: bool = False) -> list[str]:
        """Store everything there is of a user; returns their record keys. `running`: as if a bridge served them."""
        keys = self.scheme.keys(user)
        sessions = DurableSessions(self.database)
        for account in accounts:
            await sessions.start(Start(user, keys.canonical, BROKER, account, Environment.DEMO))
        if not running:
            await sessions.stop(keys.canonical, BROKER, None)
            await self.database.execute(
                "update public.bridge_sessions set owes_record = false where user_key = $1", keys.canonical
            )
        source = vault_credentials(self.database, user_keys=self.scheme)
        await source.put_entered(user, BROKER, entry(user))
        await source.close()
        await ConsentTable(self.database).start(
            state_hash=hashlib.sha256(user.encode() + b"state").digest(),
            user_key=keys.canonical,
            user_id=user,
            broker=BROKER,
            scope="accounts",
            return_to="https://app.example.com",
        )
        log = AuditLog(self.database, clock=SystemClock(), rng=random.Random(), sealer=Sealer([sealing_key("k1")]))
        log.start()
        log.record(Action.START, user_key=keys.canonical, actor="user", detail={"broker": BROKER})
        assert await log.flush(10)
        await log.close()
        names = [name for account in accounts for name in cache_keys(BROKER, keys.all, account, accounts[0])]
        await self.write(names)
        return names

    async def write(self, names: Sequence[str]) -> list[int]:
        """Claim and write a record under each key in every store; the fences of the first."""
        told: list[int] = []
        for store in self.stores():
            await store.open()
            fences = await store.claim(names)
            writes = [
                Write(name, fence, 1, DOCUMENT % (name[-2:].encode(), fence, 1))
                for name, fence in zip(names, fences, strict=True)
            ]
            assert await store.write(writes) == []
            told = told or fences
            await store.close()
        return told

    async def held(self, name: str) -> list[bytes | None]:
        """What each store holds under a key: a document, b"" for a fence alone, None for nothing."""
        found: list[bytes | None] = []
        for store in self.stores():
            await store.open()
            [stored] = await store.read([name])
            found.append(None if stored is None else stored.document)
            await store.close()
        return found

    async def dump(self, *, caches_only: bool = False) -> str:
        """Everything that is stored, as text: of the caches only, or of the whole database as well."""
        connection = await asyncpg.connect(self.url)
        try:
            tables = TABLES
            if not caches_only:
                rows = await connection.fetch("select tablename from pg_tables where schemaname = 'public'")
                tables = [row[0] for row in rows]
            parts = [
                str(row[0])
                for table in tables
                for row in await connection.fetch(f"select t::text from public.{table} t")
            ]
        finally:
            await connection.close()
        async with Redis.from_url(self.redis_url) as client:
            names = await client.keys("*")
            parts += [f"{name.decode()} {(await client.get(name)).decode()}" for name in names]
        return "\n".join(parts)

    async def verify_audit(self) -> int:
        verifier = Verifier(Sealer([sealing_key("k1")]))
        await follow(self.database, verifier)
        return verifier.rows
