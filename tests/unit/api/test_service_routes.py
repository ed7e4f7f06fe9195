"""Health, probes, metrics, documentation, CORS and the headers of every answer."""

import json
from typing import Any

import pytest
from openapi_schema_validator import OAS31Validator
from openapi_spec_validator import validate

from bridge.api.dispatch import Policy
from bridge.api.problems import KINDS
from bridge.api.routes import ROUTES
from tests.support.fake_services import OPS_KEY, Api, FakeUsers, running_api, user_key
from tests.support.fault_table import fault


async def test_health_has_exactly_the_agreed_members(api: Api):
    async with api.request("GET", "/health", None) as answer:
        assert await answer.json() == {
            "status": "ok",
            "version": "0.0.test",
            "uptimeSeconds": 12.3,
            "auth": "keys",
            "sessions": {},
            "brokers": {"sim": {"channels": 1, "state": "up", "lastInboundAt": 5}},
            "stores": {
                "memory": {
                    **{
                        "role": "primary",
                        "state": "up",
                        "lastFlushAt": 1,
                        "lastFlushMs": 0.5,
                        "dirty": 0,
                        "failures": 0,
                    }
                }
            },
            "process": {"rssBytes": 1, "cpuPercent": 0.5, "loopLagMs": 0.2},
            "ownership": None,
        }


@pytest.mark.parametrize("state", ["down", "connecting", "unfenced"])
async def test_health_is_degraded_when_a_store_is_not_up(api: Api, state: str):
    api.vitals.store_state = state
    async with api.request("GET", "/health", None) as answer:
        assert (answer.status, (await answer.json())["status"]) == (200, "degraded")


async def test_health_is_degraded_when_a_broker_is_down(api: Api):
    api.sessions.channel = "down"
    async with api.request("GET", "/health", None) as answer:
        assert (await answer.json())["status"] == "degraded"


async def test_health_says_nothing_of_users(api: Api):
    await (await api.request("POST", "/api/start-session", json={"userId": "canary-user", "broker": "sim"})).release()
    for path in ("/health", "/health/live", "/health/ready"):
        async with api.request("GET", path, None) as answer:
            text = await answer.text()
            assert "canary" not in text
            assert user_key("canary-user")[:12] not in text


async def test_probes_fail_with_503_when_their_part_fails(api: Api):
    api.vitals.dead, api.vitals.unready = "the flusher makes no progress", "the primary store does not answer"
    for path, slug in (("/health/live", ":not-live"), ("/health/ready", ":not-ready")):
        async with api.request("GET", path, None) as answer:
            assert answer.status == 503
            assert (await answer.json())["type"].endswith(slug)


async def test_public_routes_ignore_parameters(api: Api):
    async with api.request("GET", "/health?cachebuster=1", None) as answer:
        assert answer.status == 200


async def test_metrics_are_text_for_prometheus(api: Api):
    async with api.request("GET", "/metrics", OPS_KEY) as answer:
        assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        assert await answer.text() == "bridge_up 1\n"


async def test_openapi_is_valid_and_has_every_route(api: Api):
    async with api.request("GET", "/openapi.json", None) as answer:
        document = await answer.json()
    validate(document)
    listed = {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}
    assert listed == {(route.method, path) for route in ROUTES for path in route.paths}
    operations = [operation["operationId"] for methods in document["paths"].values() for operation in methods.values()]
    assert len(operations) == len(set(operations))


async def test_every_answer_is_as_documented(api: Api):
    async with api.request("GET", "/openapi.json", None) as answer:
        document = await answer.json()
    key = f"sim_account_{user_key('u1')}"
    api.records.put(key, now_ms=api.clock.now_ms())
    for route in ROUTES:
        for good in (True, False):
            path = route.path.replace("{userKey}", user_key("u1") if good else "0" * 64)
            body = {"json": {"userId": "u1" if good else "several", "broker": "sim"}} if route.body else {}
            headers = {"X-User-Id": "u1" if good else "u2"} if route.headers else {}
            async with api.request(route.method, path, headers=headers, **body) as answer:
                documented = document["paths"][route.path][route.method.lower()]["responses"][str(answer.status)]
                assert answer.content_type in documented["content"]
                schema = documented["content"][answer.content_type]["schema"]
                value = await answer.json() if "json" in answer.content_type else await answer.text()
            OAS31Validator({**schema, "components": document["components"]}).validate(value)


async def test_docs_are_one_page_without_anything_from_elsewhere(api: Api):
    async with api.request("GET", "/docs", None) as answer:
        page = await answer.text()
        assert answer.content_type == "text/html"
        assert "script-src" not in answer.headers["Content-Security-Policy"]
    assert "<script" not in page
    assert "http://" not in page
    assert "https://" not in page
    for route in ROUTES:
        assert f"<code>{route.path}</code>" in page
    for kind in KINDS.values():
        assert kind.type in page


async def test_every_answer_has_the_security_headers(api: Api):
    for path in ("/health", "/docs", "/nowhere", "/api/sessions", "/metrics"):
        for key in (None, OPS_KEY):
            async with api.request("GET", path, key) as answer:
                assert answer.headers["X-Content-Type-Options"] == "nosniff"
                assert answer.headers["X-Frame-Options"] == "DENY"
                assert answer.headers["Referrer-Policy"] == "no-referrer"
                assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
                assert answer.headers["Cache-Control"] == "no-store"
                assert "aiohttp" not in answer.headers["Server"].lower()
                assert "Access-Control-Allow-Origin" not in answer.headers


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        ("https://app.example.com", True),
        ("https://evil-app.example.com", False),
        ("https://app.example.com.evil.com", False),
        ("http://app.example.com", False),
        ("https://app.example.com:8443", False),
        ("null", False),
        ("*", False),
    ],
)
@fault("I17", "a table of origins", "only listed ones, exactly")
async def test_only_listed_origins_may_read(origin: str, allowed: bool):
    policy = Policy(cors_origins=frozenset({"https://app.example.com"}), key_rate=10**6, address_rate=10**6)
    async with running_api(policy=policy) as api:
        for method, path in (("GET", "/health"), ("OPTIONS", "/api/start-session")):
            async with api.request(method, path, None, headers={"Origin": origin}) as answer:
                assert (answer.headers.get("Access-Control-Allow-Origin") == origin) is allowed
                assert answer.headers["Vary"] == "Origin"
                assert "Access-Control-Allow-Credentials" not in answer.headers
                assert answer.status == (204 if method == "OPTIONS" else 200)
        async with api.request("OPTIONS", "/api/start-session", None, headers={"Origin": origin}) as answer:
            assert (answer.headers.get("Access-Control-Allow-Methods") == "OPTIONS, POST") is allowed


async def test_a_page_may_ask_with_all_that_users_need():
    policy = Policy(cors_origins=frozenset({"https://app.example.com"}), key_rate=10**6, address_rate=10**6)
    asked = {"Origin": "https://app.example.com", "Access-Control-Request-Headers": "authorization,if-none-match"}
    async with running_api(policy=policy) as api:
        for route in ROUTES:
            path = route.path.replace("{userKey}", user_key("u1")).replace("{broker}", "sim")
            headers = {**asked, "Access-Control-Request-Method": route.method}
            async with api.request("OPTIONS", path, None, headers=headers) as answer:
                assert answer.status == 204
                assert route.method in answer.headers["Access-Control-Allow-Methods"].split(", ")
                allowed = answer.headers["Access-Control-Allow-Headers"].lower().split(", ")
                assert {"authorization", "content-type", "if-none-match"} <= set(allowed)
                assert "Access-Control-Allow-Credentials" not in answer.headers
        for status, path in ((401, "/api/sessions"), (404, "/nowhere")):  # a page can read refusals too
            async with api.request("GET", path, None, headers=asked) as answer:
                assert (answer.status, answer.headers["Access-Control-Allow-Origin"]) == (status, asked["Origin"])


@pytest.mark.parametrize(
    ("keys", "users", "auth"),
    [
        (None, None, "open"),
        ("default", None, "keys"),
        (None, FakeUsers(), "tokens"),
        ("default", FakeUsers(), "keys+tokens"),
    ],
)
async def test_health_says_what_callers_may_show(keys: Any, users: Any, auth: str):
    async with running_api(keys=keys, users=users) as api, api.request("GET", "/health", None) as answer:
        assert (await answer.json())["auth"] == auth


async def test_transport_security_is_announced_when_tls_is_in_front():
    async with running_api(policy=Policy(https=True)) as api, api.request("GET", "/health") as answer:
        assert "max-age" in answer.headers["Strict-Transport-Security"]


async def test_problem_documents_hold_what_the_rfc_names(api: Api):
    async with api.request("GET", "/nowhere", None) as answer:
        problem = json.loads(await answer.text())
    assert set(problem) == {"type", "title", "status", "detail"}
    assert problem["status"] == answer.status == 404
