"""What each kind of fault does to a session, at login and while live, in virtual time."""

import asyncio
import gc
import logging
import weakref
from random import Random
from typing import Any

import pytest

from bridge.brokers.base import (
    AccountSession,
    BrokerAccount,
    BrokerFault,
    Credential,
    Environment,
    FaultKind,
    ReasonCode,
)
from bridge.cache.entry import Entry
from bridge.sessions import work
from bridge.sessions.reactions import react
from bridge.sessions.reconciling import AT_ONCE
from bridge.sessions.session import Session
from bridge.sessions.states import Event, State
from core.errors import Conflict, InvalidInput, Unavailable
from tests.support import fault_table
from tests.support.fake_broker import credential, fault
from tests.unit.sessions.world import World, settle, stranded

pytestmark = pytest.mark.looptime

KINDS = [
    (FaultKind.TRANSIENT, "backoff", "stale"),
    (FaultKind.THROTTLE, "throttled", "stale"),
    (FaultKind.MAINTENANCE, "maintenance", "maintenance"),
    (FaultKind.ACCOUNT_AUTH_LOST, "waiting", "starting"),
    (FaultKind.CLIENT_AUTH_LOST, "waiting", "starting"),
    (FaultKind.TOKEN, "refreshing", "stale"),
    (FaultKind.FATAL_USER, "action_required", "action_required"),
    (FaultKind.FATAL_APP, "backoff", "stale"),
]


@pytest.mark.parametrize("ends", ["read", "fails"])
async def test_nobody_overtakes_an_account_at_risk_whose_credential_is_still_read(
    world: World, monkeypatch: pytest.MonkeyPatch, ends: str
) -> None:
    monkeypatch.setattr(world.broker, "slots", 0)
    await world.start("risky")
    await world.start("calm")
    risky, read, get = world.row("risky"), asyncio.Event(), world.credentials.get
    risky.stored_at_risk = True
    world.supervisor.machine.queue(risky)

    async def slow(user_id: str, broker: str) -> Credential | None:
        if user_id == "risky":
            await read.wait()
            if ends == "fails":
                raise Unavailable("away")
        return await get(user_id, broker)

    monkeypatch.setattr(world.credentials, "get", slow)
    monkeypatch.setattr(world.broker, "slots", 20)
    world.supervisor.machine.inbox.wake()
    await asyncio.sleep(3)
    assert (world.view("risky").state, world.view("calm").state) == ("connecting", "waiting")
    read.set()
    await asyncio.sleep(0.5)
    assert world.view("calm").state == "live"
    assert world.view("risky").state == ("live" if ends == "read" else "backoff")


COVERED = (BrokerAccount("acc-u", Environment.DEMO),)


async def test_what_the_broker_listed_at_a_login_is_kept_once_with_the_grant(world: World) -> None:
    world.broker.known = COVERED
    await world.live()
    assert world.credentials.kept == [("u", COVERED)]
    world.broker.account("acc-u").lose(fault())
    await settle()
    assert (await world.service.wait(world.view(), 30)).state == "live"
    assert len(world.credentials.kept) == 1


@pytest.mark.parametrize("error", [Unavailable("away"), Conflict("in the way")])
async def test_session_is_live_all_the_same_when_the_accounts_of_its_grant_cannot_be_kept(
    world: World, error: Exception
) -> None:
    world.broker.known = COVERED
    world.credentials.keeping_fails = error
    assert (await world.live()).reason is None


@pytest.mark.parametrize(("kind", "state", "status"), KINDS)
async def test_live_session_goes_where_the_fault_kind_says(
    world: World, kind: FaultKind, state: str, status: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.live()
    monkeypatch.setattr(world.broker, "slots", 0)  # keep what waits waiting
    world.broker.account("acc-u").lose(fault(kind, broker_code="X1"))
    assert world.view().state == "live"  # a report changes nothing by itself: the supervisor acts
    await settle()
    view = world.view()
    assert (view.state, view.status) == (state, status)
    assert view.reason is not None
    assert world.statuses()[-1] == status
    assert stranded(world.supervisor) == []


@pytest.mark.parametrize("kind", [kind for kind in FaultKind if kind not in (FaultKind.FATAL_USER,)])
async def test_session_is_live_again_without_a_person_when_the_fault_was_not_the_users(
    world: World, kind: FaultKind
) -> None:
    await world.live()
    world.broker.account("acc-u").lose(fault(kind))
    await settle()
    view = await world.service.wait(world.view(), 400)
    assert view.state == "live"
    assert view.reconnects == 1
    assert dict(world.service.metrics().reconnects) == {"broker_error": 1}


@pytest.mark.parametrize(("kind", "state", "status"), KINDS)
async def test_login_fault_of_each_kind_ends_live_or_asks_the_user(
    world: World, kind: FaultKind, state: str, status: str
) -> None:
    world.broker.tell("acc-u", fault(kind))
    view = await world.service.wait(await world.start(), 400)
    assert view.state == ("action_required" if kind is FaultKind.FATAL_USER else "live")
    assert status in world.statuses()


def test_every_kind_has_an_answer() -> None:
    for kind in FaultKind:
        reaction = react(fault(kind), attempt=0, quick=0, rng=Random(1))
        assert (reaction.delay_s is not None) is (
            reaction.event in (Event.RETRY_LATER, Event.THROTTLED, Event.MAINTENANCE)
        )


async def test_retries_grow_to_a_minute_when_nothing_helps(world: World) -> None:
    world.broker.tell("acc-u", *[fault()] * 40)
    await world.start()
    await world.service.wait(world.view(), 3000)
    assert world.view().state == "live"
    assert world.view().attempts == 40
    passed = world.clock.monotonic()
    assert 15 * 30 < passed < 60 * 40  # about thirty-four waits of U(0, 60)


async def test_failures_are_forgiven_only_after_a_minute_live(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    delays: list[float | None] = []
    move = world.supervisor.machine.move

    def spy(session: object, event: Event, reason: object, delay_s: float | None = None, **more: object) -> None:
        if event is Event.RETRY_LATER:
            delays.append(delay_s)
        move(session, event, reason, delay_s, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(world.supervisor.machine, "move", spy)
    await world.live()
    for _ in range(12):  # up three seconds, down, again and again
        await _sleep(3)
        world.broker.account("acc-u").lose(fault())
        await settle()
        await world.service.wait(world.view(), 100)
    assert world.row().attempts == 12
    assert max(delay or 0 for delay in delays) > 10
    await _sleep(61)
    assert world.view().attempts == 0
    world.broker.account("acc-u").lose(fault())
    await settle()
    assert (delays[-1] or 0) <= 1.0
    assert world.row().attempts == 1


async def test_shared_fault_waits_exactly_what_the_adapter_says(world: World) -> None:
    await world.live()
    lost_at = world.clock.now_ms()
    world.broker.account("acc-u").lose(fault(retry_after_s=7.5, shared=True))
    await settle()
    assert world.view().next_attempt_at == lost_at + 7500


async def test_lost_authorisation_backs_off_when_it_is_lost_again_and_again(world: World) -> None:
    await world.live()
    for loop in range(6):
        world.broker.account("acc-u").lose(fault(FaultKind.ACCOUNT_AUTH_LOST, ReasonCode.ACCOUNT_SESSION_ENDED))
        await settle()
        assert world.view().state == ("connecting" if loop < 3 else "backoff")
        view = await world.service.wait(world.view(), 100)
        assert view.state == "live"


async def test_maintenance_is_not_counted_as_a_failure(world: World) -> None:
    await world.live()
    world.broker.account("acc-u").lose(fault(FaultKind.MAINTENANCE, retry_after_s=120))
    await settle()
    view = world.view()
    assert (view.attempts, view.status) == (0, "maintenance")
    assert view.next_attempt_at == world.clock.now_ms() + 120_000


async def test_refused_application_is_logged_loudly_once(world: World, caplog: pytest.LogCaptureFixture) -> None:
    refusal = fault(FaultKind.FATAL_APP, ReasonCode.APPLICATION_REFUSED)
    for user in ("u", "v", "w"):
        world.broker.tell(f"acc-{user}", refusal, refusal)
        await world.start(user)
    await _sleep(70)
    errors = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert len(errors) == 1
    assert "refuses this application" in errors[0].getMessage()
    assert world.view("v").reason == refusal.reason


@fault_table.fault("P10", "an exception of our own in a login", "that session restarts, nobody else's")
async def test_unexpected_error_in_a_login_restarts_that_session_only(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    await world.live("v")
    world.broker.tell("acc-u", ZeroDivisionError("a mistake of ours"))
    await world.start()
    await _sleep(0.4)
    assert world.view().reason is not None
    assert world.view().reason.code is ReasonCode.INTERNAL_ERROR
    assert (await world.service.wait(world.view(), 5)).state == "live"
    assert world.service.metrics().internal_errors == 1
    assert world.service.metrics().logins == {"ok": 2, "transient": 1}
    assert world.view("v").reconnects == 0
    assert any(record.exc_info and record.exc_info[0] is ZeroDivisionError for record in caplog.records)


@fault_table.fault("P11", "a login that cancels itself", "live again")
async def test_login_that_cancels_itself_is_not_an_orphan(world: World) -> None:
    async def cancel_me() -> None:
        raise asyncio.CancelledError

    world.broker.tell("acc-u", cancel_me)
    assert (await world.service.wait(await world.start(), 10)).state == "live"


async def test_login_that_never_answers_is_given_up(world: World) -> None:
    async def never() -> None:
        await asyncio.Event().wait()

    world.broker.tell("acc-u", never)
    await world.start()
    await _sleep(89.9)
    assert world.view().state == "syncing"
    await _sleep(0.2)
    assert "longer than" in world.row().evidence[0].message
    assert (await world.service.wait(world.view(), 10)).state == "live"


async def test_loss_in_the_moment_of_success_is_not_forgotten(world: World) -> None:
    """The adapter loses the session after `login` has returned, before the supervisor hears of the success."""

    async def lose_at_once() -> None:
        account = world.broker.accounts_made[-1]
        asyncio.get_running_loop().call_soon(account.lose, fault(retry_after_s=5, shared=True))

    world.broker.tell("acc-u", lose_at_once)
    await world.start()
    await _sleep(0.5)
    assert world.view().state == "backoff"
    assert (await world.service.wait(world.view(), 10)).state == "live"


async def test_report_of_an_earlier_life_changes_nothing(world: World) -> None:
    await world.live()
    account = world.broker.account("acc-u")
    account.lose(fault(retry_after_s=5, shared=True))
    account.listener.lost(fault(FaultKind.FATAL_USER))  # a second word about the same loss
    await settle()
    assert world.view().state == "backoff"
    assert (await world.service.wait(world.view(), 10)).state == "live"


@pytest.mark.parametrize(
    ("stored", "code", "state"),
    [
        (None, ReasonCode.NO_CREDENTIALS, "action_required"),
        (InvalidInput("x", field="users.u.fake.accessToken"), ReasonCode.CREDENTIALS_INVALID, "action_required"),
        (Unavailable("away"), ReasonCode.CREDENTIALS_UNAVAILABLE, "backoff"),
    ],
)
async def test_trouble_with_stored_credentials_is_named_when_it_appears_after_the_start(
    world: World, stored: Exception | None, code: ReasonCode, state: str
) -> None:
    await world.live()
    world.credentials.stored["u", "fake"] = stored  # type: ignore[assignment]
    world.broker.account("acc-u").lose(fault(FaultKind.ACCOUNT_AUTH_LOST))
    await settle()
    view = world.view()
    assert view.reason is not None
    assert (view.state, view.reason.code) == (state, code)
    assert "users.u" not in view.reason.message  # the path holds the user id
    world.credentials.put("u", credential("u"))
    await world.start()
    assert (await world.service.wait(world.view(), 10)).state == "live"


async def test_a_login_slot_is_given_back_when_the_login_could_not_even_start(monkeypatch: pytest.MonkeyPatch) -> None:
    async with World(slots=1) as world:
        mark, mistakes = world.recorder.mark, [LookupError("a mistake of ours")]

        def broken(entry: Entry, *, urgent: bool = False) -> None:
            if mistakes and world.row().state is State.CONNECTING:
                raise mistakes.pop()
            mark(entry, urgent=urgent)

        monkeypatch.setattr(world.recorder, "mark", broken)
        view = await world.start()
        assert (await world.service.wait(view, 30)).state == "live"
        assert mistakes == []
        await world.live("v")


async def test_reconciles_go_on_when_some_could_not_even_start(monkeypatch: pytest.MonkeyPatch) -> None:
    async with World() as world:
        world.broker.reconcile_every_s = 10.0
        for number in range(AT_ONCE):
            await world.live(f"u{number}")
        start, failed = work.reconcile, set[Session]()

        def broken(session: Session, account: AccountSession) -> Any:
            if session not in failed:
                failed.add(session)
                raise LookupError("a mistake of ours")
            return start(session, account)

        monkeypatch.setattr(work, "reconcile", broken)
        await _sleep(600)
        assert len(failed) == AT_ONCE
        assert world.service.metrics().reconciles["ok"] > 0


async def test_nothing_of_a_login_stays_alive_when_its_refusal_is_remembered(world: World) -> None:
    class Held:
        """Something large that a login works with."""

    alive: list[weakref.ref[Held]] = []

    async def refuse() -> None:
        held = Held()
        alive.append(weakref.ref(held))
        try:
            raise OSError("what lies behind it")
        except OSError as error:
            raise fault(FaultKind.FATAL_USER, ReasonCode.TOKEN_REVOKED) from error

    world.broker.tell("acc-u", refuse)
    await world.service.wait(await world.start(), 5)
    await settle()
    gc.collect()
    assert len(world.supervisor.machine.troubled) == 1
    assert [reference() for reference in alive] == [None]


@fault_table.fault("P10", "an exception of our own in the supervisor", "one session retries")
async def test_supervisors_own_mistake_costs_one_session_a_retry(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    await world.live("v")
    failing = world.supervisor._reconciling
    plan = failing.plan
    calls: list[object] = []

    def broken(session: object) -> None:
        calls.append(session)
        if len(calls) == 1:
            raise LookupError("a mistake of ours")
        plan(session)  # type: ignore[arg-type]

    monkeypatch.setattr(failing, "plan", broken)
    view = await world.start()
    await _sleep(20)
    assert world.view().state == "live"
    assert world.service.metrics().internal_errors == 1
    assert world.view("v").reconnects == 0
    assert view.serial == world.view().serial


async def test_explanation_tells_cause_next_step_and_remedy(world: World) -> None:
    refusal = BrokerFault(
        FaultKind.FATAL_USER, fault(code=ReasonCode.TOKEN_REVOKED).reason, broker_code="CH_ACCESS_TOKEN_INVALID"
    )
    refusal.__cause__ = ConnectionResetError("secret text")
    world.broker.tell("acc-u", fault(retry_after_s=2), refusal)
    view = await world.service.wait(await world.start(), 30)
    (explanation,) = await world.service.explain(view.user_key[:12])
    newest, oldest = explanation.chain
    assert (newest.code, newest.kind, newest.broker_code) == ("token_revoked", "fatal_user", "CH_ACCESS_TOKEN_INVALID")
    assert newest.cause == "ConnectionResetError"
    assert (oldest.code, oldest.state) == ("broker_error", "syncing")
    assert explanation.awaits == "user"
    assert explanation.unblock is not None
    assert "Connect the broker again" in explanation.unblock
    assert "secret text" not in repr(explanation)


async def _sleep(seconds: float) -> None:
    await asyncio.sleep(seconds)
    await settle()
