"""Orders at the simulated broker: event sequences, refusals, second clients, currencies and account types."""

from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any

import pytest

from bridge.runtime.clock import ManualClock
from bridge.simulator.ctrader import Simulator, SimulatorSettings
from core.orders import Side
from core.paper_trader import Access, Level
from protos.ctrader import messages_pb2 as m
from protos.ctrader import model_pb2 as o
from tests.support.simulator_probe import Probe, probe

USD, EUR, JPY_NETTED, JPY = 1_000_011, 1_000_021, 1_000_022, 1_000_031
EURUSD = 1


@pytest.fixture
async def sim() -> AsyncIterator[Simulator]:
    async with Simulator(SimulatorSettings(users=3, prices="frozen", ctrader_tls_port=None)) as running:
        yield running


@pytest.fixture
async def talk(sim: Simulator) -> AsyncIterator[Probe]:
    async with probe(sim.ports.ctrader) as talking:
        await talking.login(USD, 1)
        yield talking


def order(**fields: Any) -> m.ProtoOANewOrderReq:
    given = {
        "ctidTraderAccountId": USD,
        "symbolId": EURUSD,
        "orderType": o.MARKET,
        "tradeSide": o.BUY,
        "volume": 1_000_000,
    }
    return m.ProtoOANewOrderReq(**(given | fields))


def executions(talk: Probe) -> list[tuple[str, str]]:
    """(execution type, clientMsgId) of every execution event so far."""
    return [
        (o.ProtoOAExecutionType.Name(message.executionType), asked_as)
        for asked_as, message in talk.everything
        if isinstance(message, m.ProtoOAExecutionEvent)
    ]


async def open_position(talk: Probe, **fields: Any) -> o.ProtoOAPosition:
    await talk.send(order(**fields), "open")
    filled = await talk.event(m.ProtoOAExecutionEvent, lambda each: each.executionType == o.ORDER_FILLED)
    talk.events.clear()
    talk.everything.clear()
    return filled.position


async def test_a_market_order_is_accepted_then_filled_when_it_is_sound(sim: Simulator, talk: Probe) -> None:
    await talk.send(order(clientOrderId="mine", label="tag"), "order-1")
    filled = await talk.event(m.ProtoOAExecutionEvent, lambda each: each.executionType == o.ORDER_FILLED)

    accepted = talk.events[0]
    assert executions(talk) == [("ORDER_ACCEPTED", "order-1"), ("ORDER_FILLED", "")]
    assert not accepted.HasField("position")
    assert filled.order.clientOrderId == "mine"
    assert filled.position.tradeData.label == "tag"
    assert filled.position.positionStatus == o.POSITION_STATUS_OPEN
    assert (filled.deal.filledVolume, filled.deal.executionPrice) == (1_000_000, 1.08452)
    assert not filled.deal.HasField("closePositionDetail")
    assert filled.position.commission == -38, "35 USD per million USD of 10,845.20 USD, half-even"
    assert filled.position.usedMargin == 10_845
    assert not filled.isServerEvent


async def test_closing_settles_the_balance_and_cancels_the_protection_when_a_position_is_closed(
    sim: Simulator, talk: Probe
) -> None:
    position = await open_position(talk, relativeStopLoss=500, relativeTakeProfit=1000)
    await talk.pulse()
    talk.events.clear()
    talk.everything.clear()
    sim.actions.quote("EURUSD", bid=Decimal("1.08652"), ask=Decimal("1.08656"))
    close = m.ProtoOAClosePositionReq(ctidTraderAccountId=USD, positionId=position.positionId, volume=400_000)
    await talk.send(close, "part")
    part = await talk.event(m.ProtoOAExecutionEvent, lambda each: each.executionType == o.ORDER_FILLED)
    await talk.pulse()
    sequence = executions(talk)
    rest = m.ProtoOAClosePositionReq(ctidTraderAccountId=USD, positionId=position.positionId, volume=600_000)
    await talk.send(rest, "rest")
    await talk.event(m.ProtoOAExecutionEvent, lambda each: each.position.positionStatus == o.POSITION_STATUS_CLOSED)
    await talk.pulse()

    assert sequence == [("ORDER_ACCEPTED", "part"), ("ORDER_FILLED", ""), ("ORDER_REPLACED", "")]
    assert part.order.closingOrder
    detail = part.deal.closePositionDetail
    assert (detail.grossProfit, detail.closedVolume, detail.moneyDigits) == (800, 400_000, 2)
    assert detail.balance == 10_000_000 + detail.grossProfit + detail.swap + detail.commission
    assert part.position.tradeData.volume == 600_000
    assert await talk.event(m.ProtoOAMarginChangedEvent, lambda each: each.usedMargin == 6_507)
    assert executions(talk)[-3:] == [("ORDER_ACCEPTED", "rest"), ("ORDER_FILLED", ""), ("ORDER_CANCELLED", "")]
    cancelled = [each for each in talk.events if isinstance(each, m.ProtoOAExecutionEvent)][-1]
    assert cancelled.order.orderType == o.STOP_LOSS_TAKE_PROFIT
    assert sim.actions.truth(USD)["positions"] == []


async def test_protection_orders_appear_in_the_snapshot_when_asked_for(sim: Simulator, talk: Probe) -> None:
    await open_position(talk, relativeStopLoss=500, relativeTakeProfit=1000)
    plain = await talk.expect(m.ProtoOAReconcileRes, m.ProtoOAReconcileReq(ctidTraderAccountId=USD))
    full = await talk.expect(
        m.ProtoOAReconcileRes, m.ProtoOAReconcileReq(ctidTraderAccountId=USD, returnProtectionOrders=True)
    )

    assert (plain.position[0].stopLoss, plain.position[0].takeProfit) == (1.07952, 1.09452)
    assert len(plain.order) == 0
    (protection,) = full.order
    assert protection.orderType == o.STOP_LOSS_TAKE_PROFIT
    assert (protection.stopPrice, protection.limitPrice) == (1.07952, 1.09452)
    assert not protection.HasField("stopLoss")
    assert not protection.HasField("takeProfit")
    assert protection.positionId == plain.position[0].positionId


async def test_the_server_closes_a_position_when_its_stop_loss_is_reached(sim: Simulator, talk: Probe) -> None:
    await open_position(talk, relativeStopLoss=500)
    await talk.pulse()
    talk.events.clear()
    talk.everything.clear()
    sim.actions.quote("EURUSD", bid=Decimal("1.07900"), ask=Decimal("1.07904"))
    closed = await talk.event(m.ProtoOAExecutionEvent, lambda each: each.executionType == o.ORDER_FILLED)

    assert closed.isServerEvent
    assert closed.order.orderType == o.STOP_LOSS_TAKE_PROFIT
    assert closed.position.positionStatus == o.POSITION_STATUS_CLOSED
    assert closed.deal.closePositionDetail.grossProfit < 0
    assert all(asked_as == "" for _, asked_as in executions(talk))


async def test_the_trailing_stop_is_announced_when_the_price_moves_on(sim: Simulator, talk: Probe) -> None:
    position = await open_position(talk, relativeStopLoss=500, trailingStopLoss=True)
    sim.actions.quote("EURUSD", bid=Decimal("1.09"), ask=Decimal("1.09004"))
    moved = await talk.event(m.ProtoOATrailingSLChangedEvent)

    assert moved.positionId == position.positionId
    assert moved.stopPrice > 1.084
    assert sim.actions.truth(USD)["positions"][0]["stopLoss"] == moved.stopPrice


async def test_amending_protection_replaces_it_whole_when_a_leg_is_left_out(sim: Simulator, talk: Probe) -> None:
    position = await open_position(talk)
    amend = m.ProtoOAAmendPositionSLTPReq(ctidTraderAccountId=USD, positionId=position.positionId)
    assert await talk.error(amend) == ("INVALID_REQUEST", "Nothing to amend.")
    amend.stopLoss, amend.takeProfit = 1.07, 1.1
    first = await talk.expect(m.ProtoOAExecutionEvent, amend)
    amend.ClearField("stopLoss")
    second = await talk.expect(m.ProtoOAExecutionEvent, amend)
    amend.ClearField("takeProfit")
    third = await talk.expect(m.ProtoOAExecutionEvent, amend)

    kinds = [each.executionType for each in (first, second, third)]
    assert kinds == [o.ORDER_ACCEPTED, o.ORDER_REPLACED, o.ORDER_CANCELLED]
    assert second.position.takeProfit == 1.1
    assert not second.position.HasField("stopLoss")


async def test_a_pending_order_lives_through_amendment_and_cancel_when_asked(sim: Simulator, talk: Probe) -> None:
    placed = await talk.expect(
        m.ProtoOAExecutionEvent, order(orderType=o.LIMIT, limitPrice=1.07, stopLoss=1.06, takeProfit=1.1)
    )
    order_id = placed.order.orderId
    amended = await talk.expect(
        m.ProtoOAExecutionEvent,
        m.ProtoOAAmendOrderReq(ctidTraderAccountId=USD, orderId=order_id, limitPrice=1.075, volume=2_000_000),
    )
    snapshot = await talk.expect(m.ProtoOAReconcileRes, m.ProtoOAReconcileReq(ctidTraderAccountId=USD))
    cancel = m.ProtoOACancelOrderReq(ctidTraderAccountId=USD, orderId=order_id)
    cancelled = await talk.expect(m.ProtoOAExecutionEvent, cancel)
    again = await talk.ask(cancel)

    assert placed.position.positionStatus == o.POSITION_STATUS_CREATED
    assert amended.executionType == o.ORDER_REPLACED
    (working,) = snapshot.order
    assert (working.limitPrice, working.tradeData.volume) == (1.075, 2_000_000)
    assert (working.stopLoss, working.takeProfit) == (1.06, 1.1)
    assert cancelled.executionType == o.ORDER_CANCELLED
    assert isinstance(again, (m.ProtoOAOrderErrorEvent, m.ProtoOAExecutionEvent))
    assert again.errorCode in ("ORDER_NOT_FOUND", "UNABLE_TO_CANCEL_ORDER")


async def test_an_order_fills_in_parts_and_loses_its_rest_when_liquidity_is_short(sim: Simulator, talk: Probe) -> None:
    sim.actions.quote(
        "EURUSD", asks=[Level(Decimal("1.08452"), Decimal(3000)), Level(Decimal("1.08453"), Decimal(4000))]
    )
    await talk.send(order(timeInForce=o.IMMEDIATE_OR_CANCEL), "ioc")
    rest = await talk.event(m.ProtoOAExecutionEvent, lambda each: each.executionType == o.ORDER_CANCELLED)

    assert executions(talk) == [
        ("ORDER_ACCEPTED", "ioc"),
        ("ORDER_PARTIAL_FILL", ""),
        ("ORDER_PARTIAL_FILL", ""),
        ("ORDER_CANCELLED", ""),
    ]
    assert rest.order.executedVolume == 700_000
    assert rest.position.tradeData.volume == 700_000


@pytest.mark.parametrize(
    ("fields", "code", "text"),
    [
        ({"stopLoss": 1.0}, "INVALID_REQUEST", "SL/TP in absolute values are allowed only for order types"),
        ({"relativeStopLoss": 0}, "INVALID_REQUEST", "Relative stop loss has invalid precision"),
        (
            {"orderType": o.LIMIT, "limitPrice": 1.0000001},
            "INVALID_REQUEST",
            "Order price = 1.0000001 has more digits than symbol allows. Allowed 5 digits",
        ),
        ({"volume": 50}, "TRADING_BAD_VOLUME", ""),
        ({"volume": 9_000_000_000}, "NOT_ENOUGH_MONEY", ""),
        ({"symbolId": 4711}, "SYMBOL_NOT_FOUND", ""),
        ({"label": "x" * 101}, "INVALID_REQUEST", "label is longer than 100"),
        ({"orderType": o.STOP_LOSS_TAKE_PROFIT}, "INVALID_REQUEST", "Order type is not allowed"),
    ],
)
async def test_an_order_is_refused_with_the_brokers_words_when_it_is_wrong(
    sim: Simulator, talk: Probe, fields: dict[str, Any], code: str, text: str
) -> None:
    refused = await talk.expect(m.ProtoOAOrderErrorEvent, order(**fields))

    assert refused.errorCode == code
    assert text in refused.description
    assert refused.HasField("orderId")
    assert refused.HasField("positionId")
    assert sim.actions.truth(USD)["positions"] == []


async def test_a_trade_is_seen_by_the_first_client_when_a_second_one_makes_it(sim: Simulator, talk: Probe) -> None:
    async with probe(sim.ports.ctrader) as second:
        await second.login(USD, 1)
        await second.send(order(), "theirs")
        await talk.event(m.ProtoOAExecutionEvent, lambda each: each.executionType == o.ORDER_FILLED)
        await second.pulse()
        assert executions(talk) == [("ORDER_ACCEPTED", ""), ("ORDER_FILLED", "")]
        assert executions(second) == [("ORDER_ACCEPTED", "theirs"), ("ORDER_FILLED", "")]


async def test_cash_and_terms_are_announced_when_the_broker_changes_them(sim: Simulator, talk: Probe) -> None:
    sim.actions.deposit(USD, Decimal("12.34"), "gift")
    sim.actions.bonus(USD, Decimal(50))
    sim.actions.change_terms(USD, leverage=Decimal(50), access=Access.CLOSE_ONLY)
    cash = await talk.event(m.ProtoOAExecutionEvent, lambda each: each.executionType == o.DEPOSIT_WITHDRAW)
    bonus = await talk.event(m.ProtoOAExecutionEvent, lambda each: each.executionType == o.BONUS_DEPOSIT_WITHDRAW)
    terms = await talk.event(m.ProtoOATraderUpdatedEvent, lambda each: each.trader.leverageInCents == 5000)
    flow = await talk.expect(
        m.ProtoOACashFlowHistoryListRes,
        m.ProtoOACashFlowHistoryListReq(
            ctidTraderAccountId=USD,
            fromTimestamp=sim.services.clock.now_ms() - 3_600_000,
            toTimestamp=sim.services.clock.now_ms(),
        ),
    )

    assert (cash.depositWithdraw.delta, cash.depositWithdraw.balance) == (1234, 10_001_234)
    assert (cash.depositWithdraw.balanceVersion, cash.depositWithdraw.equity) == (2, 10_001_234)
    assert bonus.bonusDepositWithdraw.managerBonus == 5000
    assert terms.trader.accessRights == o.CLOSE_ONLY
    assert (terms.trader.balance, terms.trader.managerBonus) == (10_001_234, 5000)
    assert [each.delta for each in flow.depositWithdraw] == [10_000_000, 1234]


async def test_swap_is_charged_without_an_order_when_the_day_turns() -> None:
    clock = ManualClock(now_ms=1_795_212_000_000)  # a Friday noon, UTC
    settings = SimulatorSettings(users=1, prices="frozen", ctrader_tls_port=None, idle_cutoff_s=1e9, heartbeat_s=1e9)
    async with Simulator(settings, clock) as sim, probe(sim.ports.ctrader) as talk:
        await talk.login(USD, 1)
        await open_position(talk)
        clock.step_wall(3 * 86_400)
        sim.services.prices.step()
        swap = await talk.event(m.ProtoOAExecutionEvent, lambda each: each.executionType == o.SWAP)

        assert not swap.HasField("order")
        assert swap.position.swap < 0
        assert swap.isServerEvent


async def test_positions_net_and_flip_when_the_account_is_netted(sim: Simulator) -> None:
    first = sim.actions.order(JPY_NETTED, symbol="EURUSD", side=Side.BUY, units=Decimal(3000))
    async with probe(sim.ports.ctrader) as talk:
        await talk.login(JPY_NETTED, 2)
        flip = order(ctidTraderAccountId=JPY_NETTED, tradeSide=o.SELL, volume=500_000)
        await talk.send(flip, "flip")
        filled = await talk.event(m.ProtoOAExecutionEvent, lambda each: each.executionType == o.ORDER_FILLED)
        trader = await talk.expect(m.ProtoOATraderRes, m.ProtoOATraderReq(ctidTraderAccountId=JPY_NETTED))

    (position,) = sim.actions.truth(JPY_NETTED)["positions"]
    assert (position["side"], position["units"]) == ("sell", 2000)
    assert position["id"] != first["positionId"]
    assert filled.position.tradeData.tradeSide == o.SELL
    assert (trader.trader.accountType, trader.trader.moneyDigits) == (o.NETTED, 0)


async def test_broker_and_client_agree_on_profit_when_the_account_is_in_yen(sim: Simulator) -> None:
    sim.actions.order(JPY, symbol="EURUSD", side=Side.BUY, units=Decimal(10_000))
    sim.actions.quote("EURUSD", bid=Decimal("1.09452"), ask=Decimal("1.09456"))
    async with probe(sim.ports.ctrader) as talk:
        await talk.login(JPY, 3)
        answer = await talk.expect(
            m.ProtoOAGetPositionUnrealizedPnLRes, m.ProtoOAGetPositionUnrealizedPnLReq(ctidTraderAccountId=JPY)
        )

    truth = sim.actions.truth(JPY)
    (position,) = truth["positions"]
    (valued,) = answer.positionUnrealizedPnL
    # 0.0100 USD × 10,000 = 100 USD at USDJPY bid 150.247
    assert (valued.grossUnrealizedPnL, answer.moneyDigits) == (15_025, 0)
    assert valued.netUnrealizedPnL == position["unrealizedPnl"] == truth["unrealizedPnl"]
    assert truth["equity"] == truth["balance"] + truth["unrealizedPnl"]
    assert truth["moneyDigits"] == 0


async def test_margin_calls_can_be_read_and_changed_when_a_client_asks(sim: Simulator, talk: Probe) -> None:
    listed = await talk.expect(m.ProtoOAMarginCallListRes, m.ProtoOAMarginCallListReq(ctidTraderAccountId=USD))
    changed = m.ProtoOAMarginCallUpdateReq(
        ctidTraderAccountId=USD,
        marginCall=o.ProtoOAMarginCall(marginCallType=o.MARGIN_LEVEL_THRESHOLD_2, marginLevelThreshold=80),
    )
    await talk.expect(m.ProtoOAMarginCallUpdateRes, changed)
    update = await talk.event(m.ProtoOAMarginCallUpdateEvent)

    assert [each.marginLevelThreshold for each in listed.marginCall] == [100, 75, 60]
    assert update.marginCall.marginLevelThreshold == 80


async def test_a_margin_call_and_the_stop_out_are_announced_when_the_price_falls(sim: Simulator, talk: Probe) -> None:
    await open_position(talk, volume=900_000_000)
    sim.actions.quote("EURUSD", bid=Decimal("1.07900"), ask=Decimal("1.07904"))
    call = await talk.event(m.ProtoOAMarginCallTriggerEvent)
    sim.actions.quote("EURUSD", bid=Decimal("1.07700"), ask=Decimal("1.07704"))
    stopped = await talk.event(m.ProtoOAExecutionEvent, lambda each: each.order.isStopOut and each.HasField("deal"))

    assert call.marginCall.marginCallType == o.MARGIN_LEVEL_THRESHOLD_1
    assert stopped.isServerEvent
    assert stopped.position.positionStatus == o.POSITION_STATUS_CLOSED
