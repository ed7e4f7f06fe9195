"""A user connects a broker in a browser, from the first click to a live session, in processes of their own."""

import base64
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import aiohttp
import asyncpg
import pytest

from tests.support.canaries import plant_passing
from tests.support.waiting import eventually
from tests.support.world import APP_KEY, World, running_world

USER = "newcomer@example.com"
BACK = "https://app.example.com/settings"
HIDDEN = re.compile(r'type="hidden" name="(\w+)" value="([^"]*)"')
SIM_USER = 2  # who the visitor is at the broker

pytestmark = pytest.mark.slow


def parameters(address: str) -> dict[str, str]:
    """The query of an address."""
    return {name: values[0] for name, values in parse_qs(urlsplit(address).query).items()}


class Visitor:
    """A browser: it keeps cookies, follows redirects between the two servers, and stops at the app."""

    def __init__(self, http: aiohttp.ClientSession) -> None:
        self._http = http

    async def open(self, url: str) -> dict[str, str]:
        """Go to an address; the hidden fields of the consent page that it leads to."""
        async with self._http.get(url) as answer:
            assert answer.status == 200, await answer.text()
            page = await answer.text()
        plant_passing(*(cookie.value for cookie in self._http.cookie_jar))
        assert "Simulated cTrader" in page
        return {name: unescape(value) for name, value in HIDDEN.findall(page)}

    async def decide(self, world: World, fields: dict[str, str], decision: str) -> str:
        """Press a button on the consent page; the address of the callback."""
        page = f"http://127.0.0.1:{world.ports['admin']}/apps/auth"
        data = {**fields, "user": str(SIM_USER), "decision": decision}
        async with self._http.post(page, data=data, allow_redirects=False) as answer:
            assert answer.status == 303
            callback = answer.headers["Location"]
        plant_passing(*parameters(callback).values())  # state and code
        return callback

    async def come_back(self, callback: str) -> dict[str, str]:
        """Visit the callback; what the app is told."""
        async with self._http.get(callback, allow_redirects=False) as answer:
            assert answer.status == 303, await answer.text()
            target = answer.headers["Location"]
        assert target.startswith(BACK)
        brought = parameters(target)
        plant_passing(brought.get("ticket", ""))
        return brought


@asynccontextmanager
async def visitor() -> AsyncIterator[Visitor]:
    async with aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as http:
        yield Visitor(http)


@asynccontextmanager
async def connectable(folder: Path, database_url: str) -> AsyncIterator[World]:
    env = {
        "DATABASE_URL": database_url,
        "CACHE_STORES": "redis",
        "TOKEN_ENCRYPTION_KEYS": f"k1:{base64.b64encode(b'k' * 32).decode()}",
        "OAUTH_RETURN_URLS": BACK,
    }
    async with running_world(folder, users=3, bridge_env=env) as world:
        yield world


async def app(world: World, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
    """What the app's server does for the user."""
    named = None if body is None else {"userId": USER, **body}
    return await world.api(method, path, key=APP_KEY, body=named, user=USER if body is None else "")


async def start(world: World, scope: str = "accounts") -> str:
    answer = await app(world, "POST", "/oauth/ctrader/start", {"returnTo": BACK, "scope": scope})
    assert answer["_status"] == 200, answer
    return str(answer["url"])


async def consent(world: World, browser: Visitor, scope: str = "accounts") -> Any:
    """The whole way; the answer to the app's completion."""
    fields = await browser.open(await start(world, scope))
    back = await browser.come_back(await browser.decide(world, fields, "approve"))
    assert back["connect"] == "ok"
    return await app(world, "POST", "/oauth/ctrader/complete", {"ticket": back["ticket"]})


async def is_live(world: World, account: str) -> bool:
    (record,) = world.records([USER])
    return record is not None and (record["status"], record["accountId"]) == ("live", account)


async def test_user_connects_goes_live_consents_again_and_disconnects(tmp_path: Path, database_url: str) -> None:
    async with connectable(tmp_path, database_url) as world, visitor() as browser:
        connected = await consent(world, browser)
        assert connected["_status"] == 200, connected
        listed = (await world.sim("GET", "/accounts"))["accounts"]
        mine = [each["accountId"] for each in listed if each["broker"] == "ctrader"]
        theirs = {account for account in mine if int(account) // 10 == 100_000 + SIM_USER}
        assert {each["accountId"] for each in connected["accounts"]} == theirs
        assert (connected["scope"], connected["fresh"]) == ("accounts", True)
        account = next(each["accountId"] for each in connected["accounts"] if each["environment"] == "demo")

        started = await app(
            world, "POST", "/api/start-session", {"broker": "ctrader", "accountId": account, "environment": "demo"}
        )
        assert started["_status"] == 202, started
        await eventually(lambda: is_live(world, account), within_s=20, what="the newcomer is live")
        covered = await app(world, "GET", "/api/accounts?broker=ctrader")
        assert {each["accountId"] for each in covered["accounts"]} == theirs

        # a new consent ends the pair before; the session goes on with the new one
        again = await consent(world, browser, "trading")
        assert again["scope"] == "trading"
        await world.sim("POST", f"/accounts/{account}/deposit", {"amount": 123})
        truth = await world.sim("GET", f"/truth/{account}")

        async def follows() -> bool:
            return await is_live(world, account) and world.records([USER])[0]["balance"] == truth["balance"]

        await eventually(follows, within_s=30, what="the session follows the account with the new tokens")

        connection = await asyncpg.connect(database_url)
        try:
            rows = await connection.fetch("select * from public.bridge_grants")
            parked = await connection.fetchval("select count(sealed_code) from public.bridge_consents")
        finally:
            await connection.close()
        assert parked == 0
        said = world.bridge.output + str([dict(row) for row in rows])
        for generation in ("", "-1", "-2"):
            assert f"sim-access-{SIM_USER}{generation}" not in said
            assert f"sim-refresh-{SIM_USER}{generation}" not in said
        assert "sim-code" not in said

        async with world.http.delete(
            f"{world.url}/api/credentials?broker=ctrader",
            headers={"Authorization": f"Bearer {APP_KEY}", "X-User-Id": USER},
        ) as answer:
            assert answer.status == 204
        assert (await app(world, "GET", "/api/accounts?broker=ctrader"))["type"].endswith(":no-credentials")

        async def stopped() -> bool:
            return bool(world.records([USER])[0]["status"] == "stopped")

        await eventually(stopped, within_s=10, what="the session is stopped")


async def test_denial_reuse_and_a_foreign_browser_are_told_and_store_nothing(tmp_path: Path, database_url: str) -> None:
    async with connectable(tmp_path, database_url) as world, visitor() as browser, visitor() as stranger:
        fields = await browser.open(await start(world))
        denied = await browser.come_back(await browser.decide(world, fields, "deny"))
        assert (denied["connect"], "ticket" in denied) == ("denied", False)

        fields = await browser.open(await start(world))
        callback = await browser.decide(world, fields, "approve")
        async with stranger._http.get(callback, allow_redirects=False) as answer:
            assert (answer.status, answer.content_type) == (403, "text/html")
            assert "sim-code" not in await answer.text()
        ticket = (await browser.come_back(callback))["ticket"]
        async with browser._http.get(callback, allow_redirects=False) as answer:
            assert answer.status in (403, 409)  # the cookie is gone, or the state is used

        body = {"userId": "somebody-else", "ticket": ticket}
        stolen = await world.api("POST", "/oauth/ctrader/complete", key=APP_KEY, body=body)
        assert (stolen["_status"], stolen["type"].rpartition(":")[2]) == (403, "connect-other-user")
        late = await app(world, "POST", "/oauth/ctrader/complete", {"ticket": ticket})
        assert (late["_status"], late["type"].rpartition(":")[2]) == (409, "connect-used")
        for user in (USER, "somebody-else"):
            answer = await world.api("GET", "/api/accounts?broker=ctrader", key=APP_KEY, user=user)
            assert answer["type"].endswith(":no-credentials")
