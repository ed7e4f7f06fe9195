"""`smoke` against the real API: what it finds when all is well, and that each thing that is wrong fails it."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession, web

from bridge.smoke import run_smoke
from core.errors import ConfigurationError
from core.secret import Secret
from tests.support import world as worlds
from tests.support.fake_services import APP_KEY, BOTH_KEY, OPS_KEY, Api, running_api, user_key


async def smoke(url: str, key: str = APP_KEY, **more: Any) -> tuple[int, dict[str, str]]:
    """The exit code, and the marks by what was checked. Every failure says what to do, and no line shows a key."""
    lines: list[str] = []
    if ops_key := more.pop("ops_key", None):
        more["ops_key"] = Secret(ops_key)
    code = await run_smoke(url, key=Secret(key), say=lines.append, **more)
    assert all("do: " in line for line in lines if line.startswith("FAIL"))
    assert not any(each in line for line in lines for each in (APP_KEY, OPS_KEY, BOTH_KEY, key))
    marks = {line[5:].split(":")[0]: line[:4].strip() for line in lines[:-1]}
    assert code == ("FAIL" in marks.values())
    assert lines[-1] == ("all is well" if code == 0 else f"{list(marks.values()).count('FAIL')} problem(s) found")
    return code, marks


def failed(marks: dict[str, str]) -> set[str]:
    return {what for what, mark in marks.items() if mark == "FAIL"}


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    async with running_api() as running:
        yield running


async def test_a_deployment_that_is_well_passes(api: Api) -> None:
    code, marks = await smoke(api.url + "/", ops_key=OPS_KEY)
    assert (code, failed(marks)) == (0, set())
    assert {"live", "ready", "health", "key", "ops key", "metrics", "openapi", "closed to a wrong key"} <= marks.keys()
    assert marks["stores"] == "?"  # in memory only


async def test_nobody_there_is_one_line(unused_tcp_port: int) -> None:
    code, marks = await smoke(f"http://127.0.0.1:{unused_tcp_port}")
    assert (code, marks) == (1, {"live": "FAIL"})


@pytest.mark.parametrize(
    ("key", "ops_key", "wrong"),
    [
        ("app.wrong", OPS_KEY, {"key"}),
        (OPS_KEY, OPS_KEY, {"key"}),
        (APP_KEY, APP_KEY, {"ops key", "metrics"}),
        (BOTH_KEY, BOTH_KEY, set()),
    ],
)
async def test_a_key_that_does_not_fit_is_found(api: Api, key: str, ops_key: str, wrong: set[str]) -> None:
    assert failed((await smoke(api.url, key, ops_key=ops_key))[1]) == wrong


async def test_a_process_that_is_not_well_is_found(api: Api) -> None:
    api.vitals.unready = "the primary store does not answer"
    api.vitals.dead = "the flusher makes no progress"
    assert failed((await smoke(api.url))[1]) == {"live", "ready"}
    api.vitals.unready = api.vitals.dead = None
    api.sessions.channel = "down"
    code, marks = await smoke(api.url)
    assert (code, marks["health"]) == (0, "?")


async def test_an_open_bridge_on_loopback_passes_and_says_so() -> None:
    async with running_api(keys=None) as api:
        code, marks = await smoke(api.url)
        assert (code, marks["closed"]) == (0, "?")


@pytest.fixture
async def proxy(api: Api) -> AsyncIterator[Callable[..., Any]]:
    """A proxy in front that meddles: call it with what it does to requests and answers, get its address."""
    runners: list[web.AppRunner] = []
    http = ClientSession()

    async def start(*, ask: Callable[[dict[str, str]], None] | None = None, tell: Any = None) -> str:
        async def forward(request: web.Request) -> web.Response:
            headers = {k: v for k, v in request.headers.items() if k not in ("Host", "Content-Length")}
            if ask:
                ask(headers)
            target, body = api.url + str(request.rel_url), await request.read()
            async with http.request(request.method, target, headers=headers, data=body) as answer:
                kept = {k: v for k, v in answer.headers.items() if k not in ("Content-Length", "Transfer-Encoding")}
                response = web.Response(status=answer.status, headers=kept, body=await answer.read())
            return (tell(request, response) if tell else None) or response

        app = web.Application()
        app.router.add_route("*", "/{path:.*}", forward)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        runners.append(runner)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        return f"http://127.0.0.1:{runner.addresses[0][1]}"

    yield start
    await http.close()
    for runner in runners:
        await runner.cleanup()


def _no_headers(_request: web.Request, response: web.Response) -> None:
    del response.headers["X-Content-Type-Options"]


def _any_origin(_request: web.Request, response: web.Response) -> None:
    response.headers["Access-Control-Allow-Origin"] = "*"


def _login_page(request: web.Request, response: web.Response) -> web.Response | None:
    return web.Response(text="<html>sign in", content_type="text/html") if response.status == 401 else None


def _not_found(request: web.Request, response: web.Response) -> web.Response | None:
    return web.Response(status=404) if request.path == "/openapi.json" else None


def _redirect(request: web.Request, response: web.Response) -> web.Response:
    raise web.HTTPMovedPermanently("http://127.0.0.1:1/stolen")


@pytest.mark.parametrize(
    ("tell", "wrong"),
    [
        (_no_headers, {"security headers"}),
        (_any_origin, {"foreign origin"}),
        (_login_page, {"closed to callers without a key", "closed to a wrong key", "metrics closed"}),
        (_not_found, {"openapi"}),
    ],
)
async def test_a_proxy_that_meddles_is_found(proxy: Any, tell: Any, wrong: set[str]) -> None:
    assert failed((await smoke(await proxy(tell=tell)))[1]) == wrong


async def test_a_redirect_is_not_followed_with_a_key(proxy: Any) -> None:
    _, marks = await smoke(await proxy(tell=_redirect))
    assert {"live", "key", "openapi"} <= failed(marks)


async def test_a_proxy_that_hides_the_origin_is_found(proxy: Any) -> None:
    url = await proxy(ask=lambda headers: headers.pop("Origin", None))
    assert failed((await smoke(url))[1]) == {"key refused in a browser"}


@pytest.mark.parametrize(
    "url", ["bridge.example.com", "ftp://x", "http://bridge.example.com", "https://a:b@x", "http://", ""]
)
async def test_an_address_that_a_key_must_not_go_to_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match="URL"):
        await run_smoke(url, key=Secret(APP_KEY))


async def test_a_user_needs_a_broker(api: Api) -> None:
    with pytest.raises(ConfigurationError, match="--broker"):
        await run_smoke(api.url, key=Secret(APP_KEY), user="u")


async def test_a_user_without_credentials_is_told_what_to_do(api: Api) -> None:
    _, marks = await smoke(api.url, user="nobody", broker="sim")
    assert failed(marks) == {"start"}


async def test_a_session_that_needs_action_fails_at_once(api: Api) -> None:
    key = f"sim_account_{user_key('u')}"
    api.records.put(key, now_ms=api.clock.now_ms(), fresh_ms=-1)
    stored = api.records.records[key]
    document = stored.document.replace(b'"live"', b'"action_required"')
    api.records.records[key] = type(stored)(key, 7, 1, document)
    _, marks = await smoke(api.url, user="u", broker="sim")
    assert failed(marks) == {"record"}


async def test_a_session_is_stopped_only_when_it_was_started_here(api: Api) -> None:
    key = f"sim_account_{user_key('u')}"
    api.records.put(key, now_ms=api.clock.now_ms())
    code, marks = await smoke(api.url, user="u", broker="sim", stop=True)
    assert (code, marks["read again"], marks["stop"]) == (0, "ok", "?")
    assert api.sessions.table[user_key("u"), "sim"].status == "starting"


@pytest.mark.slow
async def test_a_whole_deployment_passes_with_a_real_session(tmp_path: Path) -> None:
    async with worlds.running_world(tmp_path, users=1) as world:
        keys = {"ops_key": worlds.OPS_KEY, "user": "user-1", "broker": "ctrader", "environment": "demo", "stop": True}
        code, marks = await smoke(world.url, worlds.APP_KEY, **keys)
        assert (code, set(marks.values())) == (0, {"ok"})
        assert marks["stop"] == "ok"
        assert {"start", "record", "read again"} <= marks.keys()
        answer = await world.api("GET", "/account", key=worlds.APP_KEY, user="user-1")
        assert answer["status"] in ("stopped", "live")
