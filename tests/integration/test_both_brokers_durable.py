"""Sessions at both brokers outlive the process, the database and a change of settings; who holds something is first."""

import asyncio
import signal
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from bridge.embedded.surroundings import free_port
from tests.support.processes import bridge_process
from tests.support.storm import differences
from tests.support.waiting import eventually
from tests.support.world import APP_KEY, World, running_world

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]
USERS = 30
HOLDERS = (23, 7, 18, 29, 3, 12)  # not in the order in which they started
STOPPED = "user-2"
OVERTAKING = {
    "ctrader": 0,
    "alpaca": 4,
}  # logins that go on at once may pass one another, each with a socket of its own
ORDERS = {
    "ctrader": {"symbol": "EURUSD", "side": "buy", "type": "market", "units": 1000},
    "alpaca": {"symbol": "AAPL", "side": "buy", "units": 2},
}


async def all_live(places: list[World], *, less: int = 0, within_s: float = 60) -> None:
    count = sum(len(place.users) for place in places) - less

    async def there() -> bool:
        return await places[0].live() == count

    async def why() -> str:
        page = await places[0].api("GET", "/api/sessions?limit=200")
        return str(
            [(row["broker"], row["status"], row["reason"]) for row in page["sessions"] if row["status"] != "live"]
        )

    try:
        await eventually(there, within_s=within_s, every_s=0.1, what=f"{count} sessions live")
    except AssertionError as late:
        raise AssertionError(f"{late}: {await why()}") from None


async def records_true(places: list[World], *, but: str | None = None) -> None:
    """The truth is read anew at every look: a broker may fill an order in several parts."""
    wrong: dict[str, Any] = {}

    async def true() -> bool:
        wrong.clear()
        for place in places:
            for user, record in zip(place.users, place.records(), strict=True):
                if user == but:
                    continue
                truth = await place.sim("GET", f"/truth/{place.accounts[user]}")
                if found := differences(record, truth):
                    wrong[f"{place.broker} {user}"] = found
        return not wrong

    await eventually(
        true, within_s=30, every_s=0.25, what=lambda: f"every record true: {dict(list(wrong.items())[:3])}"
    )


async def begin(world: World) -> list[World]:
    """Everybody at both brokers, prices at rest; some hold something at each, and the database knows who."""
    places = [world, world.at("alpaca", world.users)]
    for place in places:
        await place.broker_sim("POST", "/prices", {"freeze": True})
        await place.start_all()
    await all_live(places)
    for place in places:
        for number in HOLDERS:
            await place.sim("POST", f"/accounts/{place.accounts[f'user-{number}']}/order", ORDERS[place.broker])
    return places


def held(place: World) -> set[str]:
    return {place.accounts[f"user-{number}"] for number in HOLDERS}


async def at_risk(url: str) -> set[str]:
    connection = await asyncpg.connect(url)
    try:
        rows = await connection.fetch("select account_id from public.bridge_sessions where at_risk")
    finally:
        await connection.close()
    return {row["account_id"] for row in rows}


async def killed(world: World) -> None:
    world.bridge.send(signal.SIGKILL)
    await world.bridge.ended()


async def test_sessions_at_both_brokers_come_back_holders_first_when_the_process_is_killed(
    tmp_path: Path, database_url: str
) -> None:
    env = {"DATABASE_URL": database_url, "ALPACA_DIALS_PER_SECOND": "10"}
    async with running_world(tmp_path, users=USERS, requests_per_second=200, bridge_env=env) as world:
        places = await begin(world)
        risky = held(places[0]) | held(places[1])

        async def noted() -> bool:
            return await at_risk(database_url) == risky

        await eventually(noted, within_s=20, every_s=0.1, what="what is at risk is stored")
        body = {"userId": STOPPED, "broker": "alpaca"}
        assert (await world.api("POST", "/api/stop-session", key=APP_KEY, body=body))["_status"] == 202
        before = {place.broker: await place.broker_sim("GET", "/counters") for place in places}
        await killed(world)
        for place in places:  # nobody listens
            await place.sim("POST", f"/accounts/{place.accounts['user-7']}/order", ORDERS[place.broker])
            await place.sim("POST", f"/accounts/{place.accounts['user-5']}/order", ORDERS[place.broker])
        async with bridge_process("serve", env=world.env) as world.bridge:
            for place in places:
                place.bridge = world.bridge
            await world.ready()
            await all_live(places, less=1)
            await records_true(places, but=STOPPED)
            for place in reversed(places):
                after = await place.broker_sim("GET", "/counters")
                order = [
                    str(each["accountId"]) for each in after["authOrder"][len(before[place.broker]["authOrder"]) :]
                ]
                assert len(order) >= len(HOLDERS)
                first = list(dict.fromkeys(order))[: len(HOLDERS) + OVERTAKING[place.broker]]
                assert held(place) <= set(first), f"{place.broker}: not the holders first"
                for what in ("budgetViolations", "doubleLogins"):
                    assert after[what] == 0, f"{place.broker}: {what}"
            page = await world.api("GET", "/api/sessions?limit=200&broker=alpaca")
            assert {row["status"] for row in page["sessions"]} == {"live", "stopped"}
            assert await world.bridge.stop() == 0


async def test_nothing_ends_at_either_broker_when_the_database_is_restarted(
    tmp_path: Path, postgres_factory: Any
) -> None:
    server = await asyncio.to_thread(postgres_factory)
    async with running_world(tmp_path, users=6, bridge_env={"DATABASE_URL": server.url()}) as world:
        places = [world, world.at("alpaca", world.users[:5])]
        for place in places:
            await place.broker_sim("POST", "/prices", {"freeze": True})
            await place.start_all()
        await all_live(places)
        late = {"userId": "user-6", "broker": "alpaca"}
        for _ in range(2):
            await asyncio.to_thread(server.kill)
            refused = await world.api("POST", "/api/start-session", key=APP_KEY, body=late)
            assert refused["_status"] == 503, refused
            for place in places:
                for user in place.users:
                    await place.sim("POST", f"/accounts/{place.accounts[user]}/order", ORDERS[place.broker])
            assert await world.live() == 11
            await asyncio.to_thread(server.start)
            await world.bridge.line(lambda line: "store recovered" in line, within_s=40)
            await records_true(places)
        page = await world.api("GET", "/api/sessions")
        assert {(row["status"], row["reconnects"]) for row in page["sessions"]} == {("live", 0)}

        async def accepted() -> bool:
            return bool((await world.api("POST", "/api/start-session", key=APP_KEY, body=late))["_status"] == 202)

        await eventually(accepted, within_s=20, every_s=0.3, what="a start is accepted again")


async def test_numbers_are_kept_and_sessions_heal_when_the_settings_of_a_broker_change_and_change_back(
    tmp_path: Path, database_url: str
) -> None:
    env = {"DATABASE_URL": database_url, "LEASE_TTL": "4"}  # that of a killed process is waited for
    async with running_world(tmp_path, users=3, bridge_env=env) as world:
        place = world.at("alpaca", world.users)
        await place.broker_sim("POST", "/prices", {"freeze": True})
        await place.start_all()
        await all_live([place])
        account = place.accounts["user-1"]
        await place.sim("POST", f"/accounts/{account}/order", ORDERS["alpaca"])
        await records_true([place])
        (shown,) = place.records(["user-1"])
        nowhere = f"http://127.0.0.1:{free_port()}"
        live_host = world.env["ALPACA_LIVE_URL"]
        for change, status, code in (
            ({"ALPACA_PAPER_URL": nowhere}, {"stale", "connecting", "starting"}, "broker_unreachable"),
            ({"ALPACA_PAPER_STREAM_URL": nowhere.replace("http", "ws")}, {"stale", "connecting", "starting"}, None),
            ({"ALPACA_PAPER_URL": live_host}, {"action_required"}, "credentials_invalid"),  # paper keys, shown to live
            ({"ALPACA_CLIENT_ID": "", "ALPACA_CLIENT_SECRET": "", "ALPACA_DATA_FEED": "off"}, {"live"}, None),
        ):
            if world.bridge.returncode is None:
                await killed(world)
            async with bridge_process("serve", env={**world.env, **change}) as world.bridge:
                await world.ready()

                async def says(wanted: set[str] = status, reason: str | None = code) -> bool:
                    now = await world.api("GET", "/account?broker=alpaca", key=APP_KEY, user="user-1")
                    told = (now["reason"] or {}).get("code")
                    return now["status"] in wanted and (reason is None or told == reason)

                await eventually(says, within_s=30, every_s=0.1, what=f"{status} {code}")
                now = await world.api("GET", "/account?broker=alpaca", key=APP_KEY, user="user-1")
                assert now["accountId"] == account
                assert now["balance"] == shown["balance"], "recalled, whoever can be reached"
                assert len(now["positions"]) == 1
                assert now["fresh"] is (now["status"] == "live")
                await killed(world)
            async with bridge_process("serve", env=world.env) as world.bridge:
                await world.ready()
                await all_live([world.at("alpaca", world.users)])
                await records_true([place])
