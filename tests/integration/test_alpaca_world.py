"""Alpaca through every door of the API, beside the other broker: nobody need know which one it is.

One world of processes for a story in several chapters; consent has a test of its own (test_connect_alpaca_world.py).
"""

import json
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from tests.support.fuzz import durable_env
from tests.support.processes import bridge_process
from tests.support.storm import differences
from tests.support.user_places import plain
from tests.support.waiting import eventually
from tests.support.world import APP_KEY, OPS_KEY, World, record_key, running_world

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]
ANN, BOB, EVE = "user-1", "user-2", "user-3"


def entry(tmp_path: Path, user: str, broker: str = "alpaca") -> dict[str, Any]:
    return dict(json.loads((tmp_path / "credentials.json").read_text())["users"][user][broker])


async def app(world: World, method: str, path: str, user: str, **body: Any) -> Any:
    named = {"userId": user, **body} if body else None
    return await world.api(method, path, key=APP_KEY, body=named, user="" if body else user)


async def begin(world: World, user: str, broker: str = "alpaca", **named: str) -> Any:
    return await app(world, "POST", "/api/start-session?wait=10", user, broker=broker, **named)


async def fetch(world: World, path: str, user: str, **headers: str) -> tuple[int, Any]:
    headers = {"Authorization": f"Bearer {APP_KEY}", "X-User-Id": user, **headers}
    async with world.http.get(world.url + path, headers=headers) as answer:
        return answer.status, answer.headers


async def true(world: World, user: str, account: str, broker: str = "alpaca") -> None:
    async def equal() -> bool:
        truth = await world.sim("GET", f"/truth/{account}")
        (record,) = world.at(broker, [user]).records()
        return not differences(record, truth)

    await eventually(equal, within_s=20, every_s=0.1, what="the record equals the truth")


async def test_every_door_opens_for_key_pairs_and_tokens_beside_the_other_broker(
    tmp_path: Path, database_url: str
) -> None:
    env = {**durable_env(database_url), "BRIDGE_CREDENTIALS_FILE": "", "CACHE_STORES": "postgres,redis"}
    async with running_world(tmp_path, users=3, bridge_env=env) as world:
        await world.sim("POST", "/alpaca/prices", {"freeze": True})
        refused = await begin(world, ANN)
        assert (refused["_status"], refused["type"].rpartition(":")[2]) == (409, "no-credentials")
        assert (await app(world, "POST", "/api/stop-session", ANN, broker="alpaca"))["_status"] == 404

        # ---- credentials: a key pair, a token, and what is wrong with others
        for wrong, field in (
            ({"keyId": "SIMKEY1", "environment": "paper"}, "secretKey"),
            ({"keyId": "SIMKEY1", "secretKey": "sim-alpaca-secret-1"}, "environment"),
            ({**entry(tmp_path, ANN), "accessToken": "sim-alpaca-oauth-1"}, "keyId"),
            ({**entry(tmp_path, ANN), "accountId": "not-a-uuid"}, "accountId"),
            ({**entry(tmp_path, ANN), "refreshToken": "x"}, "refreshToken"),
            ({"keyId": "a b", "secretKey": "c\r\nX-Evil: 1", "environment": "paper"}, "keyId"),
        ):
            answer = await app(world, "PUT", "/api/credentials", ANN, broker="alpaca", credentials=wrong)
            assert answer["_status"] == 422, answer
            assert field in json.dumps(answer), (field, answer)
        token = {"accessToken": "sim-alpaca-oauth-2", "environment": "paper"}
        for user, credentials in ((ANN, entry(tmp_path, ANN)), (BOB, token)):
            stored = await app(world, "PUT", "/api/credentials", user, broker="alpaca", credentials=credentials)
            assert stored["_status"] == 200, stored
        body = entry(tmp_path, ANN, "ctrader")
        assert (await app(world, "PUT", "/api/credentials", ANN, broker="ctrader", credentials=body))["_status"] == 200

        # ---- accounts, start, record, positions, ETag
        accounts: dict[str, str] = {}
        for user in (ANN, BOB):
            covered = await app(world, "GET", "/api/accounts?broker=alpaca", user)
            accounts[user] = next(each["accountId"] for each in covered["accounts"] if each["environment"] == "demo")
            started = await begin(world, user)
            assert (started["_status"], started["status"], started["environment"]) == (202, "live", "demo"), started
            assert (started["cacheKey"], started["accountId"]) == (record_key(user, "alpaca"), accounts[user])
            again = await begin(world, user)
            assert again == started
        both = await begin(world, ANN, "ctrader", environment="demo")
        assert (both["status"], both["cacheKey"]) == ("live", record_key(ANN))
        order = {"symbol": "AAPL", "side": "buy", "units": 3}
        bracket = {"type": "limit", "limitPrice": 50, "orderClass": "bracket", "takeProfit": 60, "stopLoss": 40}
        for each in (order, {"symbol": "BTC/USD", "side": "buy", "units": 0.01}, {**order, **bracket}):
            await world.sim("POST", f"/accounts/{accounts[ANN]}/order", each)
        for user in (ANN, BOB):
            await true(world, user, accounts[user])
        record = await app(world, "GET", "/account?broker=alpaca", ANN)
        assert (record["broker"], record["fresh"], record["currency"], record["moneyDigits"]) == (
            "alpaca",
            True,
            "USD",
            2,
        )
        assert {row["symbol"] for row in record["positions"]} == {"AAPL", "BTC/USD"}
        assert {row["lots"] for row in record["positions"]} == {None}
        assert {row["status"] for row in record["orders"]} == {"working", "held"}
        named = await app(world, "GET", f"/positions?broker=alpaca&accountId={accounts[ANN]}", ANN)
        assert {row["id"] for row in named["positions"]} == {row["id"] for row in record["positions"]}
        default = await app(world, "GET", "/account", ANN)  # the older routes' broker
        assert default["broker"] == "ctrader"
        status, headers = await fetch(world, "/account?broker=alpaca", BOB)
        assert status == 200
        unchanged = await fetch(world, "/account?broker=alpaca", BOB, **{"If-None-Match": headers["ETag"]})
        assert unchanged[0] == 304
        other = await fetch(world, "/account?broker=alpaca", ANN, **{"If-None-Match": headers["ETag"]})
        assert other[0] == 200
        assert (await fetch(world, "/account?broker=alpaca", EVE))[0] == 404

        # ---- what operators see
        listed = await world.api("GET", "/api/sessions?broker=alpaca&status=live")
        assert {row["accountId"] for row in listed["sessions"]} == set(accounts.values())
        explained = (await world.api("GET", f"/api/sessions/{plain(ANN)}/explain"))["explanations"]
        assert {each["session"]["broker"] for each in explained} == {"alpaca", "ctrader"}
        assert "sim-alpaca" not in json.dumps(explained)
        health = await world.api("GET", "/health")
        assert health["brokers"]["alpaca"]["channels"] == 2
        assert (health["brokers"]["alpaca"]["state"], health["sessions"]) == ("up", {"live": 3})
        assert health["brokers"]["alpaca"]["lastInboundAt"] is not None

        # ---- the deployment, from outside and inside
        arguments = ("smoke", world.url, "--user", ANN, "--broker", "alpaca", "--environment", "demo")
        keys = {"SMOKE_KEY": APP_KEY, "SMOKE_OPS_KEY": OPS_KEY}
        async with bridge_process(*arguments, env=keys) as smoke:
            assert await smoke.ended(within_s=60) == 0, smoke.output
        async with bridge_process("doctor", env=world.env) as doctor:
            assert await doctor.ended(within_s=60) == 0, doctor.output
            assert sum("broker alpaca" in line for line in doctor.stdout) == 3

        # ---- the stop of one leaves the other; a new start goes on with the same record
        stopped = await app(world, "POST", "/api/stop-session", ANN, broker="alpaca")
        assert stopped["_status"] == 202

        async def says(user: str, broker: str, status: str, code: str | None) -> bool:
            now = await app(world, "GET", f"/account?broker={broker}", user)
            return (now["status"], (now["reason"] or {}).get("code")) == (status, code)

        await eventually(lambda: says(ANN, "alpaca", "stopped", "stopped"), within_s=10, what="stopped")
        assert await says(ANN, "ctrader", "live", None)
        assert await says(BOB, "alpaca", "live", None)
        before = await app(world, "GET", "/account?broker=alpaca", ANN)
        assert (before["balance"], len(before["positions"])) == (record["balance"], 2), "the numbers stay"
        assert (await begin(world, ANN))["status"] == "live"
        await true(world, ANN, accounts[ANN])
        counters = await world.sim("GET", "/alpaca/counters")
        assert (counters["doubleLogins"], counters["refusedSlots"], counters["budgetViolations"]) == (0, 0, 0)

        # ---- all that is kept of a user: exported, then erased, and the other user's stays
        async with bridge_process("user", "export", ANN, env=world.env) as export:
            assert await export.ended(within_s=60) == 0, export.output
        told = json.loads("\n".join(export.stdout))
        text = json.dumps(told)
        assert accounts[ANN] in text
        assert "sim-alpaca-secret" not in text
        assert accounts[BOB] not in text
        async with bridge_process("user", "erase", ANN, "--yes", env=world.env) as erase:
            assert await erase.ended(within_s=60) == 0, erase.output
        assert (await begin(world, ANN))["type"].endswith(":no-credentials")
        assert await nothing_of(database_url, accounts[ANN]) == []
        assert await says(BOB, "alpaca", "live", None)

        async def alone() -> bool:
            channels = (await world.api("GET", "/health"))["brokers"]["alpaca"]["channels"]
            return channels == 1

        await eventually(alone, within_s=10, what="the erased user's stream is closed")

        # ---- nobody reads for long: it ends by itself, and says so
        await world.bridge.stop()
        async with bridge_process("serve", env={**world.env, "SESSION_IDLE_DAYS": "0.0001"}) as world.bridge:
            await world.ready()
            await eventually(lambda: says_in_store(world, BOB, "idle"), within_s=60, every_s=0.5, what="ended: idle")
            assert await world.bridge.stop() == 0


def says_in_store(world: World, user: str, code: str) -> bool:
    """Without reading through the API, which would renew the session."""
    (record,) = world.at("alpaca", [user]).records()
    return bool(record and record["status"] == "stopped" and record["reason"]["code"] == code)


async def nothing_of(database_url: str, account: str) -> list[str]:
    """Rows of any table that still name an account, but the audit log, which keeps what happened."""
    connection = await asyncpg.connect(database_url)
    try:
        tables = await connection.fetch(
            "select format('%I.%I', schemaname, tablename) as name from pg_tables where schemaname = 'public'"
            " and tablename not like '%audit%'"
        )
        found = []
        for table in tables:
            sql = f"select t::text from {table['name']} t where t::text like $1"  # names are Postgres's own
            found += [f"{table['name']}: {row[0]}" for row in await connection.fetch(sql, f"%{account}%")]
        return found
    finally:
        await connection.close()


async def test_a_settings_row_is_taken_over_and_again_when_its_keys_change(tmp_path: Path, database_url: str) -> None:
    connection = await asyncpg.connect(database_url)
    table = "kv_store_ab12cd34"
    await connection.execute(f"create table public.{table} (key text primary key, value jsonb not null)")

    async def write(user: str, **value: Any) -> None:
        await connection.execute(
            f"insert into public.{table} values ($1, $2::jsonb) on conflict (key) do update set value = excluded.value",
            f"alpaca_settings_{plain(user)}",
            json.dumps(value),
        )

    env = {
        **durable_env(database_url),
        "BRIDGE_CREDENTIALS_FILE": "",
        "SUPABASE_KV_TABLE": table,
        "CACHE_STORES": "redis",
    }
    try:
        async with running_world(tmp_path, users=3, bridge_env=env) as world:
            await write(ANN, apiKey="SIMKEY1", apiSecret="sim-alpaca-secret-1", isPaper=True, theme="dark")
            await write(BOB, access_token="sim-alpaca-oauth-2", environment="paper")
            await write(EVE, apiKey="SIMKEY3", apiSecret="sim-alpaca-secret-3")  # does not say which
            for user in (ANN, BOB):
                started = await begin(world, user)
                assert started["status"] == "live", started
            refused = await begin(world, EVE)
            assert refused["_status"] == 422, refused
            assert "settings.environment" in json.dumps(refused)
            await write(EVE, apiKey="SIMLIVE3", apiSecret="sim-alpaca-live-secret-3", isLive=True)
            live = await begin(world, EVE)
            assert (live["status"], live["environment"]) == ("live", "live"), live

            await world.sim("POST", "/alpaca/users/1/revoke", {"what": "keys"})
            at = world.at("alpaca", [ANN])
            await eventually(
                lambda: at.records()[0]["status"] == "action_required", within_s=20, what="the keys are refused"
            )
            await write(ANN, accessToken="sim-alpaca-oauth-1", isPaper=True)
            again = await begin(world, ANN)
            assert again["status"] == "live", again
    finally:
        await connection.close()
