"""Who may call what: every route of the table × every kind of caller, and what the answers look like."""

import pytest

from bridge.api.callers import Access
from bridge.api.dispatch import Policy
from bridge.api.handlers import Handlers
from bridge.api.routes import ROUTES, Route
from tests.support.fake_services import APP_KEY, BOTH_KEY, OPS_KEY, Api, FakeUsers, running_api, user_key
from tests.support.fault_table import fault
from tests.support.raw_http import exchange

FORGED = {
    "nobody": {},
    "wrong secret": {"Authorization": "Bearer app.wrong"},
    "unknown id": {"Authorization": "Bearer who.0123456789abcdef"},
    "no dot": {"Authorization": "Bearer app"},
    "only a dot": {"Authorization": "Bearer ."},
    "empty": {"Authorization": "Bearer "},
    "basic": {"Authorization": "Basic YXBwOjAxMjM="},
    "a key without its scheme": {"Authorization": APP_KEY},
    "unsigned token": {"Authorization": "Bearer eyJhbGciOiJub25lIn0.eyJzdWIiOiJ1MSJ9."},
    "huge": {"Authorization": "Bearer app." + "x" * 4000},
}
MAY = {
    Access.PUBLIC: {"app", "ops", "both"},
    Access.APP: {"app", "both"},
    Access.OPS: {"ops", "both"},
    Access.OPS_OR_USER: {"ops", "both"},
}
KEYS = {"app": APP_KEY, "ops": OPS_KEY, "both": BOTH_KEY}
EVERY_PATH = [pytest.param(route, path, id=f"{route.method} {path}") for route in ROUTES for path in route.paths]


def concrete(path: str) -> str:
    return path.replace("{userKey}", user_key("u1")).replace("{broker}", "sim")


def body_of(route: Route) -> dict:
    return {"json": {"userId": "u1", "broker": "sim"}} if route.body else {}


@pytest.mark.parametrize(("route", "path"), EVERY_PATH)
async def test_a_route_opens_to_its_callers_only(api: Api, route: Route, path: str):
    for kind, headers in FORGED.items():
        async with api.request(route.method, concrete(path), None, headers=headers, **body_of(route)) as answer:
            if route.access is Access.PUBLIC:
                assert answer.status == (409 if route.browser else 200), kind  # 409: connecting is not configured
            else:
                assert answer.status == 401, kind
                assert answer.headers["WWW-Authenticate"].startswith("Bearer")
    for kind, key in KEYS.items():
        async with api.request(route.method, concrete(path), key, **body_of(route)) as answer:
            assert (answer.status not in (401, 403)) is (kind in MAY[route.access]), kind
            if kind not in MAY[route.access]:
                assert answer.status == 403


@pytest.mark.parametrize(("route", "path"), EVERY_PATH)
async def test_a_key_is_refused_when_it_comes_from_a_page(route: Route, path: str):
    policy = Policy(cors_origins=frozenset({"https://app.example.com"}), key_rate=10**6, address_rate=10**6)
    async with running_api(policy=policy) as api:
        for origin in ("https://app.example.com", "https://evil.example.com", "null"):
            headers = {"Origin": origin}
            async with api.request(route.method, concrete(path), BOTH_KEY, headers=headers, **body_of(route)) as answer:
                assert answer.status == 403
                assert (await answer.json(content_type=None))["type"].endswith(":key-in-browser")


async def test_every_route_is_open_when_no_keys_are_configured():
    async with running_api(keys=None) as api:
        for route in ROUTES:
            for path in route.paths:
                async with api.request(route.method, concrete(path), None, **body_of(route)) as answer:
                    assert answer.status not in (401, 403), path
        async with api.request("GET", "/health", None) as answer:
            assert (await answer.json())["auth"] == "open"


@pytest.mark.parametrize("host", ["evil.example.com", "127.0.0.1.nip.io", "", "[::1", "localhost.evil.com:3000"])
async def test_an_open_bridge_refuses_when_the_host_name_is_foreign(host: str):
    async with running_api(keys=None) as api, api.request("GET", "/health", None, headers={"Host": host}) as answer:
        assert answer.status == 403


async def test_a_user_acts_for_themself_only_when_their_token_is_verified():
    async with running_api(users=FakeUsers()) as api:
        token = "user.u1.sig"
        async with api.request("POST", "/api/start-session", token, json={"broker": "sim"}) as answer:
            assert (await answer.json())["userKey"] == user_key("u1")
        async with api.request("POST", "/api/start-session", token, json={"broker": "sim", "userId": "u2"}) as answer:
            assert answer.status == 403
        async with api.request("GET", "/account", token, headers={"X-User-Id": "u2"}) as answer:
            assert answer.status == 403
        for path in ("/api/sessions", "/metrics"):
            async with api.request("GET", path, token) as answer:
                assert answer.status == 403
        async with api.request("GET", "/account", "user.u1.forged") as answer:
            assert answer.status == 401


@pytest.mark.parametrize("name", ["Authorization", "X-User-Id", "Origin"])
async def test_a_request_is_refused_when_it_says_twice_who_calls_or_for_whom(api: Api, name: str):
    said = {"Authorization": [f"Bearer {APP_KEY}"], "X-User-Id": ["user-1"], "Origin": []}
    said[name] = ["null", "https://app.example"] if name == "Origin" else [*said[name], f"Bearer {OPS_KEY}"]
    lines = "".join(f"{each}: {value}\r\n" for each, values in said.items() for value in values)
    answer = await exchange(api.port, f"GET /account HTTP/1.1\r\nHost: x\r\n{lines}\r\n".encode())
    assert (answer.status, answer.problem) == (400, "urn:pulse-bridge:problem:bad-request")


async def test_start_needs_a_user_when_the_caller_is_the_app(api: Api):
    async with api.request("POST", "/api/start-session", APP_KEY, json={"broker": "sim"}) as answer:
        assert answer.status == 422
        assert (await answer.json())["errors"][0]["field"] == "userId"


@pytest.mark.parametrize(
    "path",
    [
        *("/", "//", "/api", "/api/v1", "/health/", "//health", "/health//live", "/health/../metrics", "/Health"),
        *("/%68ealth", "/health%2Flive", "/metrics;x", "/metrics%00", "/metrics.", "/./metrics", "/api/sessions/"),
        *(
            "/api%2Fsessions",
            "/api/v1/../v1/sessions",
            "/api/v2/sessions",
            "/%2e%2e/metrics",
            "/metrics/",
            "/\\metrics",
        ),
    ],
)
@fault("I05", "a table of odd spellings", "400 or 404")
async def test_a_path_is_unknown_when_it_is_not_spelt_exactly(api: Api, path: str):
    answer = await exchange(api.port, f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    assert answer.status in (400, 404)
    assert answer.problem.endswith((":not-found", ":bad-request"))


def misspelt(path: str) -> list[str]:
    """A path in spellings that something in front of us might take for the path itself."""
    first, _, rest = path[1:].partition("/")
    within = f"/{first}%2F{rest}" if rest else f"/%2F{first}"
    return [
        *(f"/{path}", f"{path}/", f"{path}//", f"{path};x", f"{path};", f"{path}.", f"{path}%00", f"{path}%20"),
        *(f"{path}%3F", f"{path}%2e", f"{path}/.", f"{path}/..", f"/.{path}", f"/x/..{path}", f"/%2e%2e{path}"),
        *(within, path.replace("/", "//", 2), path.replace("/", "\\"), path.upper(), f"/%{ord(path[1]):02x}{path[2:]}"),
    ]


@pytest.mark.parametrize(("route", "path"), EVERY_PATH)
@fault("I05", "18 spellings of every route, with and without key", "400 or 404")
async def test_no_spelling_of_a_path_slips_past_its_rule(api: Api, route: Route, path: str):
    spellings = misspelt(concrete(path))
    assert len(set(spellings)) >= 18
    for spelling in spellings:
        for key in (None, BOTH_KEY):
            bearer = f"Authorization: Bearer {key}\r\n" if key else ""
            head = f"{route.method} {spelling} HTTP/1.1\r\nHost: x\r\n{bearer}Content-Length: 0\r\n\r\n"
            answer = await exchange(api.port, head.encode())
            assert answer.status in (400, 404), spelling


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "TRACE"])
@fault("I06", "wrong methods", "405 with the right ones")
async def test_a_wrong_method_is_refused_with_the_right_ones(api: Api, method: str):
    async with api.request(method, "/api/start-session") as answer:
        assert answer.status == 405
        assert answer.headers["Allow"] == "OPTIONS, POST"
        assert (await answer.json(content_type=None))["type"].endswith(":method-not-allowed")


async def test_every_handler_of_the_table_exists():
    assert {route.handler for route in ROUTES} <= set(dir(Handlers))


async def test_only_these_routes_are_public():
    public = {route.path for route in ROUTES if route.access is Access.PUBLIC}
    assert public == {"/health", "/health/live", "/health/ready", "/openapi.json", "/record.schema.json", "/docs"} | {
        f"/oauth/{{broker}}/{step}"
        for step in ("begin", "callback")  # for people's browsers, which hold no key
    }
