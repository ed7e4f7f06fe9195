"""No secret leaves the process: canaries in every place that takes a secret, then everything it says is searched.

Logs at DEBUG in both forms, every HTTP answer, what is in the store, and the commands for operators; while sessions
start, refresh, are revoked, meet faults and lose the store (faults.md S05). What is searched for, and how, is said in
tests/support/canaries.py; a bridge that has every setting there is, is in test_canaries.py.
"""

import asyncio
import hashlib
import hmac
import json
import os
import sys
import textwrap
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import pytest
import redis

from bridge.embedded.surroundings import free_port
from bridge.embedded.valkey import ValkeyServer
from tests.support.canaries import leaks, plant
from tests.support.processes import ROOT, BridgeProcess, bridge_process
from tests.support.waiting import eventually

API_KEY_SECRET = "canary-api-key-secret/0123456789+abcdefgh"
USER_KEY_SECRET = "canary-user-key-secret/0123456789+abcdef"
REDIS_PASSWORD = "canary-redis/pass+word=%40&x"
APP_KEY = "app.canary-app-key/0123456789+abcdefghij"
OPS_KEY = "ops.canary-ops-key/0123456789+abcdefghij"
WRONG_KEY = "app.canary-wrong-key/0123456789+abcdefgh"
WRONG_CLIENT_SECRET = "canary-wrong-client-secret/0123456789"
plant(API_KEY_SECRET, USER_KEY_SECRET, REDIS_PASSWORD, WRONG_CLIENT_SECRET)
plant(*(key.partition(".")[2] for key in (APP_KEY, OPS_KEY, WRONG_KEY)))


def entry(key: str, scope: str) -> str:
    return (
        f"{key.partition('.')[0]}:{scope}:{hmac.new(API_KEY_SECRET.encode(), key.encode(), hashlib.sha256).hexdigest()}"
    )


@dataclass
class Surroundings:
    """A simulator, a store with a password, and the environment of a bridge between them."""

    simulator: dict[str, int]
    valkey: ValkeyServer
    credentials: Path
    http: aiohttp.ClientSession
    heard: list[str] = field(default_factory=list)  # every HTTP answer of the bridge, headers and all

    @property
    def env(self) -> dict[str, str]:
        return {
            "PORT": "0",
            "HOST": "127.0.0.1",
            "LOG_LEVEL": "DEBUG",
            "REDIS_HOST": "127.0.0.1",
            "REDIS_PORT": str(self.valkey.port),
            "REDIS_PASSWORD": REDIS_PASSWORD,
            "USER_KEY_MODE": "dual",
            "USER_KEY_SECRET": USER_KEY_SECRET,
            "API_KEY_SECRET": API_KEY_SECRET,
            "API_KEYS": f"{entry(APP_KEY, 'app')},{entry(OPS_KEY, 'ops')}",
            "BRIDGE_CREDENTIALS_FILE": str(self.credentials),
            "CTRADER_CLIENT_ID": "sim-client",
            "CTRADER_CLIENT_SECRET": "sim-secret",
            "CTRADER_DEMO_URL": f"ws://127.0.0.1:{self.simulator['ctrader']}",
            "CTRADER_LIVE_URL": f"ws://127.0.0.1:{self.simulator['ctraderLive']}",
            "CTRADER_TOKEN_URL": "http://127.0.0.1:1/token",
            "ALPACA_PAPER_URL": f"http://127.0.0.1:{self.simulator['alpaca']}",
            "ALPACA_LIVE_URL": f"http://127.0.0.1:{self.simulator['alpacaLive']}",
            "ALPACA_DATA_URL": f"ws://127.0.0.1:{self.simulator['alpaca']}",
        }

    async def sim(self, path: str, body: object = None) -> None:
        async with self.http.post(f"http://127.0.0.1:{self.simulator['admin']}/sim{path}", json=body) as answer:
            assert answer.status < 300, await answer.text()

    def store(self) -> redis.Redis:
        return redis.Redis(port=self.valkey.port, password=REDIS_PASSWORD, decode_responses=True)

    def stored(self) -> str:
        with self.store() as client:
            return "\n".join(f"{key} {client.get(key)}" for key in client.scan_iter(count=1000))


@pytest.fixture
async def around(tmp_path: Path) -> AsyncIterator[Surroundings]:
    async with AsyncExitStack() as stack:
        valkey = stack.enter_context(ValkeyServer())
        with redis.Redis(port=valkey.port) as client:
            client.config_set("requirepass", REDIS_PASSWORD)
        http = await stack.enter_async_context(aiohttp.ClientSession())
        credentials = tmp_path / "credentials.json"
        kinds = ("ctrader", "ctrader-live", "ctrader-tls", "alpaca", "alpaca-live", "admin")
        ports = [f"--{kind}-port" for kind in kinds]
        simulator = await stack.enter_async_context(
            bridge_process(
                *("simulate", *(word for port in ports for word in (port, "0"))),
                *("--users", "4", "--cert-dir", str(tmp_path), "--credentials", str(credentials)),
            )
        )
        ready = json.loads(await simulator.line(lambda line: line.startswith("{"), within_s=60))
        yield Surroundings(ready, valkey, credentials, http)


class Caller:
    """Calls the bridge and keeps what it answers."""

    def __init__(self, around: Surroundings, url: str) -> None:
        self._around = around
        self._url = url

    async def __call__(self, method: str, path: str, key: str = OPS_KEY, **more: object) -> dict:
        headers = {"Authorization": f"Bearer {key}", **more.pop("headers", {})}
        async with self._around.http.request(method, self._url + path, headers=headers, **more) as answer:
            text = await answer.text()
        self._around.heard.append(f"{dict(answer.headers)} {text}")
        return json.loads(text) if "json" in answer.content_type else {}

    async def start(self, user: str, wait: int = 10) -> dict:
        body = {"userId": user, "broker": "ctrader", "environment": "demo"}
        return await self("POST", f"/api/start-session?wait={wait}", APP_KEY, json=body)

    async def reach(self, user_key: str, status: str) -> None:
        async def reached() -> bool:
            answer = await self("GET", f"/api/sessions/{user_key}/explain")
            return answer["explanations"][0]["session"]["status"] == status

        await eventually(reached, within_s=20, every_s=0.1, what=f"the session is {status}")


@asynccontextmanager
async def bridge(around: Surroundings, **env: str) -> AsyncIterator[tuple[BridgeProcess, Caller]]:
    port = free_port()
    async with bridge_process("serve", env={**around.env, "PORT": str(port), **env}) as process:
        await process.line(lambda line: "serving" in line)
        yield process, Caller(around, f"http://127.0.0.1:{port}")


@pytest.mark.parametrize("form", ["json", "console"])
async def test_no_secret_leaves_while_sessions_live_through_everything(around: Surroundings, form: str):
    async with bridge(around, LOG_FORMAT=form) as (process, call):
        keys = {user: (await call.start(user))["userKey"] for user in ("user-1", "user-2", "user-3")}
        before = around.credentials.read_bytes()
        await around.sim("/users/1/expire")
        await eventually(
            lambda: around.credentials.read_bytes() != before, within_s=20, what="a refreshed pair on disk"
        )
        await around.sim("/users/2/revoke")
        await call.reach(keys["user-2"], "action_required")
        for fault in ({"id": "N14"}, {"id": "N12"}, {"id": "N40"}):
            await around.sim("/faults", fault)
        await around.sim("/accounts/1000031/deposit", {"amount": 5})
        for user in ("user-1", "user-3"):
            await call.reach(keys[user], "live")
        await call("GET", "/account", WRONG_KEY, headers={"X-User-Id": "user-1"})
        await call("GET", "/account", APP_KEY, headers={"Origin": "https://page.example"})
        await call("POST", "/api/start-session", APP_KEY, json={"userId": APP_KEY, "broker": OPS_KEY})
        await call("POST", "/api/start-session", APP_KEY, data=f"not json {APP_KEY}")
        for path in ("/account", "/positions"):
            assert (await call("GET", path, APP_KEY, headers={"X-User-Id": "user-3"}))["accountId"]
        for path in ("/metrics", "/health", "/health/ready", "/openapi.json", "/docs", "/api/sessions", "/nowhere"):
            await call("GET", path)
        stored = around.stored()
        assert keys["user-1"] in stored
        with around.store() as client:  # the store refuses the password that is configured
            client.config_set("requirepass", "another")
            client.client_kill_filter(_type="normal", skipme=True)
        await around.sim("/accounts/1000031/deposit", {"amount": 5})
        await process.line(lambda line: "store unavailable" in line)
        await process.stop()
    said = "\n".join([*process.stdout, *process.stderr])
    assert len(process.stdout) >= 10, "nothing was logged"
    assert leaks(said) == []
    assert leaks("\n".join(around.heard), answer=True) == []
    assert leaks(stored) == []
    for place in (said, stored):
        assert "user-1" not in place


async def test_no_secret_leaves_when_the_application_is_refused(around: Surroundings):
    async with bridge(around, CTRADER_CLIENT_SECRET=WRONG_CLIENT_SECRET, LOG_FORMAT="console") as (process, call):
        key = (await call.start("user-4", wait=0))["userKey"]
        await process.line(lambda line: "appl" in line.lower() and "refuse" in line.lower())
        await call("GET", f"/api/sessions/{key}/explain")
        await call("GET", "/metrics")
        await process.stop()
    assert leaks(process.output + "\n".join(around.heard) + around.stored()) == []


@pytest.mark.parametrize("command", ["config", "doctor"])
async def test_no_secret_is_shown_to_an_operator(around: Surroundings, command: str):
    async with bridge_process(command, env=around.env) as process:
        await process.ended(within_s=30)
    assert len(process.stdout) >= 5
    assert leaks(process.output) == []


@pytest.mark.parametrize("target", ["bridge.cache.flusher.Flusher._run", "bridge.cache.stores.redis.RedisStore.open"])
async def test_no_secret_is_in_what_a_crash_leaves_behind(target: str):
    module, name, method = target.rsplit(".", 2)
    script = f"""
        import importlib, os, sys
        from bridge.cli import main
        async def broken(self):
            secrets = [os.environ["REDIS_PASSWORD"], os.environ["CTRADER_CLIENT_SECRET"]]
            raise RuntimeError(f"broken beside {{secrets}}")
        setattr(getattr(importlib.import_module("{module}"), "{name}"), "{method}", broken)
        sys.exit(main(["serve"]))
    """
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", textwrap.dedent(script)),
        cwd=ROOT,
        env={
            **{name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ},
            **{"PORT": "0", "REDIS_HOST": "127.0.0.1", "REDIS_PORT": "1", "REDIS_PASSWORD": REDIS_PASSWORD},
            **{"CTRADER_CLIENT_ID": "x", "CTRADER_CLIENT_SECRET": WRONG_CLIENT_SECRET},
        },
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        output, _ = await asyncio.wait_for(process.communicate(), 20)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 1, output.decode()
    assert "broken beside" in output.decode()
    assert leaks(output.decode()) == []
