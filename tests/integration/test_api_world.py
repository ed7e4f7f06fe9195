"""The API over the whole system: simulator, bridge and Valkey as processes, and a caller with keys."""

import json
from pathlib import Path

import aiohttp
import pytest

from tests.support.processes import bridge_process
from tests.support.waiting import eventually
from tests.support.world import API_KEY_SECRET, APP_KEY, OPS_KEY, World, api_keys, record_key, running_world


@pytest.fixture
async def world(tmp_path: Path):
    async with running_world(tmp_path, users=3) as running:
        yield running


async def test_a_session_lives_from_start_to_stop(world: World):
    started = await world.api(
        "POST", "/api/v1/start-session?wait=10", key=APP_KEY, body={"userId": "user-1", "broker": "ctrader"}
    )
    assert (started["_status"], started["status"], started["broker"]) == (202, "live", "ctrader")
    assert started["cacheKey"] == record_key("user-1")
    again = await world.api("POST", "/api/start-websocket", key=APP_KEY, body={"userId": "user-1"})
    assert {**again, "status": "live"} == {**started, "status": "live"}

    async def read() -> dict:
        record = await world.api("GET", "/account", key=APP_KEY, user="user-1")
        return record if record.get("fresh") else {}

    record = await eventually(read, within_s=5, what="a fresh record")
    truth = await world.sim("GET", f"/truth/{record['accountId']}")
    assert record["balance"] == truth["balance"]
    by_key = await world.api("GET", f"/positions?userKey={started['userKey'][:12]}", key=APP_KEY)
    assert (by_key["accountId"], by_key["positions"]) == (record["accountId"], record["positions"])
    named = await world.api("GET", f"/account?accountId={record['accountId']}", key=APP_KEY, user="user-1")
    assert named["accountId"] == record["accountId"]

    listing = await world.api("GET", "/api/sessions?status=live&broker=ctrader")
    assert (listing["total"], listing["next"]) == (1, None)
    explained = await world.api("GET", f"/api/sessions/{started['userKey']}/explain")
    assert explained["explanations"][0]["session"]["state"] == "live"

    stopped = await world.api("POST", "/api/stop-session", key=APP_KEY, body={"userId": "user-1", "broker": "ctrader"})
    assert stopped["_status"] == 202

    async def gone() -> bool:
        record = await world.api("GET", "/account", key=APP_KEY, user="user-1")
        return (record["status"], record["fresh"]) == ("stopped", False)

    await eventually(gone, within_s=5, what="the record says stopped")
    repeated = await world.api("POST", "/api/stop-session", key=APP_KEY, body={"userId": "user-1", "broker": "ctrader"})
    assert (repeated["_status"], repeated["status"]) == (202, "stopped")


async def test_what_cannot_be_started_or_stopped_says_why(world: World):
    async def post(path: str, **body: object) -> tuple[int, str]:
        answer = await world.api("POST", f"/api/{path}", key=APP_KEY, body=body)
        return answer["_status"], answer["type"].rsplit(":", 1)[-1]

    assert await post("start-session", userId="stranger", broker="ctrader") == (409, "no-credentials")
    assert await post("start-session", userId="user-1", broker="other") == (422, "invalid-input")
    assert await post("stop-session", userId="user-1", broker="ctrader") == (404, "not-found")
    assert (await world.api("GET", "/account", key=APP_KEY, user="user-1"))["_status"] == 404
    assert (await world.api("GET", "/api/sessions/" + "0" * 64))["_status"] == 404


async def test_a_record_is_readable_after_a_restart_by_another_process(world: World):
    started = await world.start("user-1")
    await eventually(lambda: world.records(["user-1"])[0], within_s=10)
    await world.bridge.stop()
    env = {"PORT": "0", "REDIS_URL": world.valkey.url, "CTRADER_CLIENT_ID": "x", "CTRADER_CLIENT_SECRET": "y"}
    async with bridge_process("serve", env=env) as other:
        url = json.loads(await other.line(lambda line: '"message":"serving"' in line))["urls"][0]
        for query in ("", f"?accountId={started['accountId']}", "?accountId=999"):
            async with world.http.get(f"{url}/account{query}", headers={"X-User-Id": "user-1"}) as answer:
                assert answer.status == (404 if "999" in query else 200)
        async with world.http.get(f"{url}/account?userKey={started['userKey']}") as answer:
            assert (await answer.json())["reason"]["code"] == "draining"


async def test_metrics_show_every_part_that_runs(database_url: str, redis_url: str):
    env = {"PORT": "0", "DATABASE_URL": database_url, "REDIS_URL": redis_url, "JWKS_URL": "http://127.0.0.1:1/jwks"}
    env |= {"JWT_ISSUER": "http://127.0.0.1:1/", "CTRADER_CLIENT_ID": "x", "CTRADER_CLIENT_SECRET": "y"}
    env |= {"API_KEY_SECRET": API_KEY_SECRET, "API_KEYS": api_keys()}
    async with bridge_process("serve", env=env) as bridge, aiohttp.ClientSession() as http:
        url = json.loads(await bridge.line(lambda line: '"message":"serving"' in line))["urls"][0]
        async with http.get(f"{url}/metrics", headers={"Authorization": f"Bearer {OPS_KEY}"}) as answer:
            text = await answer.text()
    for name in ("http_in_work 1.0", "http_rates_shared 1.0", "audit_waiting", "alerts_open 0.0", "jwks_fetches_total"):
        assert f"\nbridge_{name}" in text
    for tier in ("general-l1", "general-redis", "general-postgres"):
        assert f'bridge_cache_hits_total{{tier="{tier}"}}' in text
    for pool in ("main", "records"):
        assert f'bridge_database_connections_most{{pool="{pool}"}}' in text


async def test_metrics_follow_what_happens(world: World):
    await world.start_all()
    await world.all_live(within_s=20)

    async def page() -> str:
        async with world.http.get(f"{world.url}/metrics", headers={"Authorization": f"Bearer {OPS_KEY}"}) as answer:
            assert answer.status == 200
            return await answer.text()

    async def page_with(name: str) -> str:
        text = await page()  # the stores are written to a moment after the sessions are live
        return text if name in text else ""

    text = await eventually(lambda: page_with("bridge_flush_seconds_bucket"), within_s=20, every_s=0.1)
    assert 'bridge_sessions{broker="ctrader",status="live"} 3.0' in text
    assert 'bridge_broker_requests_total{broker="ctrader",outcome="ok"}' in text
    for name in ("events_total", "broker_roundtrip_seconds_bucket", "reconnects_total", "lost_events_total"):
        assert f"bridge_{name}" in text
    for name in ("flush_seconds_bucket", "record_age_seconds", "cache_hits_total", "cache_misses_total"):
        assert f"bridge_{name}" in text
    assert "bridge_loop_lag_seconds" in text


async def test_doctor_is_content_with_a_working_system_and_says_what_to_do_otherwise(world: World, tmp_path: Path):
    env = {
        "REDIS_URL": world.valkey.url,
        **{name: value for name, value in world.env.items() if name.startswith(("CTRADER_", "ALPACA_"))},
        "BRIDGE_CREDENTIALS_FILE": str(tmp_path / "credentials.json"),
    }
    async with bridge_process("doctor", env=env) as process:
        assert await process.ended(within_s=30) == 0, process.output
        assert process.stdout[-1] == "all is well"
        assert any("clock against redis" in line for line in process.stdout)
    (tmp_path / "credentials.json").chmod(0o640)
    async with bridge_process("doctor", env=env) as process:
        assert await process.ended(within_s=30) == 0, process.output
        assert any("do: chmod 600" in line for line in process.stdout)
    broken = {
        **env,
        "REDIS_URL": "redis://:canary-password@127.0.0.1:1/0",
        "CTRADER_DEMO_URL": "ws://127.0.0.1:1",
        "CTRADER_LIVE_URL": f"ws://127.0.0.1:{world.valkey.port}",
        "CTRADER_TOKEN_URL": "http://127.0.0.1:1/token",
        "ALPACA_LIVE_URL": "http://127.0.0.1:1",
        "ALPACA_DATA_URL": f"ws://127.0.0.1:{world.valkey.port}",
        "BRIDGE_CREDENTIALS_FILE": str(tmp_path / "missing.json"),
    }
    async with bridge_process("doctor", env=broken) as process:
        assert await process.ended(within_s=40) == 1, process.output
        failed = [line for line in process.stdout if line.startswith("FAIL")]
        for part in ("store redis", "ctrader demo", "ctrader live", "alpaca live", "alpaca data", "credentials file"):
            assert any(part in line for line in failed), process.output
        assert sum(line.strip().startswith("do: ") for line in process.stdout) >= 4
        assert "canary" not in process.output
