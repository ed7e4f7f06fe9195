"""Leases, claims and fences: the same in memory, in Postgres, and behind a transaction pooler."""

from collections.abc import AsyncIterator

import pytest

from bridge.brokers.base import ReasonCode
from bridge.runtime.clock import ManualClock
from bridge.sessions.desired import Note
from bridge.sessions.durable import DurableSessions
from bridge.sessions.ownership.fleet_in_memory import FleetInMemory
from bridge.sessions.ownership.fleet_table import FleetTable
from bridge.sessions.remembered import DesiredInMemory
from core.errors import Conflict, NotFound
from tests.support.databases import opened
from tests.support.fleet_place import TTL_S, A, B, C, Place, key
from tests.support.pooler import pooler


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
    assert await place.renew(A)  # ended, and nobody noticed: no harm was done
    assert (await place.look(B)).buried == ()
    await place.expire(A)
    await place.look(B)
    assert not await place.renew(A)
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
    await place.look(A)
    (row,), unowned = await place.fleet.processes()
    assert (row.owner, row.version, row.capacity, row.load, unowned) == (A, "1", 1000, 1, 1)
    assert dict(row.sessions) == {"sim live": 1}
    assert 0 < row.left_ms <= TTL_S * 1000
    assert row.started_at_ms <= row.renewed_at_ms


async def test_sessions_of_brokers_that_a_process_does_not_have_are_not_claimed(place: Place) -> None:
    await place.join(A)
    await place.start("u")
    assert await place.fleet.claim(A, brokers=["other"], limit=9) == []
    assert (await place.fleet.look(A, brokers=["other"])).reading.free == 0


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
