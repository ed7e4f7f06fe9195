"""A thousand sessions cut at once come back in the order of risk, within the slots, by the queue alone."""

import asyncio

import pytest

from bridge.brokers.base import FaultKind, ReasonCode
from tests.support.fake_broker import fault
from tests.unit.sessions.world import World, settle, stranded

pytestmark = pytest.mark.looptime

SESSIONS, SLOTS, LOGIN_S = 1000, 20, 0.5


async def _a_thousand_live(world: World) -> None:
    """Every third one holds a position."""
    world.broker.slots, world.broker.login_s = SLOTS, LOGIN_S
    for number in range(SESSIONS):
        if number % 3 == 0:
            world.broker.hold_position(f"acc-user{number}")
        await world.start(f"user{number}")
    assert world.service.metrics().waiting == {("fake", "demo"): SESSIONS - SLOTS}
    await asyncio.sleep(SESSIONS / SLOTS * LOGIN_S + 1)
    assert world.service.counts() == {"live": SESSIONS}
    world.broker.logins.clear()


async def test_sessions_at_risk_come_back_first_when_a_channel_is_cut(world: World) -> None:
    await _a_thousand_live(world)
    broker = world.broker
    cut = fault(code=ReasonCode.CONNECTION_LOST, retry_after_s=1.0, shared=True)
    for account in list(broker.live):
        account.lose(cut)
    await asyncio.sleep(0)
    await settle()
    assert world.service.counts() == {"stale": SESSIONS}
    assert stranded(world.supervisor) == []
    started = world.clock.monotonic()
    await asyncio.sleep(1 + SESSIONS / SLOTS * LOGIN_S + 0.01)
    assert world.service.counts() == {"live": SESSIONS}  # no more than the slots allow, and no less
    assert world.clock.monotonic() - started < 27
    assert broker.most_logging_in == SLOTS
    at_risk = [risk for _, _, risk in broker.logins]
    assert at_risk == [True] * 334 + [False] * 666
    assert len({account for account, _, _ in broker.logins}) == SESSIONS
    assert dict(world.service.metrics().reconnects) == {"connection_lost": SESSIONS}


async def test_risk_decides_the_order_when_the_news_of_a_cut_reaches_calm_accounts_first(world: World) -> None:
    await _a_thousand_live(world)
    cut = fault(code=ReasonCode.CONNECTION_LOST, retry_after_s=0.2, shared=True)
    calm_first = sorted(world.broker.live, key=lambda account: account.mirror is not None and account.mirror.at_risk)
    for place, account in enumerate(calm_first):
        account.lose(cut)
        if place % 100 == 0:
            await asyncio.sleep(0.01)  # telling a thousand takes a while
    await asyncio.sleep(0.2 + SESSIONS / SLOTS * LOGIN_S + 1)
    at_risk = [risk for _, _, risk in world.broker.logins]
    assert at_risk == [True] * 334 + [False] * 666


async def test_all_channels_are_busy_at_once_when_the_cut_is_told_channel_by_channel(world: World) -> None:
    """Sessions are spread over channels in the order in which they came to be; each channel has a budget of its own."""
    await _a_thousand_live(world)
    cut = {channel: fault(code=ReasonCode.CONNECTION_LOST, retry_after_s=0.2, shared=True) for channel in range(4)}
    of_channel = {account: int(account.account_id.removeprefix("acc-user")) % 4 for account in world.broker.live}
    for channel in range(4):
        for account in [each for each in list(world.broker.live) if of_channel[each] == channel]:
            account.lose(cut[channel])
        await asyncio.sleep(0.01)  # telling them takes a while
    await asyncio.sleep(0.2 + SESSIONS / SLOTS * LOGIN_S + 1)
    order = [int(account.removeprefix("acc-user")) % 4 for account, _, _ in world.broker.logins]
    assert len(order) == SESSIONS
    for begin in range(5 * SLOTS, SESSIONS, SLOTS):  # the first slots were all taken before the second channel was told
        assert len(set(order[begin : begin + SLOTS])) == 4, (
            f"only channels {set(order[begin : begin + SLOTS])} at {begin}"
        )


async def test_second_cut_in_the_middle_of_the_storm_loses_nobody(world: World) -> None:
    await _a_thousand_live(world)
    for account in list(world.broker.live):
        account.lose(fault(retry_after_s=1.0, shared=True))
    await asyncio.sleep(10)
    assert 300 < len(world.broker.live) < 400
    for account in list(world.broker.live):
        account.lose(fault(retry_after_s=1.0, shared=True))
    await settle()
    assert stranded(world.supervisor) == []
    await asyncio.sleep(2 + SESSIONS / SLOTS * LOGIN_S + 1)
    assert world.service.counts() == {"live": SESSIONS}


async def test_place_in_the_queue_is_explained_when_a_thousand_wait(world: World) -> None:
    await _a_thousand_live(world)
    world.broker.slots = 0
    for account in sorted(
        world.broker.live, key=lambda account: int((account.account_id or "").removeprefix("acc-user"))
    ):
        account.lose(fault(FaultKind.ACCOUNT_AUTH_LOST, ReasonCode.ACCOUNT_SESSION_ENDED))
    await settle()
    places = {}
    for number in (0, 1, 999):
        (explanation,) = await world.service.explain(world.view(f"user{number}").user_key)
        assert explanation.queue_length == SESSIONS
        assert explanation.awaits == "admission"
        assert f"place {explanation.queue_position} of 1000" in explanation.what_next
        places[number] = explanation.queue_position
    assert places == {0: 1, 1: 335, 999: 334}


async def test_new_slots_are_used_when_the_adapter_has_more_without_telling(world: World) -> None:
    world.broker.slots = 0
    await world.start()
    await asyncio.sleep(100)
    world.broker.slots = 1
    assert (await world.service.wait(world.view(), 2)).state == "live"


async def test_mass_cut_marks_every_record_at_once(world: World) -> None:
    await _a_thousand_live(world)
    for account in list(world.broker.live):
        account.lose(fault(retry_after_s=60, shared=True))
    await settle()
    assert all(readings[-1].status == "stale" for readings in world.recorder.written.values())
    assert len(world.recorder.written) == SESSIONS


async def test_stopping_all_in_the_storm_ends_it(world: World) -> None:
    await _a_thousand_live(world)
    for account in list(world.broker.live):
        account.lose(fault(FaultKind.ACCOUNT_AUTH_LOST))
    await asyncio.sleep(3)
    for number in range(SESSIONS):
        await world.stop(f"user{number}")
    await asyncio.sleep(5)
    assert world.tasks == 0
    assert world.broker.live == []
    assert world.service.counts() == {"stopped": SESSIONS}
