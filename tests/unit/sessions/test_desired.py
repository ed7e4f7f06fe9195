"""Starts and stops are stored before they count; what was stored comes back after a restart."""

import asyncio
from typing import Any

import pytest

from bridge.brokers.base import BrokerAccount, Environment, ReasonCode, Stage
from bridge.sessions import keeping
from bridge.sessions.desired import Note, Start
from bridge.sessions.views import NoCredentials
from core.errors import Unavailable
from tests.support.fake_broker import credential, fault
from tests.unit.sessions.stored import key, states, store_at_risk, store_wanted, with_credentials
from tests.unit.sessions.world import DEMO, LIVE, FailingStore, World, key_of, settle, stranded

pytestmark = pytest.mark.looptime


# ---------------------------------------------------------------- before it is accepted


async def test_start_that_cannot_be_stored_does_not_run(world: World) -> None:
    world.desired.away = True
    with pytest.raises(Unavailable) as refusal:
        await world.start()
    assert refusal.value.retry_after_s is not None
    await asyncio.sleep(60)
    assert world.service.counts() == {}
    assert world.broker.logins == []
    assert world.recorder.entries == {}
    world.desired.away = False
    await asyncio.sleep(60)
    assert world.service.counts() == {}
    assert (await world.live()).state == "live"


async def test_stop_that_cannot_be_stored_is_refused_and_the_session_goes_on(world: World) -> None:
    await world.live()
    world.desired.away = True
    with pytest.raises(Unavailable):
        await world.stop()
    await asyncio.sleep(60)
    assert world.view().state == "live"
    world.desired.away = False
    await asyncio.sleep(60)
    assert world.view().state == "live"
    assert [view.state for view in await world.stop()] == ["stopped"]


async def test_nothing_runs_before_the_start_is_stored_nor_ends_before_the_stop_is(world: World) -> None:
    await asyncio.sleep(1)  # the resume is over
    world.desired.hold = asyncio.Event()
    starting = asyncio.create_task(world.start())
    await asyncio.sleep(3)
    assert world.service.counts() == {}
    world.desired.hold.set()
    await starting
    assert (await world.service.wait(world.view(), 10)).state == "live"
    world.desired.hold = asyncio.Event()
    stopping = asyncio.create_task(world.stop())
    await asyncio.sleep(3)
    assert world.view().state == "live"
    world.desired.hold.set()
    assert [view.state for view in await stopping] == ["stopped"]


async def test_start_whose_answer_was_lost_runs_once_the_store_can_be_asked(world: World) -> None:
    world.desired.deaf = True
    with pytest.raises(Unavailable):
        await world.start()
    assert world.service.counts() == {}
    world.desired.deaf = False
    await asyncio.sleep(5)
    assert states(world) == {"u": "live"}


async def test_stop_whose_answer_was_lost_is_carried_out_once_the_store_can_be_asked(world: World) -> None:
    await world.live()
    world.desired.deaf = True
    with pytest.raises(Unavailable):
        await world.stop()
    world.desired.deaf = False
    await asyncio.sleep(5)
    assert states(world) == {"u": "stopped"}
    assert world.statuses()[-1] == "stopped"


async def test_last_command_wins_when_the_answer_to_the_one_before_was_lost(world: World) -> None:
    await world.live()
    world.desired.deaf = True
    with pytest.raises(Unavailable):
        await world.stop()
    world.desired.deaf = False
    view = await world.start()  # it still runs or has just ended; the store says that it is not wanted
    assert view.state in ("live", "waiting")
    await asyncio.sleep(60)
    assert states(world) == {"u": "live"}
    (row,) = (await world.desired.known(key(), "fake")).sessions
    assert row.wanted


async def test_start_of_a_running_session_is_stored_too(world: World) -> None:
    """Somebody else may have stored a stop meanwhile, and the last one wins."""
    view = await world.live()
    await world.desired.stop(key(), "fake", None)
    assert await world.start() == view
    await asyncio.sleep(60)
    assert world.view().state == "live"
    world.desired.away = True
    with pytest.raises(Unavailable):
        await world.start()
    assert world.view().state == "live"


async def test_session_whose_account_was_found_is_undone_and_tried_again_when_that_cannot_be_stored(
    world: World,
) -> None:
    world.credentials.put("u", credential("u", account_id=None))
    world.broker.covered = fault()
    world.broker.hold[Stage.SYNCING] = asyncio.Event()
    await world.start()
    await asyncio.sleep(1)
    world.desired.away = True
    world.broker.hold.pop(Stage.SYNCING).set()
    await asyncio.sleep(20)
    (row,) = world.supervisor.table
    assert (row.account_id, row.state.value) != ("only", "live")
    assert len(world.broker.live) <= 1
    world.desired.away = False
    await asyncio.sleep(120)
    assert [(row.account_id, row.state.value) for row in world.supervisor.table] == [("only", "live")]
    assert len(world.broker.live) == 1
    assert [row.account_id for row in (await world.desired.known(key(), "fake")).sessions] == ["only"]


async def test_account_found_whose_answer_was_lost_ends_in_one_session(world: World) -> None:
    world.credentials.put("u", credential("u", account_id=None))
    world.broker.covered = fault()
    world.desired.deaf = False
    world.broker.hold[Stage.SYNCING] = asyncio.Event()
    await world.start()
    await asyncio.sleep(1)
    world.desired.deaf = True
    world.broker.hold.pop(Stage.SYNCING).set()
    await asyncio.sleep(2)
    world.desired.deaf = False
    await asyncio.sleep(120)
    assert [(row.account_id, row.state.value) for row in world.supervisor.table] == [("only", "live")]
    assert [account.account_id for account in world.broker.live] == ["only"]


# ---------------------------------------------------------------- after a restart


async def test_every_wanted_session_comes_back_by_itself_those_at_risk_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeping, "PAGE", 7)
    desired, users = FailingStore(), [f"user{number}" for number in range(40)]
    await store_wanted(desired, *users)
    await store_at_risk(desired, *users[::3])
    await desired.stop(key("user5"), "fake", None)
    async with with_credentials(World(desired=desired, slots=3), *users) as world:
        await asyncio.sleep(0.1)
        assert not world.service.counts().get("live")
        assert sum(world.service.counts().values()) == 40  # one of them only writes its last record
        await asyncio.sleep(20)
        assert world.service.resumed
        assert world.service.counts() == {"live": 39, "stopped": 1}
        order = [account for account, _, _ in world.broker.logins]
        assert set(order[:14]) == {f"acc-{user}" for user in users[::3]}
        assert [risk for _, _, risk in world.broker.logins] == [True] * 14 + [False] * 25
        assert {entry[:3] for entry in world.audit.entries} == {
            ("resume", key(user), "bridge") for user in users if user != "user5"
        }
        assert world.statuses("user0")[0] == "starting"
        assert stranded(world.supervisor) == []


async def test_wanted_session_without_credentials_asks_its_user_as_ever() -> None:
    desired = FailingStore()
    await store_wanted(desired, "u")
    async with World(desired=desired) as world:
        await asyncio.sleep(5)
        view = world.view()
        assert view.status == "action_required"
        assert view.reason is not None
        assert view.reason.code is ReasonCode.NO_CREDENTIALS


async def test_resume_waits_for_the_store_and_nothing_is_lost_meanwhile() -> None:
    desired = FailingStore()
    await store_wanted(desired, "u", "v")
    desired.away = True
    async with with_credentials(World(desired=desired), "u", "v") as world:
        await asyncio.sleep(300)
        assert (world.service.counts(), world.service.resumed) == ({}, False)
        desired.away = False
        await asyncio.sleep(5)
        assert states(world) == {"u": "live", "v": "live"}


@pytest.mark.parametrize("command", ["start", "stop", "erase"])
async def test_user_wins_over_a_resume_that_has_read_the_row_already(
    command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page is read, then the user's command is carried out, then the rows of the page are taken up."""
    monkeypatch.setattr(keeping, "AT_ONCE", 1)
    desired, users = FailingStore(), ["u", *(f"user{number}" for number in range(30))]
    await store_wanted(desired, *users)
    users.sort(key=key)
    victim = users[-1]
    async with with_credentials(World(desired=desired, slots=0), *users) as world:
        while not world.service.counts():
            await asyncio.sleep(0)
        assert world.supervisor.table.of(key(victim), "fake") == []
        if command == "erase":
            await world.service.erase(key(victim))
            await asyncio.sleep(30)
            assert victim not in states(world)
            assert world.statuses(victim) == []
            return
        if command == "stop":
            (view,) = await world.stop(victim)
        else:
            view = await world.start(victim)
        assert view.status == ("stopped" if command == "stop" else "starting")
        await asyncio.sleep(30)
        assert len(world.supervisor.table) == 31
        assert world.view(victim).status == view.status
        (row,) = (await desired.known(key(victim), "fake")).sessions
        assert row.wanted is (command == "start")


async def test_stop_of_a_session_that_has_not_come_back_yet_is_accepted_and_written() -> None:
    desired = FailingStore()
    await store_wanted(desired, "u")
    async with with_credentials(World(desired=desired), "u") as world:
        (view,) = await world.stop()  # before the resume had its first turn
        assert (view.status, view.cache_key) == ("stopped", key_of())
        await asyncio.sleep(10)
        assert states(world) == {"u": "stopped"}
        assert world.statuses() == ["stopped"]
        assert world.broker.logins == []


async def test_last_record_that_a_sudden_end_left_over_is_written_after_the_restart() -> None:
    desired = FailingStore()
    await store_wanted(desired, "u", "v")
    await desired.stop(key("u"), "fake", None)
    (row,) = await desired.stop(key("v"), "fake", None)
    await desired.note([Note(row.identity, recorded=row.command)])
    async with World(desired=desired) as world:
        await asyncio.sleep(6)
        assert states(world) == {"u": "stopped"}
        assert world.statuses("u") == ["stopped"]
        assert world.statuses("v") == []
        assert await desired.owing(after=None, limit=10) == []


async def test_sessions_of_a_broker_that_is_not_configured_are_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    desired = FailingStore()
    await store_wanted(desired, "u", "v", broker="elsewhere")
    await store_wanted(desired, "w")
    async with with_credentials(World(desired=desired), "w") as world:
        await asyncio.sleep(100)
        assert states(world) == {"w": "live"}
    assert len([record for record in caplog.records if "not configured" in record.message]) == 1
    assert (await desired.known(key("u"), "elsewhere")).sessions[0].wanted


async def test_sessions_under_another_user_key_scheme_are_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    desired = FailingStore()
    await desired.start(Start("u", "f" * 64, "fake", "acc-u", DEMO))
    async with with_credentials(World(desired=desired), "u") as world:
        await asyncio.sleep(100)
        assert states(world) == {}
    assert len([record for record in caplog.records if "user key scheme" in record.message]) == 1


async def test_drained_process_brings_nothing_back() -> None:
    desired = FailingStore()
    async with with_credentials(World(desired=desired), "u") as world:
        await world.live()
        await world.service.drain(1)
        await store_wanted(desired, "v")
        await asyncio.sleep(100)
        assert states(world) == {"u": "draining"}


# ---------------------------------------------------------------- environment, audit


def covering(*accounts: tuple[str, Environment], **more: Any) -> Any:
    covered = tuple(BrokerAccount(name, environment) for name, environment in accounts)
    return credential("u", accounts=covered, account_id=None, **more)


async def test_named_account_is_started_where_the_broker_said_that_it_lives(world: World) -> None:
    world.credentials.put("u", covering(("d1", DEMO), ("l1", LIVE)))
    assert (await world.start(account_id="l1")).environment == "live"
    assert (await world.start(account_id="d1")).environment == "demo"
    assert (await world.start(account_id="x9")).environment == "demo"  # unknown: where the credential says
    assert (await world.start(account_id="x8", environment=LIVE)).environment == "live"


async def test_account_listed_in_both_environments_is_not_assumed_live(world: World) -> None:
    world.credentials.put("u", covering(("a1", DEMO), ("a1", LIVE)))
    assert (await world.start(account_id="a1")).environment == "demo"


async def test_wrong_environment_is_corrected_by_a_later_start_that_names_none(world: World) -> None:
    world.credentials.put("u", covering(("d1", DEMO)))
    world.broker.slots = 0
    assert (await world.start(account_id="d1", environment=LIVE)).environment == "live"
    assert (await world.start(account_id="d1")).environment == "demo"
    assert world.service.counts() == {"starting": 1}


async def test_choice_is_offered_from_what_is_stored_when_the_broker_is_not_heard(world: World) -> None:
    world.credentials.put("u", covering(("d1", DEMO), ("l1", LIVE)))
    world.broker.covered = fault()
    assert (await world.start()).account_id == "d1"


async def test_account_started_before_the_restart_keeps_its_environment_and_key() -> None:
    desired = FailingStore()
    await store_wanted(desired, "u", account_id="a1")
    await store_wanted(desired, "u", account_id="l2", environment=LIVE)
    await desired.stop(key("u"), "fake", None)
    async with with_credentials(World(desired=desired), "u") as world:
        view = await world.start(account_id="l2")
        assert (view.environment, view.cache_key) == ("live", key_of() + "_l2")
        assert (await world.start(account_id="a1")).cache_key == key_of()
        assert (await world.start()).account_id == "a1"


async def test_audit_tells_who_started_and_stopped_and_what_was_refused(world: World) -> None:
    world.credentials.put("u", credential("u"))
    options = {"user_id": "u", "broker": "fake"}
    await world.service.start(**options, account_id=None, environment=None, actor="key:app")
    await world.service.stop(**options, actor="user")
    world.desired.away = True
    with pytest.raises(Unavailable):
        await world.service.stop(**options, actor="user")
    with pytest.raises(NoCredentials):
        await world.service.start(user_id="x", broker="fake", account_id=None, environment=None, actor="user")
    assert world.audit.entries == [
        ("start", key("u"), "key:app", "ok"),
        ("stop", key("u"), "user", "ok"),
        ("stop", key("u"), "user", "unavailable"),
        ("start", key("x"), "user", "no-credentials"),
    ]


async def test_last_of_many_commands_at_once_wins(world: World) -> None:
    with_credentials(world, "u")
    await world.live()
    world.desired.hold = asyncio.Event()
    commands = [asyncio.create_task(world.stop() if number % 2 else world.start()) for number in range(40)]
    await settle()
    world.desired.hold.set()
    await asyncio.gather(*commands)
    await asyncio.sleep(30)
    (row,) = (await world.desired.known(key(), "fake")).sessions
    assert states(world) == {"u": "live" if row.wanted else "stopped"}
    assert len(world.broker.live) == row.wanted
