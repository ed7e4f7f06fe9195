"""A user connects a broker in a browser, from the first click to a live session, in processes of their own."""

from pathlib import Path

import asyncpg
import pytest

from tests.support.visitors import SIM_USER, USER, app, connectable, start, visitor
from tests.support.waiting import eventually
from tests.support.world import APP_KEY, World

pytestmark = pytest.mark.slow


async def is_live(world: World, account: str) -> bool:
    (record,) = world.records([USER])
    return record is not None and (record["status"], record["accountId"]) == ("live", account)


async def test_user_connects_goes_live_consents_again_and_disconnects(tmp_path: Path, database_url: str) -> None:
    async with connectable(tmp_path, database_url) as world, visitor() as browser:
        connected = await browser.consent(world)
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
        again = await browser.consent(world, "trading")
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
        async with stranger.http.get(callback, allow_redirects=False) as answer:
            assert (answer.status, answer.content_type) == (403, "text/html")
            assert "sim-code" not in await answer.text()
        ticket = (await browser.come_back(callback))["ticket"]
        async with browser.http.get(callback, allow_redirects=False) as answer:
            assert answer.status in (403, 409)  # the cookie is gone, or the state is used

        body = {"userId": "somebody-else", "ticket": ticket}
        stolen = await world.api("POST", "/oauth/ctrader/complete", key=APP_KEY, body=body)
        assert (stolen["_status"], stolen["type"].rpartition(":")[2]) == (403, "connect-other-user")
        late = await app(world, "POST", "/oauth/ctrader/complete", {"ticket": ticket})
        assert (late["_status"], late["type"].rpartition(":")[2]) == (409, "connect-used")
        for user in (USER, "somebody-else"):
            answer = await world.api("GET", "/api/accounts?broker=ctrader", key=APP_KEY, user=user)
            assert answer["type"].endswith(":no-credentials")
