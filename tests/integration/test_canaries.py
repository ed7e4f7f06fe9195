"""A bridge that knows every kind of secret is put through everything, and all that it says and stores is searched.

The rest of the suite is searched as well, see tests/support/{canaries,processes,world}.py; here is what no other test
has all at once (faults.md S05, S06): every setting that is a secret, peers that repeat what they are sent, consent,
both ways of renewal, forged callers, stores that go and come back, a crash, an abort and the end.
"""

import asyncio
import base64
import json
import re
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from html import unescape
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit

import asyncpg
import pytest

from bridge.embedded.postgres import PostgresServer
from bridge.runtime.clock import SystemClock
from tests.support.canaries import assert_clean, leaks, plant_passing
from tests.support.everything import (
    APP_KEY,
    BACK,
    DSN_KEY,
    ISSUER,
    JWT_SECRET,
    OPS_KEY,
    WEBHOOK_PATH,
    WRONG_KEY,
    Everything,
    everything,
)
from tests.support.issuer import claims, sign
from tests.support.processes import ROOT, BridgeProcess, bridge_process
from tests.support.waiting import eventually

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]
HIDDEN = re.compile(r'type="hidden" name="(\w+)" value="([^"]*)"')
ANN = "8a6e0804-2bd0-4672-b79d-d97027f9071a"


@pytest.fixture
async def around(tmp_path: Path, postgres_factory: Callable[[], PostgresServer]) -> AsyncIterator[Everything]:
    async with everything(tmp_path, postgres_factory()) as surroundings:
        yield surroundings


@asynccontextmanager
async def serving(around: Everything, **more: str) -> AsyncIterator[BridgeProcess]:
    async with bridge_process("serve", env={**around.env, **more}, module="tests.support.broken_bridge") as process:
        await process.line(lambda line: "serving" in line)
        yield process


def token(secret: str = JWT_SECRET, **more: object) -> str:
    return sign(claims(SystemClock(), iss=ISSUER, sub=ANN, **more), secret, "HS256")


def parameters(address: str) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(urlsplit(address).query).items()}


async def consent(around: Everything, broker: str = "ctrader") -> dict:
    """Ann connects in her browser. What passes through it is planted as it becomes known."""
    body = {"returnTo": BACK, "scope": "accounts"}
    begun = await around.call("POST", f"/oauth/{broker}/start", token(), json=body)
    plant_passing(*parameters(begun["url"]).values())
    async with around.http.get(begun["url"]) as page:
        fields = {name: unescape(value) for name, value in HIDDEN.findall(await page.text())}
    plant_passing(fields["state"], *(cookie.value for cookie in around.http.cookie_jar))
    data = {**fields, "user": "2", "decision": "approve"}
    async with around.http.post(around.env[f"{broker.upper()}_AUTH_URL"], data=data, allow_redirects=False) as answer:
        callback = answer.headers["Location"]
    plant_passing(*parameters(callback).values())
    wrong = f"{urlsplit(callback).path}?state={'w' * 43}&code={parameters(callback)['code']}"
    assert (await around.call("GET", wrong))["_status"] in (403, 404)
    async with around.http.get(callback, allow_redirects=False) as answer:
        back = parameters(answer.headers["Location"])
    plant_passing(back["ticket"])
    again = await around.call("GET", callback.removeprefix(around.url))
    assert again["_status"] >= 400
    done = await around.call("POST", f"/oauth/{broker}/complete", token(), json={"ticket": back["ticket"]})
    assert done["_status"] == 200, done
    late = await around.call("POST", f"/oauth/{broker}/complete", token(), json={"ticket": back["ticket"]})
    assert late["_status"] == 409
    return done


async def start(around: Everything, key: str, *, wait: int = 10, **named: str) -> str:
    body = {"broker": "ctrader", "environment": "demo", **named}
    answer = await around.call("POST", f"/api/start-session?wait={wait}", key, json=body)
    assert answer["_status"] == 202, answer
    return answer["userKey"]


async def reach(around: Everything, user_key: str, status: str) -> None:
    async def reached() -> bool:
        answer = await around.call("GET", f"/api/sessions/{user_key}/explain")
        return answer["_status"] == 200 and answer["explanations"][0]["session"]["status"] == status

    await eventually(reached, within_s=40, every_s=0.2, what=f"the session is {status}")


async def counted(around: Everything, what: str) -> None:
    async def told() -> bool:
        headers = {"Authorization": f"Bearer {OPS_KEY}"}
        async with around.http.get(f"{around.url}/metrics", headers=headers) as page:
            around.heard.append(await page.text())
        return what in around.heard[-1]

    await eventually(told, within_s=40, every_s=0.5, what=what)


async def expire_soon(around: Everything) -> None:
    """Tokens in the vault are renewed some seconds after the next login."""
    connection = await asyncpg.connect(around.database_url)
    try:
        soon = "clock_timestamp() + interval '12 seconds'"
        await connection.execute(f"update public.bridge_grants set expires_at = {soon}, refresh_attempts = 0")
    finally:
        await connection.close()


async def abuse(around: Everything) -> None:
    """Wrong, forged and malformed callers, who hold real secrets in wrong places."""
    forged = [token("f" * 40), token(exp=1), token() + "x", "eyJhbGciOiJub25lIn0.e30.", WRONG_KEY, APP_KEY + "x"]
    for key in forged:
        assert (await around.call("GET", "/account", key, user="user-1"))["_status"] == 401
    bodies: list[dict[str, object]] = [
        {"json": {"userId": APP_KEY, "broker": OPS_KEY}},
        {"data": f"not json {APP_KEY} {token()}"},
        {"json": {"userId": "user-1", "broker": "ctrader", "credentials": {"accessToken": ["sim-access-1"]}}},
        {"json": {"userId": "user-1", "broker": "ctrader", "credentials": "sim-access-1 sim-refresh-1"}},
        {"json": {"userId": "user-1", "broker": "ctrader", "credentials": {"sim-access-1": "sim-refresh-1"}}},
        {"json": {"userId": "user-1", "broker": "ctrader", "sim-access-1": "sim-refresh-1"}},
        {
            "json": {
                **{"userId": "user-1", "broker": "ctrader"},
                "credentials": {
                    "accessToken": "sim-access-1\n",
                    "refreshToken": "sim-refresh-1",
                    "environment": "sim-secret",
                },
            }
        },
    ]
    for body in bodies:
        for method, path in (("POST", "/api/start-session"), ("PUT", "/api/credentials")):
            answer = await around.call(method, path, APP_KEY, **body)
            assert 400 <= answer["_status"] < 500, answer
    for path in (f"/api/sessions/{APP_KEY.replace('/', '%2F')}", "/account?token=sim-access-1", "/sim-access-1"):
        await around.call("GET", path, APP_KEY, user="user-1")
    await around.call("GET", "/account", APP_KEY, headers={"Origin": "https://page.example"})
    await around.call("GET", "/account", APP_KEY, headers={"X-User-Id": "sim-access-1", "If-None-Match": OPS_KEY})
    for line in (f"GET /\x01{APP_KEY} HTTP/1.1", f"{APP_KEY}", f"GET / HTTP/1.1\r\nAuthorization {OPS_KEY}"):
        reader, writer = await asyncio.open_connection("127.0.0.1", around.port)
        writer.write(f"{line}\r\n\r\n".encode())
        async with asyncio.timeout(15):
            around.heard.append((await reader.read()).decode())
        writer.close()


async def look_everywhere(around: Everything, broker: str = "ctrader") -> None:
    for path in ("/metrics", "/health", "/health/ready", "/openapi.json", "/api/sessions", "/nowhere"):
        await around.call("GET", path)
    for path in (f"/account?broker={broker}", f"/positions?broker={broker}", f"/api/accounts?broker={broker}"):
        await around.call("GET", path, token())
        await around.call("GET", path, APP_KEY, user="user-1")


def search(around: Everything, process: BridgeProcess, stored: str, command_line: str) -> None:
    """All that came out of it, but its output, which is searched when it closes."""
    assert_clean("\n".join(around.heard), "what was answered", answer=True)
    assert_clean(stored, "what was stored")
    assert_clean(command_line, "the command line")
    for path in ("/api/77", "/otel", "/supabase", f"/{WEBHOOK_PATH}", "/canary-heartbeat"):
        got = around.parrot.got(path)
        assert got, f"nothing came to {path}: its search would prove nothing"
        own = {"/api/77": (DSN_KEY,), "/supabase": (around.env["SUPABASE_SECRET_KEY"],)}  # by which they let us in
        assert_clean(got, f"what was sent to {path}", but=own.get(path, ()))
    assert b"user-1" not in process.said  # the log names users by their keys


async def test_no_secret_leaves_a_bridge_that_knows_all_kinds_and_is_put_through_everything(around: Everything):
    async with serving(around) as process:
        command_line = Path(f"/proc/{process.pid}/cmdline").read_text()
        assert re.search(r"(?m)^Max core file size\s+0\s+0\s", Path(f"/proc/{process.pid}/limits").read_text())
        ann_key = (await consent(around))["userKey"]
        entered = {"accessToken": "sim-access-1", "refreshToken": "sim-refresh-1", "environment": "demo"}
        body = {"userId": "user-1", "broker": "ctrader", "credentials": entered}
        assert (await around.call("PUT", "/api/credentials", APP_KEY, json=body))["_status"] == 200
        accounts = (await around.call("GET", "/api/accounts?broker=ctrader", token()))["accounts"]
        demo = next(each["accountId"] for each in accounts if each["environment"] == "demo")
        await start(around, token(), accountId=demo)
        key = await start(around, APP_KEY, userId="user-1")
        await start(around, APP_KEY, userId="user-3")  # from the file
        for each in (ann_key, key):
            await reach(around, each, "live")
        await around.sim("/users/1/expire")  # renewed in band

        await counted(around, 'what="refreshes.in_band"} 1')
        await abuse(around)
        crashed = await around.call("GET", "/docs", APP_KEY)
        assert (crashed["_status"], crashed["type"]) == (500, "urn:pulse-bridge:problem:internal")
        for fault in ({"id": "N14"}, {"id": "N12"}, {"id": "N40"}):
            await around.sim("/faults", fault)
        await reach(around, key, "live")
        await look_everywhere(around)

        around.valkey.kill()
        await process.line(lambda line: "store unavailable" in line and "redis" in line)
        around.valkey.start()  # without a password: it refuses the one it is given, and says so
        await look_everywhere(around)
        around.lock_valkey()
        around.postgres.kill()
        await process.line(lambda line: "store unavailable" in line and "postgres" in line)
        await look_everywhere(around)
        await around.call("POST", "/oauth/ctrader/start", token(), json={"returnTo": BACK})
        await around.call("PUT", "/api/credentials", APP_KEY, json=body)
        around.postgres.start()
        await process.line(lambda line: "store recovered" in line and "postgres" in line, within_s=60)
        await around.sim("/users/2/revoke")
        await reach(around, ann_key, "action_required")
        await look_everywhere(around)
        await eventually(lambda: around.parrot.got(f"/{WEBHOOK_PATH}"), within_s=40, what="an alert")
        assert await process.stop() == 0
    search(around, process, await around.stored(), command_line)


async def test_no_secret_leaves_when_a_renewal_goes_by_http_and_every_peer_repeats_it(around: Everything):
    async with serving(around) as process:
        key = await start(around, APP_KEY, userId="user-3")
        entered = {"accessToken": "sim-access-1", "refreshToken": "sim-refresh-1", "environment": "demo"}
        body = {"userId": "user-1", "broker": "ctrader", "credentials": entered}
        assert (await around.call("PUT", "/api/credentials", APP_KEY, json=body))["_status"] == 200
        key = await start(around, APP_KEY, userId="user-1")
        await reach(around, key, "live")
        assert await process.stop() == 0
    await expire_soon(around)
    async with serving(around, RENEW_BY_HTTP="1", LOG_FORMAT="console") as process:
        await reach(around, key, "live")
        await counted(around, 'what="refreshes.http"} 1')
        await look_everywhere(around)
        assert await process.stop() == 0
    await expire_soon(around)
    parrot = f"http://127.0.0.1:{around.parrot.port}/token"
    async with serving(around, RENEW_BY_HTTP="1", CTRADER_TOKEN_URL=parrot) as process:
        await counted(around, 'what="refreshes_failed.http"} 1')
        assert any("sim-refresh-1" in path for path in around.parrot.paths), "it heard the token that it repeats"
        told = "sim-access-1 sim-refresh-1 sim-secret"
        await around.sim("/faults", {"id": "N10", "status": 401, "body": told, "count": 3})
        await around.sim("/faults", {"id": "N40"})
        await process.line(lambda line: "channel lost" in line)
        await reach(around, key, "live")
        await look_everywhere(around)
        assert await process.stop() == 0
    assert_clean("\n".join(around.heard), "what was answered", answer=True)
    assert_clean(await around.stored(), "what was stored")


TOLD = "sim-alpaca-oauth-2 sim-alpaca-secret-1 sim-alpaca-oauth-2-1 sim-secret"
ALPACA_FAULTS: list[dict[str, object]] = [
    *({"id": "N10", "status": status, "body": TOLD, "count": 4, "target": "both"} for status in (403, 404, 502, 503)),
    {"id": "N28", "count": 2, "retryAfter": 1},
    *({"id": "N12", "variant": variant, "count": 2} for variant in ("frame", "content")),
    {"id": "N13", "count": 1},
    *({"id": "N14", "mode": mode, "count": 3} for mode in ("random", "html", "mutated")),
    {"id": "BROKEN_BODY", "variant": "html", "count": 2},
    {"id": "STREAM_ERROR", "code": 500, "text": TOLD, "close": True},
    {"id": "LOGIN_REFUSED", "stream": "trading", "count": 1},
    {"id": "N23", "variant": "missing_fields", "count": 2},
    {"id": "N40", "holdSlot": False},
    {"id": "N36", "count": 1},
]


async def test_no_secret_of_the_other_broker_leaves_whatever_goes_wrong_there(around: Everything):
    async with serving(around, ALPACA_POLL_SECONDS="1") as process:
        connected = await consent(around, "alpaca")
        entered = {"keyId": "SIMKEY1", "secretKey": "sim-alpaca-secret-1", "environment": "paper"}
        body = {"userId": "user-1", "broker": "alpaca", "credentials": entered}
        assert (await around.call("PUT", "/api/credentials", APP_KEY, json=body))["_status"] == 200
        keys = [await start(around, token(), broker="alpaca")]
        keys += [await start(around, APP_KEY, userId=user, broker="alpaca") for user in ("user-1", "user-3")]
        for key in keys:
            await reach(around, key, "live")
        (account,) = connected["accounts"]
        await around.sim(f"/accounts/{account['accountId']}/order", {"symbol": "AAPL", "side": "buy", "units": 1})
        await counted(around, 'what="reconnects.feed_refused"}')  # the house key is one that the broker does not know
        await abuse(around)
        for wrong in (
            {"keyId": "SIMKEY1", "secretKey": ["sim-alpaca-secret-1"], "environment": "paper"},
            {"keyId": "SIMKEY1", "secretKey": "sim-alpaca-secret-1", "environment": "sim-alpaca-secret-1"},
            {"keyId": "SIMKEY1", "secretKey": "sim-alpaca-secret-1 ", "accountId": "sim-alpaca-secret-1"},
            {"sim-alpaca-secret-1": "SIMKEY1"},
        ):
            body = {"userId": "user-1", "broker": "alpaca", "credentials": wrong}
            assert (await around.call("PUT", "/api/credentials", APP_KEY, json=body))["_status"] == 422
        for fault in ALPACA_FAULTS:
            await around.sim("/alpaca/faults", fault)
            await around.sim(f"/accounts/{account['accountId']}/order", {"symbol": "F", "side": "buy", "units": 1})
        await around.call("GET", "/api/accounts?broker=alpaca", token())
        await look_everywhere(around, "alpaca")
        await process.line(lambda line: "session failed" in line)
        await around.sim("/alpaca/users/2/revoke", {"what": "tokens"})
        await reach(around, keys[0], "action_required")
        await process.line(lambda line: "a session needs its user" in line)
        await look_everywhere(around, "alpaca")
        assert await process.stop() == 0
    assert_clean("\n".join(around.heard), "what was answered", answer=True)
    assert_clean(await around.stored(), "what was stored")


@pytest.mark.parametrize("form", ["json", "console"])
async def test_no_secret_leaves_when_every_host_of_the_other_broker_repeats_it(around: Everything, form: str):
    parrot = f"http://127.0.0.1:{around.parrot.port}"
    hosts = {"ALPACA_PAPER_URL": f"{parrot}/paper", "ALPACA_LIVE_URL": f"{parrot}/live"}
    hosts |= {"ALPACA_TOKEN_URL": f"{parrot}/token", "CACHE_STORES": "postgres,redis"}
    async with serving(around, **hosts, LOG_FORMAT=form) as process:
        for status in (500, 401, 200, 403) if form == "json" else (302, 429, 400):
            around.parrot.status = status
            around.parrot.requests.clear()
            await unhappy_consent(around)
            key = await start(around, APP_KEY, wait=1, userId="user-1", broker="alpaca")  # from the file
            await around.call("GET", "/api/accounts?broker=alpaca", APP_KEY, user="user-1")
            await around.call("GET", f"/api/sessions/{key}/explain")
            await look_everywhere(around, "alpaca")
            told = around.parrot.got("/paper") + around.parrot.got("/token")
            for secret in ("sim-alpaca-secret-1", "sim-alpaca-code-", "sim-secret"):
                assert secret in told, f"{status}: it heard what it repeats"
        assert await process.stop() == 0
    assert_clean("\n".join(around.heard), "what was answered", answer=True)
    assert_clean(await around.stored(), "what was stored")


async def unhappy_consent(around: Everything) -> None:
    """As `consent`, where the code cannot be exchanged."""
    begun = await around.call("POST", "/oauth/alpaca/start", token(), json={"returnTo": BACK})
    async with around.http.get(begun["url"]) as page:
        fields = {name: unescape(value) for name, value in HIDDEN.findall(await page.text())}
    plant_passing(fields["state"])
    data = {**fields, "user": "2", "decision": "approve"}
    async with around.http.post(around.env["ALPACA_AUTH_URL"], data=data, allow_redirects=False) as answer:
        callback = answer.headers["Location"]
    plant_passing(*parameters(callback).values())
    async with around.http.get(callback, allow_redirects=False) as answer:
        ticket = parameters(answer.headers["Location"])["ticket"]
    failed = await around.call("POST", "/oauth/alpaca/complete", token(), json={"ticket": ticket})
    assert failed["_status"] >= 400, failed


@pytest.mark.parametrize(
    "options", [{}, {"PYTHONFAULTHANDLER": "1"}, {"PYTHONASYNCIODEBUG": "1", "PYTHONDEVMODE": "1"}]
)
async def test_no_secret_is_in_what_an_abort_leaves_behind(around: Everything, options: dict[str, str], tmp_path: Path):
    async with serving(around, **options) as process:
        await start(around, APP_KEY, userId="user-1")
        process.send(signal.SIGABRT)
        assert await process.ended() == -signal.SIGABRT
    if "PYTHONFAULTHANDLER" in options:
        assert any("Fatal Python error: Aborted" in line for line in process.stderr), process.output
    assert not list(Path.cwd().glob("core*.*"))


async def test_a_process_with_private_memory_cannot_be_dumped_and_its_children_can():
    get_dumpable = "import ctypes; print(ctypes.CDLL(None).prctl(3, 0, 0, 0, 0))"
    script = f"""
import subprocess, sys
from bridge.runtime.private_memory import keep_memory_private
keep_memory_private()
{get_dumpable}
sys.stdout.flush()
subprocess.run([sys.executable, "-c", {get_dumpable!r}], check=True)
"""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", script), cwd=ROOT, stdout=asyncio.subprocess.PIPE
    )
    output, _ = await asyncio.wait_for(process.communicate(), 20)
    assert output.split() == [b"0", b"1"]


def test_the_search_finds_a_planted_secret_in_every_form():
    secret = JWT_SECRET
    raw = secret.encode()
    shown = [
        secret,
        secret[::-1],
        raw.hex(),
        raw.hex().upper(),
        quote(secret, safe=""),
        quote(secret),
        json.dumps(secret),
    ]
    shown += [json.dumps(json.dumps([secret])), "".join(f"%{byte:02x}" for byte in raw), repr(raw)]
    for before in ("", "x", "xy", "xyz"):
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            shown.append(encode(f"{before}{secret}tail".encode()).decode())
    for form in shown:
        assert leaks(f"before {form} after", also=[secret]), form
    assert not leaks("nothing of that kind", also=[secret])
    assert not leaks(secret, but=[secret])
