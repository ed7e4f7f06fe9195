"""Tokens are renewed ahead of their end, once per grant, and a renewal that fails costs nothing while they last."""

import asyncio
from random import Random

import pytest

from bridge.brokers.base import Capabilities, Credential, Environment, FaultKind, ReasonCode
from bridge.sessions.renewing import LEAD_S, MIN_WAIT_S, Plans, retry_s, wait_s
from core.secret import Secret
from tests.support.fake_broker import credential, fault
from tests.unit.sessions.world import World

DAY_S = 86_400.0
HOUR_S = 3600.0
ACCOUNTS = ("a1", "a2", "a3")
virtual = pytest.mark.looptime


# ---------------------------------------------------------------- when


@pytest.mark.parametrize(
    ("left_s", "earliest", "latest"),
    [
        (30 * DAY_S, 30 * DAY_S - 1.2 * LEAD_S, 30 * DAY_S - LEAD_S),
        (90 * DAY_S, 90 * DAY_S - 1.2 * 9 * DAY_S, 81 * DAY_S),
        (4 * DAY_S, 2.8 * DAY_S, 3 * DAY_S),
        (60.0, 42.0, 45.0),
        (1.0, MIN_WAIT_S, MIN_WAIT_S),
    ],
)
def test_renewal_is_planned_in_proportion_to_the_life_that_is_left(
    left_s: float, earliest: float, latest: float
) -> None:
    waits = [wait_s(left_s, Random(seed)) for seed in range(200)]
    assert earliest <= min(waits) <= max(waits) <= latest
    assert len(set(waits)) > 1 or earliest == latest  # grants made together are not renewed together


def test_failed_renewal_is_tried_again_in_proportion_too() -> None:
    assert all(24 <= retry_s(10, Random(seed)) <= 30 for seed in range(50))
    assert all(0.8 * HOUR_S <= retry_s(3 * DAY_S, Random(seed)) <= HOUR_S for seed in range(50))


def _credential(expires_at_ms: int | None, grant: str = "g") -> Credential:
    return Credential(grant, Environment.DEMO, {"accessToken": Secret("x")}, expires_at_ms=expires_at_ms)


def test_plan_is_made_once_for_a_grant_and_anew_for_another_end() -> None:
    plans = Plans(Random(1))
    for _ in range(3):
        plans.accepted(_credential(1_000_000), "u", "b", now=0.0, now_ms=0)
    assert len(plans) == 1
    due_at = plans.next_due()
    assert due_at is not None
    assert 700 <= due_at <= 750
    assert plans.due(due_at - 1) == []
    assert [plan.grant_id for plan in plans.due(due_at)] == ["g"]
    plans.accepted(_credential(1_000_000), "u", "b", now=due_at, now_ms=0)
    assert plans.due(1e9) == []  # the same token: its renewal is on
    plans.accepted(_credential(2_000_000), "u", "b", now=due_at, now_ms=0)
    plans.accepted(_credential(3_000_000), "u", "b", now=due_at, now_ms=0)
    assert [plan.expires_at_ms for plan in plans.due(1e9)] == [3_000_000]


@pytest.mark.parametrize("expires_at_ms", [None, 500, 1000])
def test_no_plan_for_a_token_without_end_or_past_it(expires_at_ms: int | None) -> None:
    plans = Plans(Random(1))
    plans.accepted(_credential(5_000_000), "u", "b", now=0.0, now_ms=0)
    plans.accepted(_credential(expires_at_ms), "u", "b", now=1.0, now_ms=1000)
    assert (len(plans), plans.due(1e9)) == (0, [])


def test_failed_renewals_end_with_the_token() -> None:
    plans, tries = Plans(Random(1)), 0
    plans.accepted(_credential(3_600_000), "u", "b", now=0.0, now_ms=0)
    while (at := plans.next_due()) is not None:
        for plan in plans.due(at):
            tries += 1
            plans.failed(plan, at, round(at * 1000))
    assert len(plans) == 0
    assert 5 < tries < 40


# ---------------------------------------------------------------- in the life of sessions


def _expiring(world: World, in_s: float, user: str = "u") -> None:
    ends = world.clock.now_ms() + round(in_s * 1000)
    world.credentials.put(user, credential(user, expires_at_ms=ends))
    world.broker.issued_for_s = in_s


@virtual
async def test_token_is_renewed_ahead_of_its_end_again_and_again() -> None:
    async with World() as world:
        _expiring(world, HOUR_S)
        await world.live()
        await asyncio.sleep(0.69 * HOUR_S)
        assert world.broker.refreshes == []
        await asyncio.sleep(0.07 * HOUR_S)
        assert world.broker.refreshes == ["u:token-1"]
        assert world.broker.logins[-1][1] == "u:token-1+"
        assert world.view().state == "live"
        await asyncio.sleep(10 * HOUR_S)
        assert 13 <= len(world.broker.refreshes) <= 16
        assert world.view().state == "live"
        assert world.service.metrics().refreshes == {"ok": len(world.broker.refreshes)}


@virtual
async def test_all_sessions_of_the_grant_log_in_again_after_one_renewal_and_others_stay() -> None:
    async with World() as world:
        _expiring(world, HOUR_S)
        for account_id in ACCOUNTS:
            await world.live(account_id=account_id)
        await world.live("v")
        world.broker.issued_for_s = None
        await asyncio.sleep(0.8 * HOUR_S)
        assert world.broker.refreshes == ["u:token-1"]
        assert {account.account_id for account in world.broker.live} == {*ACCOUNTS, "acc-v"}
        assert [token for _, token, _ in world.broker.logins[4:]] == ["u:token-1+"] * 3
        assert world.view("v").reconnects == 0


@virtual
async def test_failed_renewal_changes_nothing_while_the_token_lasts_and_is_tried_again() -> None:
    async with World() as world:
        _expiring(world, HOUR_S)
        await world.live()
        world.broker.refresh_result = fault(FaultKind.TRANSIENT, ReasonCode.BROKER_UNREACHABLE)
        await asyncio.sleep(0.9 * HOUR_S)
        assert len(world.broker.refreshes) >= 2
        assert (world.view().state, world.view().reconnects, world.view().attempts) == ("live", 0, 0)
        world.broker.refresh_result = None
        await asyncio.sleep(0.09 * HOUR_S)
        assert world.view().reconnects == 1
        assert world.broker.logins[-1][1] == "u:token-1+"


@virtual
async def test_withdrawn_consent_asks_the_user_at_once() -> None:
    async with World() as world:
        _expiring(world, HOUR_S)
        for account_id in ACCOUNTS:
            await world.live(account_id=account_id)
        world.broker.refresh_result = fault(FaultKind.FATAL_USER, ReasonCode.TOKEN_REVOKED)
        await asyncio.sleep(0.9 * HOUR_S)
        assert world.service.counts() == {"action_required": 3}
        assert len(world.broker.refreshes) == 1
        await asyncio.sleep(10 * HOUR_S)
        assert len(world.broker.refreshes) == 1


@virtual
async def test_token_that_cannot_be_renewed_here_is_used_to_its_end() -> None:
    async with World() as world:
        _expiring(world, HOUR_S)
        await world.live()
        world.broker.refresh_result = fault(FaultKind.FATAL_USER, ReasonCode.TOKEN_EXPIRED)
        await asyncio.sleep(0.95 * HOUR_S)
        assert (world.view().state, len(world.broker.refreshes)) == ("live", 1)
        world.broker.account("acc-u").lose(fault(FaultKind.TOKEN, ReasonCode.TOKEN_EXPIRED))
        await asyncio.sleep(10)
        assert world.view().state == "action_required"


@virtual
async def test_refusal_of_the_token_during_its_renewal_shares_the_one_refresh() -> None:
    async with World() as world:
        _expiring(world, HOUR_S)
        for account_id in ACCOUNTS:
            await world.live(account_id=account_id)
        while not world.broker.refreshes:
            await asyncio.sleep(0.25)
        world.broker.account("a2").lose(fault(FaultKind.TOKEN, ReasonCode.TOKEN_EXPIRED))
        await asyncio.sleep(5)
        assert len(world.broker.refreshes) == 1
        assert world.service.metrics().refreshes == {"ok": 1}
        assert {account.account_id for account in world.broker.live} == set(ACCOUNTS)


@virtual
async def test_renewal_that_became_due_during_a_refresh_is_not_done_twice() -> None:
    async with World() as world:
        _expiring(world, HOUR_S)
        for account_id in ACCOUNTS:
            await world.live(account_id=account_id)
        due = world.supervisor._refreshing.next_due()
        assert due is not None
        await asyncio.sleep(due - world.clock.monotonic() - 0.1)
        world.broker.account("a2").lose(fault(FaultKind.TOKEN, ReasonCode.TOKEN_EXPIRED))
        await asyncio.sleep(5)
        assert len(world.broker.refreshes) == 1
        assert {account.account_id for account in world.broker.live} == set(ACCOUNTS)


@virtual
async def test_nothing_is_renewed_for_sessions_that_do_not_run() -> None:
    async with World() as world:
        _expiring(world, HOUR_S)
        await world.live()
        await world.stop()
        await asyncio.sleep(2 * HOUR_S)
        assert world.broker.refreshes == []


@virtual
async def test_nothing_is_renewed_where_the_broker_cannot() -> None:
    async with World() as world:
        world.broker.capabilities = Capabilities(refresh=False)
        _expiring(world, HOUR_S)
        await world.live()
        await asyncio.sleep(0.9 * HOUR_S)
        assert world.broker.refreshes == []
        assert world.view().state == "live"


@virtual
async def test_tokens_of_no_life_make_no_loop() -> None:
    async with World() as world:
        _expiring(world, 0.5)
        await world.live()
        await asyncio.sleep(600)
        assert len(world.broker.refreshes) <= 600 / MIN_WAIT_S


@virtual
async def test_renewals_of_many_grants_share_the_lanes_slots() -> None:
    async with World(slots=2) as world:
        users = [f"user{number}" for number in range(12)]
        for user in users:
            _expiring(world, HOUR_S, user)
            await world.live(user)
        world.broker.issued_for_s = None
        await asyncio.sleep(HOUR_S)
        assert sorted(world.broker.refreshes) == sorted(f"{user}:token-1" for user in users)
        assert len(world.broker.live) == 12
