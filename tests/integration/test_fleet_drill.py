"""Several real processes on one Postgres: ended, killed in a deploy, frozen, cut off. More: `test_fleet_storm.py`.

After each drill nobody was logged in twice, no late write was accepted, and every record equals the broker's truth.
"""

import asyncio
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support.fault_table import fault
from tests.support.fleet_world import LEASE_S, cuttable, running_fleet, said, watched
from tests.support.storm import trade
from tests.support.waiting import eventually
from tests.support.world import APP_KEY

USERS = 24
CONNECT_S = 8.0  # a connection, a place in the queue and an account's snapshot, on a busy machine
pytestmark = pytest.mark.timeout(180)


@fault("P01", "SIGTERM at a lease of 60 s", "the successor serves every session within 8 s; no late write; exit 0")
async def test_process_that_ends_in_order_is_followed_at_once(tmp_path: Path, database_url: str) -> None:
    """The lease is long: nobody waits for it."""
    session_url = {"DATABASE_SESSION_URL": database_url}
    async with running_fleet(tmp_path, database_url, users=USERS, lease_s=60.0, env=session_url) as fleet:
        await fleet.add("2")
        async with watched(fleet.world) as stamps:
            old = fleet.running.pop("1")
            assert await old.bridge.stop() == 0
            fleet.world.url = fleet.running["2"].url
            await fleet.shared_out("2", within_s=CONNECT_S)
            await fleet.true()
        assert max(stamps.not_live.values()) < CONNECT_S
        await fleet.judged()
        assert said(old.bridge, "left the fleet")


@pytest.mark.parametrize("when", ["before the end", "after the drain"])
@fault("P06", "SIGTERM, then SIGKILL of the old process", "at most one change of owner; no late write, no double login")
async def test_deploy_overlaps_and_the_old_process_is_killed(tmp_path: Path, database_url: str, when: str) -> None:
    async with running_fleet(tmp_path, database_url, users=USERS) as fleet:
        await fleet.add("2")
        async with watched(fleet.world) as stamps:
            old = fleet.running.pop("1")
            old.bridge.send(signal.SIGTERM)
            if when == "before the end":
                await old.bridge.line(lambda line: "draining" in line)
            else:
                await asyncio.sleep(2.5)  # DRAIN_SECONDS
            if old.bridge.returncode is None:
                old.bridge.send(signal.SIGKILL)
            await old.bridge.ended()
            fleet.world.url = fleet.running["2"].url
            await fleet.shared_out("2", within_s=LEASE_S + CONNECT_S)
            await fleet.true()
        assert all(len(fences) <= 2 for fences in stamps.fences.values())  # one change of owner for one deploy
        await fleet.judged()


@fault("N39", "SIGSTOP beyond the lease, another process takes over, SIGCONT", "no write under the old fence")
@fault("P08", "SIGSTOP beyond the lease, SIGCONT", "no late write; it comes back under another name; every record true")
async def test_process_that_froze_beyond_its_lease_writes_nothing_and_begins_anew(
    tmp_path: Path, database_url: str
) -> None:
    async with running_fleet(tmp_path, database_url, users=USERS, processes=2) as fleet:
        async with watched(fleet.world):
            frozen = fleet.running.pop("2")
            before = {row["owner"] for row in await fleet.rows("select owner from public.bridge_processes")}
            frozen.bridge.send(signal.SIGSTOP)
            try:
                await trade(fleet.world, random.Random(1), fleet.world.users, 40, deposits_for=fleet.world.users)
                await fleet.shared_out("1", within_s=LEASE_S + CONNECT_S)
            finally:
                frozen.bridge.send(signal.SIGCONT)
            fleet.running["2"] = frozen

            async def anew() -> bool:
                found = await fleet.owner_of("2")
                return found not in before and found in {row["owner"] for row in await fleet.rows(PROCESSES)}

            await eventually(anew, within_s=15, every_s=0.1, what="another name")
            await trade(fleet.world, random.Random(2), fleet.world.users, 40, deposits_for=fleet.world.users)
            await fleet.shared_out("1", "2", within_s=4 * LEASE_S + CONNECT_S)
            await fleet.true()
        await fleet.judged(parallel=None)
        assert said(frozen.bridge, "the lease was lost")


@fault("P07", "a silent line to Postgres only", "suspended before its lease ends; no late write; back by itself")
async def test_process_cut_off_from_the_database_stops_and_comes_back_by_itself(
    tmp_path: Path, database_url: str
) -> None:
    async with cuttable(database_url) as proxy, running_fleet(tmp_path, database_url, users=USERS) as fleet:
        await fleet.add("2", DATABASE_URL=proxy.url)
        await fleet.shared_out("1", "2", within_s=4 * LEASE_S + CONNECT_S)
        async with watched(fleet.world):
            mine = {
                account
                for account, (_, owner) in (await fleet.sessions()).items()
                if owner == await fleet.owner_of("2")
            }
            assert mine
            cut = fleet.running.pop("2")
            proxy.cut()
            begun = time.monotonic()

            async def stopped() -> bool:
                health = await cut.api("GET", "/health")
                return health["ownership"]["state"] == "suspended" and not health["sessions"].get("live")

            await eventually(stopped, within_s=LEASE_S * 2 / 3 + 2, every_s=0.05, what="it stops acting")
            assert time.monotonic() - begun < LEASE_S + 1
            await fleet.shared_out("1", within_s=LEASE_S + CONNECT_S)
            proxy.heal()
            fleet.running["2"] = cut
            await fleet.shared_out("1", "2", within_s=4 * LEASE_S + CONNECT_S + 10)
            await fleet.true()
        await fleet.judged()


async def test_any_process_takes_commands_and_answers_for_all(tmp_path: Path, database_url: str) -> None:
    async with running_fleet(tmp_path, database_url, users=6, processes=2) as fleet:
        owners = await fleet.owners()
        one, two = fleet.running["1"], fleet.running["2"]
        first = await fleet.owner_of("1")
        user = next(user for user in one.users if owners[one.accounts[user]] == first)
        body = {"userId": user, "broker": "ctrader"}
        answer = await two.api("POST", "/api/stop-session", key=APP_KEY, body=body)
        assert (answer["_status"], answer["status"]) == (202, "stopped")

        async def status(world: Any) -> str:
            found = await world.api("GET", "/account?broker=ctrader", key=APP_KEY, user=user)
            return str(found["status"])

        async def stopped() -> bool:
            return await status(one) == await status(two) == "stopped"

        await eventually(stopped, within_s=8, every_s=0.1, what="stopped by its owner")

        async def unowned() -> bool:
            rows = await fleet.rows("select owner from public.bridge_sessions where not wanted")
            return [row["owner"] for row in rows] == [None]

        await eventually(unowned, within_s=10, every_s=0.2, what="nobody owns what has ended")
        answer = await two.api("POST", "/api/start-session?wait=9", key=APP_KEY, body=body)
        assert (answer["_status"], answer["status"]) == (202, "live")
        again = await one.api("POST", "/api/start-session?wait=9", key=APP_KEY, body=body)
        assert {name: again[name] for name in ("status", "accountId", "cacheKey", "userKey")} == {
            name: answer[name] for name in ("status", "accountId", "cacheKey", "userKey")
        }
        second = await fleet.owner_of("2")
        found = await one.api("GET", f"/api/sessions/{answer['userKey']}/explain")
        (explanation,) = found["explanations"]
        assert (explanation["session"]["owner"], explanation["awaits"]) == (second, "owner")
        assert second in explanation["whatNext"]
        listed = [await world.api("GET", "/api/sessions?status=live&limit=50") for world in (one, two)]
        assert [page["total"] for page in listed] == [6, 6]
        assert [(row["accountId"], row["owner"]) for row in listed[0]["sessions"]] == [
            (row["accountId"], row["owner"]) for row in listed[1]["sessions"]
        ]

        moved = await two.api("POST", f"/api/sessions/{answer['userKey']}/move", body={"to": first[:6]})
        assert (moved["_status"], moved["sessions"][0]["moveTo"]) == (202, first)

        async def at_first() -> bool:
            return (await fleet.sessions())[one.accounts[user]] == ("live", first)

        await eventually(at_first, within_s=10, every_s=0.2, what="moved")
        drained = await one.api("POST", "/api/fleet/drain", body={"owner": second})
        assert (drained["_status"], drained["draining"]) == (202, True)
        await fleet.shared_out("1", within_s=20)
        view = await two.api("GET", "/api/fleet")
        assert {
            row["owner"]: (row["load"], row["share"], row["draining"], row["here"]) for row in view["processes"]
        } == {
            first: (6, 6, False, False),
            second: (0, 0, True, True),
        }
        assert (view["total"], view["unowned"]) == (6, 0)
        await fleet.judged()


PROCESSES = "select owner from public.bridge_processes"
