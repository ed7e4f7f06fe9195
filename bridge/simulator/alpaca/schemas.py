"""Bodies of the simulated Alpaca's admin routes: strict about names and types, in camelCase."""

from __future__ import annotations

from decimal import Decimal
from typing import Literal

from pydantic import Field

from bridge.simulator.bodies import Body, Number, Positive
from core.orders import Side


class DepositBody(Body):
    """`note`: taken as the other broker takes it; Alpaca's activities show none."""

    amount: Number
    note: str | None = Field(None, max_length=200)


class PayBody(Body):
    """Other money than a deposit: a dividend, a fee, interest; negative is taken."""

    type: str = Field(pattern="^[A-Z]{2,6}$")
    amount: Number
    symbol: str | None = None


class LegBody(Body):
    """One leg of a multi-leg order."""

    symbol: str
    side: Side
    ratio: Positive = Decimal(1)
    intent: str | None = None


class OrderBody(Body):
    """`units` or `notional`; `takeProfit`, `stopLoss` are the prices of the exits of a bracket, oco or oto."""

    symbol: str | None = None
    side: Side | None = None
    units: Positive | None = None
    notional: Positive | None = None
    type: Literal["market", "limit", "stop", "stop_limit", "trailing_stop"] = "market"
    time_in_force: Literal["day", "gtc", "opg", "cls", "ioc", "fok"] | None = None
    limit_price: Number | None = None
    stop_price: Positive | None = None
    trail_price: Positive | None = None
    trail_percent: Positive | None = None
    extended_hours: bool | None = None
    client_order_id: str | None = Field(None, max_length=128)
    order_class: Literal["simple", "bracket", "oco", "oto", "mleg"] | None = None
    take_profit: Positive | None = None
    stop_loss: Positive | None = None
    stop_loss_limit: Positive | None = None
    position_intent: str | None = None
    legs: list[LegBody] | None = Field(None, max_length=4)


class CloseBody(Body):
    """Without a symbol: every position. `units` or `percentage` of one position. `positionId` is its asset id."""

    symbol: str | None = None
    position_id: str | None = None
    units: Positive | None = None
    percentage: Positive | None = None
    cancel_orders: bool = True


class CancelBody(Body):
    """Without an order id: every open order."""

    order_id: str | None = None


class ReplaceBody(Body):
    """Fields left out stay as they are."""

    order_id: str
    units: Positive | None = None
    limit_price: Number | None = None
    stop_price: Positive | None = None
    trail: Positive | None = None
    time_in_force: str | None = None
    client_order_id: str | None = Field(None, max_length=128)


class QuoteBody(Body):
    """`price` is the last trade, with bid and ask around it where they are not given. Sizes limit what can trade."""

    price: Positive | None = None
    bid: Positive | None = None
    ask: Positive | None = None
    bid_size: Positive | None = None
    ask_size: Positive | None = None


class PricesBody(QuoteBody):
    """`quotes` by symbol, or one as `symbol`, `price` …; `freeze` stops or starts the walk."""

    symbol: str | None = None
    quotes: dict[str, QuoteBody] = Field(default_factory=dict)
    freeze: bool | None = None


class MarketBody(Body):
    state: Literal["open", "extended", "closed"]


class CodeBody(Body):
    user: int
    scope: str = "account:write trading data"
    env: Literal["paper", "live"] | None = None


class RevokeBody(Body):
    what: Literal["all", "tokens", "keys"] = "all"
