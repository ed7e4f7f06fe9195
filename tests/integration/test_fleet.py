"""Leases, claims and fences: the same in memory, in Postgres, and behind a transaction pooler."""

import asyncio
from collections.abc import AsyncIterator, Callable
from random import Random
from typing import Any

import pytest

from bridge.brokers.base import ReasonCode
from bridge.cache.store import Write
from bridge.cache.stores.postgres import PostgresStore
from bridge.db.database import Database
from bridge.db.notices import CHANNEL, Listener
from bridge.runtime.clock import ManualClock
from bridge.sessions.defaults import keys_of_row
from bridge.sessions.desired import DesiredSessions, Note, Start, StoredSession
from bridge.sessions.durable import DurableSessions
from bridge.sessions.ownership.fencing import RecordFences
from bridge.sessions.ownership.fleet import Fleet, FleetLook
from bridge.sessions.ownership.fleet_in_memory import FleetInMemory
from bridge.sessions.ownership.fleet_table import FleetTable
from bridge.sessions.remembered import DesiredInMemory
from core.errors import Conflict, NotFound
from core.secret import Secret
from core.user_key import UserKeyMode, UserKeyScheme
from tests.support.databases import opened
from tests.support.pooler import pooler
from tests.support.waiting import eventually
from tests.unit.sessions.world import DEMO

A, B, C = "a" * 12, "b" * 12, "c" * 12
TTL_S = 30.0
BROKERS = ["sim"]


def key(user: str) -> str:
    return UserKeyScheme().keys(user).canonical


class Place:
    """Both protocols on one place. `expire`: let the lease of a process end."""

    def __init__(self, desired: Any, fleet: Fleet, expire: Callable[[str], Any]) -> None:
        self.desired: DesiredSessions = desired
        self.fleet = fleet
        self.expire = expire

    async def join(self, *owners: str, capacity: int = 1000) -> None:
        for owner in owners:
            await self.fleet.join(owner, version="1", capacity=capacity, ttl_s=TTL_S)

    async def start(self, *users: str, owner: str | None = None) -> list[StoredSession]:
        return [
            (await self.desired.start(Start(user, key(user), "sim", f"acc-{user}", DEMO), owner=owner)).row
            for user in users
        ]

    async def look(self, owner: str, *, renew: bool = False) -> FleetLook:
        return await self.fleet.look(owner, brokers=BROKERS, renew_s=TTL_S if renew else None, sessions={"sim live": 1})

    async def claim(self, owner: str, limit: int = 500) -> list[StoredSession]:
        return await self.fleet.claim(owner, brokers=BROKERS, limit=limit)

    async def owners(self, *users: str) -> list[str | None]:
        return [(await self.row(user)).owner for user in users]

    async def row(self, user: str) -> StoredSession:
        (row,) = (await self.desired.known(key(user), "sim")).sessions
        return row


@pytest.fixture(params=["memory", "postgres", "pooler"])
def kind(request: pytest.FixtureRequest) -> tuple[str, str]:
    """What it is, and the address of its database."""
    return request.param, "" if request.param == "memory" else request.getfixturevalue("database_url")


@pytest.fixture
async def place(kind: tuple[str, str]) -> AsyncIterator[Place]:
    what, url = kind
    if what == "memory":
        clock = ManualClock()
        desired = DesiredInMemory(clock)
        fleet = FleetInMemory(desired, clock)

        async def expire_here(owner: str) -> None:
            fleet._processes[owner].expires_at_ms = clock.now_ms()

        yield Place(desired, fleet, expire_here)
        return

    async def expire(owner: str) -> None:
        async with opened(url, 1) as admin:
            await admin.execute(
                "update public.bridge_processes set expires_at = clock_timestamp() where owner = $1", owner
            )

    if what == "postgres":
        async with opened(url) as database:
            yield Place(DurableSessions(database), FleetTable(database), expire)
        return
    async with pooler(url) as between, opened(between.url()) as database:
        yield Place(DurableSessions(database), FleetTable(database), expire)
        await database.close()
        assert between.leaks == []


async def test_claim_takes_what_nobody_owns_at_risk_first_under_a_higher_fence(place: Place) -> None:
    await place.join(A)
    await place.start("u", "v", "w")
    await place.desired.note([Note((key("w"), "sim", "acc-w"), at_risk=True)])
    (first,) = await place.claim(A, 1)
    assert (first.user_id, first.owner, first.fence > 0) == ("w", A, True)
    rest = await place.claim(A)
    assert {row.user_id for row in rest} == {"u", "v"}
    assert await place.claim(A) == []
    assert await place.owners("u", "v", "w") == [A, A, A]


async def test_what_somebody_owns_is_left_alone_while_the_lease_lasts(place: Place) -> None:
    await place.join(A, B)
    await place.start("u")
    await place.claim(A)
    assert await place.claim(B) == []
    look = await place.look(B)
    assert (look.reading.total, look.reading.free, look.buried) == (1, 0, ())
    assert {member.owner: member.load for member in look.reading.members} == {A: 1, B: 0}


async def test_lease_that_has_ended_is_removed_once_and_its_sessions_are_free_under_a_higher_fence(
    place: Place,
) -> None:
    await place.join(A, B, C)
    await place.start("u", "v")
    before = {row.user_id: row.fence for row in await place.claim(A)}
    await place.expire(A)
    assert await place.claim(B) == []  # nobody has noticed yet
    look = await place.look(B)
    assert (look.buried, look.reading.free) == ((A,), 2)
    assert (await place.look(C)).buried == ()
    taken = await place.claim(B, 1) + await place.claim(C)
    assert {row.owner for row in taken} == {B, C}
    assert all(row.fence > before[row.user_id] for row in taken)


async def test_renewal_in_time_keeps_everything_and_one_after_the_removal_brings_nothing_back(place: Place) -> None:
    await place.join(A, B)
    await place.start("u")
    await place.claim(A)
    await place.expire(A)
    assert (await place.look(A, renew=True)).alive  # ended, and nobody noticed: no harm was done
    assert (await place.look(B)).buried == ()
    await place.expire(A)
    await place.look(B)
    assert not (await place.look(A, renew=True)).alive
    assert await place.claim(A) == []
    await place.claim(B)
    assert await place.owners("u") == [B]


async def test_process_without_a_lease_claims_nothing(place: Place) -> None:
    await place.start("u")
    assert await place.claim(A) == []
    await place.join(A)
    await place.expire(A)
    assert await place.claim(A) == []
    assert (await place.start("v", owner=B))[0].owner is None


async def test_command_claims_for_the_process_that_was_asked_only_what_nobody_serves(place: Place) -> None:
    await place.join(A, B)
    (row,) = await place.start("u", owner=A)
    assert (row.owner, row.fence > 0) == (A, True)
    (again,) = await place.start("u", owner=B)
    assert (again.owner, again.fence, again.command) == (A, row.fence, row.command + 1)
    (stopped,) = await place.desired.stop(key("u"), "sim", None, owner=B)
    assert (stopped.owner, stopped.wanted) == (A, False)
    await place.fleet.leave(A)
    (taken,) = await place.start("u", owner=B)
    assert (taken.owner, taken.fence > row.fence) == (B, True)


async def test_stop_of_what_nobody_serves_is_ended_by_the_process_that_was_asked(place: Place) -> None:
    await place.join(A)
    await place.start("u")
    (stopped,) = await place.desired.stop(key("u"), "sim", None, owner=A)
    assert (stopped.owner, stopped.owes_record) == (A, True)


async def test_what_has_ended_and_is_recorded_has_no_owner(place: Place) -> None:
    await place.join(A)
    await place.start("u", owner=A)
    (row,) = await place.desired.stop(key("u"), "sim", None, reason=ReasonCode.IDLE, owner=A)
    await place.desired.note([Note(row.identity, recorded=row.command)])
    assert await place.owners("u") == [None]
    assert await place.claim(A) == []


async def test_last_record_that_nobody_wrote_is_claimed_too(place: Place) -> None:
    await place.join(A, B)
    await place.start("u", owner=A)
    await place.desired.stop(key("u"), "sim", None, owner=A)
    await place.fleet.leave(A)
    (row,) = await place.claim(B)
    assert (row.wanted, row.owes_record, row.owner) == (False, True, B)


async def test_released_sessions_go_to_others_and_only_those_named(place: Place) -> None:
    await place.join(A, B)
    rows = await place.start("u", "v", owner=A)
    await place.fleet.release(A, [rows[0].identity, (key("w"), "sim", "acc-w")])
    await place.fleet.release(B, [rows[1].identity])  # not its own
    assert await place.owners("u", "v") == [None, A]
    (taken,) = await place.claim(B)
    assert (taken.user_id, taken.fence > rows[0].fence) == ("u", True)
    await place.fleet.release(B, [])


async def test_process_that_leaves_frees_everything_at_once(place: Place) -> None:
    await place.join(A, B)
    await place.start("u", "v", owner=A)
    await place.fleet.leave(A)
    assert (await place.look(B)).reading.free == 2
    assert len(await place.claim(B)) == 2


async def test_refused_session_gets_a_higher_fence_from_its_owner_and_from_nobody_else(place: Place) -> None:
    await place.join(A, B)
    (row,) = await place.start("u", owner=A)
    assert await place.fleet.reclaim(B, [row.identity]) == []
    (again,) = await place.fleet.reclaim(A, [row.identity])
    assert (again.owner, again.fence > row.fence) == (A, True)


async def test_session_moves_to_the_process_that_an_operator_names(place: Place) -> None:
    await place.join(A, B, C)
    (row,) = await place.start("u", owner=A)
    with pytest.raises(NotFound):
        await place.fleet.move(key("u"), broker=None, account_id=None, to="d")
    with pytest.raises(NotFound):
        await place.fleet.move(key("nobody"), broker=None, account_id=None, to=B)
    (meant,) = await place.fleet.move(key("u"), broker="sim", account_id="acc-u", to=B[:4])
    assert (meant.owner, meant.move_to) == (A, B)
    assert (await place.look(A)).moves == (row.identity,)
    assert (await place.look(B)).moves == ()
    await place.fleet.release(A, [row.identity])
    assert await place.claim(C) == []
    look = await place.look(B)
    assert (look.reading.free, look.reading.reserved) == (1, 1)
    (moved,) = await place.claim(B)
    assert (moved.owner, moved.move_to) == (B, None)


async def test_session_that_waits_for_a_process_that_has_gone_is_anybodys(place: Place) -> None:
    await place.join(A, B, C)
    (row,) = await place.start("u", owner=A)
    await place.fleet.move(key("u"), broker=None, account_id=None, to=B)
    await place.fleet.release(A, [row.identity])
    await place.fleet.leave(B)
    assert [each.owner for each in await place.claim(C)] == [C]


async def test_session_moves_to_where_there_is_most_room_when_none_is_named(place: Place) -> None:
    await place.join(A, B)
    await place.join(C, capacity=10)
    await place.start("u", "v", owner=A)
    await place.start("w", owner=C)
    (meant,) = await place.fleet.move(key("u"), broker=None, account_id=None, to=None)
    assert meant.move_to == B
    (meant,) = await place.fleet.move(key("u"), broker=None, account_id=None, to=A)  # stays after all
    assert meant.move_to is None
    assert (await place.look(A)).moves == ()


async def test_process_is_drained_and_taken_back_but_never_the_last_one(place: Place) -> None:
    await place.join(A, B)
    await place.start("u", owner=A)
    assert await place.fleet.drain(A[:3], draining=True) == A
    rows, unowned = await place.fleet.processes()
    assert ({row.owner: row.draining for row in rows}, unowned) == ({A: True, B: False}, 0)
    with pytest.raises(Conflict):
        await place.fleet.drain(B, draining=True)
    with pytest.raises(Conflict):
        await place.fleet.move(key("u"), broker=None, account_id=None, to=A)
    with pytest.raises(NotFound):
        await place.fleet.drain("d", draining=True)
    with pytest.raises(NotFound):
        await place.fleet.drain("", draining=True)
    await place.fleet.drain(A, draining=False)
    assert not any(row.draining for row in (await place.fleet.processes())[0])


async def test_processes_are_told_with_what_they_last_said(place: Place) -> None:
    await place.join(A)
    await place.start("u", owner=A)
    await place.start("v")
    await place.look(A, renew=True)
    (row,), unowned = await place.fleet.processes()
    assert (row.owner, row.version, row.capacity, row.load, unowned) == (A, "1", 1000, 1, 1)
    assert dict(row.sessions) == {"sim live": 1}
    assert 0 < row.left_ms <= TTL_S * 1000
    assert row.started_at_ms <= row.renewed_at_ms


async def test_sessions_of_brokers_that_a_process_does_not_have_are_not_claimed(place: Place) -> None:
    await place.join(A)
    await place.start("u")
    assert await place.fleet.claim(A, brokers=["other"], limit=9) == []
    assert (await place.fleet.look(A, brokers=["other"], renew_s=None)).reading.free == 0


async def test_rows_of_one_owner_are_read_apart_and_changes_are_found(place: Place) -> None:
    await place.join(A, B)
    await place.start("u", owner=A)
    await place.start("v", owner=B)
    for at_risk, expected in ((False, ["u"]), (True, [])):
        rows = await place.desired.wanted(at_risk=at_risk, after=None, limit=9, owner=A)
        assert [row.user_id for row in rows] == expected
    assert [row.user_id for row in await place.desired.changed(A, 60)] == ["u"]
    await place.desired.stop(key("v"), "sim", None, owner=A)
    assert [row.user_id for row in await place.desired.owing(after=None, limit=9, owner=B)] == ["v"]
    assert [row.user_id for row in await place.desired.owing(after=None, limit=9, owner=A)] == []
    assert [row.wanted for row in await place.desired.changed(B, 60)] == [False]
    rows, total = await place.desired.page(broker=None, after=None, limit=1)
    assert (len(rows), total) == (1, 2)
    assert (await place.desired.page(broker="other", after=None, limit=9)) == ([], 0)


async def test_start_counted_once_more_reaches_whoever_serves_it(place: Place) -> None:
    await place.join(A)
    (row,) = await place.start("u", owner=A)
    (again,) = await place.desired.retry(key("u"), "sim")
    assert (again.command, again.owner, again.fence) == (row.command + 1, A, row.fence)
    await place.desired.stop(key("u"), "sim", None)
    assert await place.desired.retry(key("u"), "sim") == []


async def test_use_of_a_users_record_anywhere_counts(place: Place) -> None:
    await place.start("u")
    before = await place.row("u")
    await place.desired.used([(key("u"), "sim", -1.0), (key("nobody"), "sim", 0.0)])
    assert (await place.row("u")).last_used_at_ms > before.last_used_at_ms
    await place.desired.used([(key("u"), "sim", 1e6)])
    assert (await place.row("u")).last_used_at_ms > before.last_used_at_ms
    await place.desired.used([])


# ---------------------------------------------------------------- Postgres only: many at once, its clock, notices


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
    assert (await fleet.look(B, brokers=BROKERS, renew_s=None)).buried == ()

    async def buried() -> bool:
        return (await fleet.look(B, brokers=BROKERS, renew_s=None)).buried == (A,)

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
    assert (await place.look(A, renew=True)).alive
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
