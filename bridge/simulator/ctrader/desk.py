"""The dealing desk: takes what the engine says happened and tells every client of the account, in order.

Each engine event becomes at most one message (reference/ctrader.md §4.3). The first message of a request carries its
clientMsgId to the connection that sent it; later ones, and those to other connections, carry none. The desk also
keeps what the engine does not: the cash history of each account.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from google.protobuf.message import Message

from bridge.simulator.ctrader import translate
from bridge.simulator.ctrader.refusals import OrderRefused
from bridge.simulator.ctrader.world import Account, World
from core.money import to_minor
from core.orders import OrderType
from core.paper_trader import (
    AccountChanged,
    BonusMoved,
    CashMoved,
    Event,
    MarginCall,
    MarginChanged,
    Operation,
    OrderAccepted,
    OrderCancelled,
    OrderExpired,
    OrderFilled,
    OrderPartiallyFilled,
    OrderRejected,
    OrderReplaced,
    PositionStatus,
    ProtectionAccepted,
    ProtectionCancelled,
    ProtectionReplaced,
    RequestRejected,
    SwapCharged,
    TrailingStopMoved,
)
from protos.ctrader import messages_pb2 as m
from protos.ctrader import model_pb2 as o

if TYPE_CHECKING:
    from bridge.simulator.ctrader.connection import Connection
    from bridge.simulator.ctrader.counters import Counters
from bridge.simulator.ctrader.hub import Hub

CASH_HISTORY_KEPT = 1_000

_EXECUTIONS: dict[type[Event], o.ProtoOAExecutionType] = {
    OrderAccepted: o.ORDER_ACCEPTED,
    OrderPartiallyFilled: o.ORDER_PARTIAL_FILL,
    OrderFilled: o.ORDER_FILLED,
    OrderReplaced: o.ORDER_REPLACED,
    OrderCancelled: o.ORDER_CANCELLED,
    OrderExpired: o.ORDER_EXPIRED,
    OrderRejected: o.ORDER_REJECTED,
    ProtectionAccepted: o.ORDER_ACCEPTED,
    ProtectionReplaced: o.ORDER_REPLACED,
    ProtectionCancelled: o.ORDER_CANCELLED,
    SwapCharged: o.SWAP,
}


class Desk:
    """Publishes engine events."""

    def __init__(self, world: World, hub: Hub, counters: Counters) -> None:
        self._world = world
        self._hub = hub
        self._counters = counters
        self.cash: dict[int, deque[o.ProtoOADepositWithdraw]] = {}
        self.last_close_ms: dict[int, int] = {}

    def deliver(
        self, events: list[Event], origin: Connection | None = None, client_msg_id: str = "", asker: int = 0
    ) -> None:
        """Publish events in order; `origin`, `client_msg_id` and `asker` (account id) name the request behind them.

        Events that fell due before the request, of this account or others, come first and are not its answer.
        """
        for event in events:
            account = self._world.accounts[int(event.account_id)]
            self._remember(account, event)
            if not self._hub.listeners(account.id):
                continue
            answers = account.id == asker and not event.by_server
            if isinstance(event, RequestRejected):
                if origin is not None and answers:
                    self._hub.publish_to(origin, account.id, self._refusal(account, event), client_msg_id)
                    client_msg_id = ""
                continue
            for message in self._messages(account, event):
                echoed = client_msg_id if answers else ""
                self._hub.publish(account.id, message, origin=origin, client_msg_id=echoed)
                client_msg_id = "" if answers else client_msg_id

    def _remember(self, account: Account, event: Event) -> None:
        """File cash movements, deals and the time of the last close, whether or not anybody listens."""
        match event:
            case CashMoved():
                kept = self.cash.setdefault(account.id, deque(maxlen=CASH_HISTORY_KEPT))
                kept.append(_cash(account, event))
            case OrderFilled() | OrderPartiallyFilled():
                self._counters.executions_by_account[account.id] += 1
                if event.deal.close is not None:
                    self.last_close_ms[account.id] = event.deal.executed_at_ms

    def _messages(self, account: Account, event: Event) -> list[Message]:
        execution_type = _EXECUTIONS.get(type(event))
        if execution_type is not None:
            return [self._execution(account, event, execution_type)]
        match event:
            case CashMoved():
                cash = m.ProtoOAExecutionEvent(
                    ctidTraderAccountId=account.id,
                    executionType=o.DEPOSIT_WITHDRAW,
                    depositWithdraw=_cash(account, event),
                    isServerEvent=event.by_server,
                )
                return [cash, self._trader(account)]
            case BonusMoved():
                return [self._bonus(account, event), self._trader(account)]
            case AccountChanged():
                return [self._trader(account)]
            case MarginChanged():
                return [
                    m.ProtoOAMarginChangedEvent(
                        ctidTraderAccountId=account.id,
                        positionId=event.position_id,
                        usedMargin=to_minor(event.used_margin, account.money_digits),
                        moneyDigits=account.money_digits,
                    )
                ]
            case TrailingStopMoved():
                return [
                    m.ProtoOATrailingSLChangedEvent(
                        ctidTraderAccountId=account.id,
                        positionId=event.position.id,
                        orderId=event.order_id,
                        stopPrice=float(event.stop_price),
                        utcLastUpdateTimestamp=event.at_ms,
                    )
                ]
            case MarginCall():
                return [self._margin_call(account, event)]
        return []  # BalanceChanged, OrderTriggered, StopOut: no message of their own

    def _execution(
        self, account: Account, event: Event, execution_type: o.ProtoOAExecutionType
    ) -> m.ProtoOAExecutionEvent:
        message = m.ProtoOAExecutionEvent(
            ctidTraderAccountId=account.id, executionType=execution_type, isServerEvent=event.by_server
        )
        order = getattr(event, "order", None)
        if order is not None:
            message.order.CopyFrom(translate.order(order))
        position = getattr(event, "position", None)
        if position is not None and not _announced_by_market_order(event):
            message.position.CopyFrom(translate.position(account, position))
        deal = getattr(event, "deal", None)
        if deal is not None:
            message.deal.CopyFrom(translate.deal(account, deal))
        if isinstance(event, OrderRejected):
            message.errorCode = event.code.value
        return message

    def _trader(self, account: Account) -> m.ProtoOATraderUpdatedEvent:
        view = self._world.engine.account(account.key)
        return m.ProtoOATraderUpdatedEvent(ctidTraderAccountId=account.id, trader=translate.trader(account, view))

    def _bonus(self, account: Account, event: BonusMoved) -> m.ProtoOAExecutionEvent:
        digits = account.money_digits
        return m.ProtoOAExecutionEvent(
            ctidTraderAccountId=account.id,
            executionType=o.BONUS_DEPOSIT_WITHDRAW,
            bonusDepositWithdraw=o.ProtoOABonusDepositWithdraw(
                operationType=o.BONUS_DEPOSIT if event.delta > 0 else o.BONUS_WITHDRAW,
                bonusHistoryId=event.cash_id,
                managerBonus=to_minor(event.bonus, digits),
                managerDelta=to_minor(event.delta, digits),
                ibBonus=0,
                ibDelta=0,
                changeBonusTimestamp=event.at_ms,
                externalNote=event.note,
                moneyDigits=digits,
            ),
        )

    def _margin_call(self, account: Account, event: MarginCall) -> m.ProtoOAMarginCallTriggerEvent:
        levels = self._world.engine.account(account.key).settings.margin_call_levels
        index = levels.index(event.threshold) if event.threshold in levels else 0
        return m.ProtoOAMarginCallTriggerEvent(
            ctidTraderAccountId=account.id, marginCall=margin_call(index, float(event.threshold), event.at_ms)
        )

    def _refusal(self, account: Account, event: RequestRejected) -> Message:
        if event.operation is Operation.CANCEL and event.order is not None:
            return m.ProtoOAExecutionEvent(
                ctidTraderAccountId=account.id,
                executionType=o.ORDER_CANCEL_REJECTED,
                order=translate.order(event.order),
                errorCode=event.code.value,
            )
        return OrderRefused(
            event.code.value,
            event.message,
            account.id,
            order_id=event.order_id or 0,
            position_id=event.position_id or 0,
        ).message()


def _cash(account: Account, event: CashMoved) -> o.ProtoOADepositWithdraw:
    digits = account.money_digits
    return o.ProtoOADepositWithdraw(
        operationType=o.BALANCE_DEPOSIT if event.delta > 0 else o.BALANCE_WITHDRAW,
        balanceHistoryId=event.cash_id,
        balance=to_minor(event.balance, digits),
        delta=to_minor(event.delta, digits),
        changeBalanceTimestamp=event.at_ms,
        externalNote=event.note,
        balanceVersion=event.balance_version,
        equity=None if event.equity is None else to_minor(event.equity, digits),
        moneyDigits=digits,
    )


def margin_call(index: int, threshold: float, at_ms: int) -> o.ProtoOAMarginCall:
    """The index-th of the three margin calls (types 61, 62, 63)."""
    kinds = (o.MARGIN_LEVEL_THRESHOLD_1, o.MARGIN_LEVEL_THRESHOLD_2, o.MARGIN_LEVEL_THRESHOLD_3)
    return o.ProtoOAMarginCall(
        marginCallType=kinds[index], marginLevelThreshold=threshold, utcLastUpdateTimestamp=at_ms
    )


def _announced_by_market_order(event: Event) -> bool:
    """A market order's ACCEPTED carries no position; a pending one's carries it as CREATED (both seen, §4.3)."""
    return (
        isinstance(event, OrderAccepted)
        and event.position is not None
        and event.position.status is PositionStatus.CREATED
        and event.order.type in (OrderType.MARKET, OrderType.MARKET_RANGE)
    )
