"""One user never sees another one's account, whatever they ask for and whoever is live beside them (faults.md S08)."""

from pathlib import Path

import pytest
import redis

from bridge.api.callers import Access
from tests.support.fault_table import fault
from tests.support.fuzz import durable_env, user_token
from tests.support.tenants import Request, Tenant, requests_about
from tests.support.waiting import eventually
from tests.support.world import APP_KEY, OPS_KEY, World, record_key, running_world

FIGURES = (
    *("login", "brokerTitle", "currency", "balance", "equity", "unrealizedPnl", "usedMargin", "freeMargin"),
    *("marginLevel", "leverage", "positions", "orders", "lastUpdate", "asOf", "confirmedAt", "staleAfter"),
)


@fault("I10", "another user's cTrader account, under each spelling", "refused for good; no figure of it is shown")
async def test_another_users_account_is_never_served_however_it_is_asked_for(tmp_path: Path):
    async with running_world(tmp_path, users=3) as world:
        await world.start_all()
        await world.all_live(within_s=20)
        victim = world.accounts["user-1"]
        await world.sim("POST", f"/accounts/{victim}/order", {"symbol": "EURUSD", "side": "buy", "units": 10000})
        await refused_without_figures(world, victim)

        await world.sim("POST", "/faults", {"id": "N35"})  # every login is answered ALREADY_LOGGED_IN
        await world.sim("POST", "/faults", {"id": "N40"})
        await eventually(lambda: owner_is_back(world), within_s=20, what="the owner has logged in again")
        await refused_without_figures(world, victim)

        await world.api("POST", "/api/stop-session", key=APP_KEY, body={"userId": "user-1", "broker": "ctrader"})
        await refused_without_figures(world, victim)


async def owner_is_back(world: World) -> bool:
    answer = await world.api("GET", f"/api/sessions/{record_key('user-1').rpartition('_')[2]}")
    (session,) = answer["sessions"]
    return session["status"] == "live" and session["reconnects"] > 0


async def refused_without_figures(world: World, victim: str) -> None:
    """Another user starts the account, under each spelling of its number, and reads it in every way there is."""
    for spelling in (victim, f"0{victim}"):
        body = {"userId": "user-2", "broker": "ctrader", "accountId": spelling, "environment": "demo"}
        started = await world.api("POST", "/api/start-session?wait=10", key=APP_KEY, body=body)
        assert started["status"] == "action_required"
        assert started["cacheKey"] == f"{record_key('user-2')}_{spelling}"

        async def read(path: str = f"/account?accountId={spelling}") -> dict:
            return await world.api("GET", path, key=APP_KEY, user="user-2")

        by_key = f"/account?userKey={started['userKey']}&accountId={spelling}"
        records = [await read(), await world.api("GET", by_key, key=APP_KEY)]
        with redis.Redis.from_url(world.valkey.url, decode_responses=True) as store:
            text = store.get(started["cacheKey"])
        assert text is not None
        assert world.accounts["user-1"] not in text.replace(f'"accountId":"{spelling}"', "")
        for record in records:
            assert record["reason"]["code"] == "account_not_covered"
            assert {name: record[name] for name in FIGURES} == dict.fromkeys(FIGURES)
            assert record["fresh"] is False
        positions = await read(f"/positions?accountId={spelling}")
        assert (positions["positions"], positions["orders"]) == (None, None)
    own = await world.api("GET", "/account", key=APP_KEY, user="user-2")
    assert own["accountId"] == world.accounts["user-2"]


EVE = {  # who stands where: user-2 with keys or a token of their own
    "keys": {"keyId": "SIMKEY2", "secretKey": "sim-alpaca-secret-2", "environment": "paper"},
    "token": {"accessToken": "sim-alpaca-oauth-2", "environment": "paper"},
}


@pytest.mark.parametrize("access", EVE)
@fault("I10", "another user's Alpaca account, under each spelling", "refused for good; no figure of it is shown")
async def test_another_users_account_at_alpaca_is_never_served_however_it_is_asked_for(
    tmp_path: Path, database_url: str, access: str
):
    async with running_world(tmp_path, users=3, bridge_env=durable_env(database_url)) as world:
        owner, thief = world.at("alpaca", ["user-1"]), world.at("alpaca", ["user-2"])
        await owner.start_all()
        await owner.all_live(within_s=20)
        victim = owner.accounts["user-1"]
        await world.sim("POST", f"/accounts/{victim}/order", {"symbol": "AAPL", "side": "buy", "units": 3})
        body = {"userId": "user-2", "broker": "alpaca", "credentials": EVE[access]}
        assert (await world.api("PUT", "/api/credentials", key=APP_KEY, body=body))["_status"] == 200
        naming = {**body, "credentials": {**EVE[access], "accountId": victim}}
        assert (await world.api("PUT", "/api/credentials", key=APP_KEY, body=naming))["_status"] == 200
        await refused_at_alpaca(thief, victim)  # the credential itself names it
        assert (await world.api("PUT", "/api/credentials", key=APP_KEY, body=body))["_status"] == 200
        await refused_at_alpaca(thief, victim)
        await world.sim("POST", "/alpaca/faults", {"id": "N40", "holdSlot": False})
        await eventually(lambda: back_at_alpaca(owner), within_s=20, what="the owner is back")
        await refused_at_alpaca(thief, victim)
        await world.api("POST", "/api/stop-session", key=APP_KEY, body={"userId": "user-1", "broker": "alpaca"})
        await refused_at_alpaca(thief, victim)
        own = {"userId": "user-2", "broker": "alpaca", "environment": "demo"}
        started = await world.api("POST", "/api/start-session?wait=10", key=APP_KEY, body=own)
        assert (started["status"], started["accountId"] == victim) == ("live", False), started


async def back_at_alpaca(owner: World) -> bool:
    (record,) = owner.records()
    return bool(record["status"] == "live")


async def refused_at_alpaca(thief: World, victim: str) -> None:
    """Another user starts the account, under each spelling of its id, in each environment, and reads it."""
    for spelling, environment in ((victim, "demo"), (victim, "live"), (victim.upper(), "demo")):
        body = {"userId": "user-2", "broker": "alpaca", "accountId": spelling, "environment": environment}
        started = await thief.api("POST", "/api/start-session?wait=10", key=APP_KEY, body=body)
        assert started["_status"] in (202, 422), started
        assert started.get("status") != "live", started

        async def judged(path: str = f"/account?broker=alpaca&accountId={spelling}") -> dict | None:
            found = await thief.api("GET", path, key=APP_KEY, user="user-2")
            return found if found.get("status") == "action_required" or found["_status"] == 404 else None

        record = await eventually(judged, within_s=20, every_s=0.1, what="it is refused for good")
        if record["_status"] == 200:
            assert record["reason"]["code"] in ("account_not_covered", "wrong_environment", "no_accounts")
            assert {name: record[name] for name in FIGURES} == dict.fromkeys(FIGURES)
        positions = await thief.api("GET", f"/positions?broker=alpaca&accountId={spelling}", key=APP_KEY, user="user-2")
        assert (positions.get("positions"), positions.get("orders")) == (None, None)


async def test_a_user_who_lost_access_is_shown_nothing_more_of_an_account_that_another_goes_on_with(
    tmp_path: Path, database_url: str
):
    """Two of our users hold access to one account: by its keys, and by a consent that is taken back."""
    async with running_world(tmp_path, users=3, bridge_env=durable_env(database_url)) as world:
        await world.sim("POST", "/alpaca/prices", {"freeze": True})
        both = world.at("alpaca", ["user-1", "user-2"])
        shared = {"accessToken": "sim-alpaca-oauth-1", "environment": "paper"}
        body = {"userId": "user-2", "broker": "alpaca", "credentials": shared}
        assert (await world.api("PUT", "/api/credentials", key=APP_KEY, body=body))["_status"] == 200
        await both.start_all()
        await both.all_live(within_s=20)
        assert both.accounts["user-1"] == both.accounts["user-2"]
        account = both.accounts["user-1"]
        await world.sim("POST", f"/accounts/{account}/order", {"symbol": "AAPL", "side": "buy", "units": 3})
        await eventually(lambda: [len(each["positions"]) for each in both.records()] == [1, 1], within_s=10)
        counters = await world.sim("GET", "/alpaca/counters")
        assert counters["doubleLogins"] == counters["refusedSlots"] == 0

        await world.sim("POST", "/alpaca/users/1/revoke", {"what": "tokens"})

        def refused() -> bool:
            owner, other = both.records()
            return owner["status"] == "live" and other["status"] == "action_required"

        # at the latest by the reconcile, when nothing ended the stream
        await eventually(refused, within_s=90, every_s=0.1, what=lambda: f"only one goes on: {both.records()}")
        await world.sim("POST", f"/accounts/{account}/order", {"symbol": "MSFT", "side": "buy", "units": 1})
        await eventually(lambda: len(both.records()[0]["positions"]) == 2, within_s=20, what="the owner sees it")
        again = {"userId": "user-2", "broker": "alpaca"}
        started = await world.api("POST", "/api/start-session?wait=5", key=APP_KEY, body=again)
        assert started["status"] != "live"
        shown = await world.api("GET", "/account?broker=alpaca", key=APP_KEY, user="user-2")
        assert (shown["reason"]["code"], shown["fresh"], len(shown["positions"])) == ("token_revoked", False, 1)


@pytest.mark.parametrize("broker", ["ctrader", "alpaca"])
async def test_no_route_lets_a_user_reach_another_one(tmp_path: Path, database_url: str, broker: str):
    """The matrix of tests/unit/api/test_tenants.py again, with everything real behind the routes."""
    env = durable_env(database_url)
    async with running_world(
        tmp_path, users=2, bridge_env=env, bridge_module="tests.support.unlimited_bridge"
    ) as world:
        victim = await ready(world, broker, "user-1", 7101.17)
        await ready(world, broker, "user-2", 3303.31)
        requests = list(requests_about(victim, broker=broker))
        requests.sort(key=lambda request: request.route.writes)  # reads first: writes end the attacker's own session
        own = 0
        for request in requests:
            status, text = await ask(world, request, user_token("user-2"))
            assert status < 500, f"{request}: {status} {text}"
            if request.kind in ("id", "key") and request.route.access is not Access.PUBLIC:
                assert status in (403, 404), f"{request}: {status} {text}"
            for mark in victim.marks:
                assert mark not in text, f"{request}: {text}"
            own += status < 300 and request.route.access is not Access.PUBLIC
        assert own > 30, "the attacker must be able to use the API for themself"

        for key in (None, "app.wrong", "a.b.c"):
            for request in requests:
                status, text = await ask(world, request, key)
                assert status < 500
                assert not any(mark in text for mark in victim.marks), str(request)
        for request in requests:
            if request.route.access in (Access.OPS, Access.OPS_OR_USER):
                assert (await ask(world, request, APP_KEY))[0] in (403, 404)
            if request.route.access is Access.APP:
                assert (await ask(world, request, OPS_KEY))[0] == 403

        mine = await world.api("GET", f"/account?broker={broker}", key=user_token("user-1"))
        assert (mine["accountId"], mine["status"], mine["fresh"]) == (victim.account_id, "live", True)
        covered = await world.api("GET", f"/api/accounts?broker={broker}", key=user_token("user-1"))
        assert victim.account_id in {each["accountId"] for each in covered["accounts"]}


ORDERS = {
    "ctrader": {"symbol": "EURUSD", "side": "buy", "units": 10000},
    "alpaca": {"symbol": "AAPL", "side": "buy", "units": 3, "type": "limit", "limitPrice": 50},
}


async def ready(world: World, broker: str, user: str, deposit: float) -> Tenant:
    """The user has started a session themself, and has a balance and an order or position like nobody else's."""
    token = user_token(user)
    body = {"broker": broker, "environment": "demo"}
    started = await world.api("POST", "/api/start-session?wait=10", key=token, body=body)
    assert started["status"] == "live", started
    account = started["accountId"]
    await world.sim("POST", f"/accounts/{account}/deposit", {"amount": deposit})
    await world.sim("POST", f"/accounts/{account}/order", ORDERS[broker])  # what makes a broker's balance read soon
    if broker == "alpaca":
        await world.sim("POST", f"/accounts/{account}/order", {"symbol": "F", "side": "buy", "units": 1})
    truth = await world.sim("GET", f"/truth/{account}")
    held = [*truth["positions"], *truth["orders"]]

    async def shown() -> bool:
        return (await world.api("GET", f"/account?broker={broker}", key=token)).get("balance") == truth["balance"]

    await eventually(shown, within_s=10, what="the deposit is in the record")
    key = started["userKey"]
    own = [row["id"] for row in held if len(row["id"]) > 12 and row["symbol"] != "F"]  # ids of assets are everybody's
    marks = (key[:12], user, str(truth["balance"]), *(own if broker == "alpaca" else ()))
    return Tenant(user, key, account, started["cacheKey"], marks)


async def ask(world: World, request: Request, token: str | None) -> tuple[int, str]:
    headers = {**request.headers, **({"Authorization": f"Bearer {token}"} if token else {})}
    more = {"json": request.body} if request.body is not None else {}
    async with world.http.request(
        request.method, world.url + request.target, headers=headers, allow_redirects=False, **more
    ) as answer:
        return answer.status, f"{dict(answer.headers)} {await answer.text()}"
