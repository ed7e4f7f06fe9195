"""One user never sees another one's account, whatever they ask for and whoever is live beside them (faults.md S08)."""

from pathlib import Path

import redis

from bridge.api.callers import Access
from tests.support.fuzz import durable_env, user_token
from tests.support.tenants import Request, Tenant, requests_about
from tests.support.waiting import eventually
from tests.support.world import APP_KEY, OPS_KEY, World, record_key, running_world

FIGURES = (
    *("login", "brokerTitle", "currency", "balance", "equity", "unrealizedPnl", "usedMargin", "freeMargin"),
    *("marginLevel", "leverage", "positions", "orders", "lastUpdate", "asOf", "confirmedAt", "staleAfter"),
)


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


async def test_no_route_lets_a_user_reach_another_one(tmp_path: Path, database_url: str):
    """The matrix of tests/unit/api/test_tenants.py again, with everything real behind the routes."""
    env = durable_env(database_url)
    async with running_world(
        tmp_path, users=2, bridge_env=env, bridge_module="tests.support.unlimited_bridge"
    ) as world:
        victim = await ready(world, "user-1", 7101.17)
        await ready(world, "user-2", 3303.31)
        requests = list(requests_about(victim, broker="ctrader"))
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

        mine = await world.api("GET", "/account", key=user_token("user-1"))
        assert (mine["accountId"], mine["status"], mine["fresh"]) == (victim.account_id, "live", True)
        covered = await world.api("GET", "/api/accounts?broker=ctrader", key=user_token("user-1"))
        assert victim.account_id in {each["accountId"] for each in covered["accounts"]}


async def ready(world: World, user: str, deposit: float) -> Tenant:
    """The user has started a session themself, and has a balance like nobody else's."""
    token = user_token(user)
    body = {"broker": "ctrader", "environment": "demo"}
    started = await world.api("POST", "/api/start-session?wait=10", key=token, body=body)
    assert started["status"] == "live", started
    await world.sim("POST", f"/accounts/{started['accountId']}/deposit", {"amount": deposit})
    truth = await world.sim("GET", f"/truth/{started['accountId']}")

    async def shown() -> bool:
        return (await world.api("GET", "/account", key=token)).get("balance") == truth["balance"]

    await eventually(shown, within_s=10, what="the deposit is in the record")
    key = started["userKey"]
    marks = (key[:12], user, str(truth["balance"]))
    return Tenant(user, key, started["accountId"], started["cacheKey"], marks)


async def ask(world: World, request: Request, token: str | None) -> tuple[int, str]:
    headers = {**request.headers, **({"Authorization": f"Bearer {token}"} if token else {})}
    more = {"json": request.body} if request.body is not None else {}
    async with world.http.request(
        request.method, world.url + request.target, headers=headers, allow_redirects=False, **more
    ) as answer:
        return answer.status, f"{dict(answer.headers)} {await answer.text()}"
