"""A user connects Alpaca in a browser: consent, scope and environments, refusal, revocation, connecting again, leaving.

Everything through HTTP and the simulated consent page, in processes of their own; test_connect_ctrader_world.py is the
same for the other broker.
"""

from pathlib import Path
from typing import Any

import asyncpg
import pytest

from tests.support.canaries import assert_clean
from tests.support.visitors import SIM_USER, USER, app, connectable, start, visitor
from tests.support.waiting import eventually
from tests.support.world import APP_KEY, World, record_key

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]
BROKER = "alpaca"
TRADER = 3  # holds a paper and a live account
KEYS = {"keyId": f"SIMKEY{SIM_USER}", "secretKey": f"sim-alpaca-secret-{SIM_USER}", "environment": "paper"}


def record(world: World) -> Any:
    (found,) = world.at(BROKER, [USER]).records()
    return found


async def reaches(world: World, status: str, code: str | None = None, account: str | None = None) -> None:
    """The record says so, in the store."""

    def there() -> bool:
        now = record(world)
        if now is None or now["status"] != status or (account is not None and now["accountId"] != account):
            return False
        return code is None or now["reason"]["code"] == code

    await eventually(there, within_s=30, every_s=0.05, what=lambda: f"{status} {code} {account}: {record(world)}")


async def begin(world: World, **named: str) -> Any:
    return await app(world, "POST", "/api/start-session?wait=10", {"broker": BROKER, **named})


async def accounts_at_the_broker(world: World, user: int) -> dict[str, str]:
    rows = (await world.sim("GET", "/alpaca/accounts"))["accounts"]
    return {row["environment"]: row["accountId"] for row in rows if row["userId"] == f"user-{user}"}


async def test_user_consents_goes_live_loses_access_and_heals_by_consenting_again(
    tmp_path: Path, database_url: str
) -> None:
    async with connectable(tmp_path, database_url) as world, visitor() as browser:
        connected = await browser.consent(world, broker=BROKER)
        assert connected["_status"] == 200, connected
        assert browser.asked["scope"] == "data"
        assert browser.asked["redirect_uri"] == f"{world.url}/oauth/alpaca/callback"
        assert "client_secret" not in browser.asked
        (account,) = connected["accounts"]
        theirs = await accounts_at_the_broker(world, SIM_USER)
        assert (account["accountId"], account["environment"], connected["fresh"]) == (theirs["demo"], "demo", True)

        started = await begin(world)
        assert (started["_status"], started["status"], started["cacheKey"]) == (202, "live", record_key(USER, BROKER))
        await reaches(world, "live", account=account["accountId"])
        order = {"symbol": "AAPL", "side": "buy", "units": 2}
        await world.sim("POST", f"/accounts/{account['accountId']}/order", order)
        await eventually(lambda: len(record(world)["positions"]) == 1, within_s=10, what="the position")

        await world.sim("POST", f"/alpaca/users/{SIM_USER}/revoke", {"what": "tokens"})
        await reaches(world, "action_required", "token_revoked")
        said = (await app(world, "GET", f"/account?broker={BROKER}"))["reason"]["message"]
        assert "connect" in said
        explained = await world.api("GET", f"/api/sessions/{started['userKey']}/explain")
        assert explained["explanations"][0]["session"]["reason"]["code"] == "token_revoked"

        again = await browser.consent(world, "trading", broker=BROKER)
        assert (again["scope"], browser.asked["scope"]) == ("trading", "trading data")
        await reaches(world, "live", account=account["accountId"])  # by itself: nobody started it
        await world.sim("POST", f"/accounts/{account['accountId']}/order", order | {"symbol": "MSFT"})
        await eventually(lambda: len(record(world)["positions"]) == 2, within_s=10, what="the second position")

        # keys of their own instead, and the consent is not used any more
        body = {"broker": BROKER, "credentials": KEYS}
        entered = await app(world, "PUT", "/api/credentials", body)
        assert entered["_status"] == 200, entered
        await world.sim("POST", f"/alpaca/users/{SIM_USER}/revoke", {"what": "tokens"})
        await world.sim("POST", f"/accounts/{account['accountId']}/order", order | {"symbol": "SPY"})

        async def three() -> bool:
            now = record(world)
            return now["status"] == "live" and len(now["positions"]) == 3

        await eventually(three, within_s=30, what="the third position")

        connection = await asyncpg.connect(database_url)
        try:
            rows = [dict(row) for row in await connection.fetch("select * from public.bridge_grants")]
            parked = await connection.fetchval("select count(sealed_code) from public.bridge_consents")
        finally:
            await connection.close()
        assert (len(rows), parked) == (1, 0)
        assert_clean(str(rows), "what is stored of the grant", also=(KEYS["secretKey"],))

        headers = {"Authorization": f"Bearer {APP_KEY}", "X-User-Id": USER}
        async with world.http.delete(f"{world.url}/api/credentials?broker={BROKER}", headers=headers) as answer:
            assert answer.status == 204
        await reaches(world, "stopped")
        assert (await app(world, "GET", f"/api/accounts?broker={BROKER}"))["type"].endswith(":no-credentials")
        counters = await world.sim("GET", "/alpaca/counters")
        assert (counters["budgetViolations"], counters["doubleLogins"]) == (0, 0)


async def test_a_consent_for_both_environments_serves_paper_unless_live_is_named(
    tmp_path: Path, database_url: str
) -> None:
    async with connectable(tmp_path, database_url) as world, visitor() as browser:
        theirs = await accounts_at_the_broker(world, TRADER)
        assert set(theirs) == {"demo", "live"}
        connected = await browser.consent(world, user=TRADER, broker=BROKER)
        assert {each["environment"]: each["accountId"] for each in connected["accounts"]} == theirs
        plain = record_key(USER, BROKER)
        for named, environment, key in (
            ({}, "demo", plain),  # a live account is never assumed
            ({"environment": "live"}, "live", f"{plain}_{theirs['live']}"),
            ({"environment": "demo"}, "demo", plain),
        ):
            started = await begin(world, **named)
            assert (started["_status"], started["status"], started["accountId"]) == (202, "live", theirs[environment])
            assert (started["environment"], started["cacheKey"]) == (environment, key)
        wrong = await begin(world, environment="demo", accountId=theirs["live"])
        assert (wrong["_status"], wrong["type"].rpartition(":")[2]) == (422, "invalid-input"), wrong
        listed = (await world.api("GET", "/api/sessions?broker=alpaca"))["sessions"]
        assert {row["environment"]: row["accountId"] for row in listed if row["status"] == "live"} == theirs


async def test_a_consent_for_one_environment_never_reaches_the_other(tmp_path: Path, database_url: str) -> None:
    async with connectable(tmp_path, database_url) as world, visitor() as browser:
        theirs = await accounts_at_the_broker(world, TRADER)
        connected = await browser.consent(world, user=TRADER, broker=BROKER, env="live")
        (account,) = connected["accounts"]
        assert (account["environment"], account["accountId"]) == ("live", theirs["live"])
        started = await begin(world)  # the only one
        assert (started["status"], started["environment"], started["accountId"]) == ("live", "live", theirs["live"])
        refused = await begin(world, environment="demo", accountId=theirs["demo"])
        assert refused["status"] == "action_required"


async def test_denial_reuse_a_forged_state_and_a_foreign_browser_store_nothing(
    tmp_path: Path, database_url: str
) -> None:
    async with connectable(tmp_path, database_url) as world, visitor() as browser, visitor() as stranger:
        fields = await browser.open(await start(world, broker=BROKER), broker=BROKER)
        denied = await browser.come_back(await browser.decide(world, fields, "deny", broker=BROKER))
        assert (denied["connect"], "ticket" in denied) == ("denied", False)

        fields = await browser.open(await start(world, broker=BROKER), broker=BROKER)
        forged = await browser.decide(world, {**fields, "state": "f" * 43}, "approve", broker=BROKER)
        callback = await browser.decide(world, fields, "approve", broker=BROKER)
        other_broker = callback.replace("/oauth/alpaca/", "/oauth/ctrader/")
        for who, address in ((browser, forged), (stranger, callback), (browser, other_broker)):
            async with who.http.get(address, allow_redirects=False) as answer:
                assert (answer.status, answer.content_type) in ((403, "text/html"), (404, "text/html"))
                assert_clean(await answer.text(), "the page that refuses", answer=True)
        ticket = (await browser.come_back(callback))["ticket"]
        for path, body, code in (
            ("/oauth/ctrader/complete", {"userId": USER}, 404),
            ("/oauth/alpaca/complete", {"userId": "somebody-else"}, 403),
        ):
            stolen = await world.api("POST", path, key=APP_KEY, body={**body, "ticket": ticket})
            assert stolen["_status"] in (code, 403, 404, 409), stolen
        for user in (USER, "somebody-else"):
            answer = await world.api("GET", "/api/accounts?broker=alpaca", key=APP_KEY, user=user)
            assert answer["type"].endswith(":no-credentials")


async def test_nobody_consents_where_no_application_is_configured_and_keys_still_work(
    tmp_path: Path, database_url: str
) -> None:
    without = {"ALPACA_CLIENT_ID": "", "ALPACA_CLIENT_SECRET": ""}
    async with connectable(tmp_path, database_url, **without) as world:
        body = {"userId": USER, "returnTo": "https://app.example.com/settings"}
        refused = await world.api("POST", "/oauth/alpaca/start", key=APP_KEY, body=body)
        assert refused["_status"] == 404
        assert (await app(world, "PUT", "/api/credentials", {"broker": BROKER, "credentials": KEYS}))["_status"] == 200
        assert (await begin(world))["status"] == "live"
