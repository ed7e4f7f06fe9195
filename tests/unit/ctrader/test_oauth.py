"""OAuth over HTTP: addresses, every kind of answer, and that nothing secret is said or sent twice."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from urllib.parse import parse_qs, urlsplit

import orjson
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from bridge.brokers.base import BrokerFault, ConsentScope, FaultKind, ReasonCode
from bridge.brokers.ctrader import oauth
from bridge.brokers.ctrader.settings import CtraderSettings
from core.secret import Secret

CLIENT_SECRET = "the-canary-of-the-application"
REFRESH_TOKEN = "the-canary/of+the refresh&token"
CODE = "the-canary-of-the-code"
PAIR = {"accessToken": "new-access", "tokenType": "bearer", "expiresIn": 2_628_000, "refreshToken": "new-refresh"}
BACK = "https://bridge.example/oauth/ctrader/callback"

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def token_server(handler: Handler) -> AsyncIterator[CtraderSettings]:
    """A token endpoint of the test's own, and the settings that lead there."""
    app = web.Application()
    app.router.add_route("*", "/apps/token", handler)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield settings(runner.addresses[0][1])
    finally:
        await runner.cleanup()


def settings(port: int, **changes: object) -> CtraderSettings:
    address = f"http://127.0.0.1:{port}/apps/token"
    return CtraderSettings("the-client", Secret(CLIENT_SECRET), token_url=address, **changes)  # type: ignore[arg-type]


def answering(body: object, status: int = 200, **headers: str) -> Handler:
    async def handler(request: web.Request) -> web.Response:
        return web.Response(body=orjson.dumps(body), status=status, headers=headers)

    return handler


def read(body: object, status: int = 200, retry_after_s: float | None = None) -> BrokerFault:
    """The fault that an answer means."""
    with pytest.raises(BrokerFault) as raised:
        oauth.read_answer(status, retry_after_s, body if isinstance(body, bytes) else orjson.dumps(body))
    return raised.value


# ---------------------------------------------------------------- what is asked


@pytest.mark.parametrize("scope", list(ConsentScope))
def test_consent_url_carries_application_scope_and_state(scope: ConsentScope) -> None:
    url = oauth.consent_url(settings(1), state="s+/= &x", redirect_uri=BACK, scope=scope)
    assert url.startswith("https://id.ctrader.com/my/settings/openapi/grantingaccess/?")
    assert parse_qs(urlsplit(url).query) == {
        "client_id": ["the-client"],
        "redirect_uri": [BACK],
        "scope": [scope.value],
        "product": ["web"],
        "state": ["s+/= &x"],
    }


def test_consent_url_keeps_a_query_of_the_configured_address() -> None:
    given_url = CtraderSettings("id", Secret("s"), auth_url="https://broker.example/auth?tenant=1")
    url = oauth.consent_url(given_url, state="s", redirect_uri=BACK, scope=ConsentScope.ACCOUNTS)
    query = parse_qs(urlsplit(url).query)
    assert (query["tenant"], query["state"]) == (["1"], ["s"])


async def test_code_is_exchanged_with_one_get_and_its_query() -> None:
    seen: list[web.Request] = []

    async def handler(request: web.Request) -> web.Response:
        seen.append(request)
        return web.json_response(PAIR)

    async with token_server(handler) as here:
        issued = await oauth.exchange_code(here, Secret(CODE), BACK)
    assert {name: secret.reveal() for name, secret in issued.secrets.items()} == {
        "accessToken": "new-access",
        "refreshToken": "new-refresh",
    }
    assert issued.expires_in_s == 2_628_000
    (request,) = seen
    assert request.method == "GET"
    assert dict(request.query) == {
        "grant_type": "authorization_code",
        "code": CODE,
        "redirect_uri": BACK,
        "client_id": "the-client",
        "client_secret": CLIENT_SECRET,
    }


async def test_refresh_token_arrives_as_it_is_when_it_holds_signs_of_addresses() -> None:
    seen: list[dict[str, str]] = []

    async def handler(request: web.Request) -> web.Response:
        seen.append(dict(request.query))
        return web.json_response(PAIR)

    async with token_server(handler) as here:
        await oauth.refresh(here, Secret(REFRESH_TOKEN))
    assert seen[0]["grant_type"] == "refresh_token"
    assert seen[0]["refresh_token"] == REFRESH_TOKEN


# ---------------------------------------------------------------- what is answered


@pytest.mark.parametrize("status", [200, 400, 401, 403])
@pytest.mark.parametrize(
    "error",
    [
        {"errorCode": "ACCESS_DENIED", "description": "Access denied"},
        {"errorCode": "ACCESS_DENIED"},
        {"errorCode": "INVALID_REQUEST", "description": "Access denied. Make sure the credentials are valid"},
        {"errorCode": None, "description": "Access denied"},
        {"errorCode": "CH_ACCESS_TOKEN_INVALID", "description": ""},
        {"errorCode": "OA_AUTH_TOKEN_EXPIRED"},
    ],
)
def test_refusal_of_the_token_is_final_whatever_the_status(status: int, error: dict[str, str]) -> None:
    fault = read({**dict.fromkeys(PAIR), **error}, status)
    assert (fault.kind, fault.reason.code) == (FaultKind.FATAL_USER, ReasonCode.TOKEN_REVOKED)
    assert not fault.in_doubt


@pytest.mark.parametrize("code", ["INVALID_CLIENT", "CH_CLIENT_AUTH_FAILURE", "CH_OA_CLIENT_NOT_FOUND"])
def test_refused_application_is_the_operators_matter(code: str) -> None:
    assert read({"errorCode": code, "description": "x"}).kind is FaultKind.FATAL_APP


def test_throttle_waits_as_told_when_there_are_too_many_requests() -> None:
    told, untold, absurd = read(b"slow down", 429, 17.0), read({}, 429), read({}, 429, 1e8)
    assert [fault.kind for fault in (told, untold, absurd)] == [FaultKind.THROTTLE] * 3
    assert (told.retry_after_s, untold.retry_after_s) == (17.0, oauth.THROTTLE_S)
    assert absurd.retry_after_s == oauth.LONGEST_THROTTLE_S
    assert not told.in_doubt
    named = read({"errorCode": "REQUEST_FREQUENCY_EXCEEDED"})
    assert named.kind is FaultKind.THROTTLE


@pytest.mark.parametrize(
    ("body", "status", "in_doubt"),
    [
        (b"<html>", 200, True),
        ({}, 200, True),
        ([PAIR], 200, True),
        ({**PAIR, "accessToken": ""}, 200, True),
        ({**PAIR, "accessToken": 5}, 200, True),
        ({**PAIR, "accessToken": "two words"}, 200, True),
        ({**PAIR, "accessToken": "line\nbreak"}, 200, True),
        ({**PAIR, "padding": "x" * oauth.LARGEST_ANSWER}, 200, True),
        (b"", 500, True),
        (b"", 502, True),
        (b"", 504, True),
        (b"", 503, False),
        (b"", 404, False),
        (b"", 302, False),
        ({"errorCode": "SOMETHING_NEW", "description": "?"}, 200, False),
        ({"errorCode": "CANT_ROUTE_REQUEST"}, 200, False),
        ({"errorCode": "TIMEOUT_ERROR"}, 200, True),
    ],
)
def test_other_answers_are_tried_again_and_say_whether_the_token_may_be_spent(
    body: object, status: int, in_doubt: bool
) -> None:
    fault = read(body, status)
    assert (fault.kind, fault.in_doubt) == (FaultKind.TRANSIENT, in_doubt)


@pytest.mark.parametrize(
    ("life", "expected"),
    [(60, 60.0), (1.5, 1.5), (0, None), (-1, None), (None, None), (True, None), ("60", None), (1e30, None)],
)
def test_life_of_a_token_is_taken_only_when_it_is_a_sane_number(life: object, expected: float | None) -> None:
    issued = oauth.read_answer(200, None, orjson.dumps({**PAIR, "expiresIn": life}))
    assert issued.expires_in_s == expected


def test_pair_without_a_refresh_token_is_kept() -> None:
    issued = oauth.read_answer(200, None, orjson.dumps({"accessToken": "a"}))
    assert list(issued.secrets) == ["accessToken"]


def test_every_refusal_of_a_code_is_final_unless_time_or_the_operator_can_help() -> None:
    assert oauth.refused_code(read({"errorCode": "INVALID_REQUEST"})).kind is FaultKind.FATAL_USER
    assert oauth.refused_code(read({"errorCode": "ACCESS_DENIED"})).kind is FaultKind.FATAL_USER
    assert oauth.refused_code(read({"errorCode": "INVALID_CLIENT"})).kind is FaultKind.FATAL_APP
    assert oauth.refused_code(read({}, 429)).kind is FaultKind.THROTTLE
    assert oauth.refused_code(read({}, 500)).kind is FaultKind.TRANSIENT
    assert oauth.refused_code(read({}, 200)).kind is FaultKind.TRANSIENT


@given(body=st.binary() | st.recursive(st.none() | st.booleans() | st.text(), st.lists).map(orjson.dumps))
def test_any_answer_ends_in_tokens_or_a_fault(body: bytes) -> None:
    for status in (200, 400, 503):
        with suppress(BrokerFault):
            oauth.read_answer(status, None, body)


# ---------------------------------------------------------------- what goes wrong on the way


async def failed(here: CtraderSettings) -> BrokerFault:
    with pytest.raises(BrokerFault) as raised:
        await oauth.refresh(here, Secret(REFRESH_TOKEN))
    return raised.value


async def test_request_is_made_once_when_the_connection_ends_without_an_answer() -> None:
    requests = 0

    async def handler(request: web.Request) -> web.Response:
        nonlocal requests
        requests += 1
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    async with token_server(handler) as here:
        fault = await failed(here)
    assert requests == 1
    assert (fault.kind, fault.in_doubt) == (FaultKind.TRANSIENT, True)


async def test_fault_is_not_in_doubt_when_nobody_listens() -> None:
    async with token_server(answering(PAIR)) as here:
        pass
    fault = await failed(here)
    assert (fault.kind, fault.reason.code) == (FaultKind.TRANSIENT, ReasonCode.BROKER_UNREACHABLE)
    assert not fault.in_doubt


async def test_fault_is_in_doubt_when_the_answer_does_not_come_in_time() -> None:
    async def handler(request: web.Request) -> web.Response:
        await asyncio.Event().wait()
        return web.Response()

    async with token_server(handler) as here:
        fault = await failed(replace(here, token_timeout_s=0.2))
    assert (fault.kind, fault.in_doubt) == (FaultKind.TRANSIENT, True)


async def test_redirect_is_not_followed() -> None:
    requests = 0

    async def handler(request: web.Request) -> web.Response:
        nonlocal requests
        requests += 1
        return web.Response(status=302, headers={"Location": str(request.url)})

    async with token_server(handler) as here:
        fault = await failed(here)
    assert requests == 1
    assert fault.broker_code == "HTTP_302"


async def test_answer_without_end_is_cut_at_the_cap() -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b"x" * 65536)

    async with token_server(handler) as here:
        assert (await failed(replace(here, token_timeout_s=600.0))).in_doubt


async def test_proxy_of_the_environment_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    async with token_server(answering(PAIR)) as here:
        assert (await oauth.refresh(here, Secret("x"))).expires_in_s == 2_628_000


async def test_no_secret_is_said_when_anything_fails(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    errors: list[BaseException] = []
    async with token_server(answering({"errorCode": REFRESH_TOKEN, "description": CODE}, 400)) as here:
        errors.append(await failed(here))
    errors.append(await failed(here))

    async def silent(request: web.Request) -> web.Response:
        await asyncio.Event().wait()
        return web.Response()

    async with token_server(silent) as here:
        errors.append(await failed(replace(here, token_timeout_s=0.2)))
    said = [record.getMessage() + str(record.__dict__) for record in caplog.records]
    for error in errors:
        link: BaseException | None = error
        while link is not None:
            said.append(repr(link) + str(link) + str(vars(link)))
            link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)
    for secret in (CLIENT_SECRET, REFRESH_TOKEN, "the-canary"):
        assert not any(secret in line for line in said)
