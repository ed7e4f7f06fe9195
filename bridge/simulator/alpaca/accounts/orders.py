"""An order as the simulated Alpaca keeps it, the states it may be in, and its document.

Transitions are data: `LEGAL` is the table of reference/alpaca.md §8.2 and `Order.move` the only way to change a state.
Plain data: an order knows its account, group and engine order by id only, so that an account can be copied.
Invariant: a final state is never left, and filled_qty survives it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum
from typing import Any

from bridge.simulator.alpaca.market.catalogue import Asset
from bridge.simulator.alpaca.numbers import ZERO, divided, maybe_text, text
from bridge.simulator.alpaca.stamps import eastern_text, maybe_utc, utc_text

ZERO_UUID = "00000000-0000-0000-0000-000000000000"


class Status(StrEnum):
    """States an order passes here; the rare ones of the reference are not simulated."""

    PENDING_NEW = "pending_new"
    ACCEPTED = "accepted"
    HELD = "held"
    NEW = "new"
    PARTIALLY_FILLED = "partially_filled"
    PENDING_CANCEL = "pending_cancel"
    PENDING_REPLACE = "pending_replace"
    FILLED = "filled"
    CANCELED = "canceled"
    EXPIRED = "expired"
    REPLACED = "replaced"
    REJECTED = "rejected"


S = Status
FINAL = frozenset({S.FILLED, S.CANCELED, S.EXPIRED, S.REPLACED, S.REJECTED})
PENDING = frozenset({S.PENDING_CANCEL, S.PENDING_REPLACE})
_ENDS = FINAL - {S.REJECTED}
LEGAL: dict[Status, frozenset[Status]] = {
    S.PENDING_NEW: frozenset({S.NEW, S.ACCEPTED, S.HELD, S.REJECTED, S.CANCELED}),
    S.ACCEPTED: frozenset({S.PENDING_NEW, S.NEW, S.CANCELED, S.EXPIRED, S.REJECTED, S.PENDING_CANCEL}),
    S.HELD: frozenset({S.NEW, S.ACCEPTED, S.CANCELED, S.EXPIRED, S.PENDING_CANCEL}),
    S.NEW: frozenset({S.PARTIALLY_FILLED, S.REJECTED, *PENDING, *_ENDS}),
    S.PARTIALLY_FILLED: frozenset({S.PARTIALLY_FILLED, *PENDING, *_ENDS}),
    S.PENDING_CANCEL: frozenset({S.CANCELED, S.FILLED, S.EXPIRED}),
    S.PENDING_REPLACE: frozenset({S.REPLACED, S.FILLED, S.CANCELED, S.EXPIRED, S.PARTIALLY_FILLED, S.NEW}),
    **dict.fromkeys(FINAL, frozenset()),
}


@dataclass(slots=True, kw_only=True)
class Order:
    """One order. `qty` None: by notional. Times are Unix ns.

    `target`: units to trade, `qty` or what a notional buys (None until it is routed). `group`: id of the bracket, oco
    or oto it belongs to (its first parent's id); `role` there: entry | take_profit | stop_loss. `legs`: of exits, or
    mleg legs. `opens`: it may open a position (else it closes one and its units are held for it). `engine_id`: the
    engine order that works for it now. `effective_ms`: when a pending cancel or replace takes effect.
    """

    id: str
    client_order_id: str
    asset: Asset | None  # None: mleg
    side: str
    type: str
    time_in_force: str
    created_ns: int
    order_class: str = ""
    qty: Decimal | None = None
    notional: Decimal | None = None
    target: Decimal | None = None
    limit_price: Decimal | None = None
    stop_price: Decimal | None = None
    trail_price: Decimal | None = None
    trail_percent: Decimal | None = None
    hwm: Decimal | None = None
    extended_hours: bool = False
    position_intent: str = ""
    ratio_qty: Decimal | None = None
    status: Status = Status.PENDING_NEW
    filled_qty: Decimal = ZERO
    filled_value: Decimal = ZERO  # sum of qty x price
    updated_ns: int = 0
    filled_ns: int | None = None
    expired_ns: int | None = None
    canceled_ns: int | None = None
    failed_ns: int | None = None
    replaced_ns: int | None = None
    cancel_requested_ns: int | None = None
    expires_ms: int | None = None
    replaced_by: str | None = None
    replaces: str | None = None
    replacement: str | None = None  # asked for; becomes `replaced_by` when it takes effect
    group: str | None = None
    role: str = ""
    legs: list[str] = field(default_factory=list)
    parent: str | None = None
    opens: bool = True
    triggered: bool = False
    reserved: Decimal = ZERO  # USD kept back for it, per unit still to fill (or the notional itself)
    engine_id: int | None = None
    effective_ms: int = 0

    @property
    def is_final(self) -> bool:
        return self.status in FINAL

    @property
    def remaining(self) -> Decimal:
        """Units still to fill; 0 for a notional order that was not routed yet."""
        whole = self.target if self.target is not None else self.qty
        return ZERO if whole is None else whole - self.filled_qty

    @property
    def sign(self) -> int:
        return 1 if self.side == "buy" else -1

    @property
    def filled_avg_price(self) -> Decimal | None:
        return divided(self.filled_value, self.filled_qty) if self.filled_qty else None

    def move(self, status: Status, at_ns: int) -> None:
        """Enter a state. Raises AssertionError for a transition the table does not know: a bug of the simulator."""
        if status is not self.status and status not in LEGAL[self.status]:
            raise AssertionError(f"order {self.id}: {self.status} -> {status}")
        self.status = status
        self.updated_ns = at_ns
        match status:
            case Status.FILLED:
                self.filled_ns = at_ns
            case Status.CANCELED:
                self.canceled_ns = at_ns
            case Status.EXPIRED:
                self.expired_ns = at_ns
            case Status.REJECTED:
                self.failed_ns = at_ns
            case Status.REPLACED:
                self.replaced_ns = at_ns


def order_document(order: Order, legs: list[dict[str, Any]] | None, *, on_stream: bool = False) -> dict[str, Any]:
    """Order of reference §1.3. `legs`: their documents when they are to be shown. The copy on the stream carries
    `cancel_requested_at` and one time with New York's offset, as the documented sample does."""
    asset = order.asset
    is_leg_of_many = order.ratio_qty is not None
    document: dict[str, Any] = {
        "id": order.id,
        "client_order_id": order.client_order_id,
        "created_at": utc_text(order.created_ns),
        "updated_at": utc_text(order.updated_ns or order.created_ns),
        "submitted_at": eastern_text(order.created_ns) if on_stream else utc_text(order.created_ns),
        "filled_at": maybe_utc(order.filled_ns),
        "expired_at": maybe_utc(order.expired_ns),
        "expires_at": None if order.expires_ms is None else utc_text(order.expires_ms * 1_000_000),
        "canceled_at": maybe_utc(order.canceled_ns),
        "failed_at": maybe_utc(order.failed_ns),
        "replaced_at": maybe_utc(order.replaced_ns),
        "replaced_by": order.replaced_by,
        "replaces": order.replaces,
        "asset_id": asset.id if asset is not None else ZERO_UUID,
        "symbol": asset.symbol if asset is not None else "",
        "asset_class": asset.asset_class if asset is not None else "",
        "notional": maybe_text(order.notional),
        "qty": maybe_text(order.qty),
        "filled_qty": text(order.filled_qty),
        "filled_avg_price": maybe_text(order.filled_avg_price),
        "order_class": order.order_class,
        "order_type": "" if is_leg_of_many else order.type,
        "type": "" if is_leg_of_many else order.type,
        "side": order.side,
        "position_intent": order.position_intent,
        "time_in_force": order.time_in_force,
        "limit_price": maybe_text(order.limit_price),
        "stop_price": maybe_text(order.stop_price),
        "status": order.status.value,
        "extended_hours": order.extended_hours,
        "legs": legs,
        "trail_percent": maybe_text(order.trail_percent),
        "trail_price": maybe_text(order.trail_price),
        "hwm": maybe_text(order.hwm),
        "ratio_qty": maybe_text(order.ratio_qty),
        "subtag": None,
        "source": None,
    }
    if on_stream:
        document["cancel_requested_at"] = maybe_utc(order.cancel_requested_ns)
    return document
