"""The engine's words: requests that go in, and orders, positions and deals as they come out.

Everything here is immutable. An order, position or deal inside an event is the snapshot right after that event, and
the engine itself keeps its newest snapshot of each, so a reader can hold on to one without it changing underneath.

Units and prices are Decimals, units positive with the side telling the direction; money is in the deposit currency,
negative when it was charged; times are Unix ms. Broker codes and scales: Open API reference §4.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from typing import Final, Literal

from core.orders import OrderType, Side, TimeInForce
from core.paper_trader.settings import AccountSettings

ZERO: Final = Decimal(0)


class OrderRole(StrEnum):
    """Why an order exists."""

    TRADE = "trade"  # placed by the client; may open, add to, reduce or flip
    CLOSE = "close"  # closes (part of) one named position: client close or stop-out
    PROTECTION = "protection"  # stop loss / take profit of a position, with an order id of its own


class OrderState(StrEnum):
    """Life of an order; all but ACCEPTED are final. A partly filled order is ACCEPTED with filled_units > 0."""

    ACCEPTED = "accepted"
    FILLED = "filled"
    REJECTED = "rejected"
    EXPIRED = "expired"
    CANCELLED = "cancelled"


class PositionStatus(StrEnum):
    """CREATED: announced with an accepted order, holds nothing yet, is not an open position."""

    CREATED = "created"
    OPEN = "open"
    CLOSED = "closed"


class Code(StrEnum):
    """Why something was refused: stable, and spelled as the Open API spells it (Open API reference §2.4)."""

    INVALID_REQUEST = "INVALID_REQUEST"
    SYMBOL_NOT_FOUND = "SYMBOL_NOT_FOUND"
    NO_QUOTES = "NO_QUOTES"
    NOT_ENOUGH_MONEY = "NOT_ENOUGH_MONEY"
    POSITION_NOT_FOUND = "POSITION_NOT_FOUND"
    ORDER_NOT_FOUND = "ORDER_NOT_FOUND"
    TOO_MANY_POSITIONS = "TOO_MANY_POSITIONS"
    TRADING_BAD_VOLUME = "TRADING_BAD_VOLUME"
    TRADING_BAD_STOPS = "TRADING_BAD_STOPS"
    TRADING_BAD_PRICES = "TRADING_BAD_PRICES"
    TRADING_BAD_EXPIRATION_DATE = "TRADING_BAD_EXPIRATION_DATE"
    PROTECTION_IS_TOO_CLOSE_TO_MARKET = "PROTECTION_IS_TOO_CLOSE_TO_MARKET"
    TRADING_DISABLED = "TRADING_DISABLED"  # the instrument takes no (opening) orders
    TRADING_NOT_ALLOWED = "TRADING_NOT_ALLOWED"  # the account is read-only or close-only
    RET_ACCOUNT_DISABLED = "RET_ACCOUNT_DISABLED"
    MARKET_CLOSED = "MARKET_CLOSED"
    SHORT_SELLING_NOT_ALLOWED = "SHORT_SELLING_NOT_ALLOWED"
    UNABLE_TO_CANCEL_ORDER = "UNABLE_TO_CANCEL_ORDER"


@dataclass(frozen=True, slots=True)
class Level:
    """One price of one side of the market with the units on offer there; None = without limit."""

    price: Decimal
    units: Decimal | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderRequest:
    """A new order.

    - MARKET: no prices. MARKET_RANGE: `base_price` + `slippage_points`: worst price = base ± slippage.
    - LIMIT: `limit_price`. STOP: `stop_price`. STOP_LIMIT: `stop_price` and either `slippage_points`
      (limit = stop ± points, the Open API's way) or `limit_price`. TRAILING_STOP: `trail_amount` (price distance) or
      `trail_percent`.
      `trail_extreme`: the best price it has seen before, when it goes on with a trail begun earlier.
    - `time_in_force`: GTD needs `expires_at_ms`. MARKET and MARKET_RANGE with GTC or DAY keep an unfilled rest working;
      with IOC the rest is cancelled (MARKET_RANGE allows IOC and FOK only).
    - `stop_loss`, `take_profit` absolute prices, or `relative_…` positive price distances from the fill price; they
      protect the position once the order fills. `trailing_stop_loss` needs a stop loss.
    - `position_id`: hedged accounts: add to (same side) or reduce (opposite side) that open position.
    """

    instrument_id: str
    side: Side
    type: OrderType
    units: Decimal
    time_in_force: TimeInForce = TimeInForce.GTC
    limit_price: Decimal | None = None
    stop_price: Decimal | None = None
    base_price: Decimal | None = None
    slippage_points: int | None = None
    trail_amount: Decimal | None = None
    trail_percent: Decimal | None = None
    trail_extreme: Decimal | None = None
    expires_at_ms: int | None = None
    stop_loss: Decimal | None = None
    take_profit: Decimal | None = None
    relative_stop_loss: Decimal | None = None
    relative_take_profit: Decimal | None = None
    trailing_stop_loss: bool = False
    position_id: int | None = None
    client_order_id: str | None = None
    label: str | None = None
    comment: str | None = None


class Keep(StrEnum):
    """Marker type of OrderChanges: this field stays as it is."""

    KEEP = "keep"


KEEP: Final = Keep.KEEP
KeepField = Literal[Keep.KEEP]


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderChanges:
    """An amendment of a working order; KEEP leaves a field alone, None removes it.

    `units` is the new total including what is filled already and must be above it.
    """

    units: Decimal | KeepField = KEEP
    limit_price: Decimal | KeepField = KEEP
    stop_price: Decimal | KeepField = KEEP
    slippage_points: int | KeepField = KEEP
    trail_amount: Decimal | KeepField = KEEP
    trail_percent: Decimal | KeepField = KEEP
    expires_at_ms: int | KeepField | None = KEEP
    stop_loss: Decimal | KeepField | None = KEEP
    take_profit: Decimal | KeepField | None = KEEP
    relative_stop_loss: Decimal | KeepField | None = KEEP
    relative_take_profit: Decimal | KeepField | None = KEEP
    trailing_stop_loss: bool | KeepField = KEEP


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """An order as after some event.

    `position_id`: hedged trade orders get theirs when accepted, netted ones when they first fill. `average_price`: of
    what is filled. `limit_price` of a STOP_LIMIT placed with slippage is the computed one. A PROTECTION order carries
    the stop loss in `stop_price` and the take profit in `limit_price` (type STOP, or LIMIT when there is no stop loss)
    and never `stop_loss`/`take_profit` (Open API reference §4.3). `triggered`: its stop price was reached.
    `trail_extreme`: the best price a TRAILING_STOP has seen (its high-water mark when selling).
    """

    id: int
    account_id: str
    instrument_id: str
    role: OrderRole
    side: Side
    type: OrderType
    time_in_force: TimeInForce
    units: Decimal
    created_at_ms: int
    updated_at_ms: int
    state: OrderState = OrderState.ACCEPTED
    filled_units: Decimal = ZERO
    average_price: Decimal | None = None
    limit_price: Decimal | None = None
    stop_price: Decimal | None = None
    base_price: Decimal | None = None
    slippage_points: int | None = None
    trail_amount: Decimal | None = None
    trail_percent: Decimal | None = None
    trail_extreme: Decimal | None = None
    expires_at_ms: int | None = None
    stop_loss: Decimal | None = None
    take_profit: Decimal | None = None
    relative_stop_loss: Decimal | None = None
    relative_take_profit: Decimal | None = None
    trailing_stop_loss: bool = False
    position_id: int | None = None
    client_order_id: str | None = None
    label: str | None = None
    comment: str | None = None
    is_stop_out: bool = False
    triggered: bool = False

    @property
    def remaining_units(self) -> Decimal:
        return self.units - self.filled_units


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """A position as after some event.

    `entry_price` is the average of the opening deals to 15 significant digits (a double carries it exactly), None while
    CREATED. `commission`: the opening side charged so far and not yet settled, ≤ 0. `swap`: charged so far. Both belong
    to the units still open. `margin_rate`: deposit value of one unit at opening.
    """

    id: int
    account_id: str
    instrument_id: str
    side: Side
    units: Decimal
    status: PositionStatus
    opened_at_ms: int
    updated_at_ms: int
    entry_price: Decimal | None = None
    swap: Decimal = ZERO
    commission: Decimal = ZERO
    used_margin: Decimal = ZERO
    margin_rate: Decimal | None = None
    stop_loss: Decimal | None = None
    take_profit: Decimal | None = None
    trailing_stop_loss: bool = False
    protection_order_id: int | None = None
    closed_at_ms: int | None = None
    label: str | None = None
    comment: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CloseDetail:
    """What a closing deal realised; net = gross_profit + swap + commission went into the balance.

    `commission` = the opening share of the closed units plus the closing side. `balance`, `balance_version` are after.
    """

    entry_price: Decimal
    closed_units: Decimal
    gross_profit: Decimal
    swap: Decimal
    commission: Decimal
    balance: Decimal
    balance_version: int
    quote_to_deposit_rate: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class Deal:
    """One execution. `units`: the whole order's; `filled_units`: this deal's; `commission`: this deal's side only."""

    id: int
    order_id: int
    position_id: int
    account_id: str
    instrument_id: str
    side: Side
    units: Decimal
    filled_units: Decimal
    price: Decimal
    commission: Decimal
    created_at_ms: int
    executed_at_ms: int
    completes_order: bool
    margin_rate: Decimal | None
    base_to_usd_rate: Decimal | None
    close: CloseDetail | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Quote:
    """Best prices of one instrument; None = not known."""

    bid: Decimal | None
    ask: Decimal | None
    at_ms: int | None
    is_open: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountView:
    """An account's terms and money in its deposit currency, without any valuation."""

    account_id: str
    market_id: str
    settings: AccountSettings
    balance: Decimal
    balance_version: int
    bonus: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class PositionTruth:
    """A position with the broker's own valuation; None where a quote or a conversion rate is missing.

    `current_price`: the side a close would use (bid for a long). `gross_pnl` and `unrealized_pnl` (net = gross + swap +
    commission) are each rounded half-even to the deposit digits.
    """

    position: Position
    current_price: Decimal | None
    gross_pnl: Decimal | None
    unrealized_pnl: Decimal | None


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountTruth:
    """What the broker itself believes about an account, in its deposit currency.

    `margin_level` in percent, two decimals, None when no margin is used. `orders`: working ones, without protections.
    """

    account_id: str
    currency: str
    money_digits: int
    leverage: Decimal
    balance: Decimal
    balance_version: int
    bonus: Decimal
    equity: Decimal | None
    unrealized_pnl: Decimal | None
    used_margin: Decimal
    free_margin: Decimal | None
    margin_level: Decimal | None
    positions: tuple[PositionTruth, ...]
    orders: tuple[Order, ...]
