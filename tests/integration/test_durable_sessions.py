"""What every `DesiredSessions` keeps: the same cases over the memory of the process and over Postgres."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import pytest

from bridge.brokers.base import Environment, ReasonCode
from bridge.db.database import Database
from bridge.db.users import forget_user, rekey_user
from bridge.runtime.clock import ManualClock
from bridge.sessions.defaults import DefaultAccount
from bridge.sessions.desired import AlreadyWanted, DesiredSessions, Note, Start, StoredSession
from bridge.sessions.durable import DurableSessions, rekey_rows
from bridge.sessions.remembered import DesiredInMemory
from core.errors import Conflict
from core.secret import Secret
from core.user_key import UserKeyScheme

DEMO, LIVE = Environment.DEMO, Environment.LIVE
DAY_S = 86_400.0


def key(user: str) -> str:
    return UserKeyScheme().keys(user).canonical


@dataclass
class Store:
    """One implementation, and the means to let time pass for it."""

    desired: DesiredSessions
    later: Callable[[float], Awaitable[None]]

    async def start(
        self, user: str = "u", account: str | None = "a1", environment: Environment = DEMO, broker: str = "sim"
    ) -> StoredSession:
        return (await self.desired.start(Start(user, key(user), broker, account, environment))).row

    async def stop(self, user: str = "u", account: str | None = None, **more: Any) -> list[StoredSession]:
        return await self.desired.stop(key(user), "sim", account, **more)

    async def row(self, user: str = "u", account: str | None = "a1") -> StoredSession:
        (row,) = [row for row in (await self.desired.known(key(user), "sim")).sessions if row.account_id == account]
        return row


@pytest.fixture(params=["memory", "postgres"])
def url(request: pytest.FixtureRequest) -> str | None:
    """Where it is stored; None for the memory of the process."""
    return None if request.param == "memory" else request.getfixturevalue("database_url")


@pytest.fixture
async def store(url: str | None) -> AsyncIterator[Store]:
    if url is None:
        clock = ManualClock()

        async def advance(seconds: float) -> None:
            clock.advance(seconds)

        yield Store(DesiredInMemory(clock), advance)
        return
    opened = Database(Secret(url))
    await opened.open()

    async def age(seconds: float) -> None:
        await opened.execute(
            "update public.bridge_sessions set last_used_at = last_used_at - make_interval(secs => $1)", seconds
        )

    yield Store(DurableSessions(opened), age)
    await opened.close()


async def test_start_is_found_again_with_all_that_it_said(store: Store) -> None:
    row = await store.start(account="a1", environment=LIVE)
    assert (row.user_id, row.user_key, row.broker, row.account_id) == ("u", key("u"), "sim", "a1")
    assert (row.environment, row.wanted, row.command, row.at_risk) == (LIVE, True, 1, False)
    assert (row.ended, row.owes_record, row.stopped_at_ms, row.default_account) == (None, False, None, "a1")
    known = await store.desired.known(key("u"), "sim")
    assert known.sessions == (row,)
    assert known.default == DefaultAccount("a1", LIVE)
    assert known.of_account("a1") == row
    assert known.of_account("a2") is None
    assert "user_id" not in repr(row)  # who it is is nobody's business in a log


async def test_every_accepted_command_has_a_higher_number(store: Store) -> None:
    assert (await store.start()).command == 1
    assert (await store.start()).command == 2
    (stopped,) = await store.stop()
    assert (stopped.command, stopped.wanted, stopped.ended, stopped.owes_record) == (3, False, ReasonCode.STOPPED, True)
    assert stopped.stopped_at_ms is not None
    (again,) = await store.stop()
    assert again.command == 3  # nothing was left to stop
    started = await store.start()
    assert (started.command, started.wanted, started.ended, started.owes_record) == (4, True, None, False)


async def test_stop_names_one_account_or_means_all_and_finds_nothing_that_was_never_started(store: Store) -> None:
    assert await store.stop() == []
    await store.start(account="a1")
    await store.start(account="a2")
    await store.start("v", account="a1")
    assert [row.account_id for row in await store.stop(account="a2")] == ["a2"]
    assert (await store.row(account="a1")).wanted
    assert [row.wanted for row in await store.stop()] == [False, False]
    assert (await store.row("v")).wanted
    assert await store.stop(account="a3") == []


async def test_default_is_the_first_account_for_good_and_follows_it_to_another_environment(store: Store) -> None:
    await store.start(account=None)
    assert (await store.desired.known(key("u"), "sim")).default is None
    await store.start(account="a2", environment=LIVE)
    assert (await store.start(account="a1")).default_account == "a2"
    await store.stop()
    await store.start(account="a1")
    assert (await store.desired.known(key("u"), "sim")).default == DefaultAccount("a2", LIVE)
    await store.start(account="a2", environment=DEMO)
    assert (await store.desired.known(key("u"), "sim")).default == DefaultAccount("a2", DEMO)
    assert (await store.desired.known(key("v"), "sim")).default is None


async def test_named_account_takes_the_place_of_the_unknown_one_unless_it_was_wanted_already(store: Store) -> None:
    await store.start(account=None)
    started = await store.desired.start(Start("u", key("u"), "sim", "a1", DEMO))
    assert started.replaced
    assert [row.account_id for row in (await store.desired.known(key("u"), "sim")).sessions] == ["a1"]
    await store.start(account=None, environment=LIVE)
    started = await store.desired.start(Start("u", key("u"), "sim", "a1", DEMO))
    assert not started.replaced
    assert [row.account_id for row in (await store.desired.known(key("u"), "sim")).sessions] == [None, "a1"]


async def test_account_found_at_login_names_the_row_also_when_it_is_told_twice(store: Store) -> None:
    await store.start(account=None)
    for _ in range(2):  # the answer to the first call may have been lost
        assert await store.desired.resolve(key("u"), "sim", DefaultAccount("a1", DEMO)) == DefaultAccount("a1", DEMO)
    (row,) = (await store.desired.known(key("u"), "sim")).sessions
    assert (row.account_id, row.wanted, row.command) == ("a1", True, 1)


async def test_account_found_at_login_gives_way_to_its_own_wanted_row_but_not_to_an_ended_one(store: Store) -> None:
    await store.start(account="a1")
    await store.start(account=None)
    with pytest.raises(AlreadyWanted):
        await store.desired.resolve(key("u"), "sim", DefaultAccount("a1", DEMO))
    await store.stop(account="a1")
    assert await store.desired.resolve(key("u"), "sim", DefaultAccount("a1", DEMO)) == DefaultAccount("a1", DEMO)
    assert [row.wanted for row in (await store.desired.known(key("u"), "sim")).sessions] == [True]
    with pytest.raises(AlreadyWanted):
        await store.desired.resolve(key("u"), "sim", DefaultAccount("a9", DEMO))


async def test_default_that_somebody_else_set_meanwhile_holds(store: Store) -> None:
    await store.start(account=None)
    await store.desired.resolve(key("u"), "sim", DefaultAccount("a1", DEMO))
    await store.start(account=None, environment=LIVE)
    assert await store.desired.resolve(key("u"), "sim", DefaultAccount("a2", LIVE)) == DefaultAccount("a1", DEMO)


async def test_wanted_rows_come_in_pages_those_at_risk_apart(store: Store) -> None:
    users = sorted((f"u{number}" for number in range(25)), key=key)
    for user in users:
        await store.start(user)
    await store.stop(users[3])
    holders = users[::4]
    await store.desired.note([Note((key(user), "sim", "a1"), at_risk=True) for user in holders])
    for at_risk, expected in (
        (True, holders),
        (False, [user for user in users if user not in holders and user != users[3]]),
    ):
        found: list[str] = []
        after = None
        while page := await store.desired.wanted(at_risk=at_risk, after=after, limit=4):
            found += [row.user_id for row in page]
            after = page[-1].identity
            assert len(page) <= 4
        assert found == expected


async def test_ended_rows_are_listed_by_broker_and_owe_their_record_until_it_is_written(store: Store) -> None:
    for user in ("u", "v", "w"):
        await store.start(user)
    await store.start("u", account="b1", broker="other")
    await store.stop("u")
    await store.desired.stop(key("u"), "other", None)
    (stopped,) = await store.stop("v")
    rows, total = await store.desired.ended(broker=None, after=None, limit=2)
    assert (len(rows), total) == (2, 3)
    rows, total = await store.desired.ended(broker="other", after=None, limit=10)
    assert ([row.account_id for row in rows], total) == (["b1"], 1)
    assert len(await store.desired.owing(after=None, limit=10)) == 3
    await store.desired.note([Note(stopped.identity, recorded=stopped.command - 1)])
    assert len(await store.desired.owing(after=None, limit=10)) == 3  # of an end before this one
    await store.desired.note([Note(stopped.identity, recorded=stopped.command)])
    assert {row.user_id for row in await store.desired.owing(after=None, limit=10)} == {"u"}


async def test_user_is_found_by_key_or_its_first_digits(store: Store) -> None:
    await store.start("u")
    await store.start("v")
    for name in (key("u"), key("u")[:12]):
        assert [row.user_id for row in await store.desired.of_user(name)] == ["u"]
    assert await store.desired.of_user("0" * 64) == []


async def test_idle_session_ends_unless_it_was_used(store: Store) -> None:
    await store.start("u")
    await store.start("v")
    assert await store.desired.idle(DAY_S, 10) == []
    await store.later(2 * DAY_S)
    await store.desired.note([Note((key("v"), "sim", "a1"), used_ago_s=DAY_S / 2)])
    assert [row.user_id for row in await store.desired.idle(DAY_S, 10)] == ["u"]
    (kept,) = await store.stop("v", reason=ReasonCode.IDLE, idle_for_s=DAY_S)
    assert kept.wanted
    (ended,) = await store.stop("u", reason=ReasonCode.IDLE, idle_for_s=DAY_S)
    assert (ended.wanted, ended.ended) == (False, ReasonCode.IDLE)
    await store.start("u")
    assert await store.desired.idle(DAY_S, 10) == []
    await store.desired.note([Note((key("v"), "sim", "a1"), used_ago_s=10 * DAY_S)])
    assert await store.desired.idle(DAY_S, 10) == []  # a use never makes a session look less used


async def test_notes_about_rows_that_are_gone_are_left_out(store: Store) -> None:
    await store.start("u")
    await store.desired.note([Note((key("x"), "sim", "a1"), at_risk=True), Note((key("u"), "sim", "a1"), at_risk=True)])
    assert (await store.row("u")).at_risk
    await store.desired.note([])


async def test_erased_user_leaves_nothing(store: Store) -> None:
    await store.start("u")
    await store.start("v")
    await store.desired.erase(key("u"))
    assert (await store.desired.known(key("u"), "sim")) == await store.desired.known(key("x"), "sim")
    assert (await store.row("v")).wanted
    assert (await store.start("u")).command == 1


async def test_starts_and_stops_at_once_leave_one_row_whose_number_counts_them(store: Store) -> None:
    await store.start()
    await asyncio.gather(*(store.start() if number % 2 else store.stop(account="a1") for number in range(20)))
    row = await store.row()
    assert 2 <= row.command <= 21
    last = await store.stop()
    assert [each.wanted for each in last] == [False]


# ------------------------------------------------------------ the database alone


async def test_several_users_with_the_same_digits_are_a_conflict(database: Database) -> None:
    for number, user in enumerate(("x", "y")):
        await database.execute(
            "insert into public.bridge_users (user_key, user_id) values ($1, $2)", "a" * 63 + str(number), user
        )
    with pytest.raises(Conflict):
        await DurableSessions(database).of_user("a" * 12)


async def test_user_is_found_by_the_plain_key_when_the_canonical_one_is_another(database: Database) -> None:
    desired = DurableSessions(database)
    await desired.start(Start("u", "b" * 64, "sim", "a1", DEMO))
    assert [row.user_key for row in await desired.of_user(key("u"))] == ["b" * 64]


@pytest.mark.parametrize("rows_first", [True, False])
async def test_rows_move_with_their_user_to_another_key(database: Database, rows_first: bool) -> None:
    desired, new = DurableSessions(database), "b" * 64
    await desired.start(Start("u", key("u"), "sim", "a1", DEMO))
    async with database.transaction() as connection:
        if rows_first:
            await rekey_rows(connection, key("u"), new)
        await rekey_user(connection, key("u"), new)
        if not rows_first:
            await rekey_rows(connection, key("u"), new)
    known = await desired.known(new, "sim")
    assert [row.user_key for row in known.sessions] == [new]
    assert known.default is not None
    assert (await desired.known(key("u"), "sim")).sessions == ()


async def test_rows_go_with_their_user(database: Database) -> None:
    desired = DurableSessions(database)
    await desired.start(Start("u", key("u"), "sim", "a1", DEMO))
    async with database.transaction() as connection:
        await forget_user(connection, key("u"))
    assert await desired.of_user(key("u")) == []
    assert await database.fetch_value("select count(*) from public.bridge_default_accounts") == 0


async def test_export_tells_all_that_is_stored_of_a_user_and_of_nobody_else(database: Database) -> None:
    desired = DurableSessions(database)
    await desired.start(Start("u", key("u"), "sim", None, DEMO))
    await desired.start(Start("u", key("u"), "other", "a1", LIVE))
    await desired.start(Start("v", key("v"), "sim", "a2", DEMO))
    export = await desired.export(key("u"))
    shown = [(row["broker"], row["account_id"], row["wanted"]) for row in export["sessions"]]
    assert shown == [("other", "a1", True), ("sim", None, True)]
    assert [row["account_id"] for row in export["defaultAccounts"]] == ["a1"]
    assert isinstance(export["sessions"][0]["created_at"], str)


async def test_user_stopped_from_elsewhere_is_settled_when_the_last_record_is_written(database: Database) -> None:
    desired = DurableSessions(database)
    await desired.start(Start("u", key("u"), "sim", "a1", DEMO))
    assert await desired.unsettled(key("u")) == 1
    await desired.stop_user(key("u"))
    (row,) = (await desired.known(key("u"), "sim")).sessions
    assert (row.wanted, await desired.unsettled(key("u"))) == (False, 1)
    await desired.note([Note(row.identity, recorded=row.command)])
    assert await desired.unsettled(key("u")) == 0
