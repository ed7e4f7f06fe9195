"""Stand-ins for what `app.py` hands to the API: scripted, in memory, true to the protocols of `bridge.api.ports`."""

import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

import aiohttp
import orjson

from bridge.api.callers import CallerResolver, UserVerifier
from bridge.api.dispatch import Policy
from bridge.api.keys import ApiKey, KeyRing, digest_of
from bridge.api.ports import Connecting, Fleet, Services, StoredCredentials
from bridge.api.server import ApiServer
from bridge.brokers.base import BrokerAccount, ChannelHealth, Environment, Reason, ReasonCode
from bridge.cache.entry import StoreHealth
from bridge.cache.record import is_fresh
from bridge.cache.store import Stored
from bridge.runtime.clock import ManualClock
from bridge.sessions.views import AccountChoice, Evidence, Explanation, NoCredentials, SessionPage, SessionView
from bridge.telemetry.audit import NO_AUDIT, Audit
from core.errors import InvalidInput, NotFound
from core.secret import Secret
from core.user_key import UserKeyScheme, normalise_user_id

SECRET = Secret("only-for-tests-0123456789abcdefghij")
APP_KEY = "app.0123456789abcdef"
OPS_KEY = "ops.0123456789abcdef"
BOTH_KEY = "both.0123456789abcdef"


def key_ring() -> KeyRing:
    keys = ((APP_KEY, {"app"}), (OPS_KEY, {"ops"}), (BOTH_KEY, {"app", "ops"}))
    return KeyRing(
        SECRET, [ApiKey(key.split(".")[0], frozenset(scopes), digest_of(key, SECRET)) for key, scopes in keys]
    )


def user_key(user_id: str) -> str:
    return hashlib.sha256(user_id.encode()).hexdigest()


class FakeSessions:
    """Knows the broker "sim". Users without the word "nobody" have credentials; "several" has two accounts."""

    def __init__(self) -> None:
        self.table: dict[tuple[str, str], SessionView] = {}
        self.waited: list[float] = []
        self.changed: list[tuple[str, str]] = []
        self.reads: list[tuple[str, str]] = []
        self.fail: Exception | None = None
        self.channel = "up"

    async def start(
        self,
        *,
        user_id: str,
        broker: str,
        account_id: str | None,
        environment: Environment | None,
        actor: str = "bridge",
    ) -> SessionView:
        if self.fail:
            raise self.fail
        user_id = normalise_user_id(user_id)
        if broker != "sim":
            raise InvalidInput("no such broker", field="broker")
        if "nobody" in user_id:
            raise NoCredentials("connect the broker first")
        if "several" in user_id and account_id is None:
            accounts = [BrokerAccount("1", Environment.DEMO, "501"), BrokerAccount("2", Environment.LIVE)]
            raise AccountChoice("name one", accounts)
        key = user_key(user_id)
        view = self.table.get((key, broker)) or SessionView(
            serial=len(self.table),
            user_key=key,
            broker=broker,
            environment="demo",
            account_id=account_id or "1",
            status="starting",
            state="waiting",
            reason=Reason(ReasonCode.STARTING, "It waits for its turn."),
            since=1,
            next_attempt_at=None,
            attempts=0,
            reconnects=0,
            events=0,
            last_event_at=None,
            last_flush_at=None,
            uptime_percent=0.0,
            owner="here",
            fence=None,
            version=0,
            cache_key=f"{broker}_account_{key}",
        )
        self.table[key, broker] = view
        return view

    async def stop(
        self, *, user_id: str, broker: str, account_id: str | None = None, actor: str = "bridge"
    ) -> list[SessionView]:
        key = user_key(normalise_user_id(user_id))
        if (key, broker) not in self.table:
            raise NotFound("this session was never started")
        view = self.table[key, broker] = replace(self.table[key, broker], status="stopped", state="stopped")
        return [view]

    async def wait(self, view: SessionView, timeout_s: float) -> SessionView:
        self.waited.append(timeout_s)
        if timeout_s == 0:
            return view
        return replace(view, status="live", state="live", reason=None)

    async def sessions(self, *, status: str | None, broker: str | None, after: str | None, limit: int) -> SessionPage:
        rows = [
            view
            for view in sorted(self.table.values(), key=lambda view: view.user_key)
            if status in (None, view.status) and broker in (None, view.broker) and (after or "") < view.user_key
        ]
        more = len(rows) > limit
        return SessionPage(tuple(rows[:limit]), len(rows), rows[limit - 1].user_key if more else None)

    async def of_user(self, user_key_prefix: str) -> list[SessionView]:
        found = [view for view in self.table.values() if view.user_key.startswith(user_key_prefix)]
        if not found:
            raise NotFound("no session of this user is known")
        return found

    async def explain(self, user_key_prefix: str) -> list[Explanation]:
        seen = Evidence(1, "backoff", "transient", "connection_lost", "The connection ended.", None, "OSError")
        return [
            Explanation(view, (seen,), "admission", "It logs in.", None, None, 1, 1)
            for view in await self.of_user(user_key_prefix)
        ]

    async def user_key(self, key: str) -> str:
        found = [view.user_key for view in self.table.values() if view.user_key.startswith(key)]
        if not found and len(key) < 64:
            raise NotFound("no session of this user is known")
        return found[0] if found else key

    def used(self, user_key: str, broker: str) -> None:
        self.reads.append((user_key, broker))

    def credentials_changed(self, user_key: str, broker: str) -> None:
        self.changed.append((user_key, broker))

    def cache_key(self, user_id: str, broker: str, account_id: str | None) -> str:
        default = f"{broker}_account_{user_key(normalise_user_id(user_id))}"
        return default if account_id in (None, "1") else f"{default}_{account_id}"

    def counts(self) -> dict[str, int]:
        return {"live": len(self.table)} if self.table else {}

    def brokers(self) -> dict[str, ChannelHealth]:
        return {"sim": ChannelHealth(1, self.channel, 5)}


class FakeRecords:
    """A dictionary of records."""

    def __init__(self) -> None:
        self.records: dict[str, Stored] = {}
        self.fail: Exception | None = None

    def put(self, key: str, *, account_id: str = "1", now_ms: int, fresh_ms: int = 10_000, version: int = 1) -> None:
        document = {
            **{"schema": 1, "broker": "sim", "environment": "demo", "accountId": account_id, "login": "501"},
            **{"brokerTitle": "Sim", "canTrade": True, "status": "live", "reason": None, "currency": "USD"},
            **{"moneyDigits": 2, "leverage": 100, "balance": 12345.67, "equity": 1, "unrealizedPnl": 0},
            **{"usedMargin": 0, "freeMargin": 1, "marginLevel": None, "positions": [], "orders": []},
            **{"fence": 7, "version": version, "asOf": now_ms, "confirmedAt": now_ms, "staleAfter": now_ms + fresh_ms},
            **{"lastUpdate": now_ms, "_cache": True, "_cacheTimestamp": now_ms},
        }
        self.records[key] = Stored(key, 7, version, orjson.dumps(document))

    async def get(self, key: str) -> Stored | None:
        if self.fail:
            raise self.fail
        return self.records.get(key)


class FakeVitals:
    """A healthy process unless told otherwise."""

    version = "0.0.test"

    def __init__(self) -> None:
        self.store_state = "up"
        self.dead: str | None = None
        self.unready: str | None = None

    def uptime_s(self) -> float:
        return 12.34

    def stores(self) -> dict[str, StoreHealth]:
        return {"memory": StoreHealth("primary", self.store_state, 1, 0.5, 0, 0, 0)}

    def rss_bytes(self) -> int:
        return 1

    def cpu_percent(self) -> float:
        return 0.5

    def loop_lag_ms(self) -> float:
        return 0.25

    def not_live(self) -> str | None:
        return self.dead

    def not_ready(self) -> str | None:
        return self.unready


class FakeUsers:
    """Accepts the tokens `user.<id>.sig`."""

    async def user_id(self, token: str) -> str | None:
        parts = token.split(".")
        return parts[1] if len(parts) == 3 and (parts[0], parts[2]) == ("user", "sig") else None


@dataclass
class Api:
    """A running API server with its stand-ins."""

    url: str
    server: ApiServer
    http: aiohttp.ClientSession
    sessions: FakeSessions = field(default_factory=FakeSessions)
    records: FakeRecords = field(default_factory=FakeRecords)
    vitals: FakeVitals = field(default_factory=FakeVitals)
    clock: ManualClock = field(default_factory=ManualClock)

    @property
    def port(self) -> int:
        return self.server.port

    def request(self, method: str, path: str, key: str | None = BOTH_KEY, **more):
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        headers |= more.pop("headers", {})
        return self.http.request(method, self.url + path, headers=headers, **more)


@asynccontextmanager
async def running_api(
    *,
    keys: KeyRing | str | None = "default",
    users: UserVerifier | None = None,
    policy: Policy | None = None,
    proxy_hops: int = 0,
    user_keys: UserKeyScheme = UserKeyScheme(),  # noqa: B008 (a value)
    audit: Audit = NO_AUDIT,
    connecting: Connecting | None = None,
    credentials: StoredCredentials | None = None,
    fleet: Fleet | None = None,
) -> AsyncIterator[Api]:
    """The real server on a real port. `keys=None` leaves every route open. Rate limits are off unless asked for."""
    ring = key_ring() if keys == "default" else keys
    resolver = CallerResolver(ring, proxy_hops=proxy_hops, users=users, user_keys=user_keys)
    sessions, records, vitals, clock = FakeSessions(), FakeRecords(), FakeVitals(), ManualClock()
    services = Services(
        sessions=sessions,
        records=records,
        vitals=vitals,
        metrics=lambda: b"bridge_up 1\n",
        is_fresh=is_fresh,
        clock=clock,
        default_broker="sim",
        connecting=connecting,
        credentials=credentials,
        fleet=fleet,
    )
    server = ApiServer(services, resolver, policy or Policy(key_rate=10**6, address_rate=10**6), audit=audit)
    await server.start(["127.0.0.1"], 0)
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20)) as http:
        try:
            yield Api(f"http://127.0.0.1:{server.port}", server, http, sessions, records, vitals, clock)
        finally:
            await server.close()
