"""A user who connects a broker in a browser, and the app's server beside them, against processes of their own."""

import base64
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import aiohttp

from tests.support.canaries import plant_passing
from tests.support.world import APP_KEY, World, running_world

USER = "newcomer@example.com"
BACK = "https://app.example.com/settings"
SIM_USER = 2  # who the visitor is at the broker
HIDDEN = re.compile(r'type="hidden" name="(\w+)" value="([^"]*)"')
TITLES = {"ctrader": "Simulated cTrader", "alpaca": "Simulated Alpaca"}


def parameters(address: str) -> dict[str, str]:
    """The query of an address."""
    return {name: values[0] for name, values in parse_qs(urlsplit(address).query).items()}


class Visitor:
    """A browser: it keeps cookies, follows redirects between the two servers, and stops at the app."""

    def __init__(self, http: aiohttp.ClientSession) -> None:
        self.http = http
        self.asked: dict[str, str] = {}  # what the consent page was asked for

    async def open(self, url: str, *, broker: str = "ctrader") -> dict[str, str]:
        """Go to an address; the hidden fields of the consent page that it leads to."""
        async with self.http.get(url) as answer:
            assert answer.status == 200, await answer.text()
            page = await answer.text()
            self.asked = parameters(str(answer.url))
        plant_passing(*(cookie.value for cookie in self.http.cookie_jar))
        assert TITLES[broker] in page
        return {name: unescape(value) for name, value in HIDDEN.findall(page)}

    async def decide(
        self, world: World, fields: Mapping[str, str], decision: str, *, user: int = SIM_USER, broker: str = "ctrader"
    ) -> str:
        """Press a button on the consent page; the address of the callback."""
        page = world.env[f"{broker.upper()}_AUTH_URL"]
        data = {**fields, "user": str(user), "decision": decision}
        async with self.http.post(page, data=data, allow_redirects=False) as answer:
            assert answer.status == 303
            callback = answer.headers["Location"]
        plant_passing(*parameters(callback).values())  # state and code
        return callback

    async def come_back(self, callback: str) -> dict[str, str]:
        """Visit the callback; what the app is told."""
        async with self.http.get(callback, allow_redirects=False) as answer:
            assert answer.status == 303, await answer.text()
            target = answer.headers["Location"]
        assert target.startswith(BACK)
        brought = parameters(target)
        plant_passing(brought.get("ticket", ""))
        return brought

    async def consent(
        self, world: World, scope: str = "accounts", *, user: int = SIM_USER, broker: str = "ctrader", **more: str
    ) -> Any:
        """The whole way; the answer to the app's completion. `more`: what the page's form is changed to."""
        fields = await self.open(await start(world, scope, broker=broker), broker=broker)
        callback = await self.decide(world, {**fields, **more}, "approve", user=user, broker=broker)
        back = await self.come_back(callback)
        assert back["connect"] == "ok"
        return await app(world, "POST", f"/oauth/{broker}/complete", {"ticket": back["ticket"]})


@asynccontextmanager
async def visitor() -> AsyncIterator[Visitor]:
    async with aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as http:
        yield Visitor(http)


@asynccontextmanager
async def connectable(folder: Path, database_url: str, **more: str) -> AsyncIterator[World]:
    """A bridge at which users can connect; `more`: of its environment."""
    env = {
        "DATABASE_URL": database_url,
        "CACHE_STORES": "redis",
        "TOKEN_ENCRYPTION_KEYS": f"k1:{base64.b64encode(b'k' * 32).decode()}",
        "OAUTH_RETURN_URLS": BACK,
        **more,
    }
    async with running_world(folder, users=3, bridge_env=env) as world:
        yield world


async def app(world: World, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
    """What the app's server does for the user."""
    named = None if body is None else {"userId": USER, **body}
    return await world.api(method, path, key=APP_KEY, body=named, user=USER if body is None else "")


async def start(world: World, scope: str = "accounts", *, broker: str = "ctrader") -> str:
    """The address at which consent begins."""
    answer = await app(world, "POST", f"/oauth/{broker}/start", {"returnTo": BACK, "scope": scope})
    assert answer["_status"] == 200, answer
    return str(answer["url"])
