"""The simulated Alpaca's consent page and token endpoint, as a browser and an application use them."""

from collections.abc import AsyncIterator, Mapping
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import aiohttp
import pytest

from bridge.runtime.clock import ManualClock
from bridge.simulator.alpaca import Simulator, SimulatorSettings
from tests.support.alpaca_rest import rest

HOME = "http://127.0.0.1:9/back?kept=1"
ASKED = {
    "response_type": "code",
    "client_id": "sim-client",
    "redirect_uri": HOME,
    "scope": "account:write trading",
    "state": "s & t",
}
EXCHANGE = {
    "grant_type": "authorization_code",
    "client_id": "sim-client",
    "client_secret": "sim-secret",
    "redirect_uri": HOME,
}


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def sim(clock: ManualClock) -> AsyncIterator[Simulator]:
    async with Simulator(SimulatorSettings(users=2, prices="frozen"), clock) as running:
        yield running


@pytest.fixture
async def browser(sim: Simulator) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(f"http://127.0.0.1:{sim.ports.alpaca_live}") as session:
        yield session


async def decide(browser: aiohttp.ClientSession, **form: str) -> dict[str, str]:
    """Send the page's form; the parameters of the address it leads to."""
    async with browser.post("/oauth/authorize", data={**ASKED, **form}, allow_redirects=False) as response:
        assert response.status == 303, await response.text()
        target = response.headers["Location"]
    assert urlsplit(target)._replace(query="").geturl() == urlsplit(HOME)._replace(query="").geturl()
    return dict(parse_qsl(urlsplit(target).query))


async def exchange(browser: aiohttp.ClientSession, **form: str) -> tuple[int, Any]:
    async with browser.post("/oauth/token", data={**EXCHANGE, **form}) as response:
        return response.status, await response.json()


async def status_with(port: int, token: str) -> int:
    async with rest(port, {"Authorization": f"Bearer {token}"}) as client:
        return (await client("GET", "/v2/account")).status


async def test_a_token_comes_of_a_consent_when_a_person_approves(
    sim: Simulator, browser: aiohttp.ClientSession
) -> None:
    async with browser.get("/oauth/authorize", params=ASKED) as response:
        page = await response.text()
    assert (response.status, response.content_type) == (200, "text/html")
    assert "trade for you" in page
    assert 'value="s &amp; t"' in page
    answer = await decide(browser, user="1", decision="approve")
    assert (answer["state"], answer["kept"]) == ("s & t", "1")
    status, body = await exchange(browser, code=answer["code"])
    assert (status, body) == (
        200,
        {"access_token": "sim-alpaca-oauth-1-1", "token_type": "bearer", "scope": "account:write trading"},
    )
    assert await status_with(sim.ports.alpaca, body["access_token"]) == 200
    assert await status_with(sim.ports.alpaca_live, body["access_token"]) == 200
    spent = await exchange(browser, code=answer["code"])
    assert (spent[0], spent[1]["error"]) == (400, "invalid_grant")
    sim.actions.revoke(1, "tokens")
    assert await status_with(sim.ports.alpaca, body["access_token"]) == 401
    assert (sim.counters.grants, sim.counters.grant_failures) == (1, 1)


async def test_a_token_covers_what_was_asked_for_when_env_is_given(
    sim: Simulator, browser: aiohttp.ClientSession
) -> None:
    code = (await decide(browser, user="1", decision="approve", env="paper"))["code"]
    _, body = await exchange(browser, code=code)
    assert await status_with(sim.ports.alpaca, body["access_token"]) == 200
    assert await status_with(sim.ports.alpaca_live, body["access_token"]) == 401


async def test_a_denial_is_carried_back_when_a_person_denies(browser: aiohttp.ClientSession) -> None:
    assert await decide(browser, user="1", decision="deny") == {
        "kept": "1",
        "error": "access_denied",
        "state": "s & t",
    }


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"response_type": "token"}, "response_type"),
        ({"client_id": "nobody"}, "client_id"),
        ({"redirect_uri": "javascript:alert(1)"}, "redirect_uri"),
        ({"redirect_uri": "http://[::1/"}, "redirect_uri"),
        ({"scope": "everything"}, "scope"),
        ({"env": "moon"}, "env"),
        ({"user": "3"}, "user"),
        ({"user": "9" * 5000}, "user"),
        ({"user": "2", "env": "live"}, "env"),
    ],
)
async def test_a_request_for_consent_is_refused_when_nothing_could_answer_it(
    browser: aiohttp.ClientSession, change: dict[str, str], field: str
) -> None:
    form = {**ASKED, "user": "1", "decision": "approve", **change}
    async with browser.post("/oauth/authorize", data=form, allow_redirects=False) as response:
        body = await response.json()
    assert (response.status, body["field"]) == (422, field)
    if field != "user" and change.get("user") is None:
        async with browser.get("/oauth/authorize", params={**ASKED, **change}) as response:
            assert response.status == 422


@pytest.mark.parametrize(
    ("change", "status", "error"),
    [
        ({"client_secret": "wrong"}, 401, "invalid_client"),
        ({"client_id": "wrong"}, 401, "invalid_client"),
        ({"grant_type": "refresh_token"}, 400, "unsupported_grant_type"),
        ({"redirect_uri": "http://127.0.0.1:9/other"}, 400, "invalid_grant"),
        ({"code": "made up"}, 400, "invalid_grant"),
    ],
)
async def test_an_exchange_is_refused_when_something_does_not_fit(
    browser: aiohttp.ClientSession, change: Mapping[str, str], status: int, error: str
) -> None:
    code = (await decide(browser, user="1", decision="approve"))["code"]
    got, body = await exchange(browser, **{"code": code, **change})
    assert (got, body["error"]) == (status, error)


async def test_a_code_is_too_old_when_ten_minutes_passed(browser: aiohttp.ClientSession, clock: ManualClock) -> None:
    young, old = [(await decide(browser, user="1", decision="approve"))["code"] for _ in range(2)]
    clock.advance(599)
    assert (await exchange(browser, code=young))[0] == 200
    clock.advance(1)
    assert (await exchange(browser, code=old))[1]["error"] == "invalid_grant"


async def test_only_a_form_is_read_when_a_token_is_asked_for(sim: Simulator, browser: aiohttp.ClientSession) -> None:
    code = sim.actions.mint_code(1)
    async with browser.post("/oauth/token", json={**EXCHANGE, "code": code}) as response:
        assert response.status == 400
    assert (await exchange(browser, code=code))[0] == 200  # nothing was spent
    async with browser.get("/oauth/token", params={**EXCHANGE, "code": code}) as response:
        assert response.status == 404
