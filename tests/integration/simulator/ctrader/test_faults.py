"""Every fault of the catalogue does what its title says."""

import asyncio
import math
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any

import pytest

from bridge.simulator.ctrader import Simulator, SimulatorSettings
from core.orders import Side
from protos.ctrader import common_messages_pb2 as common
from protos.ctrader import messages_pb2 as m
from protos.ctrader import model_pb2 as o
from tests.support.simulator_probe import Probe, probe
from tests.support.waiting import eventually

USER_1, USER_2 = 1_000_011, 1_000_021


@pytest.fixture
async def sim() -> AsyncIterator[Simulator]:
    async with Simulator(SimulatorSettings(users=2, prices="frozen", ctrader_tls_port=None)) as running:
        yield running


@pytest.fixture
async def talk(sim: Simulator) -> AsyncIterator[Probe]:
    async with probe(sim.ports.ctrader) as talking:
        await talking.login(USER_1, 1)
        await talking.login(USER_2, 2)
        yield talking


def trader(account_id: int = USER_1) -> m.ProtoOATraderReq:
    return m.ProtoOATraderReq(ctidTraderAccountId=account_id)


def reconcile() -> m.ProtoOAReconcileReq:
    return m.ProtoOAReconcileReq(ctidTraderAccountId=USER_1)


def auth(account_id: int = USER_1, user: int = 1) -> m.ProtoOAAccountAuthReq:
    return m.ProtoOAAccountAuthReq(ctidTraderAccountId=account_id, accessToken=f"sim-access-{user}")


def trade(sim: Simulator, account_id: int = USER_1) -> None:
    sim.actions.order(account_id, symbol="EURUSD", side=Side.BUY, units=Decimal(1000))


def kinds(talk: Probe) -> list[int]:
    return [each.executionType for each in talk.events if isinstance(each, m.ProtoOAExecutionEvent)]


@pytest.mark.parametrize(("fault", "code"), [("N01", 1006), ("N02", 1001), ("N40", 1006)])
async def test_connections_end_when_they_are_cut(sim: Simulator, talk: Probe, fault: str, code: int) -> None:
    sim.actions.fault(fault)
    async with asyncio.timeout(5):
        await talk.closed.wait()
    assert (talk.socket.close_code or 1006) == code
    assert sim.services.hub.listeners(USER_1) == {}
    async with probe(sim.ports.ctrader) as again:
        await again.login(USER_1, 1)


async def test_only_connections_of_the_named_accounts_are_cut_when_accounts_are_named(
    sim: Simulator, talk: Probe
) -> None:
    async with probe(sim.ports.ctrader) as other:
        sim.actions.fault("N01", accounts=[USER_2])
        await talk.closed.wait()
        await other.pulse()


async def test_the_peer_is_silent_and_deaf_when_half_open(sim: Simulator, talk: Probe) -> None:
    number = sim.actions.fault("N03")
    before = dict(sim.counters.requests)
    with pytest.raises(TimeoutError):
        await talk.ask(trader(), within_s=0.2)
    assert dict(sim.counters.requests) == before
    sim.actions.clear_faults(number)
    await talk.expect(m.ProtoOATraderRes, trader())


async def test_requests_are_carried_out_unheard_when_loss_is_one_way(sim: Simulator, talk: Probe) -> None:
    sim.actions.fault("N04", durationSeconds=30)
    order = m.ProtoOANewOrderReq(
        ctidTraderAccountId=USER_1, symbolId=1, orderType=o.MARKET, tradeSide=o.BUY, volume=100_000
    )
    with pytest.raises(TimeoutError):
        await talk.ask(order, within_s=0.2)
    assert len(sim.actions.truth(USER_1)["positions"]) == 1


async def test_bytes_trickle_when_the_server_is_slow(sim: Simulator, talk: Probe) -> None:
    number = sim.actions.fault("N11", bytesPerSecond=200)
    with pytest.raises(TimeoutError):
        await talk.ask(trader(), within_s=0.3)
    sim.actions.clear_faults(number)
    await talk.pulse()


async def test_half_a_frame_then_the_end_comes_when_truncated(sim: Simulator, talk: Probe) -> None:
    sim.actions.fault("N12", message="ProtoOATraderRes")
    with pytest.raises(TimeoutError):
        await talk.ask(trader(), within_s=0.5)
    await talk.closed.wait()
    assert not any(isinstance(message, m.ProtoOATraderRes) for _, message in talk.everything)


@pytest.mark.parametrize("variant", ["announced", "real", "compressed"])
async def test_the_client_gives_up_when_a_frame_is_oversized(sim: Simulator, talk: Probe, variant: str) -> None:
    sim.actions.fault("N13", variant=variant, megabytes=40)
    async with asyncio.timeout(10):
        await talk.closed.wait()
    sent = talk.socket.protocol.close_sent
    assert sent is not None
    assert sent.code == (1002 if variant == "compressed" else 1009)


async def test_random_bytes_arrive_and_the_session_lives_when_garbage_is_sent(sim: Simulator, talk: Probe) -> None:
    sim.actions.fault("N14", count=20)
    await talk.pulse()
    assert len(talk.garbage) + len(talk.unknown) + len(talk.events) == 20


async def test_messages_are_damaged_when_mutated(sim: Simulator, talk: Probe) -> None:
    sim.actions.fault("N14", mode="mutated", count=5)
    for _ in range(5):
        await talk.send(trader(), "t")
    await talk.pulse()
    assert sim.counters.faults["Garbage"] == 5


@pytest.mark.parametrize("variant", ["unknown", "missing"])
async def test_execution_events_lack_a_known_type_when_the_enum_is_unknown(
    sim: Simulator, talk: Probe, variant: str
) -> None:
    sim.actions.fault("N15", variant=variant, count=2)
    trade(sim)
    await talk.pulse()
    assert len(talk.garbage) == 2
    envelope = common.ProtoMessage.FromString(talk.garbage[0])
    event = m.ProtoOAExecutionEvent()
    event.ParseFromString(envelope.payload)
    assert not event.IsInitialized()


async def test_unknown_things_are_sent_when_asked(sim: Simulator, talk: Probe) -> None:
    sim.actions.fault("N16", count=3)
    sim.actions.fault("N16", variant="fields", count=1)
    answer = await talk.expect(m.ProtoOATraderRes, trader())
    await talk.pulse()
    assert [each.payloadType for each in talk.unknown] == [9999] * 3
    assert b"hello" in answer.SerializeToString()


@pytest.mark.parametrize("variant", ["nan_price", "inf_price", "negative_volume", "year_1970", "year_2100"])
async def test_values_are_absurd_when_asked(sim: Simulator, talk: Probe, variant: str) -> None:
    trade(sim)
    sim.actions.fault("N17", variant=variant)
    broken = (await talk.expect(m.ProtoOAReconcileRes, reconcile())).position[0]
    sound = (await talk.expect(m.ProtoOAReconcileRes, reconcile())).position[0]
    absurd = {
        "nan_price": math.isnan(broken.price),
        "inf_price": math.isinf(broken.price),
        "negative_volume": broken.tradeData.volume < 0,
        "year_1970": broken.utcLastUpdateTimestamp == 1,
        "year_2100": broken.utcLastUpdateTimestamp > 4 * 10**12,
    }
    assert absurd[variant]
    assert (sound.price, sound.tradeData.volume) == (1.08452, 100_000)


async def test_events_of_strangers_arrive_when_accounts_are_foreign(sim: Simulator, talk: Probe) -> None:
    sim.actions.fault("N18")
    cash = await talk.event(m.ProtoOAExecutionEvent)
    assert cash.ctidTraderAccountId not in (USER_1, USER_2)


async def test_events_come_twice_and_again_after_auth_when_duplicated(sim: Simulator, talk: Probe) -> None:
    sim.actions.fault("N19", afterAuth=True)
    trade(sim)
    await talk.pulse()
    assert kinds(talk) == [o.ORDER_ACCEPTED, o.ORDER_ACCEPTED, o.ORDER_FILLED, o.ORDER_FILLED]
    async with probe(sim.ports.ctrader) as again:
        await again.login(USER_1, 1)
        await again.pulse()
        assert kinds(again) == [o.ORDER_ACCEPTED, o.ORDER_FILLED]


async def test_events_come_in_another_order_when_shuffled(sim: Simulator, talk: Probe) -> None:
    sim.actions.fault("N20", window=8, waitSeconds=0.05)
    for _ in range(5):
        trade(sim)
    await eventually(lambda: len(kinds(talk)) == 10, within_s=5)
    in_order = [o.ORDER_ACCEPTED, o.ORDER_FILLED] * 5
    assert sorted(kinds(talk)) == sorted(in_order)
    assert kinds(talk) != in_order


async def test_events_are_lost_or_late_when_asked(sim: Simulator, talk: Probe) -> None:
    number = sim.actions.fault("N21", every=2)
    trade(sim)
    await talk.pulse()
    assert kinds(talk) == [o.ORDER_ACCEPTED]
    sim.actions.clear_faults(number)
    sim.actions.fault("N21", delaySeconds=0.1)
    trade(sim)
    await talk.pulse()
    assert len(kinds(talk)) == 1
    await eventually(lambda: len(kinds(talk)) == 3, within_s=5)


async def test_a_trade_overtakes_the_snapshot_when_it_is_late(sim: Simulator, talk: Probe) -> None:
    sim.actions.fault("N22", delaySeconds=0.1)
    snapshot = await talk.expect(m.ProtoOAReconcileRes, reconcile())
    assert len(snapshot.position) == 0
    assert kinds(talk) == [o.ORDER_ACCEPTED, o.ORDER_FILLED], "announced before the old snapshot arrived"
    assert len(sim.actions.truth(USER_1)["positions"]) == 1


async def test_the_snapshot_is_wrong_once_when_broken(sim: Simulator, talk: Probe) -> None:
    for _ in range(4):
        trade(sim)
    sizes = []
    for variant in ("empty", "short"):
        sim.actions.fault("N23", variant=variant)
        sizes.append(len((await talk.expect(m.ProtoOAReconcileRes, reconcile())).position))
    sim.actions.fault("N23", variant="error")
    assert (await talk.error(reconcile()))[0] == "UNKNOWN_ERROR"
    assert sizes == [0, 2]
    assert len((await talk.expect(m.ProtoOAReconcileRes, reconcile())).position) == 4


async def test_history_pages_are_short_when_asked(sim: Simulator, talk: Probe) -> None:
    trade(sim)
    trade(sim)
    sim.actions.fault("N24")
    deals = await talk.expect(m.ProtoOADealListRes, m.ProtoOADealListReq(ctidTraderAccountId=USER_1))
    assert (len(deals.deal), deals.hasMore) == (1, True)


async def test_heartbeats_are_echoed_when_asked(sim: Simulator, talk: Probe) -> None:
    sim.actions.fault("N26", variant="echo")
    await talk.send(common.ProtoHeartbeatEvent())
    await talk.event(common.ProtoHeartbeatEvent)


async def test_heartbeats_stay_away_when_muted() -> None:
    settings = SimulatorSettings(users=1, prices="frozen", heartbeat_s=0.05, ctrader_tls_port=None)
    async with Simulator(settings) as sim, probe(sim.ports.ctrader) as talk:
        await talk.event(common.ProtoHeartbeatEvent)
        sim.actions.fault("N26", variant="mute")
        await talk.pulse()
        talk.events.clear()
        await eventually(lambda: sim.counters.faults["HeartbeatOdd"] >= 3, within_s=5)
        await talk.pulse()
        assert talk.events == []


@pytest.mark.parametrize("variant", ["seconds", "milliseconds", "past", "absent", "far"])
async def test_maintenance_is_announced_in_its_unit_when_on(sim: Simulator, talk: Probe, variant: str) -> None:
    number = sim.actions.fault("N27", variant=variant, endsInSeconds=60)
    now_s = sim.services.clock.now_ms() / 1000
    answer = await talk.ask(trader())
    end = answer.maintenanceEndTimestamp
    expected = {
        "seconds": isinstance(answer, m.ProtoOAErrorRes) and 55 < end - now_s < 65,
        "milliseconds": isinstance(answer, common.ProtoErrorRes) and 55 < end / 1000 - now_s < 65,
        "past": 0 < end < now_s,
        "absent": not answer.HasField("maintenanceEndTimestamp"),
        "far": end > now_s + 9 * 365 * 86_400,
    }
    assert answer.errorCode == "SERVER_IS_UNDER_MAINTENANCE"
    assert expected[variant]
    sim.actions.clear_faults(number)
    await talk.expect(m.ProtoOATraderRes, trader())


async def test_requests_are_never_answered_when_maintenance_hangs(sim: Simulator, talk: Probe) -> None:
    sim.actions.fault("N27", variant="hang", scope="auth")
    with pytest.raises(TimeoutError):
        await talk.ask(auth(1_000_022, 2), within_s=0.2)
    await talk.expect(m.ProtoOATraderRes, trader())


async def test_chosen_requests_are_rate_limited_when_asked(sim: Simulator, talk: Probe) -> None:
    sim.actions.fault("N28", count=1, requests=["ProtoOATraderReq"])
    sim.actions.fault("N28", count=1, retryAfter=3, requests=["ProtoOAReconcileReq"])
    assert (await talk.error(trader()))[0] == "REQUEST_FREQUENCY_EXCEEDED"
    blocked = await talk.ask(reconcile())
    assert (blocked.errorCode, blocked.retryAfter) == ("BLOCKED_PAYLOAD_TYPE", 3)
    await talk.expect(m.ProtoOATraderRes, trader())


async def test_an_order_is_executed_and_refused_when_limited_afterwards(sim: Simulator, talk: Probe) -> None:
    sim.actions.fault("N29")
    order = m.ProtoOANewOrderReq(
        ctidTraderAccountId=USER_1, symbolId=1, orderType=o.MARKET, tradeSide=o.BUY, volume=100_000
    )
    answer = await talk.ask(order)
    assert isinstance(answer, m.ProtoOAErrorRes)
    assert answer.errorCode == "BLOCKED_PAYLOAD_TYPE"
    assert kinds(talk) == [o.ORDER_ACCEPTED, o.ORDER_FILLED]
    assert len(sim.actions.truth(USER_1)["positions"]) == 1


async def test_tokens_are_invalidated_for_the_named_accounts_when_asked(sim: Simulator, talk: Probe) -> None:
    sim.actions.fault("N30", accounts=[USER_1])
    event = await talk.event(m.ProtoOAAccountsTokenInvalidatedEvent)
    assert list(event.ctidTraderAccountIds) == [USER_1]
    assert (await talk.error(trader()))[1] == "Trading account is not authorized"
    assert (await talk.error(auth()))[0] == "CH_ACCESS_TOKEN_INVALID"
    await talk.expect(m.ProtoOATraderRes, trader(USER_2))
    await talk.expect(m.ProtoOARefreshTokenRes, m.ProtoOARefreshTokenReq(refreshToken="sim-refresh-1"))


async def test_the_refresh_is_refused_for_the_named_users_when_asked(sim: Simulator, talk: Probe) -> None:
    sim.actions.fault("N31", users=[1])
    await talk.event(m.ProtoOAAccountsTokenInvalidatedEvent)
    refused = await talk.error(m.ProtoOARefreshTokenReq(refreshToken="sim-refresh-1"))
    assert refused[0] == "CH_ACCESS_TOKEN_INVALID"
    await talk.expect(m.ProtoOARefreshTokenRes, m.ProtoOARefreshTokenReq(refreshToken="sim-refresh-2"))


async def test_one_account_session_ends_when_disconnected(sim: Simulator, talk: Probe) -> None:
    sim.actions.fault("N33", accounts=[USER_2])
    assert (await talk.event(m.ProtoOAAccountDisconnectEvent)).ctidTraderAccountId == USER_2
    await talk.expect(m.ProtoOATraderRes, trader())
    await talk.login(USER_2, 2)


async def test_the_application_is_thrown_out_when_blocked(sim: Simulator, talk: Probe) -> None:
    sim.actions.fault("N34")
    event = await talk.event(m.ProtoOAClientDisconnectEvent)
    await talk.closed.wait()
    assert event.reason == "Access blocked by administrator"


async def test_a_first_auth_is_answered_already_logged_in_when_asked(sim: Simulator) -> None:
    sim.actions.fault("N35", count=1)
    async with probe(sim.ports.ctrader) as talk:
        assert (await talk.error(auth()))[0] == "ALREADY_LOGGED_IN"
        await talk.expect(m.ProtoOATraderRes, trader())


async def test_authorisation_is_lost_in_silence_when_asked(sim: Simulator, talk: Probe) -> None:
    sim.actions.fault("N36", accounts=[USER_1])
    assert await talk.error(trader()) == ("INVALID_REQUEST", "Trading account is not authorized")
    assert talk.events == []
    await talk.login(USER_1, 1)


async def test_slots_stay_taken_when_the_connection_limit_holds_them(sim: Simulator, talk: Probe) -> None:
    sim.actions.fault("N37", limit=1, holdSeconds=60)
    app_auth = m.ProtoOAApplicationAuthReq(clientId="sim-client", clientSecret="sim-secret")
    async with probe(sim.ports.ctrader, app_auth=False) as second:
        assert (await second.error(app_auth))[0] == "CONNECTIONS_LIMIT_EXCEEDED"
    await talk.close()
    await eventually(lambda: not sim.services.hub.connections, within_s=5)
    async with probe(sim.ports.ctrader, app_auth=False) as third:
        assert (await third.error(app_auth))[0] == "CONNECTIONS_LIMIT_EXCEEDED"
    sim.actions.clear_faults()
    async with probe(sim.ports.ctrader) as fourth:
        await fourth.pulse()


async def test_connections_drop_again_and_again_when_flapping(sim: Simulator, talk: Probe) -> None:
    sim.actions.fault("N41", upSeconds=0.05)
    await talk.closed.wait()
    async with probe(sim.ports.ctrader, app_auth=False) as again:
        await again.closed.wait()
    assert sim.counters.faults["Flapping"] == 2


async def test_auth_is_late_for_the_named_account_only_when_slow(sim: Simulator) -> None:
    sim.actions.fault("N42", accounts=[USER_1], delaySeconds=1.0)
    async with probe(sim.ports.ctrader) as talk:
        await talk.send(auth(), "slow")
        await talk.login(USER_2, 2)
        assert [type(each) for each in talk.events] == []
        await talk.event(m.ProtoOAAccountAuthRes)


async def test_orders_are_refused_with_the_chosen_code_when_asked(sim: Simulator, talk: Probe) -> None:
    sim.actions.fault("ORDER_REJECTED", code="MARKET_CLOSED", count=1)
    order = m.ProtoOANewOrderReq(
        ctidTraderAccountId=USER_1, symbolId=1, orderType=o.MARKET, tradeSide=o.BUY, volume=100_000
    )
    assert (await talk.error(order))[0] == "MARKET_CLOSED"
    await talk.expect(m.ProtoOAExecutionEvent, order)


@pytest.mark.parametrize(("executed", "positions"), [(True, 1), (False, 0)])
async def test_the_connection_drops_between_order_and_answer_when_asked(
    sim: Simulator, talk: Probe, executed: bool, positions: int
) -> None:
    sim.actions.fault("DROP_AFTER_REQUEST", executed=executed)
    order = m.ProtoOANewOrderReq(
        ctidTraderAccountId=USER_1, symbolId=1, orderType=o.MARKET, tradeSide=o.BUY, volume=100_000
    )
    await talk.send(order, "lost")
    await talk.closed.wait()
    assert kinds(talk) == []
    assert len(sim.actions.truth(USER_1)["positions"]) == positions


async def test_a_fault_ends_by_itself_when_its_time_is_over(sim: Simulator, talk: Probe) -> None:
    sim.actions.fault("N28", durationSeconds=0.05)
    assert (await talk.error(trader()))[0] == "REQUEST_FREQUENCY_EXCEEDED"
    await eventually(lambda: sim.actions.active_faults() == [], within_s=5)
    await talk.expect(m.ProtoOATraderRes, trader())


async def test_chance_spares_some_when_probability_is_below_one(sim: Simulator, talk: Probe) -> None:
    sim.actions.fault("N28", probability=0.5)
    answers: list[Any] = [await talk.ask(trader()) for _ in range(30)]
    refused = sum(isinstance(each, m.ProtoOAErrorRes) for each in answers)
    assert 5 < refused < 25
