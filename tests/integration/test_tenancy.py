"""One user never sees another one's account, whatever they ask for and whoever is live beside them (faults.md S08)."""

from pathlib import Path

import redis

from tests.support.waiting import eventually
from tests.support.world import APP_KEY, World, record_key, running_world

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
