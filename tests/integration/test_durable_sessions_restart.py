"""The process is killed and started again: what users wanted comes back by itself, accounts at risk first."""

import asyncio
import signal
import time
from pathlib import Path

import pytest

from bridge.db.database import Database
from core.secret import Secret
from tests.support.processes import bridge_process
from tests.support.storm import differences, limit_s
from tests.support.waiting import eventually
from tests.support.world import APP_KEY, World, record_key, running_world

USERS = 30
RATE = 200
LEASE_S = 3
HOLDERS = (25, 7, 18, 29, 3, 12, 21, 9)  # not in the order in which they started
STOPPED = ("user-2", "user-15")


async def stop(world: World, user: str) -> None:
    answer = await world.api("POST", "/api/stop-session", key=APP_KEY, body={"userId": user, "broker": "ctrader"})
    assert answer["_status"] == 202, answer


async def hold_something(world: World) -> set[str]:
    """Open a position for some; returns their accounts."""
    for number in HOLDERS:
        order = {"symbol": "EURUSD", "side": "buy", "type": "market", "units": 1000}
        await world.sim("POST", f"/accounts/{world.accounts[f'user-{number}']}/order", order)
    return {world.accounts[f"user-{number}"] for number in HOLDERS}


@pytest.mark.timeout(180)
async def test_every_wanted_session_comes_back_holders_first_when_the_process_was_killed(
    tmp_path: Path, database_url: str
) -> None:
    database = Database(Secret(database_url))
    await database.open()
    env = {"DATABASE_URL": database_url, "LEASE_TTL": str(LEASE_S)}
    async with running_world(tmp_path, users=USERS, requests_per_second=RATE, bridge_env=env) as world:
        await world.sim("POST", "/prices", {"freeze": True})
        await world.start_all()
        await world.all_live(within_s=60)
        holders = await hold_something(world)

        async def risk_is_stored() -> bool:
            rows = await database.fetch("select account_id from public.bridge_sessions where at_risk")
            return {row["account_id"] for row in rows} == holders

        await eventually(risk_is_stored, within_s=20, every_s=0.1, what="the stored risk of every holder")
        await stop(world, STOPPED[0])
        before = await world.sim("GET", "/counters")
        await stop(world, STOPPED[1])
        world.bridge.send(signal.SIGKILL)  # its last record is most likely not written
        await world.bridge.ended()
        wanted = [user for user in world.users if user not in STOPPED]

        begun = time.monotonic()
        async with bridge_process("serve", env=world.env) as world.bridge:
            await world.ready()
            # the lease of the killed process, and 5 s for the start
            after = await everyone_back(world, len(wanted), limit_s(len(wanted), RATE * 0.9) + LEASE_S + 5)
            print(f"{len(wanted)} sessions back {time.monotonic() - begun:.1f} s after the start")
            order = [str(entry["accountId"]) for entry in after["authOrder"][len(before["authOrder"]) :]]
            assert set(order[: len(holders)]) == holders
            assert sorted(order) == sorted(world.accounts[user] for user in wanted)
            assert (after["budgetViolations"], after["doubleLogins"]) == (0, 0)
            await records_are_true(world, wanted)

            listed = await world.api("GET", "/api/sessions?limit=100")
            assert listed["total"] == USERS
            states = {row["accountId"]: row["status"] for row in listed["sessions"]}
            assert states == {world.accounts[user]: "stopped" if user in STOPPED else "live" for user in world.users}
            for user in STOPPED:
                await stop(world, user)  # again
            audited = await database.fetch_value("select count(*) from public.bridge_audit where action = 'resume'")
            assert audited == len(wanted)
    await database.close()


async def everyone_back(world: World, count: int, within_s: float) -> dict:
    async def back() -> bool:
        return await world.live() == count

    await eventually(back, within_s=within_s, every_s=0.05, what="every wanted session live again")
    return await world.sim("GET", "/counters")


async def records_are_true(world: World, wanted: list[str]) -> None:
    """Live records equal the broker's truth; those of stopped sessions say so."""
    truths = {user: await world.sim("GET", f"/truth/{world.accounts[user]}") for user in wanted}

    def wrong() -> dict[str, list[str]]:
        records = dict(zip(world.users, world.records(), strict=True))
        found = {user: differences(records[user], truths[user]) for user in wanted}
        found |= {user: [records[user]["status"]] for user in STOPPED if records[user]["status"] != "stopped"}
        found |= {user: ["no figures any more"] for user in STOPPED if records[user]["balance"] is None}
        return {user: what for user, what in found.items() if what}

    try:
        await eventually(lambda: not wrong(), within_s=10, every_s=0.1, what="every record true")
    except AssertionError as late:
        raise AssertionError(f"{late}: {wrong()}") from None


@pytest.mark.timeout(120)
async def test_session_whose_credentials_are_gone_asks_its_user_after_the_restart(
    tmp_path: Path, database_url: str
) -> None:
    env = {"DATABASE_URL": database_url, "LEASE_TTL": str(LEASE_S)}
    async with running_world(tmp_path, users=2, bridge_env=env) as world:
        await world.start_all()
        await world.all_live(within_s=30)
        world.bridge.send(signal.SIGKILL)
        await world.bridge.ended()
        (tmp_path / "nobody.json").write_text('{"users": {}}')
        env = {**world.env, "BRIDGE_CREDENTIALS_FILE": str(tmp_path / "nobody.json")}
        async with bridge_process("serve", env=env) as world.bridge:
            await world.ready()

            async def asked() -> bool:
                return (await world.api("GET", "/health"))["sessions"].get("action_required") == 2

            await eventually(asked, within_s=10, every_s=0.1, what="both ask their users")
            records = world.records()
            await eventually(
                lambda: all(record["status"] == "action_required" for record in world.records()),
                within_s=5,
                what="records say so",
            )
            assert records


@pytest.mark.timeout(120)
async def test_start_and_stop_are_refused_and_nothing_ends_while_the_database_is_away(
    tmp_path: Path, postgres_factory
) -> None:
    server = await asyncio.to_thread(postgres_factory)
    async with running_world(tmp_path, users=3, bridge_env={"DATABASE_URL": server.url()}) as world:
        world.accounts["user-1"] = (await world.start("user-1", environment="demo"))["accountId"]
        world.accounts["user-2"] = (await world.start("user-2", environment="demo"))["accountId"]

        async def live() -> bool:
            return await world.live() == 2

        await eventually(live, within_s=30, every_s=0.1, what="two sessions live")
        await asyncio.to_thread(server.kill)
        for path, user in (("start", "user-3"), ("stop", "user-1")):
            body = {"userId": user, "broker": "ctrader"}
            answer = await world.api("POST", f"/api/{path}-session", key=APP_KEY, body=body)
            assert answer["_status"] == 503, answer
        assert (await world.api("GET", "/health"))["sessions"] == {"live": 2}
        await asyncio.to_thread(server.start)

        async def stopped() -> bool:
            body = {"userId": "user-1", "broker": "ctrader"}
            return (await world.api("POST", "/api/stop-session", key=APP_KEY, body=body))["_status"] == 202

        await eventually(stopped, within_s=20, every_s=0.3, what="a stop is accepted again")
        answer = await world.start("user-3", environment="demo")
        assert answer["cacheKey"] == record_key("user-3")
        await eventually(live, within_s=30, every_s=0.1, what="two sessions live")
