"""What others stored is followed, idle sessions end, and what is over is forgotten here and known there."""

import asyncio
from typing import Any

import pytest

from bridge.brokers.base import ReasonCode
from bridge.sessions import keeping
from bridge.sessions.remembered import DesiredInMemory
from core.errors import NotFound, Unavailable
from tests.unit.sessions.stored import key, states, store_wanted, with_credentials
from tests.unit.sessions.world import World, key_of

pytestmark = pytest.mark.looptime


# ---------------------------------------------------------------- what others store


async def test_session_follows_what_another_process_stored(world: World) -> None:
    with_credentials(world, "u", "v")
    await world.live("u")
    await store_wanted(world.desired, "v")
    await asyncio.sleep(30)
    assert states(world) == {"u": "live", "v": "live"}
    await world.desired.stop(key("u"), "fake", None)
    await asyncio.sleep(30)
    assert states(world) == {"u": "stopped", "v": "live"}
    assert world.statuses("u")[-1] == "stopped"
    assert [row.user_id for row in await world.desired.owing(after=None, limit=9)] == []
    await world.desired.erase(key("v"))
    await asyncio.sleep(30)
    assert states(world) == {"u": "stopped"}
    assert world.broker.live == []


async def test_commands_stored_elsewhere_while_the_store_was_away_are_followed(world: World) -> None:
    await world.live()
    world.desired.away = True
    await asyncio.sleep(60)
    world.desired.away = False
    await world.desired.stop(key(), "fake", None)
    await asyncio.sleep(3)
    assert states(world) == {"u": "stopped"}


async def test_session_that_waits_for_its_user_or_was_fenced_is_not_started_by_following(world: World) -> None:
    await world.live("u")
    world.recorder.refuse(key_of("u"))
    world.credentials.stored.clear()
    await store_wanted(world.desired, "v")
    await asyncio.sleep(200)
    assert states(world) == {"u": "fenced", "v": "action_required"}


async def test_fenced_session_stays_so_when_another_of_its_user_is_in_doubt(world: World) -> None:
    await world.live("u")
    world.recorder.refuse(key_of("u"))
    world.desired.deaf = True
    with pytest.raises(Unavailable):
        await world.start("u", account_id="a2")
    world.desired.deaf = False
    await asyncio.sleep(5)
    assert {row.account_id: row.state.value for row in world.supervisor.table} == {"acc-u": "fenced", "a2": "live"}


async def test_risk_is_stored_when_it_changes(world: World) -> None:
    await world.live()
    world.broker.hold_position("acc-u")
    await asyncio.sleep(6)
    assert (await world.desired.known(key(), "fake")).sessions[0].at_risk
    before = world.desired.calls.count("note")
    await asyncio.sleep(100)
    assert world.desired.calls.count("note") - before <= 21
    world.broker.mirrors["acc-u"].positions.clear()
    await asyncio.sleep(6)
    assert not (await world.desired.known(key(), "fake")).sessions[0].at_risk


# ---------------------------------------------------------------- idle


async def test_idle_session_ends_and_a_start_or_a_read_renews_it() -> None:
    async with World(idle_after_s=3000) as world:
        for user in ("idle", "reader", "starter"):
            await world.live(user)
        for _ in range(6):
            await asyncio.sleep(1000)
            world.service.used(key("reader"), "fake")
            await world.start("starter")
        assert states(world).get("idle") in (None, "stopped")
        assert {user: state for user, state in states(world).items() if user != "idle"} == {
            "reader": "live",
            "starter": "live",
        }
        assert world.statuses("idle")[-1] == "stopped"
        reason = world.recorder.written[key_of("idle")][-1].reason
        assert reason is not None
        assert reason.code is ReasonCode.IDLE
        assert ("idle", key("idle"), "bridge", "ok") in world.audit.entries
        (view,) = await world.service.of_user(key("idle"))
        assert (view.status, view.reason) == ("stopped", reason)
        assert (await world.live("idle")).state == "live"
        await asyncio.sleep(4000)  # nobody reads any more
        assert set(states(world).values()) == {"stopped"}


async def test_idle_session_ends_within_a_tenth_of_the_time_after_its_days() -> None:
    async with World(idle_after_s=1000) as world:
        await world.live()
        await asyncio.sleep(990)
        assert world.view().state == "live"
        await asyncio.sleep(120)
        assert world.view().state == "stopped"


async def test_use_just_before_the_end_counts_although_it_is_not_stored_yet() -> None:
    async with World(idle_after_s=1000) as world:
        await world.live()
        for _ in range(30):
            await asyncio.sleep(95)
            world.service.used(key(), "fake")
        assert world.view().state == "live"
        stored = world.desired.calls.count("idle")
        assert stored <= 30


async def test_use_at_the_very_moment_of_the_end_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    async with World(idle_after_s=1000) as world:
        idle = DesiredInMemory.idle

        async def read_meanwhile(store: Any, idle_for_s: float, limit: int, **more: Any) -> Any:
            found = await idle(store, idle_for_s, limit, **more)
            if found:
                world.service.used(key(), "fake")
            return found

        monkeypatch.setattr(DesiredInMemory, "idle", read_meanwhile)
        await world.live()
        await asyncio.sleep(1150)
        assert world.view().state == "live"


async def test_session_never_ends_for_idleness_when_that_is_off(world: World) -> None:
    await world.live()
    await asyncio.sleep(20_000)
    assert world.view().state == "live"


async def test_use_of_nobody_is_nothing(world: World) -> None:
    world.service.used(key("nobody"), "fake")
    world.service.used("", "fake")
    world.service.used(key(), "nowhere")


# ---------------------------------------------------------------- what is over


async def test_ended_sessions_leave_the_table_and_are_still_known(world: World) -> None:
    for user in ("u", "v", "w"):
        await world.live(user)
    await world.stop("u")
    await world.stop("v")
    await asyncio.sleep(keeping.FORGET_S + 60)
    assert states(world) == {"w": "live"}
    assert key_of("u") not in world.recorder.entries
    page = await world.service.sessions(status=None, broker=None, after=None, limit=10)
    assert page.total == 3
    assert {view.user_key: view.status for view in page.sessions} == {
        key("u"): "stopped",
        key("v"): "stopped",
        key("w"): "live",
    }
    stopped = await world.service.sessions(status="stopped", broker="fake", after=None, limit=10)
    assert (len(stopped.sessions), stopped.total) == (2, 2)
    (view,) = await world.service.of_user(key("u")[:12])
    assert (view.status, view.state, view.account_id, view.cache_key) == ("stopped", "stopped", "acc-u", key_of("u"))
    assert view.reason is not None
    assert view.reason.code is ReasonCode.STOPPED
    (explanation,) = await world.service.explain(key("u"))
    assert (explanation.awaits, explanation.session) == ("nothing", view)
    assert [again.status for again in await world.stop("u")] == ["stopped"]
    with pytest.raises(NotFound):
        await world.stop("x")
    assert await world.service.wait(view, 1) == view
    assert (await world.live("u")).state == "live"


async def test_pages_of_the_listing_mix_what_runs_and_what_is_over(world: World) -> None:
    users = [f"user{number}" for number in range(20)]
    for user in users:
        await world.live(user)
    for user in users[::2]:
        await world.stop(user)
    await asyncio.sleep(keeping.FORGET_S + 60)
    for user in users[::4]:
        await world.live(user)
    for user in users[1:4]:
        await world.stop(user)  # over, and still in the table
    for status, expected in ((None, 20), ("live", 13), ("stopped", 7)):
        seen: list[str] = []
        after: str | None = None
        for _ in range(20):
            page = await world.service.sessions(status=status, broker=None, after=after, limit=3)
            assert page.total == expected
            seen += [view.user_key for view in page.sessions]
            if (after := page.next) is None:
                break
        assert seen == sorted(set(seen))
        assert len(seen) == expected


async def test_listing_of_ended_sessions_is_complete_when_some_have_not_been_followed_yet(world: World) -> None:
    users = [f"user{number}" for number in range(16)]
    for user in users:
        await world.live(user)
    for user in users[:6]:
        await world.stop(user)
    await asyncio.sleep(keeping.FORGET_S + 60)
    for user in users[6:]:
        await world.desired.stop(key(user), "fake", None)  # elsewhere, a moment ago
    seen: set[str] = set()
    after: str | None = None
    for _ in range(20):
        page = await world.service.sessions(status="stopped", broker=None, after=after, limit=2)
        seen |= {view.user_key for view in page.sessions}
        if (after := page.next) is None:
            break
    assert seen == {key(user) for user in users[:6]}


async def test_listings_show_what_runs_while_the_store_is_away(world: World) -> None:
    view = await world.live()
    await world.live("v")
    await world.stop("v")
    await asyncio.sleep(keeping.FORGET_S + 60)
    world.desired.away = True
    assert len((await world.service.sessions(status=None, broker=None, after=None, limit=9)).sessions) == 1
    assert [each.serial for each in await world.service.of_user(key())] == [view.serial]
    with pytest.raises(Unavailable):
        await world.service.of_user(key("v"))
    with pytest.raises(Unavailable):
        await world.service.sessions(status="stopped", broker=None, after=None, limit=9)
    assert await world.service.user_key(key("u")[:12]) == key("u")
    assert await world.service.user_key(key("x")) == key("x")


async def test_ended_session_stays_until_its_last_record_is_written(world: World) -> None:
    await world.live()
    entry = world.row().entry
    assert entry is not None
    await world.stop()
    entry.dirty = True
    await asyncio.sleep(keeping.FORGET_S * 2)
    assert states(world) == {"u": "stopped"}
    assert len(await world.desired.owing(after=None, limit=9)) == 1
    entry.dirty = False
    await asyncio.sleep(30)
    assert states(world) == {}
    assert await world.desired.owing(after=None, limit=9) == []


async def test_record_that_somebody_else_owns_is_owed_no_more(world: World) -> None:
    await world.live()
    entry = world.row().entry
    assert entry is not None
    await world.stop()
    entry.dirty = True
    world.recorder.refuse(key_of())
    await asyncio.sleep(30)
    assert await world.desired.owing(after=None, limit=9) == []


async def test_erased_user_is_logged_out_and_forgotten(world: World) -> None:
    await world.live("u")
    await world.live("u", account_id="a2")
    await world.live("v")
    await world.service.erase(key("u"))
    assert states(world) == {"v": "live"}
    assert world.recorder.entries.keys() == {key_of("v")}
    await asyncio.sleep(5)
    assert [account.account_id for account in world.broker.live] == ["acc-v"]
    assert await world.desired.of_user(key("u")) == []
    assert world.service.cache_key("u", "fake", "acc-u") == key_of("u") + "_acc-u"  # no default is known any more
    with pytest.raises(NotFound):
        await world.stop("u")
