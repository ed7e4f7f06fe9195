"""A bridge that is told every secret there is, among servers that repeat whatever is sent to them.

Postgres and Valkey with passwords, the vault, user tokens, API keys, alerts, heartbeat, traces, error reports and a
Supabase that answers every request with the request: what a careless peer or proxy would do. Everything runs on
loopback. Whatever the bridge says or stores can be searched: `heard` and `stored`.
"""

import base64
import gzip
import hashlib
import hmac
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import asyncpg
import redis
from aiohttp import web

from bridge.embedded.postgres import PostgresServer
from bridge.embedded.surroundings import free_port
from bridge.embedded.valkey import ValkeyServer
from tests.support.canaries import plant, stored_in_postgres, stored_in_redis
from tests.support.databases import make_database
from tests.support.processes import bridge_process

# with characters that are quoted, escaped or encoded somewhere
API_KEY_SECRET = "canary-api-key-secret/0123456789+abcdefgh"
USER_KEY_SECRET = "canary-user-key-secret/0123456789+abcdef"
JWT_SECRET = 'canary-jwt-secret/0123456789+"quoted"\\back'
REDIS_PASSWORD = "canary-redis/pass+word=%40&x"
DATABASE_PASSWORD = "canary-database/pass+word=%41&y'z"
SUPABASE_KEY = "sb_secret_canary-supabase_0123456789"
TOKEN_KEY = base64.b64encode(b"canary-token-key-of-32-bytes-\xff\xfe\xfd").decode()
WEBHOOK_PATH = "services/T0CANARY/B0CANARY/canaryWebhookPath0123"
HEARTBEAT_PATH = "canary-heartbeat-path-0123456789"
DSN_KEY = "canarydsnpublickey0123456789"
HOUSE_KEY_ID = "PKCANARYHOUSE0123456"
HOUSE_SECRET = "canary-house-data-secret/0123456789+abcd"
APP_KEY = "app.canary-app-key/0123456789+abcdefghij"
OPS_KEY = "ops.canary-ops-key/0123456789+abcdefghij"
WRONG_KEY = "app.canary-wrong-key/0123456789+abcdefgh"
ISSUER = "https://issuer.example/auth/v1"
BACK = "https://app.example.com/settings"
SECRETS = (
    *(API_KEY_SECRET, USER_KEY_SECRET, JWT_SECRET, REDIS_PASSWORD, DATABASE_PASSWORD, SUPABASE_KEY, TOKEN_KEY),
    *(base64.b64decode(TOKEN_KEY)[:29].decode(), WEBHOOK_PATH, HEARTBEAT_PATH, DSN_KEY, HOUSE_KEY_ID, HOUSE_SECRET),
    *(key.partition(".")[2] for key in (APP_KEY, OPS_KEY, WRONG_KEY)),
)


class Parrot:
    """An HTTP server that answers every request with the request, and keeps it. `status`: of its answers."""

    def __init__(self) -> None:
        self.port = 0
        self.status = 500
        self.requests: list[tuple[str, str, str]] = []  # path, headers, body
        self.paths: list[str] = []  # with their queries

    async def answer(self, request: web.Request) -> web.Response:
        body = await request.read()
        text = (gzip.decompress(body) if body[:2] == b"\x1f\x8b" else body).decode("utf-8", "replace")
        self.paths.append(request.path_qs)
        self.requests.append((request.path, str(dict(request.headers)), text))
        said = f"{request.method} {request.path_qs} {dict(request.headers)}"
        told = {"message": said, "headers": dict(request.headers), "details": text, "error": text}
        return web.json_response(told, status=self.status)

    def got(self, path: str) -> str:
        """What came to paths that begin so: bodies, and headers."""
        return "\n".join(f"{headers} {body}" for at, headers, body in self.requests if at.startswith(path))


@dataclass
class Everything:
    """Handles on the servers, and what the bridge has been heard to say."""

    simulator: Mapping[str, int]
    postgres: PostgresServer
    database_url: str
    valkey: ValkeyServer
    parrot: Parrot
    http: aiohttp.ClientSession
    credentials: Path
    port: int = field(default_factory=free_port)
    heard: list[str] = field(default_factory=list)  # every answer, headers and all

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def env(self) -> dict[str, str]:
        parrot, simulator = f"http://127.0.0.1:{self.parrot.port}", self.simulator
        return {
            **{"PORT": str(self.port), "HOST": "127.0.0.1", "PUBLIC_URL": self.url, "LOG_LEVEL": "DEBUG"},
            **{"DATABASE_URL": self.database_url, "CACHE_STORES": "postgres,supabase,redis"},
            **{"SUPABASE_URL": f"{parrot}/supabase", "SUPABASE_SECRET_KEY": SUPABASE_KEY},
            **{"REDIS_HOST": "127.0.0.1", "REDIS_PORT": str(self.valkey.port), "REDIS_PASSWORD": REDIS_PASSWORD},
            **{"USER_KEY_MODE": "dual", "USER_KEY_SECRET": USER_KEY_SECRET, "API_KEY_SECRET": API_KEY_SECRET},
            "API_KEYS": f"{entry(APP_KEY, 'app')},{entry(OPS_KEY, 'ops')}",
            **{"SUPABASE_JWT_SECRET": JWT_SECRET, "JWT_ISSUER": ISSUER, "OAUTH_RETURN_URLS": BACK},
            "TOKEN_ENCRYPTION_KEYS": f"k1:{TOKEN_KEY}",
            "BRIDGE_CREDENTIALS_FILE": str(self.credentials),
            **{"CTRADER_CLIENT_ID": "sim-client", "CTRADER_CLIENT_SECRET": "sim-secret"},
            "CTRADER_DEMO_URL": f"ws://127.0.0.1:{simulator['ctrader']}",
            "CTRADER_LIVE_URL": f"ws://127.0.0.1:{simulator['ctraderLive']}",
            "CTRADER_AUTH_URL": f"http://127.0.0.1:{simulator['admin']}/apps/auth",
            "CTRADER_TOKEN_URL": f"http://127.0.0.1:{simulator['admin']}/apps/token",
            **{"ALPACA_CLIENT_ID": "sim-client", "ALPACA_CLIENT_SECRET": "sim-secret"},
            "ALPACA_PAPER_URL": f"http://127.0.0.1:{simulator['alpaca']}",
            "ALPACA_LIVE_URL": f"http://127.0.0.1:{simulator['alpacaLive']}",
            "ALPACA_DATA_URL": f"ws://127.0.0.1:{simulator['alpaca']}",
            "ALPACA_AUTH_URL": f"http://127.0.0.1:{simulator['alpacaLive']}/oauth/authorize",
            "ALPACA_TOKEN_URL": f"http://127.0.0.1:{simulator['alpacaLive']}/oauth/token",
            **{"ALPACA_DATA_KEY_ID": HOUSE_KEY_ID, "ALPACA_DATA_SECRET_KEY": HOUSE_SECRET},
            "ALERT_WEBHOOK_URL": f"{parrot}/{WEBHOOK_PATH}",
            "HEARTBEAT_URL": f"{parrot}/{HEARTBEAT_PATH}",
            "SENTRY_DSN": f"http://{DSN_KEY}@127.0.0.1:{self.parrot.port}/77",
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"{parrot}/otel",
        }

    async def sim(self, path: str, body: object = None) -> Any:
        method = "GET" if path == "/counters" else "POST"
        url = f"http://127.0.0.1:{self.simulator['admin']}/sim{path}"
        async with self.http.request(method, url, json=body) as answer:
            assert answer.status < 300, await answer.text()
            return await answer.json(content_type=None)

    async def call(self, method: str, path: str, key: str = OPS_KEY, *, user: str = "", **more: Any) -> Any:
        """Call the bridge; the status is added to the answer as `_status`."""
        headers = {"Authorization": f"Bearer {key}", **({"X-User-Id": user} if user else {}), **more.pop("headers", {})}
        async with self.http.request(method, self.url + path, headers=headers, **more) as answer:
            text = await answer.text()
        self.heard.append(f"{dict(answer.headers)} {text}")
        data = json.loads(text) if "json" in answer.content_type else {}
        return {**data, "_status": answer.status}

    def lock_valkey(self) -> None:
        """Ask for the password from now on."""
        with redis.Redis(port=self.valkey.port) as client:
            client.config_set("requirepass", REDIS_PASSWORD)

    async def stored(self) -> str:
        """Everything in both stores."""
        in_redis = stored_in_redis(f"redis://:{quote(REDIS_PASSWORD, safe='')}@127.0.0.1:{self.valkey.port}/0")
        return in_redis + await stored_in_postgres(self.database_url)


def entry(key: str, scope: str) -> str:
    """An entry of API_KEYS."""
    digest = hmac.new(API_KEY_SECRET.encode(), key.encode(), hashlib.sha256).hexdigest()
    return f"{key.partition('.')[0]}:{scope}:{digest}"


@asynccontextmanager
async def everything(folder: Path, postgres: PostgresServer) -> AsyncIterator[Everything]:
    """Start all the servers; the bridge is the test's to start, with `env`."""
    plant(*SECRETS)
    async with AsyncExitStack() as stack:
        valkey = stack.enter_context(ValkeyServer())
        parrot = Parrot()
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", parrot.answer)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        parrot.port = runner.addresses[0][1]
        jar = aiohttp.CookieJar(unsafe=True)
        http = await stack.enter_async_context(aiohttp.ClientSession(cookie_jar=jar))
        kinds = ("ctrader", "ctrader-live", "ctrader-tls", "alpaca", "alpaca-live", "admin")
        ports = [f"--{kind}-port" for kind in kinds]
        simulator = await stack.enter_async_context(
            bridge_process(
                *("simulate", *(word for port in ports for word in (port, "0")), "--users", "4"),
                *("--cert-dir", str(folder), "--credentials", str(folder / "credentials.json")),
            )
        )
        ready = json.loads(await simulator.line(lambda line: line.startswith("{"), within_s=60))
        url = await _database_with_a_password(postgres)
        around = Everything(ready, postgres, url, valkey, parrot, http, folder / "credentials.json")
        around.lock_valkey()
        yield around


async def _database_with_a_password(postgres: PostgresServer) -> str:
    """A new database, and its URL for a role that has the canary as its password."""
    url = await make_database(postgres)
    connection = await asyncpg.connect(url)
    try:
        literal = DATABASE_PASSWORD.replace("'", "''")
        await connection.execute(f"create role canary_owner superuser login password '{literal}'")
    finally:
        await connection.close()
    name = url.rpartition("/")[2]
    return f"postgresql://canary_owner:{quote(DATABASE_PASSWORD, safe='')}@127.0.0.1:{postgres.port}/{name}"
