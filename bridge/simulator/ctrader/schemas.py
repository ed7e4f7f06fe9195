"""Bodies of the admin routes: strict about names and types, in camelCase, amounts as JSON numbers or strings."""

from __future__ import annotations

from pydantic import AliasChoices, Field

from bridge.simulator.bodies import Body, Number, Positive
from core.orders import OrderType, Side, TimeInForce
from core.paper_trader import Access, TradingMode

# Price and units on offer there.
LevelBody = tuple[Positive, Positive]


class DepositBody(Body):
    amount: Number
    note: str | None = Field(None, max_length=200)


class OrderBody(Body):
    symbol: str
    side: Side
    units: Positive
    type: OrderType = OrderType.MARKET
    time_in_force: TimeInForce | None = None
    limit_price: Positive | None = None
    stop_price: Positive | None = None
    base_price: Positive | None = None
    slippage_points: int | None = None
    expires_at_ms: int | None = None
    stop_loss: Positive | None = None
    take_profit: Positive | None = None
    relative_stop_loss: Positive | None = None
    relative_take_profit: Positive | None = None
    trailing_stop_loss: bool = Field(False, validation_alias=AliasChoices("trailingStopLoss", "trailing"))
    position_id: int | None = None
    client_order_id: str | None = Field(None, max_length=50)
    label: str | None = Field(None, max_length=100)
    comment: str | None = Field(None, max_length=512)


class CloseBody(Body):
    """Without a position id: every open position, of `symbol` if that is given."""

    position_id: int | None = None
    symbol: str | None = None
    units: Positive | None = None


class CancelBody(Body):
    order_id: int


class AmendBody(Body):
    """Fields left out stay as they are."""

    order_id: int
    units: Positive | None = None
    limit_price: Positive | None = None
    stop_price: Positive | None = None
    stop_loss: Positive | None = None
    take_profit: Positive | None = None


class ProtectBody(Body):
    """Full replacement: a leg left out is removed."""

    position_id: int
    stop_loss: Positive | None = None
    take_profit: Positive | None = None
    trailing: bool = False


class TermsBody(Body):
    leverage: Positive | None = None
    access: Access | None = None
    swap_free: bool | None = None


class MarkupBody(Body):
    """Points of each symbol, added to the ask and taken from the bid; `group`: shared with others in it."""

    points: int = Field(ge=0, le=1000)
    group: str | None = Field(None, pattern="^[A-Za-z0-9_-]{1,40}$")


class QuoteBody(Body):
    bid: Positive | None = None
    ask: Positive | None = None
    bids: list[LevelBody] | None = Field(None, min_length=1, max_length=20)
    asks: list[LevelBody] | None = Field(None, min_length=1, max_length=20)


class PricesBody(Body):
    """`quotes` by symbol name, or one as `symbol`, `bid`, `ask`; `server` limits them to one server, such as
    "Sim-demo"; `freeze` stops or starts the walk."""

    symbol: str | None = None
    bid: Positive | None = None
    ask: Positive | None = None
    quotes: dict[str, QuoteBody] = Field(default_factory=dict)
    server: str | None = None
    freeze: bool | None = None


class CodeBody(Body):
    user: int
    scope: str = Field("trading", pattern="^(trading|accounts)$")


class SymbolBody(Body):
    """New terms of a symbol; with none of them the change is announced only."""

    symbol: str
    trading_mode: TradingMode | None = None
    is_open: bool | None = None
    server: str | None = None
