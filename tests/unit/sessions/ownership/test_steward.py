"""Several processes over one place: who serves what, and that nobody serves what is another's. In virtual time."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from bridge.brokers.base import BrokerFault, FaultKind, Reason, ReasonCode, Stage
from bridge.cache.record import make_record
from bridge.cache.store import Stored
from bridge.sessions import keeping
from bridge.sessions.ownership import handing
from bridge.sessions.ownership.fleet_in_memory import FleetInMemory
from core.errors import Unavailable
from tests.support.fake_broker import FakeCredentials, LoopClock, credential
from tests.unit.sessions.stored import key, states, store_at_risk, store_wanted, with_credentials
from tests.unit.sessions.world import LEASE_S, FailingStore, World, key_of

pytestmark = pytest.mark.looptime


class CuttableFleet(FleetInMemory):
    """`cut`: owners whose calls are not answered; `failing`: how many of the next calls, by name, are not."""

    def __init__(self, desired: FailingStore) -> None:
        super().__init__(desired, LoopClock())
        self.cut: set[str] = set()
        self.failing: dict[str, int] = {}

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        if name not in ("join", "renew", "look", "claim", "reclaim", "release", "leave"):
            return found

        async def call(owner: str, *arguments: Any, **named: Any) -> Any:
            self.failing[name] = self.failing.get(name, 0) - 1
            if owner in self.cut or self.failing[name] >= 0:
                raise Unavailable("scripted: cut off")
            return await found(owner, *arguments, **named)

        return call


class Records:
    """Reads what any of the worlds last wrote."""

    def __init__(self) -> None:
        self.worlds: list[World] = []

    async def many(self, keys: Any) -> list[Stored | None]:
        return [self._newest(each) for each in keys]

    def _newest(self, name: str) -> Stored | None:
        found = []
        for world in self.worlds:
            entry = world.recorder.entries.get(name)
            for reading in world.recorder.written.get(name, [])[-1:]:
                fence, version = (entry.fence or 0, entry.version) if entry is not None else (0, 0)
                record = make_record(reading, fence=fence, version=version, now_ms=world.clock.now_ms())
                found.append(Stored(name, fence, version, record.document))
        return max(found, key=lambda stored: (stored.fence, stored.version), default=None)


class Place:
    """Worlds over one store. `join` starts one more process."""

    def __init__(self, stack: AsyncExitStack) -> None:
        self.desired = FailingStore()
        self.fleet = CuttableFleet(self.desired)
        self.credentials = FakeCredentials()
        self.records = Records()
        self.worlds: list[World] = []
        self._stack = stack

    async def join(self) -> World:
        world = World(
            seed=len(self.worlds) + 1,
            desired=self.desired,
            credentials=self.credentials,
            fleet=self.fleet,
            records=self.records,
        )
        self.worlds.append(world)
        self.records.worlds.append(world)
        await self._stack.enter_async_context(world)
        return world

    async def wanted(self, *users: str) -> None:
        for user in users:
            self.credentials.put(user, credential(user))
        await store_wanted(self.desired, *users)

    def served(self) -> dict[str, int]:
        """How many processes are logged in to each account."""
        counts: dict[str, int] = {}
        for world in self.worlds:
            for account in world.broker.live:
                counts[account.account_id] = counts.get(account.account_id, 0) + 1
        return counts

    def live(self, world: World) -> set[str]:
        return {user for user, state in states(world).items() if state == "live"}


@asynccontextmanager
async def a_place() -> AsyncIterator[Place]:
    async with AsyncExitStack() as stack:
        yield Place(stack)


USERS = [f"user{number:02}" for number in range(20)]


async def test_processes_that_start_together_share_out_what_is_wanted() -> None:
    async with a_place() as place:
        one, two = await place.join(), await place.join()
        await asyncio.sleep(1)
        await place.wanted(*USERS)
        await asyncio.sleep(5)
        assert (len(place.live(one)), len(place.live(two))) == (10, 10)
        assert set(place.served().values()) == {1}
        assert one.service.resumed
        assert two.service.resumed


async def test_sessions_of_a_process_that_fell_silent_live_elsewhere_after_its_lease_those_at_risk_first() -> None:
    async with a_place() as place:
        await place.wanted(*USERS)
        await store_at_risk(place.desired, *USERS[::3])
        one = await place.join()
        await asyncio.sleep(5)
        assert place.live(one) == set(USERS)
        two = await place.join()
        await asyncio.sleep(1)
        place.fleet.cut.add(one.standing.owner)
        one.service._tasks._closing = True  # killed: nothing of it runs any more
        for task in list(one.service._tasks._tasks):
            task.cancel()
        await asyncio.sleep(LEASE_S + 3)
        assert place.live(two) == set(USERS)
        risks = [risk for _, _, risk in two.broker.logins]
        assert risks == sorted(risks, reverse=True)
        fences = {session.user_id: session.fence for session in two.supervisor.table}
        for session in one.supervisor.table:
            assert fences[session.user_id] > session.fence
            assert two.recorder.entries[key_of(session.user_id)].floor == fences[session.user_id]


async def test_process_stops_acting_when_it_cannot_renew_and_goes_on_when_it_can_before_anybody_took_over() -> None:
    async with a_place() as place:
        await place.wanted("u")
        one = await place.join()
        await asyncio.sleep(5)
        renewals = place.fleet._processes[one.standing.owner].renewed_at_ms
        place.fleet.cut.add(one.standing.owner)
        await asyncio.sleep(2)
        assert place.live(one) == {"u"}
        await asyncio.sleep(LEASE_S * 2 / 3)
        assert states(one) == {"u": "suspended"}
        assert one.broker.live == []
        reading = one.recorder.written[key_of("u")][-1]
        assert (reading.status, reading.reason and reading.reason.code) == ("stale", "fenced")
        assert one.service.steward is not None
        assert "cannot renew" in (one.service.steward.trouble() or "")
        place.fleet.cut.clear()
        await asyncio.sleep(2)
        assert states(one) == {"u": "live"}
        assert place.fleet._processes[one.standing.owner].renewed_at_ms > renewals
        assert one.service.steward.trouble() is None
        assert one.service.steward.counters["lapses"] == 0


async def test_process_whose_sessions_were_taken_over_begins_anew_with_nothing_under_another_name() -> None:
    async with a_place() as place:
        await place.wanted(*USERS)
        one = await place.join()
        await asyncio.sleep(5)
        two = await place.join()
        await asyncio.sleep(1)
        before = one.standing.owner
        place.fleet.cut.add(before)
        await asyncio.sleep(LEASE_S + 5)
        assert place.live(two) == set(USERS)
        assert one.broker.live == []
        writes = {name: len(written) for name, written in one.recorder.written.items()}
        place.fleet.cut.clear()
        await asyncio.sleep(10)
        assert one.standing.owner != before
        assert states(one) == {}
        assert place.served() == dict.fromkeys((f"acc-{user}" for user in USERS), 1)
        assert {name: len(written) for name, written in one.recorder.written.items()} == writes
        assert place.live(two) == set(USERS)  # a newcomer has to prove itself first
        await asyncio.sleep(60)
        assert 8 <= len(place.live(one)) <= 10
        assert set(place.served().values()) == {1}


async def test_newcomer_gets_its_share_once_it_has_proved_itself_and_nobody_is_logged_in_twice() -> None:
    async with a_place() as place:
        await place.wanted(*USERS)
        one = await place.join()
        await asyncio.sleep(5)
        two = await place.join()
        await asyncio.sleep(2 * LEASE_S - 2)
        assert place.live(two) == set()
        twice: list[dict[str, int]] = []

        async def watch() -> None:
            while True:
                twice.extend(found for found in [place.served()] if max(found.values()) > 1)
                await asyncio.sleep(0.05)

        watching = asyncio.create_task(watch())
        await asyncio.sleep(30)
        watching.cancel()
        assert (len(place.live(one)), len(place.live(two))) == (10, 10)
        assert twice == []
        assert [action for action, *_ in one.audit.entries].count("hand_over") == 10
        user = next(iter(place.live(two)))
        reading = one.recorder.written[key_of(user)][-1]
        assert (reading.status, reading.reason and reading.reason.code) == ("stale", "draining")
        logins = len(one.broker.logins) + len(two.broker.logins)
        await asyncio.sleep(300)
        assert len(one.broker.logins) + len(two.broker.logins) == logins  # and then nothing moves any more


async def test_process_that_ends_in_order_is_followed_without_waiting_for_its_lease() -> None:
    async with a_place() as place:
        await place.wanted(*USERS)
        one = await place.join()
        await asyncio.sleep(5)
        two = await place.join()
        await asyncio.sleep(2)
        await one.service.drain(1)
        for account in list(one.broker.live):
            await account.logout()  # as the broker's close does
        assert one.recorder.statuses(key_of(USERS[0]))[-1] == "stale"
        await one.service.leave()
        await asyncio.sleep(4)
        assert place.live(two) == set(USERS)
        await asyncio.sleep(40)
        assert place.live(two) == set(USERS)
        assert set(place.served().values()) == {1}


async def test_drained_process_gives_everything_up_bit_by_bit_and_takes_nothing() -> None:
    async with a_place() as place:
        await place.wanted(*USERS)
        one = await place.join()
        await asyncio.sleep(5)
        two = await place.join()
        await asyncio.sleep(1)
        await place.fleet.drain(one.standing.owner, draining=True)
        await asyncio.sleep(10)
        assert (place.live(one), place.live(two)) == (set(), set(USERS))
        await one.start("late")
        await asyncio.sleep(5)
        assert "late" in place.live(two)
        await place.fleet.drain(one.standing.owner, draining=False)
        await asyncio.sleep(60)
        assert len(place.live(one)) >= 9


async def test_login_under_way_is_not_cut_short_by_a_hand_over() -> None:
    """The broker may carry it out all the same, for a session that is somebody else's by then."""
    async with a_place() as place:
        await place.wanted(*USERS)
        one = await place.join()
        await asyncio.sleep(5)
        two = await place.join()
        await asyncio.sleep(1)
        one.broker.hold[Stage.AUTHORIZING] = held = asyncio.Event()
        lost = Reason(ReasonCode.CONNECTION_LOST, "cut")
        for account in list(one.broker.live):
            account.lose(BrokerFault(FaultKind.TRANSIENT, lost))
        await asyncio.sleep(3)
        assert one.broker.logging_in == len(USERS)
        await place.fleet.drain(one.standing.owner, draining=True)
        await asyncio.sleep(4)
        assert one.broker.logging_in == len(USERS)
        held.set()
        await asyncio.sleep(10)
        assert (place.live(one), place.live(two)) == (set(), set(USERS))


async def test_session_that_is_still_logging_out_is_not_released(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handing, "HAND_OVER_S", 1.0)
    async with a_place() as place:
        await place.wanted(*USERS)
        one = await place.join()
        await asyncio.sleep(5)
        two = await place.join()
        await asyncio.sleep(1)
        one.broker.logout_s = 4.5
        await place.fleet.drain(one.standing.owner, draining=True)
        await asyncio.sleep(4)
        assert {row.owner for row in place.desired.rows()} == {one.standing.owner}
        assert (place.live(two), one.broker.logouts != []) == (set(), True)
        await asyncio.sleep(8)
        assert place.live(two) == set(USERS)


async def test_session_moves_where_an_operator_wants_it_and_stays_there() -> None:
    async with a_place() as place:
        await place.wanted(*USERS)
        one, two = await place.join(), await place.join()
        await asyncio.sleep(10)
        user = min(place.live(one))
        await place.fleet.move(key(user), broker=None, account_id=None, to=two.standing.owner)
        await asyncio.sleep(5)
        assert user in place.live(two)
        await asyncio.sleep(100)
        assert user in place.live(two)
        assert place.served()[f"acc-{user}"] == 1


async def test_commands_that_reach_the_wrong_process_are_carried_out_by_the_owner() -> None:
    async with a_place() as place:
        one = await place.join()
        await asyncio.sleep(1)
        two = await place.join()
        await asyncio.sleep(1)
        view = await one.live("u")
        again = await two.start("u")
        assert (again.status, again.owner, again.account_id) == ("live", one.standing.owner, "acc-u")
        assert again.uptime_percent is None
        assert (await two.service.wait(again, 5)).status == "live"
        (stopped,) = await two.stop("u")
        assert (stopped.status, stopped.owner) == ("stopped", one.standing.owner)
        await asyncio.sleep(2)
        assert states(one) == {"u": "stopped"}
        assert one.statuses("u")[-1] == "stopped"
        await asyncio.sleep(6)  # its last record is written, so nobody owns it any more
        started = await two.start("u")
        assert started.owner == two.standing.owner
        assert (await two.service.wait(started, 5)).state == "live"
        await asyncio.sleep(5)
        assert place.served() == {"acc-u": 1}
        assert (started.fence or 0) > (view.fence or 0)


async def test_wait_at_the_wrong_process_ends_when_the_owner_is_live() -> None:
    async with a_place() as place:
        one = await place.join()
        await asyncio.sleep(1)
        two = await place.join()
        await asyncio.sleep(1)
        one.broker.slots = 0
        await one.start("u")
        asyncio.get_running_loop().call_later(4, setattr, one.broker, "slots", 10)
        begun = two.clock.monotonic()
        view = await two.start("u")
        assert view.status == "starting"
        assert (await two.service.wait(view, 9)).status == "live"
        assert 3.9 < two.clock.monotonic() - begun < 7


async def test_new_credentials_at_the_wrong_process_reach_the_owner() -> None:
    async with a_place() as place:
        await store_wanted(place.desired, "u")
        one = await place.join()
        await asyncio.sleep(2)
        assert states(one) == {"u": "action_required"}
        two = await place.join()
        await asyncio.sleep(1)
        with_credentials(two, "u")
        two.service.credentials_changed(key("u"), "fake")
        await asyncio.sleep(3)
        assert states(one) == {"u": "live"}


async def test_listing_and_explanation_are_the_same_at_every_process() -> None:
    async with a_place() as place:
        await place.wanted(*USERS)
        one, two = await place.join(), await place.join()
        await asyncio.sleep(30)
        for status, expected in ((None, 20), ("live", 20), ("stopped", 0)):
            for world in (one, two):
                page = await world.service.sessions(status=status, broker=None, after=None, limit=50)
                assert (len(page.sessions), page.total, page.next) == (expected, expected, None)
        page = await one.service.sessions(status=None, broker=None, after=None, limit=50)
        owners = {view.user_key: view.owner for view in page.sessions}
        for world in (one, two):
            for user in place.live(world):
                assert owners[key(user)] == world.standing.owner
        seen, after = [], None
        while True:
            page = await two.service.sessions(status="live", broker="fake", after=after, limit=3)
            seen += [view.user_key for view in page.sessions]
            assert page.total == 20
            if (after := page.next) is None:
                break
        assert seen == sorted(map(key, USERS))
        elsewhere = min(place.live(one))
        (explanation,) = await two.service.explain(key(elsewhere))
        assert (explanation.session.status, explanation.awaits) == ("live", "owner")
        assert one.standing.owner in explanation.what_next


async def test_session_that_a_store_refused_is_taken_back_by_its_owner_after_a_while() -> None:
    async with a_place() as place:
        await place.wanted("u")
        one = await place.join()
        await asyncio.sleep(5)
        fence = one.row("u").fence
        one.recorder.refuse(key_of("u"))
        await asyncio.sleep(2)
        assert states(one) == {"u": "fenced"}
        await asyncio.sleep(LEASE_S + 5)
        assert states(one) == {"u": "live"}
        assert one.row("u").fence > fence
        assert one.recorder.entries[key_of("u")].floor == one.row("u").fence


@pytest.mark.parametrize("stopped_first", [True, False])
async def test_last_record_that_a_store_refused_is_written_under_a_new_fence_when_the_row_is_still_ours(
    stopped_first: bool,
) -> None:
    async with a_place() as place:
        await place.wanted("u")
        one = await place.join()
        await asyncio.sleep(5)
        (row,) = place.desired.rows()
        if stopped_first:
            await one.stop()
        one.recorder.refuse(key_of("u"))
        await asyncio.sleep(2)
        if not stopped_first:
            await one.stop()
        one.recorder.written.clear()
        await asyncio.sleep(LEASE_S + 5)
        assert one.statuses() == ["stopped"]
        assert one.recorder.entries[key_of("u")].floor > row.fence
        assert [(row.owner, row.owes_record) for row in place.desired.rows()] == [(None, False)]
        assert states(one) == {"u": "stopped"}


async def test_last_record_that_a_store_refused_is_left_to_whoever_owns_the_row_by_then() -> None:
    async with a_place() as place:
        await place.wanted("u")
        one = await place.join()
        await asyncio.sleep(5)
        two = await place.join()
        await one.stop()
        (row,) = place.desired.rows()
        place.desired.own(row.identity, two.standing.owner)
        one.recorder.refuse(key_of("u"))
        one.recorder.written.clear()
        await asyncio.sleep(LEASE_S + 5)
        assert one.statuses() == []
        assert states(one) == {}
        await asyncio.sleep(keeping.FOLLOW_S)
        assert two.statuses() == ["stopped"]
        assert [(row.owner, row.owes_record) for row in place.desired.rows()] == [(None, False)]


async def test_last_record_is_written_when_the_claim_of_its_row_was_not_answered() -> None:
    async with a_place() as place:
        one = await place.join()
        await asyncio.sleep(5)
        await place.wanted("u")
        await place.desired.stop(key("u"), "fake", "acc-u")
        (row,) = place.desired.rows()
        place.desired.own(row.identity, one.standing.owner)
        await asyncio.sleep(keeping.FOLLOW_S + 10)
        assert one.statuses() == ["stopped"]
        assert [(row.owner, row.owes_record) for row in place.desired.rows()] == [(None, False)]


async def test_release_that_was_not_answered_is_repeated_and_the_session_stays_silent_meanwhile() -> None:
    async with a_place() as place:
        await place.wanted("u")
        one = await place.join()
        await asyncio.sleep(5)
        two = await place.join()
        await asyncio.sleep(1)
        place.fleet.failing["release"] = 3
        await place.fleet.move(key("u"), broker=None, account_id=None, to=two.standing.owner)
        await asyncio.sleep(2)
        assert states(one) == {"u": "draining"}
        assert key_of("u") not in one.recorder.entries
        writes = len(one.recorder.written[key_of("u")])
        await asyncio.sleep(20)
        assert place.live(two) == {"u"}
        assert len(one.recorder.written[key_of("u")]) == writes


async def test_release_is_repeated_although_nobody_wants_the_process_empty_any_more() -> None:
    async with a_place() as place:
        await place.wanted("u", "v")
        one = await place.join()
        await asyncio.sleep(5)
        two = await place.join()
        await asyncio.sleep(1)
        place.fleet.failing["release"] = 3
        await place.fleet.drain(one.standing.owner, draining=True)
        await asyncio.sleep(2)
        assert set(states(one).values()) == {"draining"}
        await place.fleet.drain(one.standing.owner, draining=False)
        await asyncio.sleep(20)
        assert place.live(one) | place.live(two) == {"u", "v"}
        assert set(place.served().values()) == {1}


async def test_uses_at_the_wrong_process_keep_a_session_from_ending() -> None:
    async with a_place() as place:
        await place.wanted("u")
        one = await place.join()
        await asyncio.sleep(2)
        two = await place.join()
        await asyncio.sleep(1)
        before = (await place.desired.known(key("u"), "fake")).sessions[0].last_used_at_ms
        await asyncio.sleep(100)
        two.service.used(key("u"), "fake")
        await asyncio.sleep(3700)
        after = (await place.desired.known(key("u"), "fake")).sessions[0].last_used_at_ms
        assert 99_000 < after - before < 110_000
        assert one.row("u").used_at is None
