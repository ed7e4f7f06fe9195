"""What start, stop and the listings answer: accounts, keys, repeats and bad input."""

import asyncio
import dataclasses
from decimal import Decimal
from random import Random
from typing import Any

import pytest

from bridge.brokers.base import BrokerAccount, Capabilities, ChannelHealth, FaultKind, ReasonCode, Stage
from bridge.sessions.service import SessionService
from bridge.sessions.standing import Standing
from bridge.sessions.views import AccountChoice, NoCredentials
from core.errors import Conflict, InvalidInput, NotFound, Unavailable
from core.events import Fill
from core.orders import Side
from core.secret import Secret
from core.user_key import UserKeyMode, UserKeyScheme
from tests.support.fake_broker import credential, fault
from tests.unit.sessions.world import DEMO, LIVE, World, key_of, settle

pytestmark = pytest.mark.looptime

KEY = UserKeyScheme().keys("u").canonical


def _account(account_id: str, environment: Any = DEMO) -> BrokerAccount:
    return BrokerAccount(account_id, environment, login=f"login-{account_id}")


def _no_account(world: World, *covered: BrokerAccount) -> None:
    """A credential that names no account, covering these."""
    world.credentials.put("u", credential("u", account_id=None))
    world.broker.covered = covered


# ---------------------------------------------------------------- start


async def test_start_is_accepted_at_once_and_written_as_starting(world: World) -> None:
    view = await world.start()
    assert (view.status, view.state, view.account_id, view.environment) == ("starting", "waiting", "acc-u", "demo")
    assert view.user_key == KEY
    assert view.cache_key == f"fake_account_{KEY}"
    assert view.reason is not None
    assert view.reason.code is ReasonCode.STARTING
    assert (view.owner, view.attempts, view.next_attempt_at) == ("process-1", 0, None)
    assert world.statuses() == ["starting"]


async def test_statuses_follow_one_another_when_a_login_succeeds(world: World) -> None:
    view = await world.live()
    assert world.statuses() == ["starting", "connecting", "syncing", "live"]
    assert view.reason is None
    assert (view.fence, view.version) == (1, 4)


async def test_second_start_gives_the_same_answer_and_does_nothing(world: World) -> None:
    world.broker.slots = 0
    first = await world.start()
    assert await world.start() == first
    assert await world.start(account_id="acc-u") == first
    assert await world.start(account_id="acc-u", environment=DEMO) == first
    world.broker.slots = 1
    await world.start("v")
    live = await world.service.wait(first, 10)
    assert await world.start() == live
    assert [account for account, _, _ in world.broker.logins].count("acc-u") == 1


async def test_an_answer_waits_for_its_record_so_that_the_next_read_finds_it(world: World) -> None:
    world.broker.slots = 0
    view = await world.service.wait(await world.start(), 0.1)
    assert view.status == "starting"
    assert world.recorder.awaited == [view.cache_key]


async def test_hundred_starts_at_once_make_one_session(world: World) -> None:
    _no_account(world, _account("a1"))
    views = await asyncio.gather(*(world.start() for _ in range(100)))
    assert {view.serial for view in views} == {views[0].serial}
    await asyncio.sleep(5)
    assert len(world.broker.logins) == 1


async def test_user_id_is_normalised_before_anything_else(world: World) -> None:
    first = await world.start()
    assert (await world.start(" u \n".replace("\n", ""))).serial == first.serial
    assert world.service.cache_key("  u ", "fake", None) == key_of("u")


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"broker": "nowhere"}, "broker"),
        ({"account_id": ""}, "accountId"),
        ({"account_id": "a/../b"}, "accountId"),
        ({"account_id": "a" * 65}, "accountId"),
        ({"user": ""}, "userId"),
        ({"user": "a\x00b"}, "userId"),
    ],
)
async def test_start_is_refused_whole_when_the_input_is_bad(world: World, options: dict[str, Any], field: str) -> None:
    world.credentials.put("u", credential("u"))
    with pytest.raises(InvalidInput) as refusal:
        await world.start(**{"user": "u", **options})
    assert refusal.value.field == field
    assert world.service.counts() == {}
    assert world.recorder.entries == {}


async def test_a_user_has_so_many_accounts_and_no_more(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bridge.sessions.meaning.MOST_ACCOUNTS", 3)
    for number in range(3):
        await world.start(account_id=f"made-up-{number}")
    with pytest.raises(Conflict):
        await world.start(account_id="made-up-3")
    await world.service.stop(user_id="u", broker="fake", account_id="made-up-0")
    with pytest.raises(Conflict):  # what was stopped is kept too
        await world.start(account_id="made-up-3")
    await world.start(account_id="made-up-0")
    await world.start("v", account_id="made-up-3")


async def test_environment_that_the_broker_does_not_have_is_refused(world: World) -> None:
    world.broker.capabilities = Capabilities(environments=(DEMO,))
    with pytest.raises(InvalidInput) as refusal:
        await world.start(environment=LIVE)
    assert refusal.value.field == "environment"


async def test_start_without_credentials_is_a_conflict(world: World) -> None:
    with pytest.raises(NoCredentials):
        await world.service.start(user_id="u", broker="fake", account_id=None, environment=None)
    assert isinstance(NoCredentials("x"), Conflict)


async def test_malformed_or_unreachable_credentials_refuse_the_start(world: World) -> None:
    world.credentials.put("u", InvalidInput("bad", field="users.u.fake.accessToken"))
    with pytest.raises(InvalidInput) as refusal:
        await world.start()
    assert refusal.value.field == "users.u.fake.accessToken"
    world.credentials.put("u", Unavailable("away"))
    with pytest.raises(Unavailable):
        await world.start()


# ---------------------------------------------------------------- which account


async def test_only_account_covered_is_taken_when_none_is_named(world: World) -> None:
    _no_account(world, _account("d1"), _account("l1", LIVE))
    assert (await world.start()).account_id == "d1"


async def test_caller_must_choose_when_several_are_covered(world: World) -> None:
    _no_account(world, _account("d1"), _account("d2"), _account("l1", LIVE))
    with pytest.raises(AccountChoice) as choice:
        await world.start()
    assert [account.account_id for account in choice.value.accounts] == ["d1", "d2"]
    assert world.service.counts() == {}
    assert (await world.start(account_id="d2")).cache_key == key_of()


async def test_start_is_accepted_without_account_when_the_broker_is_not_heard_in_time(world: World) -> None:
    _no_account(world)

    async def silent() -> None:
        await asyncio.Event().wait()

    world.broker.covered = silent
    world.broker.tell(None, fault(FaultKind.FATAL_USER, ReasonCode.CHOOSE_ACCOUNT))
    before = world.clock.monotonic()
    view = await world.start()
    assert world.clock.monotonic() - before == pytest.approx(5)
    assert (view.account_id, view.status, view.cache_key) == (None, "starting", key_of())
    view = await world.service.wait(view, 10)
    assert view.status == "action_required"
    assert view.reason is not None
    assert view.reason.code is ReasonCode.CHOOSE_ACCOUNT


async def test_session_takes_the_account_that_its_login_finds(world: World) -> None:
    _no_account(world)
    world.broker.covered = fault()
    view = await world.live()
    assert (view.account_id, view.cache_key) == ("only", key_of())
    assert world.service.cache_key("u", "fake", "only") == key_of()
    assert (await world.start(account_id="only")).serial == view.serial


async def test_named_account_replaces_a_session_that_waits_for_the_choice(world: World) -> None:
    _no_account(world)
    world.broker.covered = fault()
    world.broker.tell(None, fault(FaultKind.FATAL_USER, ReasonCode.CHOOSE_ACCOUNT))
    await world.service.wait(await world.start(), 10)
    view = await world.live(account_id="d2")
    assert (view.account_id, view.cache_key) == ("d2", key_of())
    assert world.service.counts() == {"live": 1}
    assert world.statuses()[-1] == "live"
    assert world.row(account_id="d2").entry is world.recorder.entries[key_of()]


async def test_named_account_replaces_a_login_under_way_whose_account_is_unknown(world: World) -> None:
    _no_account(world)
    world.broker.covered = fault()
    world.broker.hold[Stage.SYNCING] = asyncio.Event()
    await world.start()
    await asyncio.sleep(1)
    world.broker.hold.clear()
    view = await world.live(account_id="d2")
    await asyncio.sleep(10)
    assert [account.account_id for account in world.broker.live] == ["d2"]
    assert (await world.service.of_user(KEY))[0].serial == view.serial
    assert world.tasks == 0


async def test_counters_do_not_fall_when_a_session_is_replaced(world: World) -> None:
    await world.live()
    world.row().events_before = 7
    world.supervisor.remove(world.row())
    assert world.service.metrics().events == {"fake": 7}


async def test_wait_on_a_replaced_session_ends(world: World) -> None:
    _no_account(world)
    world.broker.covered = fault()
    world.broker.hold[Stage.SYNCING] = asyncio.Event()
    view = await world.start()
    waiting = asyncio.create_task(world.service.wait(view, 100))
    await settle()
    await world.start(account_id="d2")
    assert (await asyncio.wait_for(waiting, 1)).state == "stopped"
    assert (await world.service.wait(view, 1)) == view


async def test_default_account_never_moves_and_others_append_their_id(world: World) -> None:
    assert (await world.start(account_id="a2")).cache_key == key_of()
    assert (await world.start(account_id="acc-u")).cache_key == f"{key_of()}_acc-u"
    assert (await world.start()).account_id == "a2"  # unnamed means the default, not what the credential says
    assert world.service.cache_key("u", "fake", None) == key_of()
    assert world.service.cache_key("u", "fake", "a2") == key_of()
    assert world.service.cache_key("u", "fake", "a9") == f"{key_of()}_a9"
    await world.stop()
    assert (await world.start(account_id="acc-u")).cache_key == f"{key_of()}_acc-u"


async def test_further_account_not_yet_known_by_id_has_no_key_until_its_login_finds_it(world: World) -> None:
    await world.live()
    world.broker.covered = fault()
    view = await world.start(environment=LIVE)  # the default and the credential's account are demo accounts
    # one session in demo only, so the live account is unknown
    assert (view.account_id, view.cache_key, view.environment) == (None, None, "live")
    view = await world.service.wait(view, 10)
    assert (view.state, view.account_id, view.cache_key) == ("live", "only", f"{key_of()}_only")
    assert world.statuses(suffix="_only")[-1] == "live"
    assert world.statuses()[-1] == "live"


async def test_unnamed_session_that_turns_out_to_be_another_row_says_so(world: World) -> None:
    await world.live()
    world.broker.covered = fault()
    view = await world.start(environment=LIVE)

    async def race() -> None:
        row = world.row()
        row.account_id = "only"  # as if it had been started by name in the same moment

    world.broker.tell(None, race)
    view = await world.service.wait(view, 10)
    assert view.status == "action_required"
    assert view.reason is not None
    assert view.reason.code is ReasonCode.CHOOSE_ACCOUNT
    assert len(world.broker.live) == 1


async def test_wrong_environment_is_accepted_and_corrected_by_a_later_start(world: World) -> None:
    wrong = fault(FaultKind.FATAL_USER, ReasonCode.WRONG_ENVIRONMENT)
    world.broker.tell("acc-u", wrong)
    view = await world.service.wait(await world.start(account_id="acc-u", environment=LIVE), 10)
    assert view.reason == wrong.reason
    view = await world.live(account_id="acc-u", environment=DEMO)
    assert (view.environment, view.cache_key) == ("demo", key_of())
    assert world.service.counts() == {"live": 1}


async def test_served_account_is_not_lost_when_asked_for_in_the_other_environment(world: World) -> None:
    await world.live()
    with pytest.raises(InvalidInput) as refusal:
        await world.start(account_id="acc-u", environment=LIVE)
    assert refusal.value.field == "environment"
    assert world.view().state == "live"


async def test_session_that_waits_for_its_user_comes_back_when_other_credentials_are_stored(world: World) -> None:
    world.broker.tell("acc-u", fault(FaultKind.FATAL_USER, ReasonCode.TOKEN_REVOKED))
    view = await world.service.wait(await world.start(), 10)
    assert view.status == "action_required"
    world.service.credentials_changed(view.user_key, "another")
    assert world.view().state == "action_required"
    world.service.credentials_changed(view.user_key, view.broker)
    assert (await world.service.wait(view, 10)).state == "live"
    live_since = world.view().since
    world.service.credentials_changed(view.user_key, view.broker)  # what is live goes on
    assert (world.view().state, world.view().since) == ("live", live_since)


async def test_refusals_that_only_the_broker_knows_are_accepted_and_shown(world: World) -> None:
    for code in (ReasonCode.ACCOUNT_NOT_COVERED, ReasonCode.TOKEN_REVOKED, ReasonCode.ACCOUNT_DISABLED):
        refusal = fault(FaultKind.FATAL_USER, code)
        world.broker.tell("acc-u", refusal)
        view = await world.service.wait(await world.start(), 10)
        assert (view.status, view.reason) == ("action_required", refusal.reason)
        assert world.recorder.written[key_of()][-1].reason == refusal.reason
    assert (await world.service.wait(await world.start(), 10)).state == "live"


# ---------------------------------------------------------------- stop, listings


async def test_stop_names_one_account_or_means_all(world: World) -> None:
    await world.live(account_id="a1")
    await world.live(account_id="a2")
    (stopped,) = await world.stop(account_id="a2")
    assert (stopped.account_id, stopped.status) == ("a2", "stopped")
    assert world.service.counts() == {"live": 1, "stopped": 1}
    assert [view.status for view in await world.stop()] == ["stopped", "stopped"]
    assert world.statuses(suffix="_a2")[-1] == "stopped"


async def test_listing_is_stable_and_complete_when_read_page_by_page(world: World) -> None:
    world.broker.slots = 5
    for number in range(25):
        await world.start(f"user{number}")
    await asyncio.sleep(0.5)
    seen: list[int] = []
    after: str | None = None
    for _ in range(5):
        page = await world.service.sessions(status=None, broker=None, after=after, limit=6)
        assert page.total == 25
        seen += [view.serial for view in page.sessions]
        if page.next is None:
            break
        after = page.next
    assert sorted(seen) == list(range(1, 26))
    keys = [
        view.user_key
        for view in (await world.service.sessions(status=None, broker="fake", after=None, limit=100)).sessions
    ]
    assert keys == sorted(keys)
    live = await world.service.sessions(status="live", broker=None, after=None, limit=100)
    assert live.total == len(live.sessions) == 5
    assert world.service.counts() == {"live": 5, "connecting": 5, "starting": 15}


@pytest.mark.parametrize(
    ("query", "field"),
    [({"status": "happy"}, "status"), ({"broker": "x"}, "broker"), ({"after": "x"}, "after"), ({"limit": 0}, "limit")],
)
async def test_listing_refuses_a_bad_query(world: World, query: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidInput) as refusal:
        await world.service.sessions(**{"status": None, "broker": None, "after": None, "limit": 10, **query})
    assert refusal.value.field == field


async def test_user_is_found_by_full_key_or_twelve_digits(world: World) -> None:
    world.broker.slots = 0
    view = await world.start()
    await world.start("v")
    for name in (KEY, KEY[:12], KEY[:40]):
        assert await world.service.of_user(name) == [view]
    for bad in (KEY[:11], "", KEY.upper(), KEY + "0", "not hexadecimal"):
        with pytest.raises(InvalidInput):
            await world.service.of_user(bad)
    with pytest.raises(NotFound):
        await world.service.explain("0" * 12)


async def test_digits_that_fit_two_users_are_a_conflict(world: World) -> None:
    await world.start("u")
    await world.start("v")
    users = world.supervisor.table._users
    other = users.pop(UserKeyScheme().keys("v").canonical)
    twin = KEY[:20] + "f" * 44
    other[0].user_keys = dataclasses.replace(other[0].user_keys, canonical=twin)
    users[twin] = other
    with pytest.raises(Conflict):
        await world.service.of_user(KEY[:12])
    assert len(await world.service.of_user(KEY[:24])) == 1


async def test_dual_mode_writes_a_copy_and_finds_the_user_by_either_key(world: World) -> None:
    scheme = UserKeyScheme(UserKeyMode.DUAL, Secret("s" * 32))
    service = SessionService(
        brokers={"fake": world.broker},
        credentials=world.credentials,
        recorder=world.recorder,
        user_keys=scheme,
        clock=world.clock,
        rng=Random(1),
        standing=Standing("p", world.clock),
    )
    world.credentials.put("u", credential("u"))
    await service.start_up()
    view = await service.start(user_id="u", broker="fake", account_id=None, environment=None)
    keyed, plain = scheme.keys("u").all
    assert view.user_key == keyed
    assert view.cache_key == f"fake_account_{keyed}"
    assert world.recorder.entries[view.cache_key].keys == (view.cache_key, f"fake_account_{plain}")
    assert await service.of_user(plain) == await service.of_user(keyed) == await service.of_user(plain[:12]) == [view]
    await service.close()


async def test_health_and_metrics_tell_of_brokers_and_sessions(world: World) -> None:
    await world.live()
    assert world.service.brokers() == {"fake": ChannelHealth(1, "up", None)}
    metrics = world.service.metrics()
    assert metrics.sessions == {("fake", "live"): 1}
    assert metrics.logins == {"ok": 1}
    assert (metrics.waiting, metrics.logging_in) == ({("fake", "demo"): 0}, {("fake", "demo"): 0})
    world.broker.mirrors["acc-u"].set_quote("1", 1, 2)
    assert world.service.metrics().events == {"fake": 1}
    await world.stop()
    assert world.service.metrics().events == {"fake": 1}  # counters never fall


async def test_uptime_is_shown_as_a_share(world: World) -> None:
    await world.live()  # 0.3 s of login
    await asyncio.sleep(0.7)
    assert world.view().uptime_percent == pytest.approx(70, abs=0.5)
    await world.stop()
    await asyncio.sleep(500)
    assert world.view().uptime_percent == pytest.approx(70, abs=0.5)


async def test_view_repeats_no_user_id_and_no_secret(world: World) -> None:
    world.credentials.put("someone@example.org", credential("someone@example.org", "hunter2"))
    view = await world.service.wait(await world.start("someone@example.org"), 10)
    (explanation,) = await world.service.explain(view.user_key)
    for shown in (view, explanation):
        assert "someone" not in repr(shown).replace("acc-someone@example.org", "")
        assert "hunter2" not in repr(shown)


async def test_the_last_executions_are_explained_newest_first_also_when_stopped(world: World) -> None:
    view = await world.live()
    mirror = world.broker.mirror("acc-u", DEMO)
    for number in range(25):
        fill = Fill(f"e{number}", "o1", "AAPL", Side.BUY, Decimal("0.5"), Decimal(190), number, recovered=number == 24)
        mirror.note_fill(fill)
    await world.stop()
    (explanation,) = await world.service.explain(view.user_key)
    assert [fill.execution_id for fill in explanation.fills] == [f"e{number}" for number in range(24, 4, -1)]
    newest, older = explanation.fills[:2]
    assert (newest.recovered, older.recovered) == (True, False)
    assert (newest.at, newest.symbol, newest.side, newest.units, newest.price) == (24, None, "buy", 0.5, 190)
