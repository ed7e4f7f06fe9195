"""What a broker refuses, checked before anything changes. Pure questions: a `Refusal`, or None when all is well.

Codes and sentences follow Open API reference §2.4 and §4.3.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from core.orders import OrderType, Side, TimeInForce
from core.paper_trader.market import Book, fits, sane
from core.paper_trader.settings import Access, Listing, MarketSettings, TradingMode
from core.paper_trader.state import Account
from core.paper_trader.types import Code, OrderRequest, Position

MARKET_TYPES = (OrderType.MARKET, OrderType.MARKET_RANGE)
MOST_POINTS = 10**9
AT_ONCE = (TimeInForce.IOC, TimeInForce.FOK)
# The price fields each order type must have; besides those, what EXACTLY_ONE_OF names.
NEEDS = {
    OrderType.MARKET: (),
    OrderType.MARKET_RANGE: ("base_price", "slippage_points"),
    OrderType.LIMIT: ("limit_price",),
    OrderType.STOP: ("stop_price",),
    OrderType.STOP_LIMIT: ("stop_price",),
    OrderType.TRAILING_STOP: (),
}
PRICE_FIELDS = (
    "limit_price",
    "stop_price",
    "base_price",
    "slippage_points",
    "trail_amount",
    "trail_percent",
)
EXACTLY_ONE_OF = {
    OrderType.STOP_LIMIT: ("limit_price", "slippage_points"),
    OrderType.TRAILING_STOP: ("trail_amount", "trail_percent"),
}


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why not."""

    code: Code
    message: str


def check_account(account: Account) -> Refusal | None:
    """Whether the account may send trading requests at all."""
    match account.settings.access:
        case Access.READ_ONLY:
            return Refusal(Code.TRADING_NOT_ALLOWED, "Trading is not allowed for this account")
        case Access.DISABLED:
            return Refusal(Code.RET_ACCOUNT_DISABLED, "Account is disabled")
        case _:
            return None


def check_opening(account: Account, listing: Listing, side: Side) -> Refusal | None:
    """Whether the account may open or add on that side of the instrument."""
    if account.settings.access is Access.CLOSE_ONLY:
        return Refusal(Code.TRADING_NOT_ALLOWED, "Account is in close-only mode")
    if listing.trading_mode is TradingMode.CLOSE_ONLY:
        return Refusal(Code.TRADING_DISABLED, "Symbol is in close-only mode")
    if side is Side.SELL and not listing.short_selling:
        return Refusal(Code.SHORT_SELLING_NOT_ALLOWED, "Short selling is not allowed for this symbol")
    return None


def check_tradable(book: Book) -> Refusal | None:
    """Whether the instrument takes new requests."""
    if book.listing.trading_mode in (TradingMode.DISABLED, TradingMode.PENDING_ONLY):
        return Refusal(Code.TRADING_DISABLED, "Trading is disabled for this symbol")
    return None


def check_now(book: Book, side: Side) -> Refusal | None:
    """Whether something of that side can be executed at this moment."""
    if not book.is_open:
        return Refusal(Code.MARKET_CLOSED, "Market is closed")
    if book.market_price(side) is None:
        return Refusal(Code.NO_QUOTES, "No quotes for this symbol")
    return None


def check_units(listing: Listing, units: Decimal) -> Refusal | None:
    """Volume within the listing's limits and step."""
    instrument = listing.instrument
    if not sane(units):
        return Refusal(Code.TRADING_BAD_VOLUME, "Order volume must be positive and sane")
    if instrument.min_units is not None and units < instrument.min_units:
        return Refusal(
            Code.TRADING_BAD_VOLUME, f"Order volume = {units} is smaller than minimum {instrument.min_units}"
        )
    if instrument.max_units is not None and units > instrument.max_units:
        return Refusal(Code.TRADING_BAD_VOLUME, f"Order volume = {units} is bigger than maximum {instrument.max_units}")
    if instrument.step_units is not None and units % instrument.step_units != 0:
        return Refusal(Code.TRADING_BAD_VOLUME, f"Order volume = {units} is not a multiple of {instrument.step_units}")
    return None


def check_close_units(listing: Listing, position: Position, units: Decimal) -> Refusal | None:
    """Closing volume: all of the position, or a part within the limits."""
    if not units.is_finite():
        return check_units(listing, units)
    if units == position.units:
        return None
    if units > position.units:
        return Refusal(
            Code.TRADING_BAD_VOLUME, f"Order volume = {units} is bigger than position volume {position.units}"
        )
    return check_units(listing, units)


def check_prices(book: Book, request: OrderRequest) -> Refusal | None:
    """The order's own prices: the right ones given, positive, within the digits, on the right side of the market."""
    allowed = NEEDS[request.type] + EXACTLY_ONE_OF.get(request.type, ())
    for name in PRICE_FIELDS:
        value = getattr(request, name)
        if value is None:
            if name in NEEDS[request.type]:
                return Refusal(Code.TRADING_BAD_PRICES, f"{name} is required for {request.type} orders")
            continue
        if name not in allowed:
            return Refusal(Code.INVALID_REQUEST, f"{name} is not allowed for {request.type} orders")
        refusal = _check_number(book.listing, name, value)
        if refusal is not None:
            return refusal
    if request.trail_extreme is not None:
        if request.type is not OrderType.TRAILING_STOP:
            return Refusal(Code.INVALID_REQUEST, f"trail_extreme is not allowed for {request.type} orders")
        refusal = _check_number(book.listing, "trail_extreme", request.trail_extreme)
        if refusal is not None:
            return refusal
    one_of = EXACTLY_ONE_OF.get(request.type)
    if one_of is not None and sum(getattr(request, name) is not None for name in one_of) != 1:
        return Refusal(Code.TRADING_BAD_PRICES, f"{request.type} orders need exactly one of {' and '.join(one_of)}")
    return _check_stop_side(book, request)


def check_expiry(request: OrderRequest, now_ms: int) -> Refusal | None:
    """Time in force and expiration fit each other and the order type."""
    gtd = request.time_in_force is TimeInForce.GTD
    if gtd != (request.expires_at_ms is not None):
        return Refusal(Code.TRADING_BAD_EXPIRATION_DATE, "An expiration time belongs to GTD orders, and only to them")
    if gtd and request.type in MARKET_TYPES:
        return Refusal(Code.INVALID_REQUEST, "A market order cannot be GTD")
    if request.type is OrderType.MARKET_RANGE and request.time_in_force not in AT_ONCE:
        return Refusal(Code.INVALID_REQUEST, "A market range order must be IOC or FOK")
    if request.expires_at_ms is not None and request.expires_at_ms <= now_ms:
        return Refusal(Code.TRADING_BAD_EXPIRATION_DATE, "Expiration time is in the past")
    return None


def check_request_protection(book: Book, request: OrderRequest) -> Refusal | None:
    """Stop loss and take profit of an order: one form each, precise, on the right side of where it will trade."""
    digits = book.listing.instrument.price_digits
    for absolute, relative in (
        (request.stop_loss, request.relative_stop_loss),
        (request.take_profit, request.relative_take_profit),
    ):
        if absolute is not None and relative is not None:
            return Refusal(Code.INVALID_REQUEST, "Give a protection price either absolute or relative")
        if relative is not None and not (sane(relative) and fits(relative, digits)):
            return Refusal(Code.TRADING_BAD_STOPS, "Relative stop loss or take profit has invalid precision")
    if request.trailing_stop_loss and request.stop_loss is None and request.relative_stop_loss is None:
        return Refusal(Code.TRADING_BAD_STOPS, "A trailing stop needs a stop loss")
    reference = request.limit_price or request.stop_price or book.closing_price(request.side)
    return check_protection(book, request.side, reference, request.stop_loss, request.take_profit)


def check_protection(
    book: Book, side: Side, reference: Decimal | None, stop_loss: Decimal | None, take_profit: Decimal | None
) -> Refusal | None:
    """Absolute protection of a position of that side against a reference price (None: nothing to compare with)."""
    for name, price in (("Stop loss", stop_loss), ("Take profit", take_profit)):
        if price is not None and not sane(price):
            return Refusal(Code.TRADING_BAD_STOPS, f"{name} must be a positive price")
        if price is not None and not fits(price, book.listing.instrument.price_digits):
            return _too_many_digits(book.listing, name, price)
    if reference is None:
        return None
    sign = 1 if side is Side.BUY else -1
    least = Decimal(book.listing.min_stop_points).scaleb(-book.listing.instrument.price_digits)
    for name, distance in (
        ("Stop loss", None if stop_loss is None else (reference - stop_loss) * sign),
        ("Take profit", None if take_profit is None else (take_profit - reference) * sign),
    ):
        if distance is None:
            continue
        if distance <= 0:
            return Refusal(Code.TRADING_BAD_STOPS, f"{name} is on the wrong side of {reference}")
        if distance < least:
            return Refusal(Code.PROTECTION_IS_TOO_CLOSE_TO_MARKET, f"{name} is closer than {least} to {reference}")
    return None


def may_wait_for_open(settings: MarketSettings, request: OrderRequest) -> bool:
    """Whether a market order may be taken while nothing trades."""
    return settings.queue_when_closed and request.time_in_force not in AT_ONCE


def _check_number(listing: Listing, name: str, value: Decimal | int) -> Refusal | None:
    if isinstance(value, int):
        fine = 0 <= value <= MOST_POINTS
        return None if fine else Refusal(Code.TRADING_BAD_PRICES, f"{name} must be 0 to {MOST_POINTS}")
    if not sane(value):
        return Refusal(Code.TRADING_BAD_PRICES, f"{name} must be positive and sane")
    if name == "trail_percent":
        return None if value < 100 else Refusal(Code.TRADING_BAD_PRICES, "trail_percent must be below 100")
    if not fits(value, listing.instrument.price_digits):
        return _too_many_digits(listing, "Order price", value)
    return None


def _too_many_digits(listing: Listing, name: str, price: Decimal) -> Refusal:
    digits = listing.instrument.price_digits
    return Refusal(
        Code.TRADING_BAD_PRICES, f"{name} = {price} has more digits than symbol allows. Allowed {digits} digits"
    )


def _check_stop_side(book: Book, request: OrderRequest) -> Refusal | None:
    """A stop must lie beyond the market, or it would be a market order in disguise."""
    price = book.market_price(request.side)
    if request.type is OrderType.TRAILING_STOP:
        return None if price is not None else Refusal(Code.NO_QUOTES, "No quotes for this symbol")
    if price is None or request.stop_price is None:
        return None
    beyond = request.stop_price > price if request.side is Side.BUY else request.stop_price < price
    if not beyond:
        return Refusal(Code.TRADING_BAD_PRICES, f"Stop price {request.stop_price} is not beyond the market {price}")
    return None
