"""Leases, claims and fences in Postgres: many processes at once, its clock, notices, records in the same database."""

import asyncio
from random import Random

import pytest

from bridge.cache.store import Write
from bridge.cache.stores.postgres import PostgresStore
from bridge.db.database import Database
from bridge.db.notices import CHANNEL, Listener
from bridge.sessions.defaults import keys_of_row
from bridge.sessions.desired import Start, StoredSession
from bridge.sessions.durable import DurableSessions
from bridge.sessions.ownership.fencing import RecordFences
from bridge.sessions.ownership.fleet_table import FleetTable
from core.secret import Secret
from core.user_key import UserKeyMode, UserKeyScheme
from tests.support.databases import opened
from tests.support.fleet_place import BROKERS, A, B, Place, key
from tests.support.waiting import eventually
from tests.unit.sessions.world import DEMO


@pytest.mark.parametrize("seed", range(4))
async def test_no_session_has_two_owners_when_many_processes_claim_at_once(database_url: str, seed: int) -> None:
    rng = Random(seed)
    owners = [f"{number:012x}" for number in range(6)]
    async with opened(database_url, 12) as database:
        place = Place(DurableSessions(database), FleetTable(database), lambda owner: None)
        await place.join(*owners)
        await place.start(*(f"user{number}" for number in range(60)))
        claimed: dict[str, list[StoredSession]] = {owner: [] for owner in owners}

        async def greedy(owner: str) -> None:
            for _ in range(12):
                claimed[owner] += await place.claim(owner, rng.randint(1, 9))
                await asyncio.sleep(rng.uniform(0, 0.003))

        await asyncio.gather(*(greedy(owner) for owner in owners for _ in range(2)))
        await greedy(owners[0])  # what everybody had skipped because somebody else looked at it
        identities = [row.identity for rows in claimed.values() for row in rows]
        assert len(identities) == len(set(identities)) == 60
        stored = await database.fetch("select owner, count(*) as load from public.bridge_sessions group by owner")
        assert {row["owner"]: row["load"] for row in stored} == {
            owner: len(rows) for owner, rows in claimed.items() if rows
        }


async def test_session_claimed_meanwhile_is_left_alone_by_a_claim_that_saw_it_free(database_url: str) -> None:
    """The row is locked by the first; the second has seen it free, and gets the lock when the first has committed."""
    async with opened(database_url, 4) as database:
        place = Place(DurableSessions(database), FleetTable(database), lambda owner: None)
        await place.join(A, B)
        await place.start("u")
        async with database.transaction() as first:
            taken = "update public.bridge_sessions set owner = $1, fence = fence + 1"
            await first.execute(taken, A)
            assert await place.claim(B) == []  # it is locked
            starting = asyncio.create_task(place.start("u", owner=B))
            done, _ = await asyncio.wait({starting}, timeout=0.3)
            assert not done
        (row,) = await starting
        assert (row.owner, row.command) == (A, 2)
        assert await place.claim(B) == []


async def test_claim_under_way_holds_its_lease_until_it_is_committed(database_url: str) -> None:
    """The lease ends meanwhile: it is removed after the commit, and what was claimed is free then."""
    store = PostgresStore(Database(Secret(database_url), size=2))
    await store.open()
    async with opened(database_url, 6) as database:
        fences = RecordFences(store.claim_within, UserKeyScheme())
        place = Place(DurableSessions(database), FleetTable(database, fences=fences), lambda owner: None)
        await place.join(A, B)
        await place.start("u")
        await store.claim([f"sim_account_{key('u')}"])
        async with database.transaction() as connection:
            await connection.fetch("select 1 from public.account_cache for update")  # the claim stops here
            claiming = asyncio.create_task(place.claim(A))
            done, _ = await asyncio.wait({claiming}, timeout=0.3)
            assert not done
            ended = "update public.bridge_processes set expires_at = clock_timestamp() where owner = $1"
            await database.execute(ended, A)
            burying = asyncio.create_task(place.look(B))
            done, _ = await asyncio.wait({burying}, timeout=0.3)
            assert not done
        assert len(await claiming) == 1
        look = await burying
        assert look.buried == (A,)
        assert (await place.look(B)).reading.free == 1
    await store.close()


async def test_leases_go_by_the_clock_of_the_database(database: Database) -> None:
    """Whatever the clocks of the processes say: no time of theirs is ever sent."""
    fleet = FleetTable(database)
    await fleet.join(A, version="1", capacity=1, ttl_s=1.0)
    await fleet.join(B, version="1", capacity=1, ttl_s=60.0)
    assert (await fleet.look(B, brokers=BROKERS)).buried == ()

    async def buried() -> bool:
        return (await fleet.look(B, brokers=BROKERS)).buried == (A,)

    await eventually(buried, within_s=5, every_s=0.05, what="the lease has ended by the database's clock")


async def test_fence_never_falls_below_the_clock_of_the_database_nor_below_itself(database: Database) -> None:
    place = Place(DurableSessions(database), FleetTable(database), lambda owner: None)
    await place.join(A)
    now_ms = await database.fetch_value("select floor(extract(epoch from clock_timestamp()) * 1000)::bigint")
    (row,) = await place.start("u", owner=A)
    assert row.fence >= now_ms
    ahead = now_ms + 10_000_000
    await database.execute("update public.bridge_sessions set fence = $1", ahead)
    (again,) = await place.fleet.reclaim(A, [row.identity])
    assert again.fence == ahead + 1


async def test_renewal_writes_one_row_whatever_the_number_of_sessions(database: Database) -> None:
    place = Place(DurableSessions(database), FleetTable(database), lambda owner: None)
    await place.join(A, B)
    await place.start(*(f"user{number}" for number in range(20)), owner=A)
    stamps = "select xmin::text as x from {} order by 1"
    before = await database.fetch(stamps.format("public.bridge_sessions"))
    stamped = "select owner, xmin::text as x from public.bridge_processes"
    processes = await database.fetch(stamped)
    assert await place.renew(A)
    assert await database.fetch(stamps.format("public.bridge_sessions")) == before
    after = {
        row["owner"]: row["x"]
        for row in await database.fetch("select owner, xmin::text as x from public.bridge_processes")
    }
    assert {row["owner"] for row in processes if after[row["owner"]] != row["x"]} == {A}


async def test_notice_says_who_should_look_and_nothing_about_users(database_url: str) -> None:
    heard: list[str] = []
    listener = Listener(Secret(database_url), heard.append, Random(1))
    task = asyncio.create_task(listener.run())
    try:
        await eventually(lambda: listener.connected, within_s=10, what="listening")
        assert heard == ["*"]
        heard.clear()
        async with opened(database_url, 2) as database:
            place = Place(DurableSessions(database), FleetTable(database), lambda owner: None)
            await place.join(A, B)
            await place.start("u", owner=A)
            await place.start("v", owner=A)  # nobody else's business
            await place.start("u", owner=B)
            await place.start("w")
            await place.fleet.leave(A)
        await eventually(lambda: len(heard) >= 3, within_s=5, what="three notices")
        assert heard == [A, "*", "*"]
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_listener_comes_back_and_is_woken_when_its_connection_was_cut(database_url: str) -> None:
    heard: list[str] = []
    listener = Listener(Secret(database_url), heard.append, Random(1))
    task = asyncio.create_task(listener.run())
    try:
        await eventually(lambda: listener.connected, within_s=10, what="listening")
        async with opened(database_url, 1) as database:
            cut = (
                "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'pulse-bridge notices'"
            )
            await database.execute(cut)
            await eventually(lambda: len(heard) == 2 and listener.connected, within_s=30, what="listening again")
            await database.execute("select pg_notify($1, 'x')", CHANNEL)
        await eventually(lambda: heard[-1] == "x", within_s=5, what="the notice")
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


# ---------------------------------------------------------------- records in the same database


@pytest.mark.parametrize("kv_table", [None, "kv_store_bridge"])
@pytest.mark.parametrize("how", ["claim", "start", "stop"])
async def test_delayed_write_of_the_earlier_owner_is_refused_from_the_moment_of_the_claim(
    database_url: str, kv_table: str | None, how: str
) -> None:
    """Before the new owner has written anything: what was under way in the network cannot land any more."""
    scheme = UserKeyScheme(UserKeyMode.DUAL, Secret("s" * 32))
    keys = scheme.keys("u")
    store = PostgresStore(Database(Secret(database_url), size=2), kv_table=kv_table)
    await store.open()
    async with opened(database_url) as database:
        fences = RecordFences(store.claim_within, scheme)
        desired, fleet = DurableSessions(database, fences=fences), FleetTable(database, fences=fences)
        place = Place(desired, fleet, lambda owner: None)
        await place.join(A, B)
        names = []
        for account in ("a1", "a2"):
            row = (await desired.start(Start("u", keys.canonical, "sim", account, DEMO), owner=A)).row
            names += keys_of_row("sim", keys.all, account, "a1")
        held = await store.claim(names, at_least=row.fence)

        def writes(version: int) -> list[Write]:
            return [Write(name, fence, version, b'{"a": 1}') for name, fence in zip(names, held, strict=True)]

        assert await store.write(writes(1)) == []
        await fleet.leave(A)
        assert await store.write(writes(2)) == []  # nobody else has claimed it
        if how == "claim":
            assert len(await place.claim(B)) == 2
        elif how == "stop":
            await desired.stop(keys.canonical, "sim", None, owner=B)
        else:
            for account in ("a1", "a2"):
                await desired.start(Start("u", keys.canonical, "sim", account, DEMO), owner=B)
        refused = await store.write(writes(3))
        assert {refusal.key for refusal in refused} == set(names)
        known = (await desired.known(keys.canonical, "sim")).sessions
        assert min(refusal.fence for refusal in refused) >= min(row.fence for row in known) > 0
    await store.close()


async def test_lease_is_renewed_while_sessions_cannot_be_read(database_url: str) -> None:
    """Also while a look waits for them: it holds nothing that the renewal needs."""
    async with opened(database_url, 3) as database, opened(database_url, 1) as leases:
        place = Place(DurableSessions(database), FleetTable(database, leases), lambda owner: None)
        await place.join(A, B)
        async with database.transaction() as connection:
            await connection.execute("lock table public.bridge_sessions in access exclusive mode")
            looking = asyncio.create_task(place.look(A))
            done, _ = await asyncio.wait({looking}, timeout=0.3)
            assert not done
            assert await asyncio.wait_for(place.renew(A), 1.0)
        assert (await looking).alive
