"""The routes of connecting and of stored credentials: cookies, pages, who may act for whom, nothing repeated."""

from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest

from bridge.api.dispatch import Policy
from bridge.api.problems import KINDS
from bridge.brokers.base import BrokerAccount, ConsentScope, Environment
from bridge.credentials.views import (
    Begun,
    ConnectCode,
    Connected,
    ConnectRefused,
    CoveredAccounts,
    Entered,
    Returned,
)
from core.errors import InvalidInput, NotFound, Unavailable
from tests.support.fake_services import APP_KEY, OPS_KEY, Api, FakeUsers, running_api, user_key

ACCOUNTS = CoveredAccounts((BrokerAccount("1", Environment.DEMO, "501", "Sim"),), 1234, fresh=True)
SHOWN = [{"accountId": "1", "environment": "demo", "login": "501", "brokerTitle": "Sim"}]
USER_TOKEN = "user.u1.sig"


class FakeConnecting:
    """Answers well, or fails as told; notes what it was asked."""

    def __init__(self) -> None:
        self.fail: Exception | None = None
        self.asked: list[tuple[str, Mapping[str, Any]]] = []
        self.secure = True

    async def _note(self, step: str, **asked: Any) -> None:
        self.asked.append((step, asked))
        if self.fail is not None:
            raise self.fail

    async def start(self, *, user_id: str, broker: str, return_to: str, scope: ConsentScope, actor: str) -> str:
        await self._note("start", user_id=user_id, broker=broker, return_to=return_to, scope=scope, actor=actor)
        return f"https://bridge.example/oauth/{broker}/begin?state=s"

    async def begin(self, *, broker: str, state: str) -> Begun:
        await self._note("begin", broker=broker, state=state)
        return Begun("https://broker.example/consent?state=s", "bridge_connect_1", "nonce", "/cb", self.secure, 600)

    async def callback(
        self, *, broker: str, state: str, cookies: Mapping[str, str], code: str | None, error: str | None
    ) -> Returned:
        await self._note("callback", broker=broker, state=state, cookies=dict(cookies), code=code, error=error)
        return Returned("https://app.example.com/?connect=ok&ticket=t", "bridge_connect_1", "/cb")

    async def complete(self, *, user_id: str, broker: str, ticket: str, actor: str) -> Connected:
        await self._note("complete", user_id=user_id, broker=broker, ticket=ticket, actor=actor)
        return Connected(user_key(user_id), broker, ConsentScope.ACCOUNTS, ACCOUNTS)


class FakeStored:
    """Keeps credentials of the broker `sim`."""

    def __init__(self) -> None:
        self.kept: dict[str, Mapping[str, Any]] = {}
        self.events: list[str] = []
        self.fail: Exception | None = None

    async def accounts(self, *, user_id: str, broker: str) -> CoveredAccounts | None:
        if self.fail is not None:
            raise self.fail
        return ACCOUNTS if user_id in self.kept else None

    async def enter(self, *, user_id: str, broker: str, entry: Mapping[str, Any], actor: str) -> Entered:
        if "accessToken" not in entry:
            raise InvalidInput("accessToken is missing", field="credentials.accessToken")
        self.kept[user_id] = entry
        return Entered(user_key(user_id), broker, Environment.LIVE, None)

    async def remove(self, *, user_id: str, broker: str, actor: str) -> None:
        self.events.append("removed")
        self.kept.pop(user_id, None)


class Edge:
    """An API with both stand-ins."""

    def __init__(self, api: Api, connecting: FakeConnecting, stored: FakeStored) -> None:
        self.api, self.connecting, self.stored = api, connecting, stored

    def call(self, method: str, path: str, key: str | None = APP_KEY, **more: Any):
        return self.api.request(method, path, key, allow_redirects=False, **more)


@pytest.fixture
async def edge() -> AsyncIterator[Edge]:
    connecting, stored = FakeConnecting(), FakeStored()
    policy = Policy(cors_origins=frozenset({"https://app.example.com"}), key_rate=10**6, address_rate=10**6)
    async with running_api(users=FakeUsers(), policy=policy, connecting=connecting, credentials=stored) as api:
        yield Edge(api, connecting, stored)


# ---------------------------------------------------------------- consent


@pytest.mark.parametrize("prefix", ["", "/api", "/api/v1"])
async def test_start_answers_the_address_to_open_and_sets_no_cookie(edge: Edge, prefix: str):
    body = {"userId": "u1", "returnTo": "https://app.example.com/x", "scope": "trading"}
    async with edge.call("POST", f"{prefix}/oauth/sim/start", json=body) as answer:
        assert answer.status == 200
        assert await answer.json() == {"url": "https://bridge.example/oauth/sim/begin?state=s"}
        assert "Set-Cookie" not in answer.headers
    assert edge.connecting.asked == [
        (
            "start",
            {
                "user_id": "u1",
                "broker": "sim",
                "return_to": "https://app.example.com/x",
                "scope": ConsentScope.TRADING,
                "actor": "key:app",
            },
        )
    ]


async def test_user_starts_and_completes_for_themself_only(edge: Edge):
    for step, body in (("start", {"returnTo": "https://app.example.com/"}), ("complete", {"ticket": "t"})):
        async with edge.call("POST", f"/oauth/sim/{step}", USER_TOKEN, json=body) as answer:
            assert answer.status == 200
        async with edge.call("POST", f"/oauth/sim/{step}", USER_TOKEN, json={**body, "userId": "u2"}) as answer:
            assert answer.status == 403
        async with edge.call("POST", f"/oauth/sim/{step}", APP_KEY, json=body) as answer:
            assert answer.status == 422
        async with edge.call("POST", f"/oauth/sim/{step}", OPS_KEY, json={**body, "userId": "u1"}) as answer:
            assert answer.status == 403
    assert [(step, asked["user_id"], asked["actor"]) for step, asked in edge.connecting.asked] == [
        ("start", "u1", "user"),
        ("complete", "u1", "user"),
    ]


async def test_page_of_the_app_may_start_without_credentials_mode(edge: Edge):
    """No cookie is needed from another site, so browsers are never told to send any."""
    headers = {"Origin": "https://app.example.com"}
    async with edge.call("OPTIONS", "/oauth/sim/start", None, headers=headers) as answer:
        assert answer.headers["Access-Control-Allow-Origin"] == "https://app.example.com"
        assert "Authorization" in answer.headers["Access-Control-Allow-Headers"]
        assert "Access-Control-Allow-Credentials" not in answer.headers
    body = {"returnTo": "https://app.example.com/"}
    async with edge.call("POST", "/oauth/sim/start", USER_TOKEN, json=body, headers=headers) as answer:
        assert answer.status == 200
        assert "Access-Control-Allow-Credentials" not in answer.headers


@pytest.mark.parametrize("secure", [True, False])
async def test_begin_sends_the_browser_to_the_broker_with_a_cookie_for_the_callback(edge: Edge, secure: bool):
    edge.connecting.secure = secure
    async with edge.call("GET", "/oauth/sim/begin?state=s&utm=x", None) as answer:
        assert answer.status == 303
        assert answer.headers["Location"] == "https://broker.example/consent?state=s"
        assert answer.headers["Referrer-Policy"] == "no-referrer"
        assert answer.headers["Cache-Control"] == "no-store"
        parts = answer.headers["Set-Cookie"].split("; ")
    assert parts[0] == "bridge_connect_1=nonce"
    assert {"Path=/cb", "Max-Age=600", "HttpOnly", "SameSite=Lax"} <= set(parts)
    assert ("Secure" in parts) is secure


async def test_callback_hands_over_what_the_browser_brought_and_clears_the_cookie(edge: Edge):
    headers = {"Cookie": "other=1; bridge_connect_1=nonce; empty; bridge_connect_1=tossed"}
    path = "/oauth/sim/callback?state=s&code=c%2Fd&scope=accounts"
    async with edge.call("GET", path, None, headers=headers) as answer:
        assert answer.status == 303
        assert answer.headers["Location"] == "https://app.example.com/?connect=ok&ticket=t"
        assert answer.headers["Set-Cookie"].startswith("bridge_connect_1=; Path=/cb; Max-Age=0")
    (step, asked) = edge.connecting.asked[0]
    assert step == "callback"
    assert asked == {
        "broker": "sim",
        "state": "s",
        "cookies": {"other": "1", "bridge_connect_1": "nonce"},
        "code": "c/d",
        "error": None,
    }


@pytest.mark.parametrize("code", list(ConnectCode))
@pytest.mark.parametrize("step", ["begin", "callback"])
async def test_browser_is_shown_a_page_that_repeats_nothing_when_it_is_refused(
    edge: Edge, step: str, code: ConnectCode
):
    edge.connecting.fail = ConnectRefused(code, "This <sign-in> is over.")
    kind = KINDS[f"connect-{code.value}"]
    async with edge.call("GET", f"/oauth/sim/{step}?state=CANARY&code=CANARY&error=CANARY", None) as answer:
        assert (answer.status, answer.content_type) == (kind.status, "text/html")
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
        assert "Set-Cookie" not in answer.headers
        page = await answer.text()
    assert "This &lt;sign-in&gt; is over." in page
    assert "CANARY" not in page


@pytest.mark.parametrize(
    ("error", "status"), [(NotFound("no such broker"), 404), (Unavailable("the store is away"), 503)]
)
async def test_browser_is_shown_a_page_when_something_is_away(edge: Edge, error: Exception, status: int):
    edge.connecting.fail = error
    async with edge.call("GET", "/oauth/sim/callback?state=s&code=c", None) as answer:
        assert (answer.status, answer.content_type) == (status, "text/html")


@pytest.mark.parametrize("code", list(ConnectCode))
async def test_app_gets_a_stable_type_when_completion_is_refused(edge: Edge, code: ConnectCode):
    edge.connecting.fail = ConnectRefused(code, "over")
    async with edge.call("POST", "/oauth/sim/complete", json={"userId": "u1", "ticket": "CANARY"}) as answer:
        problem = await answer.json(content_type=None)
        assert answer.status == KINDS[f"connect-{code.value}"].status
    assert problem["type"] == f"urn:pulse-bridge:problem:connect-{code.value}"
    assert "CANARY" not in str(problem)


async def test_completion_tells_what_is_covered(edge: Edge):
    async with edge.call("POST", "/oauth/sim/complete", json={"userId": "u1", "ticket": "t"}) as answer:
        assert await answer.json() == {
            "userKey": user_key("u1"),
            "broker": "sim",
            "scope": "accounts",
            "accounts": SHOWN,
            "asOf": 1234,
            "fresh": True,
        }


@pytest.mark.parametrize(
    ("step", "body", "field"),
    [
        ("start", {"userId": "u1"}, "returnTo"),
        ("start", {"userId": "u1", "returnTo": 5}, "returnTo"),
        ("start", {"userId": "u1", "returnTo": "x" * 2049}, "returnTo"),
        ("start", {"userId": "u1", "returnTo": "x", "scope": "all"}, "scope"),
        ("start", {"userId": "u1", "returnTo": "x", "extra": 1}, "extra"),
        ("complete", {"userId": "u1"}, "ticket"),
        ("complete", {"userId": "u1", "ticket": ""}, "ticket"),
        ("complete", {"userId": "u1", "ticket": "x" * 129}, "ticket"),
    ],
)
async def test_bad_input_is_refused_with_its_path(edge: Edge, step: str, body: dict[str, Any], field: str):
    async with edge.call("POST", f"/oauth/sim/{step}", json=body) as answer:
        assert answer.status == 422
        assert [each["field"] for each in (await answer.json(content_type=None))["errors"]] == [field]
    assert not edge.connecting.asked


async def test_path_with_an_impossible_broker_does_not_exist(edge: Edge):
    for broker in ("SIM", "x" * 33, "a%2fb", "..", ""):
        async with edge.call("GET", f"/oauth/{broker}/callback", None) as answer:
            assert answer.status in (400, 404)
    assert not edge.connecting.asked


async def test_every_route_says_so_when_nothing_is_configured():
    async with running_api() as api:
        for method, path, body in (
            ("POST", "/oauth/sim/start", {"userId": "u1", "returnTo": "x"}),
            ("POST", "/oauth/sim/complete", {"userId": "u1", "ticket": "t"}),
            ("PUT", "/api/credentials", {"userId": "u1", "broker": "sim", "credentials": {}}),
        ):
            async with api.request(method, path, json=body) as answer:
                assert answer.status == 409
                assert (await answer.json(content_type=None))["type"].endswith(":connect-not-configured")
        for step in ("begin", "callback"):
            async with api.request("GET", f"/oauth/sim/{step}", None) as answer:
                assert (answer.status, answer.content_type) == (409, "text/html")


# ---------------------------------------------------------------- stored credentials


async def test_credentials_are_entered_listed_and_removed(edge: Edge):
    entry = {"accessToken": "CANARY-secret", "environment": "live"}
    acts = {"X-User-Id": "u1"}
    async with edge.call("GET", "/api/accounts?broker=sim", headers=acts) as answer:
        assert answer.status == 409
        assert (await answer.json(content_type=None))["type"].endswith(":no-credentials")
    body = {"userId": "u1", "broker": "sim", "credentials": entry}
    async with edge.call("PUT", "/api/credentials", json=body) as answer:
        assert answer.status == 200
        assert await answer.json() == {
            "userKey": user_key("u1"),
            "broker": "sim",
            "environment": "live",
            "accountId": None,
        }
    assert edge.stored.kept == {"u1": entry}
    async with edge.call("GET", "/api/v1/accounts?broker=sim", headers=acts) as answer:
        assert await answer.json() == {"broker": "sim", "accounts": SHOWN, "asOf": 1234, "fresh": True}
    for _ in range(2):
        async with edge.call("DELETE", "/api/credentials?broker=sim", headers=acts) as answer:
            assert (answer.status, await answer.read()) == (204, b"")
    assert not edge.stored.kept


async def test_sessions_are_stopped_before_credentials_are_removed(edge: Edge):
    await edge.api.sessions.start(user_id="u1", broker="sim", account_id=None, environment=None)
    stop = edge.api.sessions.stop

    async def noting(**asked: Any):
        stopped = await stop(**asked)
        edge.stored.events.append("stopped")
        return stopped

    edge.api.sessions.stop = noting  # type: ignore[method-assign]
    async with edge.call("DELETE", "/api/credentials?broker=sim", USER_TOKEN) as answer:
        assert answer.status == 204
    assert edge.stored.events == ["stopped", "removed"]
    assert [view.status for view in edge.api.sessions.table.values()] == ["stopped"]


async def test_credentials_stay_when_their_sessions_cannot_be_stopped(edge: Edge):
    async def failing(**asked: Any):
        raise Unavailable("not now")

    edge.api.sessions.stop = failing  # type: ignore[method-assign]
    async with edge.call("DELETE", "/api/credentials?broker=sim", USER_TOKEN) as answer:
        assert answer.status == 503
    assert edge.stored.events == []


async def test_refused_credentials_are_answered_with_the_path_and_without_the_secret(edge: Edge):
    body = {"userId": "u1", "broker": "sim", "credentials": {"refreshToken": "CANARY"}}
    async with edge.call("PUT", "/api/credentials", json=body) as answer:
        assert answer.status == 422
        problem = await answer.json(content_type=None)
    assert problem["errors"] == [{"field": "credentials.accessToken", "message": "accessToken is missing"}]
    assert "CANARY" not in str(problem)


@pytest.mark.parametrize("credentials", [None, "text", [], 5, {str(n): "x" for n in range(17)}])
async def test_credentials_that_are_no_object_are_refused(edge: Edge, credentials: object):
    body = {"userId": "u1", "broker": "sim", "credentials": credentials}
    async with edge.call("PUT", "/api/credentials", json=body) as answer:
        assert answer.status == 422
        assert (await answer.json(content_type=None))["errors"][0]["field"] == "credentials"


async def test_user_reaches_their_own_credentials_only(edge: Edge):
    edge.stored.kept = {"u1": {}, "u2": {}}
    other = {"X-User-Id": "u2"}
    for method, path in (("GET", "/api/accounts?broker=sim"), ("DELETE", "/api/credentials?broker=sim")):
        async with edge.call(method, path, USER_TOKEN, headers=other) as answer:
            assert answer.status == 403
        async with edge.call(method, path, APP_KEY) as answer:
            assert answer.status == 422
        async with edge.call(method, path, USER_TOKEN) as answer:
            assert answer.status in (200, 204)
    body = {"userId": "u2", "broker": "sim", "credentials": {"accessToken": "x"}}
    async with edge.call("PUT", "/api/credentials", USER_TOKEN, json=body) as answer:
        assert answer.status == 403
    assert edge.stored.kept == {"u2": {}}
