"""What every broker adapter promises (bridge/brokers/base.py), run over each adapter and its misbehaving world.

A second broker adds a rig and one row in `RIGS`.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager

import pytest

from bridge.brokers.base import BrokerFault, ChooseAccount, FaultKind, ReasonCode, Stage
from core.errors import InvalidInput
from core.valuation import needed_quotes
from tests.contract.rigs.ctrader import ctrader_rig
from tests.contract.rigs.rig import BrokerRig
from tests.contract.rigs.watched import WITHIN_S, Watched, reading
from tests.support.waiting import eventually

RIGS: dict[str, Callable[[], AbstractAsyncContextManager[BrokerRig]]] = {"ctrader": ctrader_rig}


@pytest.fixture(params=list(RIGS))
async def rig(request: pytest.FixtureRequest) -> AsyncIterator[BrokerRig]:
    async with RIGS[request.param]() as rig:
        yield rig
        assert rig.violations() == 0


def watch(rig: BrokerRig, user: int = 1, account: str | None = None) -> Watched:
    return Watched(rig, rig.credential(user), account or rig.account(user))


async def live(rig: BrokerRig, user: int = 1) -> Watched:
    watched = watch(rig, user)
    await watched.login()
    return watched


# ---------------------------------------------------------------- login


async def test_login_makes_the_mirror_true_when_the_account_holds_something(rig: BrokerRig) -> None:
    account = rig.account(1)
    for instrument in rig.instruments:
        rig.open(account, instrument)
    rig.place(account, rig.instruments[0])
    watched = watch(rig)
    assert watched.session.mirror is None
    assert watched.session.contact_monotonic is None
    await watched.login()
    await watched.true()
    assert watched.stages == [Stage.CONNECTING, Stage.AUTHORIZING, Stage.SYNCING]
    assert watched.session.account_id == account
    assert watched.session.contact_monotonic is not None
    assert watched.mirror.confirmed_at_ms is not None
    assert len(watched.mirror.positions) == len(rig.instruments)
    assert watched.faults == []


@pytest.mark.parametrize("user", [1, 2, 3])
async def test_accounts_are_valued_in_their_own_currency_when_chains_are_needed(rig: BrokerRig, user: int) -> None:
    for buy in (True, False):
        for instrument in rig.instruments:
            rig.open(rig.account(user), instrument, buy=buy)
    watched = await live(rig, user)
    await watched.true()
    for instrument in rig.instruments:
        rig.move(instrument)
    await watched.true()


async def test_only_account_is_taken_when_none_is_named(rig: BrokerRig) -> None:
    user = rig.user_with_one()
    watched = Watched(rig, rig.credential(user), None)
    await watched.login()
    assert watched.session.account_id == rig.account(user)
    await watched.true()


async def test_choice_is_asked_for_when_there_are_several_and_none_is_named(rig: BrokerRig) -> None:
    user = rig.user_with_several()
    watched = Watched(rig, rig.credential(user), None)
    with pytest.raises(ChooseAccount) as asked:
        await watched.login()
    assert asked.value.kind is FaultKind.FATAL_USER
    assert rig.account(user) in [account.account_id for account in asked.value.accounts]
    assert len(asked.value.accounts) > 1


async def test_wrong_environment_is_told_when_the_account_lives_elsewhere(rig: BrokerRig) -> None:
    watched = watch(rig, 1, rig.account_elsewhere(1))
    with pytest.raises(BrokerFault) as refused:
        await watched.login()
    assert (refused.value.kind, refused.value.reason.code) == (FaultKind.FATAL_USER, ReasonCode.WRONG_ENVIRONMENT)


async def test_account_list_covers_both_environments(rig: BrokerRig) -> None:
    listed = {one.account_id: one.environment for one in await rig.broker.accounts(rig.credential(1))}
    assert listed[rig.account(1)] is rig.environment
    assert listed[rig.account_elsewhere(1)] is not rig.environment


async def test_credential_is_refused_with_its_field_when_it_is_malformed(rig: BrokerRig) -> None:
    with pytest.raises(InvalidInput) as refused:
        rig.credential(1, surprise="x")
    assert refused.value.field == "surprise"


# ---------------------------------------------------------------- live changes


async def test_mirror_follows_when_the_account_changes(rig: BrokerRig) -> None:
    account = rig.account(2)
    watched = await live(rig, 2)
    first = rig.open(account, rig.instruments[0])
    await watched.true()
    second = rig.open(account, rig.instruments[1], buy=False)
    order = rig.place(account, rig.instruments[2])
    await watched.true()
    rig.protect(account, first)
    rig.deposit(account, 500)
    await watched.true()
    rig.move(rig.instruments[0])
    rig.move(rig.instruments[1])
    await watched.true()
    rig.cancel(account, order)
    rig.close(account, second)
    rig.close(account, first)
    await watched.true()
    assert watched.mirror.positions == {}
    assert watched.faults == []
    assert await watched.session.reconcile() == 0


async def test_change_is_told_once_until_it_is_read_and_urgent_ones_each_time(rig: BrokerRig) -> None:
    account = rig.account(1)
    rig.open(account, rig.instruments[0])
    watched = await live(rig)
    await watched.true()
    watched.mirror.clean()
    watched.changes = watched.urgent = 0
    for _ in range(3):
        rig.move(rig.instruments[0])
    await watched.true()
    assert watched.changes == 1
    watched.mirror.clean()
    rig.move(rig.instruments[0])
    await watched.true()
    assert watched.changes == 2
    rig.deposit(account, 1)
    rig.deposit(account, 1)
    await watched.true()
    assert watched.urgent >= 2


async def test_prices_stop_when_nothing_is_held_any_more(rig: BrokerRig) -> None:
    account = rig.account(1)
    position = rig.open(account, rig.instruments[0])
    watched = await live(rig)
    await watched.true()
    rig.close(account, position)
    await eventually(
        lambda: watched.mirror.quotes == {}, within_s=WITHIN_S, what="quotes of what is gone are forgotten"
    )


# ---------------------------------------------------------------- cut and repair


async def test_session_is_lost_and_true_again_when_the_connection_is_cut(rig: BrokerRig) -> None:
    account = rig.account(1)
    gone = rig.open(account, rig.instruments[0])
    kept = rig.open(account, rig.instruments[1])
    watched = await live(rig)
    await watched.true()
    rig.cut()
    fault = await watched.lost_once()
    assert fault.shared
    assert fault.kind is FaultKind.TRANSIENT
    assert watched.session.contact_monotonic is None
    assert list(watched.mirror.positions) == [gone, kept]  # the last known numbers stay
    rig.close(account, gone)
    rig.deposit(account, 7)
    new = rig.place(account, rig.instruments[2])
    await watched.come_back()
    await watched.true()
    assert list(watched.mirror.positions) == [kept]
    assert list(watched.mirror.orders) == [new]
    assert len(watched.faults) == 1


async def test_prices_from_before_a_cut_are_gone_when_nothing_needs_them_any_more(rig: BrokerRig) -> None:
    account = rig.account(1)
    rig.open(account, rig.instruments[0])
    gone = rig.open(account, rig.instruments[1])
    watched = await live(rig)
    await watched.true()
    rig.cut()
    await watched.lost_once()
    rig.close(account, gone)
    await watched.come_back()
    await watched.true()
    assert watched.mirror.quotes.keys() == needed_quotes(watched.mirror)


async def test_many_come_back_without_a_refusal_when_everything_is_cut(rig: BrokerRig) -> None:
    users = (1, 2, 3, 4)
    watched = [await live(rig, user) for user in users]
    for _ in range(3):
        rig.cut()
        await asyncio.gather(*(one.lost_once() for one in watched))
        await asyncio.gather(*(one.come_back() for one in watched))
        for one in watched:
            await one.true()
            one.faults.clear()
    assert rig.broker.health().state == "up"


async def test_dead_connection_is_noticed_when_the_peer_falls_silent(rig: BrokerRig) -> None:
    watched = await live(rig)
    async with rig.silence():
        async with asyncio.timeout(rig.detection_s):
            fault = await watched.lost_once()
        assert fault.reason.code in (ReasonCode.BROKER_SILENT, ReasonCode.CONNECTION_LOST)
    await watched.come_back()
    await watched.true()


async def test_quiet_connection_stays_when_the_peer_answers(rig: BrokerRig) -> None:
    watched = await live(rig)
    first = watched.session.contact_monotonic
    assert first is not None
    for _ in range(3):
        last = watched.session.contact_monotonic
        assert last is not None
        await eventually(
            lambda last=last: (watched.session.contact_monotonic or 0) > last,  # type: ignore[misc]
            within_s=rig.detection_s,
            what="something is heard",
        )
    assert watched.faults == []


async def test_nobody_dials_when_the_broker_said_when_to_come_back(rig: BrokerRig) -> None:
    watched = await live(rig)
    async with rig.maintenance(60):
        rig.cut()
        await watched.lost_once()

        async def refused() -> BrokerFault:
            try:
                await watched.login()
            except BrokerFault as fault:
                return fault
            raise AssertionError("the broker is under maintenance")

        async def told() -> bool:
            return (await refused()).kind is FaultKind.MAINTENANCE

        await eventually(told, within_s=WITHIN_S)
        dials = rig.dials()
        for _ in range(5):
            fault = await refused()
            assert fault.shared
            assert fault.retry_after_s is not None
            assert 50 < fault.retry_after_s <= 60
        assert rig.dials() == dials


async def test_only_that_account_is_lost_when_the_broker_ends_its_session(rig: BrokerRig) -> None:
    one, two = await live(rig, 1), await live(rig, 2)
    rig.end_account_session(rig.account(1))
    fault = await one.lost_once()
    assert fault.kind is FaultKind.ACCOUNT_AUTH_LOST
    await one.come_back()
    await one.true()
    assert two.faults == []
    assert rig.logins_of(rig.account(2)) == 1


async def test_login_leaves_nothing_when_it_is_cancelled(rig: BrokerRig) -> None:
    for turns in range(20):
        watched = watch(rig)
        task = asyncio.ensure_future(watched.login())
        for _ in range(turns % 7):
            await asyncio.sleep(0.001)  # lets the login get a different distance each time
        task.cancel()
        await asyncio.wait({task})
        await watched.session.logout()
        assert watched.session.contact_monotonic is None
    await eventually(lambda: rig.sessions_of(rig.account(1)) == 0, within_s=WITHIN_S)
    again = await live(rig)
    await again.true()


# ---------------------------------------------------------------- access


async def test_access_is_renewed_once_when_a_token_runs_out(rig: BrokerRig) -> None:
    watched = await live(rig)
    rig.expire(1)
    fault = await watched.lost_once()
    assert fault.kind is FaultKind.TOKEN
    await watched.refresh()
    await watched.come_back()
    await watched.true()
    assert rig.refreshes() == 1
    await asyncio.sleep(0.2)  # the window in which a wrong second loss would show
    assert len(watched.faults) == 1  # late words about the old token end nothing


async def test_live_sessions_survive_when_their_token_is_renewed_under_them(rig: BrokerRig) -> None:
    watched = await live(rig)
    await watched.refresh()
    await watched.come_back()
    await watched.true()
    assert rig.refreshes() == 1


async def test_refusal_is_final_when_consent_was_withdrawn(rig: BrokerRig) -> None:
    watched, other = await live(rig, 1), await live(rig, 2)
    rig.revoke(1)
    fault = await watched.lost_once()
    assert fault.kind is FaultKind.TOKEN
    with pytest.raises(BrokerFault) as refused:
        await watched.refresh()
    assert (refused.value.kind, refused.value.reason.code) == (FaultKind.FATAL_USER, ReasonCode.TOKEN_REVOKED)
    with pytest.raises(BrokerFault) as login:
        await watched.login()
    assert login.value.kind is FaultKind.TOKEN
    assert other.faults == []
    await other.true()


# ---------------------------------------------------------------- limits


async def test_login_is_told_to_wait_when_the_broker_throttles(rig: BrokerRig) -> None:
    watched = watch(rig)
    async with rig.throttle():
        with pytest.raises(BrokerFault) as refused:
            await watched.login()
    assert refused.value.kind is FaultKind.THROTTLE
    assert refused.value.retry_after_s is not None
    assert refused.value.retry_after_s >= 1.0
    await watched.come_back()
    await watched.true()


async def test_budget_is_kept_when_many_requests_are_made_at_once(rig: BrokerRig) -> None:
    watched = [await live(rig, user) for user in (1, 2, 3, 4)]
    rounds = [one.session.reconcile() for _ in range(150) for one in watched]
    assert await asyncio.gather(*rounds) == [0] * 600  # the rig checks that no limit was exceeded


async def test_maintenance_is_told_with_its_end_and_shared(rig: BrokerRig) -> None:
    watched = watch(rig)
    async with rig.maintenance(120):
        with pytest.raises(BrokerFault) as refused:
            await watched.login()
        with pytest.raises(BrokerFault) as again:
            await watched.login()
    for told in (refused.value, again.value):
        assert told.kind is FaultKind.MAINTENANCE
        assert told.shared
        assert told.retry_after_s is not None
        assert 100 < told.retry_after_s <= 120


# ---------------------------------------------------------------- what cannot be believed


async def test_account_repairs_itself_when_events_hold_unknown_values(rig: BrokerRig) -> None:
    account = rig.account(1)
    watched = await live(rig)
    async with rig.unknown_values(account):
        rig.open(account, rig.instruments[0])
        rig.place(account, rig.instruments[1])
        await watched.true()
    assert rig.metric("quarantined") > 0
    assert watched.faults == []


async def test_account_repairs_itself_when_values_are_absurd(rig: BrokerRig) -> None:
    account = rig.account(1)
    watched = await live(rig)
    for variant in rig.absurdities:
        async with rig.absurd_values(account, variant):
            position = rig.open(account, rig.instruments[0])
            await watched.true()
        rig.close(account, position)
        await watched.true()
    assert watched.faults == []


async def test_login_waits_for_a_sane_snapshot_when_the_first_is_absurd(rig: BrokerRig) -> None:
    account = rig.account(1)
    rig.open(account, rig.instruments[0])
    watched = watch(rig)
    async with rig.absurd_values(account, "huge_money"):
        with pytest.raises(BrokerFault) as refused:
            await watched.login()
    assert refused.value.kind is FaultKind.TRANSIENT
    assert watched.session.mirror is None
    await watched.come_back()
    await watched.true()


async def test_state_is_the_same_when_events_come_twice(rig: BrokerRig) -> None:
    account = rig.account(1)
    watched = await live(rig)
    async with rig.duplicate():
        position = rig.open(account, rig.instruments[0])
        order = rig.place(account, rig.instruments[1])
        rig.deposit(account, 5)
        await watched.true()
        rig.cancel(account, order)
        rig.close(account, position)
        await watched.true()
        rig.end_account_session(account)
        await watched.lost_once()
        await watched.come_back()  # old events are repeated after the login
        await watched.true()
        assert await watched.session.reconcile() == 0


async def test_state_converges_when_events_are_reordered(rig: BrokerRig) -> None:
    account = rig.account(1)
    watched = await live(rig)
    async with rig.reorder():
        for _ in range(5):
            position = rig.open(account, rig.instruments[0])
            order = rig.place(account, rig.instruments[1])
            rig.protect(account, position)
            rig.cancel(account, order)
            rig.close(account, position)
            rig.open(account, rig.instruments[2])
    await eventually(lambda: reconciled(watched), within_s=WITHIN_S)
    await watched.true()


async def reconciled(watched: Watched) -> bool:
    return await watched.session.reconcile() == 0


async def test_reconcile_repairs_and_counts_when_events_were_lost(rig: BrokerRig) -> None:
    account = rig.account(1)
    position = rig.open(account, rig.instruments[0])
    watched = await live(rig)
    await watched.true()
    async with rig.lose(account):
        rig.close(account, position)
        rig.open(account, rig.instruments[1])
        rig.deposit(account, 3)
    lost = await watched.session.reconcile()
    assert lost > 0
    assert rig.metric("lost") == lost
    await watched.true()
    assert await watched.session.reconcile() == 0


@pytest.mark.parametrize("variant", ["empty", "short"])
async def test_positions_stay_when_one_snapshot_is_broken(rig: BrokerRig, variant: str) -> None:
    account = rig.account(1)
    for instrument in rig.instruments:
        rig.open(account, instrument)
    watched = await live(rig)
    await watched.true()
    sizes: set[int] = set()
    watched.changed = lambda *, urgent: sizes.add(len(watched.mirror.positions))  # type: ignore[method-assign]
    watched.mirror.clean()
    async with rig.broken_snapshot(account, variant):
        assert await watched.session.reconcile() == 0
    assert sizes <= {len(rig.instruments)}
    await watched.true()


async def test_session_stays_when_a_reconcile_is_refused(rig: BrokerRig) -> None:
    account = rig.account(1)
    rig.open(account, rig.instruments[0])
    watched = await live(rig)
    async with rig.broken_snapshot(account, "error"):
        with pytest.raises(BrokerFault) as refused:
            await watched.session.reconcile()
    assert refused.value.kind is FaultKind.TRANSIENT
    assert watched.faults == []
    await watched.true()


async def test_empty_snapshot_is_asked_again_when_an_account_comes_back(rig: BrokerRig) -> None:
    account = rig.account(1)
    rig.open(account, rig.instruments[0])
    watched = await live(rig)
    await watched.true()
    async with rig.broken_snapshot(account, "empty"):
        rig.cut()
        await watched.lost_once()
        await watched.come_back()
        assert len(watched.mirror.positions) == 1
    await watched.true()


async def test_trade_is_kept_when_it_happens_while_the_snapshot_is_on_its_way(rig: BrokerRig) -> None:
    account = rig.account(1)
    watched = watch(rig)
    async with rig.late_snapshot(account):
        await watched.login()
    await eventually(lambda: len(rig.truth(account)["positions"]) == 1, within_s=WITHIN_S)
    await watched.true()
    async with rig.late_snapshot(account):
        assert await watched.session.reconcile() >= 0
    await watched.true()
    assert len(watched.mirror.positions) == 2


async def test_events_count_at_once_when_a_reconcile_is_under_way(rig: BrokerRig) -> None:
    account = rig.account(1)
    watched = await live(rig)
    async with rig.late_snapshot(account):
        reconciling = asyncio.ensure_future(watched.session.reconcile())
        await eventually(lambda: len(watched.mirror.positions) == 1, within_s=WITHIN_S, every_s=0.001)
        assert not reconciling.done()
        assert await reconciling == 0
    await watched.true()


async def test_nothing_changes_when_unknown_messages_or_garbage_come(rig: BrokerRig) -> None:
    account = rig.account(1)
    rig.open(account, rig.instruments[0])
    watched = await live(rig)
    await watched.true()
    before = reading(watched.mirror)
    rig.unknown_messages()
    rig.garbage()
    await eventually(lambda: rig.metric("unknown") >= 3, within_s=WITHIN_S)
    await eventually(lambda: rig.metric("garbage") >= 1, within_s=WITHIN_S)
    assert reading(watched.mirror) == before
    rig.open(account, rig.instruments[1])
    await watched.true()
    assert watched.faults == []


# ---------------------------------------------------------------- whose account


async def test_foreign_events_touch_nobody_when_they_arrive(rig: BrokerRig) -> None:
    one, two = await live(rig, 1), await live(rig, 2)
    before = reading(one.mirror), reading(two.mirror)
    rig.foreign(rig.account(1))
    await eventually(lambda: rig.metric("foreign") >= 1, within_s=WITHIN_S)
    assert (reading(one.mirror), reading(two.mirror)) == before


async def test_nobody_is_served_an_account_that_the_own_token_does_not_list(rig: BrokerRig) -> None:
    owner = await live(rig, 1)
    async with rig.already_logged_in():
        thief = watch(rig, 2, rig.account(1))
        with pytest.raises(BrokerFault) as refused:
            await thief.login()
        assert refused.value.reason.code is ReasonCode.ACCOUNT_NOT_COVERED
        assert refused.value.kind is FaultKind.FATAL_USER
        assert thief.session.mirror is None
        assert thief.session.contact_monotonic is None
        rig.cut()
        await owner.lost_once()
        with pytest.raises(BrokerFault) as refused:
            await thief.come_back()
        assert refused.value.reason.code is ReasonCode.ACCOUNT_NOT_COVERED
        await owner.come_back()  # "already logged in" is success for the owner
    rig.deposit(rig.account(1), 9)
    await owner.true()
    assert thief.changes == 0


# ---------------------------------------------------------------- shared accounts


async def test_sessions_share_one_authorisation_and_mirror_when_they_are_on_one_account(rig: BrokerRig) -> None:
    account = rig.account(1)
    watched = [watch(rig) for _ in range(3)]
    await asyncio.gather(*(one.login() for one in watched))
    assert rig.logins_of(account) == 1
    assert len({id(one.mirror) for one in watched}) == 1
    for one in watched:
        one.mirror.clean()
        one.changes = 0
    rig.deposit(account, 5)
    await watched[0].true()
    assert all(one.changes >= 1 for one in watched)
    rig.cut()
    await asyncio.gather(*(one.lost_once() for one in watched))
    await asyncio.gather(*(one.come_back() for one in watched))
    assert rig.logins_of(account) == 2
    await watched[2].true()


async def test_broker_is_logged_out_only_when_the_last_session_ends(rig: BrokerRig) -> None:
    account = rig.account(1)
    one, two = await live(rig), await live(rig)
    await one.session.logout()
    assert one.session.contact_monotonic is None
    assert rig.sessions_of(account) == 1
    rig.deposit(account, 5)
    await two.true()
    await two.session.logout()
    assert rig.sessions_of(account) == 0
    assert one.faults == two.faults == []
    again = await live(rig)
    await again.true()
    assert rig.logins_of(account) == 2


async def test_session_is_told_once_when_it_stays_away_while_another_comes_back(rig: BrokerRig) -> None:
    one, two = await live(rig), await live(rig)
    rig.end_account_session(rig.account(1))
    await one.lost_once()
    await two.lost_once()
    await one.come_back()
    rig.deposit(rig.account(1), 5)
    await one.true()
    assert two.session.contact_monotonic is None
    rig.expire(1)
    await eventually(lambda: len(one.faults) == 2, within_s=WITHIN_S)
    assert len(two.faults) == 1


async def test_logout_never_raises_when_the_connection_is_gone(rig: BrokerRig) -> None:
    watched = await live(rig)
    rig.cut()
    await watched.session.logout()
    await watched.session.logout()
    never = watch(rig, 2)
    await never.session.logout()


async def test_health_says_what_is_up(rig: BrokerRig) -> None:
    assert rig.broker.health().state == "idle"
    watched = await live(rig)
    health = rig.broker.health()
    assert (health.state, health.channels) == ("up", 1)
    assert health.last_inbound_at is not None
    assert rig.broker.login_slots(rig.environment) >= 1
    assert rig.broker.reconcile_interval_s(rig.environment) >= 60
    await watched.session.logout()
