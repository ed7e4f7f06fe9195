"""Two processes on one Postgres: one whose loop stalls for longer than its lease, and starts and stops that race.

After each case nobody was logged in twice, no late write was accepted, and every record equals the broker's truth.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import pytest_asyncio

from bridge.embedded.postgres import PostgresServer
from tests.support.databases import make_database, migrate_database
from tests.support.fault_table import fault
from tests.support.fleet_world import Fleet, running_fleet, watched
from tests.support.hurt_bridge import STALLS_S, number
from tests.support.waiting import eventually
from tests.support.world import APP_KEY, World

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(150)]
USERS = 6
LEASE_S = 3.0
CONNECT_S = 8.0  # a connection, a place in the queue and an account's snapshot, on a busy machine
CALLS = 100


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with PostgresServer() as started:
        yield started


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def fleet(tmp_path_factory: pytest.TempPathFactory, server: PostgresServer) -> AsyncIterator[Fleet]:
    url = await make_database(server)
    await migrate_database(url)
    folder, module = tmp_path_factory.mktemp("fleet"), "tests.support.hurt_bridge"
    async with running_fleet(folder, url, users=USERS, processes=2, lease_s=LEASE_S, module=module) as made:
        yield made


@fault(
    "P05",
    "a callback blocks for twice the lease",
    "others take over meanwhile; no late write afterwards; it begins anew under another name",
)
async def test_a_loop_that_stalled_beyond_its_lease_writes_nothing_more(fleet: Fleet) -> None:
    assert STALLS_S[3] >= 2 * LEASE_S
    stalled = fleet.running.pop("2")
    before = {row["owner"] for row in await fleet.rows("select owner from public.bridge_processes")}
    async with watched(fleet.world):
        stalled.bridge.send(number(3))  # type: ignore[arg-type]
        await fleet.shared_out("1", within_s=LEASE_S + CONNECT_S)
        fleet.running["2"] = stalled

        async def anew() -> bool:
            return await fleet.owner_of("2") not in before

        await eventually(anew, within_s=15, every_s=0.1, what="another name")
        await stalled.bridge.line(lambda line: "event loop stalled" in line and "stalls_here" in line)
        await fleet.shared_out("1", "2", within_s=4 * LEASE_S + CONNECT_S)
        await fleet.true()
    await fleet.judged(parallel=None)  # a stalled process stays logged in at the broker


async def command(world: World, user: str, *, wanted: bool) -> Any:
    body = {"userId": user, "broker": "ctrader"}
    path = f"/api/{'start' if wanted else 'stop'}-session"
    answer = await world.api("POST", path, key=APP_KEY, body=body)
    assert answer["_status"] in (202, 429, 503), answer
    return answer


@fault(
    "P16",
    "100 starts and stops of one session at two processes at once, then one more",
    "the last command holds; one session, one owner; no double login, no late write",
)
@pytest.mark.parametrize("wanted", [True, False], ids=["a start last", "a stop last"])
async def test_the_last_command_holds_when_many_race_at_two_processes(fleet: Fleet, wanted: bool) -> None:
    rng = random.Random(16)
    one, two = fleet.running["1"], fleet.running["2"]
    user = one.users[0]
    account = one.accounts[user]
    async with watched(fleet.world):
        await asyncio.gather(*(command(rng.choice((one, two)), user, wanted=rng.random() < 0.5) for _ in range(CALLS)))

        async def last() -> bool:
            return bool((await command(two, user, wanted=wanted))["_status"] == 202)

        await eventually(last, within_s=10, every_s=0.5, what="the last command is taken")

        async def holds() -> bool:
            rows = await fleet.rows("select wanted, owner from public.bridge_sessions where account_id = $1", account)
            status = (await fleet.sessions())[account][0]
            (record,) = one.records([user])
            expected = "live" if wanted else "stopped"
            owned = (rows[0]["owner"] is not None) is wanted
            return len(rows) == 1 and rows[0]["wanted"] is wanted and owned and status == record["status"] == expected

        await eventually(holds, within_s=20, every_s=0.2, what="what was said last")
        if not wanted:
            assert (await command(one, user, wanted=True))["_status"] == 202
        await fleet.shared_out("1", "2", within_s=4 * LEASE_S + CONNECT_S)
        await fleet.true()
    await fleet.judged(parallel=None)
