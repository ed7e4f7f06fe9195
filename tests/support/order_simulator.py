"""The third place of an order list: the simulated cTrader, over its real protocol and sockets.

Prices and time are set (admin API, a clock that stands still between moments); requests go out as protobuf messages
over a WebSocket, and what came of them is read from the execution events and answers of that protocol.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any

import aiohttp
from google.protobuf.message import Message

from bridge.runtime.clock import ManualClock
from bridge.simulator.ctrader import Simulator, SimulatorSettings
from core.orders import OrderType, Side, TimeInForce
from core.paper_account import Amend, Cancel, Close, Protect, Request
from core.paper_trader import KEEP, Operation, OrderRequest
from protos.ctrader import messages_pb2 as m
from protos.ctrader import model_pb2 as o
from tests.support.order_list import Look, OrderList, Quote, Send, Terms
from tests.support.order_places import OPERATIONS
from tests.support.order_records import Check, Closing, Fill, HeldRow, OrderRow, Outcome
from tests.support.simulator_probe import Probe, probe

TYPES = {
    OrderType.MARKET: o.MARKET,
    OrderType.LIMIT: o.LIMIT,
    OrderType.STOP: o.STOP,
    OrderType.STOP_LIMIT: o.STOP_LIMIT,
    OrderType.MARKET_RANGE: o.MARKET_RANGE,
}
TIMES = {
    TimeInForce.GTC: o.GOOD_TILL_CANCEL,
    TimeInForce.GTD: o.GOOD_TILL_DATE,
    TimeInForce.IOC: o.IMMEDIATE_OR_CANCEL,
    TimeInForce.FOK: o.FILL_OR_KILL,
}
SIDES = {o.BUY: Side.BUY, o.SELL: Side.SELL}
FILLS = (o.ORDER_FILLED, o.ORDER_PARTIAL_FILL)
NEVER_S = 10.0**9


class SimulatorPlace:
    """One account of a running simulator."""

    def __init__(self, sim: Simulator, clock: ManualClock, account_id: int, user: int) -> None:
        self.sim, self.clock = sim, clock
        self.account_id, self.user = account_id, user
        self.account = sim.services.world.account(account_id)
        self.digits = self.account.money_digits
        self.outcome = Outcome()
        self.names = self.outcome.names
        self._read = 0
        self._http: aiohttp.ClientSession
        self._talk: Probe

    def terms(self) -> Terms:
        """What the other places must be set up with to be the same."""
        engine = self.sim.services.world.engine
        view = engine.account(self.account.key)
        return Terms(self.clock.now_ms(), engine.listings(self.account.server.key), view.settings, view.balance)

    def starts(self) -> dict[str, tuple[int, int]]:
        """Usual bid and spread of each instrument, in points."""
        return {
            each.instrument_id: (each.terms.mid, each.terms.spread) for each in self.account.server.symbols.values()
        }

    async def go_through(self, orders: OrderList) -> Outcome:
        async with aiohttp.ClientSession() as self._http, probe(self.sim.ports.ctrader) as self._talk:
            await self._talk.login(self.account_id, self.user)
            for step in orders.steps():
                match step:
                    case Quote():
                        await self._quote(step)
                    case Send():
                        await self._send(step)
                    case Look():
                        self.outcome.checks[step.moment] = await self._check()
            await self._catch_up()
        return self.outcome

    async def _quote(self, step: Quote) -> None:
        self._time(step.at_ms)
        symbol = self.account.server.symbols[int(step.price.instrument_id)].terms.name
        quote = {"bid": str(step.price.bid), "ask": str(step.price.ask)}
        await self._admin("POST", "/sim/prices", {"server": self.account.server.key, "quotes": {symbol: quote}})

    async def _send(self, step: Send) -> None:
        self._time(step.at_ms)
        await self._catch_up()  # to know what goes by which name
        asked = step.asked
        answer = await self._talk.ask(self._message(asked.numbered(self.names)))
        code = getattr(answer, "errorCode", "")
        if isinstance(answer, m.ProtoOAOrderErrorEvent) or (
            isinstance(answer, m.ProtoOAExecutionEvent) and answer.executionType == o.ORDER_CANCEL_REJECTED
        ):
            self.outcome.refusals.append((OPERATIONS[type(asked.request)].value, code, asked.refusal_about))
        else:
            assert isinstance(answer, m.ProtoOAExecutionEvent), answer

    def _time(self, at_ms: int) -> None:
        self.clock.advance((at_ms - self.clock.now_ms()) / 1000)
        assert self.clock.now_ms() == at_ms

    async def _admin(self, method: str, path: str, body: object = None) -> Any:
        url = f"http://127.0.0.1:{self.sim.ports.admin}{path}"
        async with self._http.request(method, url, json=body) as answer:
            assert answer.status == 200, await answer.text()
            return await answer.json()

    # ---- what is said

    async def _catch_up(self) -> None:
        await self._talk.pulse()
        for _, message in self._talk.everything[self._read :]:
            if isinstance(message, m.ProtoOAExecutionEvent):
                self._take(message)
            elif isinstance(message, m.ProtoOAMarginCallTriggerEvent):
                call = message.marginCall
                self.outcome.calls.append((call.utcLastUpdateTimestamp, _number(call.marginLevelThreshold)))
        self._read = len(self._talk.everything)

    def _take(self, event: m.ProtoOAExecutionEvent) -> None:
        order, position = event.order, event.position
        if event.HasField("order"):
            self.names.order(order.clientOrderId, order.orderId)
        if event.executionType in FILLS:
            self._fill(event)
        elif event.executionType == o.SWAP:
            name = self.names.of_position[position.positionId]
            self.outcome.swaps.append((position.utcLastUpdateTimestamp, name, self._money(position.swap)))
        elif event.executionType == o.ORDER_REJECTED:
            self.outcome.refusals.append((Operation.PLACE.value, event.errorCode, order.clientOrderId))
        elif event.executionType == o.ORDER_EXPIRED:
            self.outcome.counts["expired"] += 1

    def _fill(self, event: m.ProtoOAExecutionEvent) -> None:
        deal = event.deal
        detail = deal.closePositionDetail if deal.HasField("closePositionDetail") else None
        assert deal.moneyDigits == self.digits
        by = _who(event.order)
        self.outcome.fills.append(
            Fill(
                deal.executionTimestamp,
                str(deal.symbolId),
                by,
                self.names.position(deal.positionId, by),
                SIDES[deal.tradeSide],
                _units(deal.filledVolume),
                _number(deal.executionPrice),
                self._money(deal.commission),
                detail
                and Closing(
                    _number(detail.entryPrice),
                    _units(detail.closedVolume),
                    self._money(detail.grossProfit),
                    self._money(detail.swap),
                    self._money(detail.commission),
                    self._money(detail.balance),
                    detail.balanceVersion,
                ),
            )
        )

    async def _check(self) -> Check:
        await self._catch_up()
        named = {"ctidTraderAccountId": self.account_id}
        held = await self._talk.expect(m.ProtoOAReconcileRes, m.ProtoOAReconcileReq(**named))
        trader = (await self._talk.expect(m.ProtoOATraderRes, m.ProtoOATraderReq(**named))).trader
        values = await self._talk.expect(
            m.ProtoOAGetPositionUnrealizedPnLRes, m.ProtoOAGetPositionUnrealizedPnLReq(**named)
        )
        pnl = {each.positionId: each for each in values.positionUnrealizedPnL}
        rows = tuple(self._held(each, pnl[each.positionId]) for each in held.position)
        truth = await self._admin("GET", f"/sim/truth/{self.account_id}")
        check = Check(
            self._money(trader.balance),
            trader.balanceVersion,
            _number(truth["equity"]),
            sum((each.used_margin for each in rows), Decimal(0)),
            _number(truth["freeMargin"]),
            None if truth["marginLevel"] is None else _number(truth["marginLevel"]),
            rows,
            tuple(_order(each) for each in held.order if each.orderType != o.STOP_LOSS_TAKE_PROFIT),
        )
        assert (_number(truth["balance"]), _number(truth["usedMargin"])) == (check.balance, check.used_margin)
        return check

    def _held(self, position: o.ProtoOAPosition, value: o.ProtoOAPositionUnrealizedPnL) -> HeldRow:
        data = position.tradeData
        return HeldRow(
            self.names.of_position[position.positionId],
            str(data.symbolId),
            SIDES[data.tradeSide],
            _units(data.volume),
            _number(position.price),
            self._money(position.swap),
            self._money(position.commission),
            self._money(position.usedMargin),
            _optional(position, "stopLoss"),
            _optional(position, "takeProfit"),
            self._money(value.grossUnrealizedPnL),
            self._money(value.netUnrealizedPnL),
        )

    def _money(self, minor: int) -> Decimal:
        return Decimal(minor).scaleb(-self.digits)

    # ---- what is asked

    def _message(self, request: Request) -> Message:
        named = {"ctidTraderAccountId": self.account_id}
        match request:
            case OrderRequest():
                return m.ProtoOANewOrderReq(**named, **_new_order(request))
            case Amend(order_id=order_id, changes=changes):
                given = {
                    "limitPrice": changes.limit_price,
                    "stopPrice": changes.stop_price,
                    "stopLoss": changes.stop_loss,
                    "takeProfit": changes.take_profit,
                }
                fields: dict[str, Any] = {name: float(each) for name, each in given.items() if each not in (KEEP, None)}
                if isinstance(changes.units, Decimal):
                    fields["volume"] = int(changes.units * 100)
                if isinstance(changes.expires_at_ms, int):
                    fields["expirationTimestamp"] = changes.expires_at_ms
                if isinstance(changes.relative_stop_loss, Decimal):
                    fields["relativeStopLoss"] = int(changes.relative_stop_loss.scaleb(5))
                return m.ProtoOAAmendOrderReq(**named, orderId=order_id, **fields)
            case Cancel(order_id=order_id):
                return m.ProtoOACancelOrderReq(**named, orderId=order_id)
            case Close(position_id=position_id, units=units):
                assert units is not None
                return m.ProtoOAClosePositionReq(**named, positionId=position_id, volume=int(units * 100))
            case Protect(position_id=position_id):
                return m.ProtoOAAmendPositionSLTPReq(
                    **named,
                    positionId=position_id,
                    stopLoss=_double(request.stop_loss),
                    takeProfit=_double(request.take_profit),
                    trailingStopLoss=request.trailing,
                )


def _new_order(request: OrderRequest) -> dict[str, Any]:
    fields = {
        "symbolId": int(request.instrument_id),
        "orderType": TYPES[request.type],
        "tradeSide": o.BUY if request.side is Side.BUY else o.SELL,
        "volume": int(request.units * 100),
        "limitPrice": _double(request.limit_price),
        "stopPrice": _double(request.stop_price),
        "baseSlippagePrice": _double(request.base_price),
        "slippageInPoints": request.slippage_points,
        "timeInForce": TIMES[request.time_in_force],
        "expirationTimestamp": request.expires_at_ms,
        "stopLoss": _double(request.stop_loss),
        "takeProfit": _double(request.take_profit),
        "relativeStopLoss": _distance(request.relative_stop_loss),
        "relativeTakeProfit": _distance(request.relative_take_profit),
        "trailingStopLoss": request.trailing_stop_loss,
        "positionId": request.position_id,
        "clientOrderId": request.client_order_id,
    }
    return {name: value for name, value in fields.items() if value is not None}


def _who(order: o.ProtoOAOrder) -> str:
    if order.isStopOut:
        return "stop out"
    if order.orderType == o.STOP_LOSS_TAKE_PROFIT:
        return "protection"
    return "close" if order.closingOrder else order.clientOrderId


def _order(order: o.ProtoOAOrder) -> OrderRow:
    return OrderRow(
        order.clientOrderId,
        SIDES[order.tradeData.tradeSide],
        _units(order.tradeData.volume),
        _units(order.executedVolume),
        _optional(order, "limitPrice"),
        _optional(order, "stopPrice"),
        order.expirationTimestamp if order.HasField("expirationTimestamp") else None,
    )


def _units(volume: int) -> Decimal:
    return Decimal(volume) / 100


def _number(value: float) -> Decimal:
    return Decimal(repr(value))


def _optional(message: Any, field: str) -> Decimal | None:
    return _number(getattr(message, field)) if message.HasField(field) else None


def _double(value: Decimal | None) -> float | None:
    return None if value is None else float(value)


def _distance(value: Decimal | None) -> int | None:
    return None if value is None else int(value.scaleb(5))


@asynccontextmanager
async def simulator_place(account_id: int, user: int, deposit: int) -> AsyncIterator[SimulatorPlace]:
    """An account of a simulator whose prices and time stand still; `deposit` as in `SimulatorSettings`."""
    clock = ManualClock()
    settings = SimulatorSettings(
        users=3,
        deposit=deposit,
        prices="frozen",
        ctrader_tls_port=None,
        requests_per_second=1_000_000,
        idle_cutoff_s=NEVER_S,
        heartbeat_s=NEVER_S,
    )
    async with Simulator(settings, clock) as sim:
        yield SimulatorPlace(sim, clock, account_id, user)
