"""Faults of what trade updates say: unknown enums, absurd values, strangers, and updates doubled, shuffled or lost."""

from __future__ import annotations

import uuid
from collections import deque
from typing import Any, ClassVar, Literal

from pydantic import Field, PrivateAttr

from bridge.simulator.alpaca.faults.absurd import UNKNOWN, Absurdity, distort
from bridge.simulator.alpaca.faults.base import FrameFault, StreamFault
from bridge.simulator.alpaca.streams.frames import rfc3339
from bridge.simulator.alpaca.streams.socket import Outgoing, StreamSocket

KEPT_UPDATES = 20


class UpdateFault(FrameFault):
    """Touches trade updates only."""

    stream: Literal["trading"] = Field("trading", description="trading streams only")

    def is_update(self, client: StreamSocket, message: Outgoing) -> bool:
        """Whether it is an update within the limits (nothing is counted yet)."""
        return message.kind == "update" and isinstance(message.document.get("data"), dict) and self.is_mine(client)

    def touches(self, client: StreamSocket, message: Outgoing) -> bool:
        """Whether this update is hit; counts the effect."""
        return self.is_update(client, message) and self.strikes()


def changed(message: Outgoing, changes: dict[str, Any]) -> Outgoing:
    """A copy of an update with other data."""
    return Outgoing({**message.document, "data": changes}, message.kind)


class UnknownEnum(UpdateFault):
    title: ClassVar[str] = "trade updates with an unknown event, order status, order type or side, or without one"

    field: Literal["event", "status", "type", "side"] = Field("event", description="which enum")
    variant: Literal["unknown", "missing"] = Field("unknown", description="what is wrong with it")

    def frame(self, client: StreamSocket, message: Outgoing) -> list[Outgoing]:
        if not self.touches(client, message):
            return [message]
        data = dict(message.document["data"])
        where = data if self.field == "event" else data.setdefault("order", {})
        if where is not data:
            where = data["order"] = dict(where)
        for name in (self.field, "order_type") if self.field == "type" else (self.field,):
            if self.variant == "unknown":
                where[name] = UNKNOWN
            else:
                where.pop(name, None)
        return [changed(message, data)]


class AbsurdValue(UpdateFault):
    title: ClassVar[str] = "right type, absurd value, in trade updates"

    variant: Absurdity = Field("nan_price", description="what is absurd")
    count: int | None = Field(1, ge=1, description="effects after which it ends")

    def frame(self, client: StreamSocket, message: Outgoing) -> list[Outgoing]:
        if not self.is_update(client, message):
            return [message]
        data = dict(message.document["data"])
        data["order"] = dict(data.get("order") or {})
        if not distort(data, self.variant) or not self.strikes():
            return [message]
        return [changed(message, data)]


class ForeignAccount(StreamFault):
    title: ClassVar[str] = "a fill that belongs to another account's order arrives on the trading stream"
    instant: ClassVar[bool] = True

    stream: Literal["trading"] = Field("trading", description="trading streams only")
    symbol: str = Field("AAPL", description="symbol of the stranger's order")

    def begin(self) -> None:
        for client in self.clients():
            if client.state and self.strikes():
                client.emit(Outgoing({"stream": "trade_updates", "data": self._fill()}, "update"))

    def _fill(self) -> dict[str, Any]:
        """A complete fill of an order that no account of this simulator has."""
        at = rfc3339(self.services.clock.now_ms() * 1_000_000)
        order_id, client_order_id, execution_id, asset_id = (self._uuid() for _ in range(4))
        order: dict[str, Any] = dict.fromkeys(
            ("expired_at", "canceled_at", "failed_at", "replaced_at", "replaced_by", "replaces", "notional", "legs",
             "limit_price", "stop_price", "trail_percent", "trail_price", "hwm", "expires_at")
        )  # fmt: skip
        order |= {
            "id": order_id, "client_order_id": client_order_id, "asset_id": asset_id, "symbol": self.symbol,
            "created_at": at, "updated_at": at, "submitted_at": at, "filled_at": at, "asset_class": "us_equity",
            "qty": "777", "filled_qty": "777", "filled_avg_price": "77.77", "order_class": "", "order_type": "market",
            "type": "market", "side": "buy", "time_in_force": "day", "status": "filled", "extended_hours": False,
            "position_intent": "buy_to_open",
        }  # fmt: skip
        return {
            "event": "fill", "timestamp": at, "at": at, "price": "77.77", "qty": "777", "position_qty": "777",
            "execution_id": execution_id, "order": order,
        }  # fmt: skip

    def _uuid(self) -> str:
        return str(uuid.UUID(int=self.services.random.getrandbits(128), version=4))


class Duplicate(UpdateFault):
    title: ClassVar[str] = "trade updates sent twice, and old ones again after a stream began to listen"

    after_listen: bool = Field(False, alias="afterListen", description="repeat the newest updates after each listen")
    _kept: dict[str, deque[Outgoing]] = PrivateAttr(default_factory=dict)

    def frame(self, client: StreamSocket, message: Outgoing) -> list[Outgoing]:
        if not self.touches(client, message):
            return [message]
        kept = self._kept.setdefault(client.account_id or "", deque(maxlen=KEPT_UPDATES))
        kept.append(message)
        return [message, message]

    def listening(self, client: StreamSocket) -> None:
        """A stream was told that it listens."""
        if self.after_listen and self.is_mine(client):
            for message in self._kept.get(client.account_id or "", ()):
                client.emit(message)


class Reordered(UpdateFault):
    title: ClassVar[str] = "trade updates held back and sent in random order"

    window: int = Field(4, ge=2, le=1_000, description="updates per shuffle")
    wait_s: float = Field(0.1, alias="waitSeconds", gt=0, description="longest hold")
    _held: dict[Any, list[Outgoing]] = PrivateAttr(default_factory=dict)

    def frame(self, client: StreamSocket, message: Outgoing) -> list[Outgoing]:
        if not self.touches(client, message):
            return [message]
        held = self._held.setdefault(client, [])
        held.append(message)
        if len(held) >= self.window:
            return self._release(client)
        if len(held) == 1:
            client.later(self.wait_s, lambda: self._send(client))
        return []

    def _release(self, client: StreamSocket) -> list[Outgoing]:
        held = self._held.pop(client, [])
        self.services.random.shuffle(held)
        return held

    def _send(self, client: StreamSocket) -> None:
        for each in self._release(client):
            client.emit(each)

    def end(self) -> None:
        for client in list(self._held):
            self._send(client)


class Lost(UpdateFault):
    title: ClassVar[str] = "trade updates lost (one in `every`), or late"

    every: int = Field(1, ge=1, description="one update in so many")
    events: list[str] | None = Field(None, description="only these events, such as fill; absent: all")
    delay_s: float | None = Field(None, alias="delaySeconds", gt=0, description="late by this instead of lost")
    _seen: int = PrivateAttr(0)

    def frame(self, client: StreamSocket, message: Outgoing) -> list[Outgoing]:
        if not self.is_update(client, message):
            return [message]
        if self.events is not None and message.document["data"].get("event") not in self.events:
            return [message]
        self._seen += 1
        if self._seen % self.every or not self.strikes():
            return [message]
        if self.delay_s is not None:
            client.later(self.delay_s, lambda: client.emit(message))
        return []
