"""Tokens: one refresh per grant, everybody logs in again, and no way to hammer a broker's login."""

import asyncio
from collections.abc import Iterator

import pytest

from bridge.brokers.base import BrokerFault, Capabilities, FaultKind, ReasonCode, Stage
from tests.support.fake_broker import credential, fault
from tests.unit.sessions.world import World, settle, stranded

pytestmark = pytest.mark.looptime

REVOKED = fault(FaultKind.FATAL_USER, ReasonCode.TOKEN_REVOKED)
EXPIRED = fault(FaultKind.TOKEN, ReasonCode.TOKEN_EXPIRED)
ACCOUNTS = ("a1", "a2", "a3", "a4", "a5")


async def _five_live(world: World) -> None:
    for account_id in ACCOUNTS:
        await world.live(account_id=account_id)


async def _all_live(world: World, within_s: float) -> None:
    for account_id in ACCOUNTS:
        view = world.service._view(world.row(account_id=account_id))
        assert (await world.service.wait(view, within_s)).state == "live"


async def test_one_refresh_serves_all_sessions_when_the_broker_ends_them_together(world: World) -> None:
    await _five_live(world)
    for account in list(world.broker.live):
        account.lose(EXPIRED)
    await settle()
    assert {world.row(account_id=account_id).state for account_id in ACCOUNTS} == {"refreshing"}
    assert stranded(world.supervisor) == []
    await _all_live(world, 5)
    assert world.broker.refreshes == ["u:token-1"]
    assert {token for _, token, _ in world.broker.logins[5:]} == {"u:token-1+"}
    assert len(world.broker.logins) == 10


async def test_sessions_still_live_on_the_old_token_log_in_again_when_it_was_refreshed(world: World) -> None:
    await _five_live(world)
    world.broker.account("a1").lose(EXPIRED)
    await settle()
    await asyncio.sleep(0.6)
    await _all_live(world, 5)
    assert {account.account_id for account in world.broker.live} == set(ACCOUNTS)
    assert [token for _, token, _ in world.broker.logins[5:]] == ["u:token-1+"] * 5
    assert len(world.broker.refreshes) == 1
    assert sorted(filter(None, world.broker.logouts)) == ["a2", "a3", "a4", "a5"]


async def test_other_users_are_untouched_when_a_grant_is_refreshed(world: World) -> None:
    await world.live()
    await world.live("v")
    world.broker.account("acc-u").lose(EXPIRED)
    await settle()
    assert (await world.service.wait(world.view(), 5)).state == "live"
    assert world.view("v").reconnects == 0
    assert [account for account, _, _ in world.broker.logins].count("acc-v") == 1


async def test_late_refusal_of_an_old_token_needs_no_second_refresh(world: World) -> None:
    """One session is refreshed and live; only then is the login of another refused, begun with the old token."""
    await world.live(account_id="a1")
    release = world.broker.hold[Stage.SYNCING] = asyncio.Event()
    await world.start(account_id="a2")
    await asyncio.sleep(1)
    world.broker.hold.clear()
    world.broker.refused_tokens["u:token-1"] = EXPIRED
    world.broker.account("a1").lose(EXPIRED)
    await asyncio.sleep(3)
    assert {account.account_id for account in world.broker.live} == {"a1"}
    release.set()
    await asyncio.sleep(3)
    assert {account.account_id for account in world.broker.live} == {"a1", "a2"}
    assert world.broker.refreshes == ["u:token-1"]


async def test_session_that_joins_during_a_refresh_shares_it(world: World) -> None:
    await world.live(account_id="a1")
    await world.live(account_id="a2")
    world.broker.account("a1").lose(EXPIRED)
    await asyncio.sleep(0.3)
    world.broker.account("a2").lose(EXPIRED)
    await asyncio.sleep(3)
    assert {account.account_id for account in world.broker.live} == {"a1", "a2"}
    assert world.service.metrics().refreshes == {"ok": 1}


async def test_final_refusal_asks_the_user_and_nothing_is_tried_again(world: World) -> None:
    await world.live()
    world.broker.refresh_result = REVOKED
    world.broker.account("acc-u").lose(EXPIRED)
    await asyncio.sleep(1)
    view = world.view()
    assert view.reason == REVOKED.reason
    assert view.status == "action_required"
    assert world.statuses()[-2:] == ["stale", "action_required"]
    before = (len(world.broker.logins), len(world.broker.refreshes))
    await asyncio.sleep(86_400)
    assert (len(world.broker.logins), len(world.broker.refreshes)) == before


async def test_users_retries_reach_the_broker_three_times_an_hour_when_the_consent_is_gone(world: World) -> None:
    world.broker.refused_tokens["u:token-1"] = REVOKED
    for _ in range(20):
        view = await world.service.wait(await world.start(), 10)
        assert view.reason == REVOKED.reason
    assert len(world.broker.logins) == 3
    world.credentials.put("u", credential("u", "token-2"))  # a new consent is tried at once
    assert (await world.service.wait(await world.start(), 10)).state == "live"
    assert len(world.broker.logins) == 4


async def test_fresh_tokens_that_are_refused_again_and_again_make_no_loop(world: World) -> None:
    world.broker.tell("acc-u", *[EXPIRED] * 100)
    await world.start()
    await asyncio.sleep(3500)
    assert len(world.broker.logins) == 3
    assert len(world.broker.refreshes) == 2
    view = world.view()
    assert view.state == "backoff"
    assert view.next_attempt_at is not None
    await asyncio.sleep(7200)
    assert len(world.broker.logins) <= 3 * 3 + 1


async def test_refresh_that_fails_for_a_moment_is_tried_again_without_showing_the_old_token(world: World) -> None:
    await world.live()
    world.broker.refresh_result = fault(FaultKind.TRANSIENT, ReasonCode.BROKER_UNREACHABLE)
    world.broker.account("acc-u").lose(EXPIRED)
    await asyncio.sleep(120)
    assert len(world.broker.refreshes) > 2
    assert len(world.broker.logins) == 1
    world.broker.refresh_result = None
    assert (await world.service.wait(world.view(), 70)).state == "live"
    assert world.broker.logins[-1][1] == "u:token-1+"


async def test_token_that_ends_live_sessions_all_the_time_is_not_refreshed_all_the_time(world: World) -> None:
    async def lose_soon() -> None:
        account = world.broker.accounts_made[-1]
        asyncio.get_running_loop().call_later(1, account.lose, EXPIRED)

    world.broker.tell("acc-u", *[lose_soon] * 1000)
    await world.start()
    await asyncio.sleep(3600)
    assert 10 < len(world.broker.refreshes) < 180  # a loop without backoff would make 1,600


async def test_broker_without_refresh_asks_the_user_when_its_token_ends(world: World) -> None:
    world.broker.capabilities = Capabilities(refresh=False)
    await world.live()
    world.broker.account("acc-u").lose(EXPIRED)
    await settle()
    assert world.view().state == "action_required"
    assert world.view().reason == EXPIRED.reason
    assert world.broker.refreshes == []


async def test_stopping_all_who_wait_for_a_refresh_leaves_the_grant_usable(world: World) -> None:
    world.broker.slots = 1
    await world.live()
    world.broker.account("acc-u").lose(EXPIRED)
    await settle()
    await world.stop()
    await asyncio.sleep(5)
    assert world.tasks == 0
    assert (await world.service.wait(await world.start(), 10)).state == "live"


async def test_refreshes_share_the_lanes_slots_when_many_grants_expire(world: World) -> None:
    world.broker.slots = 3
    users = [f"user{number}" for number in range(12)]
    for user in users:
        await world.live(user)
    running = _count_refreshes(world)
    for account in list(world.broker.live):
        account.lose(EXPIRED)
    for user in users:
        assert (await world.service.wait(world.view(user), 60)).state in ("live", "refreshing", "waiting")
    await asyncio.sleep(10)
    assert len(world.broker.live) == 12
    assert len(world.broker.refreshes) == 12
    assert max(running) == 3


async def test_unexpected_error_in_a_refresh_is_retried(world: World) -> None:
    async def mistake() -> None:
        world.broker.refresh_result = None
        raise ZeroDivisionError("a mistake of ours")

    await world.live()
    world.broker.refresh_result = mistake
    world.broker.account("acc-u").lose(EXPIRED)
    await asyncio.sleep(5)
    assert world.view().state == "live"
    assert world.service.metrics().internal_errors == 1
    assert isinstance(EXPIRED, BrokerFault)


def _count_refreshes(world: World) -> list[int]:
    running = 0
    seen: list[int] = []
    refresh = world.broker.refresh

    async def counted(credential: object) -> object:
        nonlocal running
        running += 1
        seen.append(running)
        try:
            return await refresh(credential)  # type: ignore[arg-type]
        finally:
            running -= 1

    world.broker.refresh = counted  # type: ignore[method-assign, assignment]
    return seen


@pytest.fixture(autouse=True)
def _fresh_faults() -> Iterator[None]:
    """Scripted faults are raised many times; drop the tracebacks they collect."""
    yield
    for each in (REVOKED, EXPIRED):
        each.__traceback__ = None
