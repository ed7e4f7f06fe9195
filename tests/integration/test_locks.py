"""Named locks on a real Postgres: between tasks, between processes, directly and through a transaction pooler."""

import asyncio
import hashlib
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.db.database import Database, DatabaseUnavailable
from bridge.db.locks import LockBusy, LockLost, Locks, lock_id
from bridge.runtime.clock import ManualClock, SystemClock
from tests.support.databases import opened
from tests.support.pooler import pooler
from tests.support.waiting import eventually

ROOT = Path(__file__).resolve().parents[2]


@given(st.text())
def test_a_lock_has_the_number_of_its_name(name: str) -> None:
    number = lock_id(name)
    assert -(2**63) <= number < 2**63
    assert number.to_bytes(8, "big", signed=True) == hashlib.sha256(name.encode()).digest()[:8]


@pytest.fixture
def locks(database: Database) -> Locks:
    return Locks(database, SystemClock())


async def test_a_second_one_waits_until_the_first_has_ended(database_url: str) -> None:
    async with opened(database_url) as one, opened(database_url) as other:
        mine, theirs = Locks(one, SystemClock()), Locks(other, SystemClock())
        order: list[str] = []

        async def second() -> None:
            async with theirs.with_lock("a", timeout_s=10):
                order.append("second")

        async with mine.with_lock("a"):
            task = asyncio.create_task(second())
            await eventually(lambda: _waiting(mine, "a", 1), within_s=5)
            order.append("first")
        await task
        assert order == ["first", "second"]


async def _waiting(locks: Locks, name: str, number: int) -> bool:
    return (await locks.status(name)).waiting == number


async def test_a_busy_lock_is_said_in_time_here_and_elsewhere(database_url: str) -> None:
    async with opened(database_url) as one, opened(database_url) as other:
        mine, theirs = Locks(one, SystemClock()), Locks(other, SystemClock())
        async with mine.with_lock("a"):
            for locks, who in ((mine, "this process"), (theirs, "another process")):
                with pytest.raises(LockBusy, match=who):
                    async with locks.with_lock("a", timeout_s=0.05):
                        raise AssertionError("inside")
                async with locks.try_with_lock("a") as held:
                    assert held is None
            async with mine.with_lock("b"), theirs.with_lock("c"):
                pass
        async with theirs.try_with_lock("a") as held:
            assert held is not None


async def test_many_waiting_tasks_take_one_connection_when_they_want_the_same_lock(database_url: str) -> None:
    async with opened(database_url, size=2) as database:
        locks = Locks(database, SystemClock())
        inside = times = 0

        async def work() -> None:
            nonlocal inside, times
            async with locks.with_lock("a", timeout_s=20):
                inside += 1
                assert inside == 1
                assert await database.fetch_value("select 1") == 1  # finds a connection though twenty wait
                inside -= 1
                times += 1

        await asyncio.gather(*(work() for _ in range(20)))
        assert times == 20
        assert len(locks._gates) == 0


async def test_what_is_held_is_listed_and_its_status_known(database: Database) -> None:
    clock = ManualClock()
    locks = Locks(database, clock)
    assert not (await locks.status("a")).held
    async with locks.with_lock("a"):
        clock.advance(2)
        async with locks.try_with_lock("b"):
            assert [(each.name, each.since_ms) for each in locks.active] == [
                ("a", clock.now_ms() - 2000),
                ("b", clock.now_ms()),
            ]
            status = await locks.status("a")
            assert (status.held, status.here, status.waiting, status.since_ms) == (True, True, 0, clock.now_ms() - 2000)
    assert locks.active == []
    status = await locks.status("a")
    assert (status.held, status.here, status.since_ms) == (False, False, None)


async def test_a_lock_of_another_database_is_not_taken_for_this_one(database_url: str, empty_database_url: str) -> None:
    async with (
        opened(database_url) as one,
        opened(empty_database_url) as other,
        Locks(one, SystemClock()).with_lock("a"),
    ):
        assert not (await Locks(other, SystemClock()).status("a")).held


async def test_what_the_section_wrote_is_stored_with_its_end_and_not_when_it_fails(
    locks: Locks, database: Database
) -> None:
    write = "insert into public.bridge_facts values ($1, '')"

    async def fail() -> None:
        async with locks.with_lock("a") as held:
            await held.connection.execute(write, "failed")
            raise KeyError

    async with locks.with_lock("a") as held:
        await held.connection.execute(write, "stored")
    with pytest.raises(KeyError):
        await fail()
    names = [row["name"] for row in await database.fetch("select name from public.bridge_facts")]
    assert "stored" in names
    assert "failed" not in names
    assert not (await locks.status("a")).held


async def test_a_lock_is_free_when_a_section_or_one_who_waits_is_cancelled(database_url: str) -> None:
    async with opened(database_url) as one, opened(database_url) as other:
        mine, theirs = Locks(one, SystemClock()), Locks(other, SystemClock())

        async def hold(locks: Locks) -> None:
            async with locks.with_lock("a", timeout_s=30):
                await asyncio.Event().wait()

        first = asyncio.create_task(hold(mine))
        await eventually(lambda: bool(mine.active), within_s=5)
        second = asyncio.create_task(hold(theirs))
        await eventually(lambda: _waiting(mine, "a", 1), within_s=5)
        second.cancel()
        await eventually(lambda: _waiting(mine, "a", 0), within_s=5)
        first.cancel()
        await asyncio.gather(first, second, return_exceptions=True)
        async with theirs.with_lock("a", timeout_s=5):
            assert mine.active == []


async def test_a_section_is_told_when_it_lost_its_lock(locks: Locks, database_url: str) -> None:
    async def cut() -> None:
        async with locks.with_lock("a") as held:
            mine = await held.connection.fetchval("select pg_backend_pid()")
            async with opened(database_url) as other:
                await other.execute("select pg_terminate_backend($1)", mine)

    with pytest.raises(LockLost, match="cut"):
        await cut()
    async with locks.try_with_lock("a") as held:
        assert held is not None


async def test_a_section_ends_when_it_lasts_longer_than_it_may(locks: Locks) -> None:
    with pytest.raises(LockLost, match=r"0\.05 s"):
        async with locks.with_lock("a", hold_s=0.05):
            await asyncio.Event().wait()
    with pytest.raises(TimeoutError):  # the section's own, not ours
        async with locks.with_lock("a"), asyncio.timeout(0.01):
            await asyncio.Event().wait()
    assert not (await locks.status("a")).held


async def test_no_lock_is_had_when_the_database_is_away() -> None:
    async with opened("postgresql://u:p@127.0.0.1:1/x") as database:
        locks = Locks(database, SystemClock())
        with pytest.raises(DatabaseUnavailable):
            async with locks.with_lock("a"):
                raise AssertionError("inside")
        with pytest.raises(DatabaseUnavailable):
            async with locks.try_with_lock("a"):
                raise AssertionError("inside")
        assert locks.active == []


async def use_lock(url: str, how: str, times: int) -> int:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.support.lock_user", url, "place", str(times), how),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
    )
    said, _ = await process.communicate()
    assert process.returncode == 0, f"ended with {process.returncode}"
    return int(said)


@pytest.mark.parametrize("behind_pooler", [False, True])
async def test_critical_sections_of_several_processes_never_overlap(database_url: str, behind_pooler: bool) -> None:
    async with pooler(database_url, size=8) as between, opened(database_url) as database:
        await database.execute("create table public.place (name text, inside int default 0, times int default 0)")
        await database.execute("insert into public.place values ('place')")
        url = between.url() if behind_pooler else database_url
        users = [
            use_lock(url, "wait", 25),
            use_lock(url, "wait", 25),
            use_lock(url, "wait", 25),
            use_lock(url, "try", 60),
        ]
        ended = await asyncio.gather(*users, return_exceptions=True)
        waited = [each for each in ended if isinstance(each, int)]
        assert len(waited) == 4, ended
        assert waited[:3] == [25, 25, 25]
        row = await database.fetch_row("select inside, times from public.place")
        assert row is not None
        assert (row["inside"], row["times"]) == (0, sum(waited))
        assert between.leaks == []
