"""Faults of what events say: unknown enums, absurd values, strangers, and events doubled, shuffled, lost or late."""

from __future__ import annotations

from collections import deque
from decimal import Decimal
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from google.protobuf.message import Message
from pydantic import Field, PrivateAttr

from bridge.simulator.ctrader.envelope import Outgoing
from bridge.simulator.ctrader.faults.base import Fault, FrameFault
from core.orders import OrderType, Side, TimeInForce
from core.paper_trader import OrderRequest
from protos.ctrader import messages_pb2 as m
from protos.ctrader import model_pb2 as o

if TYPE_CHECKING:
    from bridge.simulator.ctrader.connection import Connection

UNKNOWN_ENUM_VALUE = 99
FOREIGN_BALANCE = 99_999_999
KEPT_EVENTS = 20


class ExecutionFault(FrameFault):
    """Touches execution events only."""

    def touches(self, connection: Connection, outgoing: Outgoing) -> bool:
        return isinstance(outgoing.message, m.ProtoOAExecutionEvent) and self.hits(outgoing.account_id, connection)


class UnknownEnum(ExecutionFault):
    title: ClassVar[str] = "execution events with an unknown executionType, or without one"

    variant: Literal["unknown", "missing"] = Field("unknown", description="what is wrong with the required enum")

    def frame(self, connection: Connection, outgoing: Outgoing) -> list[Outgoing]:
        message = outgoing.message
        if not isinstance(message, m.ProtoOAExecutionEvent) or not self.touches(connection, outgoing):
            return [outgoing]
        event = m.ProtoOAExecutionEvent()
        event.CopyFrom(message)
        event.ClearField("executionType")
        payload = event.SerializePartialToString()
        if self.variant == "unknown":
            payload += bytes((0x18, UNKNOWN_ENUM_VALUE))
        return [Outgoing(outgoing.message, outgoing.account_id, outgoing.client_msg_id, payload)]


class AbsurdValue(FrameFault):
    title: ClassVar[str] = "right type, absurd value, in execution events, snapshots, traders and spots"

    variant: Literal["negative_volume", "nan_price", "inf_price", "huge_money", "year_1970", "year_2100"] = Field(
        "nan_price", description="what is absurd"
    )
    count: int | None = Field(1, ge=1, description="effects after which it ends")

    def frame(self, connection: Connection, outgoing: Outgoing) -> list[Outgoing]:
        if not self.concerns(outgoing.account_id, connection):
            return [outgoing]
        message = type(outgoing.message)()
        message.CopyFrom(outgoing.message)
        if not _distort(message, self.variant) or not self.strikes():
            return [outgoing]
        return [Outgoing(message, outgoing.account_id, outgoing.client_msg_id)]


def _distort(message: Any, variant: str) -> bool:
    """Put the absurd value in; False when the message has no place for it."""
    positions: list[o.ProtoOAPosition] = []
    if isinstance(message, m.ProtoOAExecutionEvent) and message.HasField("position"):
        positions = [message.position]
    elif isinstance(message, m.ProtoOAReconcileRes):
        positions = list(message.position)
    for position in positions:
        match variant:
            case "negative_volume":
                position.tradeData.volume = -position.tradeData.volume
            case "nan_price":
                position.price = float("nan")
            case "inf_price":
                position.price = float("inf")
            case "huge_money":
                position.swap = 10**18
            case "year_1970":
                position.tradeData.openTimestamp = position.utcLastUpdateTimestamp = 1
            case "year_2100":
                position.tradeData.openTimestamp = position.utcLastUpdateTimestamp = 4_102_444_800_000
    if variant == "huge_money" and isinstance(message, (m.ProtoOATraderRes, m.ProtoOATraderUpdatedEvent)):
        message.trader.balance = 10**18
        return True
    if variant in ("nan_price", "inf_price") and isinstance(message, m.ProtoOASpotEvent):
        message.bid = 10**18  # spot prices are integers: this is as absurd as they get
        return True
    return bool(positions)


class ForeignAccount(Fault):
    title: ClassVar[str] = "spot, cash and position events for an account that is not on the connection"
    instant: ClassVar[bool] = True

    foreign: int | None = Field(None, description="account id in the events; absent: some account of another user")

    def begin(self) -> None:
        for connection in self.connections():
            foreign = self.foreign or self._stranger(connection)
            if foreign is None or not self.strikes():
                continue
            for event in _foreign_events(foreign, self.services.clock.now_ms()):
                connection.send(Outgoing(event, foreign))

    def _stranger(self, connection: Connection) -> int | None:
        return next((each for each in self.services.world.accounts if each not in connection.authorisations), None)


def _foreign_events(account_id: int, now_ms: int) -> list[Message]:
    cash = o.ProtoOADepositWithdraw(
        operationType=o.BALANCE_DEPOSIT,
        balanceHistoryId=1,
        balance=FOREIGN_BALANCE,
        delta=FOREIGN_BALANCE,
        changeBalanceTimestamp=now_ms,
        balanceVersion=FOREIGN_BALANCE,
        moneyDigits=2,
    )
    return [
        m.ProtoOASpotEvent(ctidTraderAccountId=account_id, symbolId=1, bid=FOREIGN_BALANCE, ask=FOREIGN_BALANCE),
        m.ProtoOAExecutionEvent(
            ctidTraderAccountId=account_id, executionType=o.DEPOSIT_WITHDRAW, depositWithdraw=cash, isServerEvent=True
        ),
    ]


class Duplicate(ExecutionFault):
    title: ClassVar[str] = "execution events sent twice, and old ones again after account auth"

    after_auth: bool = Field(False, alias="afterAuth", description="repeat the newest events after each account auth")
    _kept: dict[int, deque[Outgoing]] = PrivateAttr(default_factory=dict)

    def frame(self, connection: Connection, outgoing: Outgoing) -> list[Outgoing]:
        account_id = outgoing.account_id
        if self.after_auth and isinstance(outgoing.message, m.ProtoOAAccountAuthRes):
            return [outgoing, *self._kept.get(account_id or 0, ())]
        if not self.touches(connection, outgoing):
            return [outgoing]
        again = Outgoing(outgoing.message, account_id)
        self._kept.setdefault(account_id or 0, deque(maxlen=KEPT_EVENTS)).append(again)
        return [outgoing, again]


class Reordered(ExecutionFault):
    title: ClassVar[str] = "execution events held back and sent in random order"

    window: int = Field(4, ge=2, description="events per shuffle")
    wait_s: float = Field(0.1, alias="waitSeconds", gt=0, description="longest hold")
    _held: dict[Any, list[Outgoing]] = PrivateAttr(default_factory=dict)

    def frame(self, connection: Connection, outgoing: Outgoing) -> list[Outgoing]:
        if not self.touches(connection, outgoing):
            return [outgoing]
        held = self._held.setdefault(connection, [])
        held.append(outgoing)
        if len(held) >= self.window:
            return self._release(connection)
        if len(held) == 1:
            connection.later(self.wait_s, lambda: self._send(connection))
        return []

    def _release(self, connection: Connection) -> list[Outgoing]:
        held = self._held.pop(connection, [])
        self.services.random.shuffle(held)
        return held

    def _send(self, connection: Connection) -> None:
        for each in self._release(connection):
            connection.send_raw(each.encode())

    def end(self) -> None:
        for connection in list(self._held):
            self._send(connection)


class Lost(ExecutionFault):
    title: ClassVar[str] = "execution events lost (one in `every`), or late"

    every: int = Field(1, ge=1, description="one event in so many")
    delay_s: float | None = Field(None, alias="delaySeconds", gt=0, description="late by this instead of lost")
    _seen: int = PrivateAttr(0)

    def frame(self, connection: Connection, outgoing: Outgoing) -> list[Outgoing]:
        if not isinstance(outgoing.message, m.ProtoOAExecutionEvent):
            return [outgoing]
        if not self.concerns(outgoing.account_id, connection):
            return [outgoing]
        self._seen += 1
        if self._seen % self.every or not self.strikes():
            return [outgoing]
        if self.delay_s is not None:
            raw = outgoing.encode()
            connection.later(self.delay_s, lambda: connection.send_raw(raw))
        return []


class LateSnapshot(FrameFault):
    title: ClassVar[str] = "the snapshot is taken, a trade happens and is announced, then the old snapshot arrives"

    delay_s: float = Field(0.2, alias="delaySeconds", gt=0, description="hold of the snapshot")
    trade: bool = Field(True, description="buy the least of the first symbol meanwhile")
    count: int | None = Field(1, ge=1, description="effects after which it ends")

    def frame(self, connection: Connection, outgoing: Outgoing) -> list[Outgoing]:
        if not isinstance(outgoing.message, m.ProtoOAReconcileRes) or not self.hits(outgoing.account_id, connection):
            return [outgoing]
        raw, account_id = outgoing.encode(), outgoing.account_id or 0
        if self.trade:
            connection.later(self.delay_s / 2, lambda: self._trade(account_id))
        connection.later(self.delay_s, lambda: connection.send_raw(raw))
        return []

    def _trade(self, account_id: int) -> None:
        account = self.services.world.accounts[account_id]
        symbol = next(iter(account.server.symbols.values()))
        wanted = OrderRequest(
            instrument_id=symbol.instrument_id,
            side=Side.BUY,
            type=OrderType.MARKET,
            units=Decimal(symbol.terms.minimum),
            time_in_force=TimeInForce.IOC,
        )
        self.services.desk.deliver(self.services.world.engine.place(account.key, wanted, self.services.clock.now_ms()))
