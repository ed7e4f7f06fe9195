"""What happened, in order: the engine's only output.

Every event names its account and time and carries immutable snapshots as after that event, so that a broker simulator
can turn each into its own wire message. The comments give the Open API's execution type (Open API reference §4.3).
`by_server`: no request of the client led to it directly (a stop loss hit, an expiry, a stop-out …).
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum

from core.paper_trader.settings import AccountSettings
from core.paper_trader.types import Code, Deal, Order, Position


class Operation(StrEnum):
    """The request that was refused."""

    PLACE = "place"
    AMEND = "amend"
    CANCEL = "cancel"
    CLOSE = "close"
    PROTECT = "protect"
    CASH = "cash"
    BONUS = "bonus"


class BalanceCause(StrEnum):
    """Why a balance changed."""

    DEAL = "deal"
    CASH = "cash"


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Root of all events."""

    account_id: str
    at_ms: int
    by_server: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderAccepted(Event):
    """2 ORDER_ACCEPTED. `position`: the one it will change, a CREATED one it will open (hedged), or None."""

    order: Order
    position: Position | None


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderPartiallyFilled(Event):
    """11 ORDER_PARTIAL_FILL: units remain; more deals, OrderCancelled or OrderExpired follow."""

    order: Order
    deal: Deal
    position: Position


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderFilled(Event):
    """3 ORDER_FILLED: this deal completes the order. The position is CLOSED when nothing is left of it."""

    order: Order
    deal: Deal
    position: Position


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderReplaced(Event):
    """4 ORDER_REPLACED of a working order: amended by the client, or a trailing stop order that moved (`by_server`)."""

    order: Order


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderTriggered(Event):
    """A stop price was reached and the order did not fill at once; no message of its own in the Open API."""

    order: Order


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderCancelled(Event):
    """5 ORDER_CANCELLED, asked for, or the unfilled rest of IOC and FOK. `position` if partly filled."""

    order: Order
    position: Position | None


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderExpired(Event):
    """6 ORDER_EXPIRED: GTD or DAY ended. `position` if partly filled."""

    order: Order
    position: Position | None


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderRejected(Event):
    """7 ORDER_REJECTED: an order accepted earlier could not be executed when its time came."""

    order: Order
    code: Code
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestRejected(Event):
    """A request refused whole; nothing changed. CANCEL: 8 ORDER_CANCEL_REJECTED; others: ProtoOAOrderErrorEvent.

    The ids are those the request named, if any; `order` is the order it was about, if there is one.
    """

    operation: Operation
    code: Code
    message: str
    order_id: int | None = None
    position_id: int | None = None
    client_order_id: str | None = None
    order: Order | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ProtectionAccepted(Event):
    """2 ORDER_ACCEPTED of a STOP_LOSS_TAKE_PROFIT order: the position got its first stop loss or take profit."""

    order: Order
    position: Position


@dataclass(frozen=True, slots=True, kw_only=True)
class ProtectionReplaced(Event):
    """4 ORDER_REPLACED of a STOP_LOSS_TAKE_PROFIT order: prices changed, or its units after the position's changed."""

    order: Order
    position: Position


@dataclass(frozen=True, slots=True, kw_only=True)
class ProtectionCancelled(Event):
    """5 ORDER_CANCELLED of a STOP_LOSS_TAKE_PROFIT order: removed, or its position closed some other way."""

    order: Order
    position: Position


@dataclass(frozen=True, slots=True, kw_only=True)
class TrailingStopMoved(Event):
    """ProtoOATrailingSLChangedEvent: the engine moved a position's stop loss."""

    position: Position
    order_id: int
    stop_price: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class SwapCharged(Event):
    """9 SWAP: `amount` (negative = paid by the holder) was added to the position's swap; the balance is untouched."""

    position: Position
    amount: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class MarginChanged(Event):
    """ProtoOAMarginChangedEvent: an open position's used margin changed (size or leverage)."""

    position_id: int
    used_margin: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class CashMoved(Event):
    """10 DEPOSIT_WITHDRAW: `delta` > 0 deposit, < 0 withdrawal. `equity` after, None when a quote is missing."""

    cash_id: int
    delta: Decimal
    balance: Decimal
    balance_version: int
    equity: Decimal | None
    note: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class BonusMoved(Event):
    """12 BONUS_DEPOSIT_WITHDRAW: `bonus` after. Bonus is not part of balance or equity."""

    cash_id: int
    delta: Decimal
    bonus: Decimal
    note: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class BalanceChanged(Event):
    """Follows every event that changed the balance; says nothing new, but is one place to look."""

    delta: Decimal
    balance: Decimal
    balance_version: int
    cause: BalanceCause


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountChanged(Event):
    """ProtoOATraderUpdatedEvent: leverage, access or another term changed."""

    settings: AccountSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class MarginCall(Event):
    """ProtoOAMarginCallTriggerEvent: the margin level (percent) fell to `threshold`; at most once per pause each."""

    threshold: Decimal
    margin_level: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class StopOut(Event):
    """Margin level fell to the stop-out level; `position_id` is closed next (an order with `is_stop_out`)."""

    margin_level: Decimal
    position_id: int
