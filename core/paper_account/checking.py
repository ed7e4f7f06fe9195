"""Judging the form of what comes in, row by row, before anything is done; and naming what the broker refused.

Form is what can be judged without an account: known instruments, numbers that are numbers, sides that are sides. Money,
levels on the wrong side and the like are the broker's to judge. Nothing here changes anything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from decimal import Decimal
from typing import Any

from core.orders import OrderType, Side, TimeInForce
from core.paper_account.errors import Refused
from core.paper_account.values import Amend, Cancel, Close, PaperTerms, Price, Protect, Request
from core.paper_trader import KEEP, Code, Listing, OrderChanges, OrderRejected, OrderRequest, RequestRejected

LARGEST = Decimal(10**12)
PRICES = (
    "limit_price",
    "stop_price",
    "base_price",
    "trail_amount",
    "trail_extreme",
    "stop_loss",
    "take_profit",
    "relative_stop_loss",
    "relative_take_profit",
)
AMOUNTS = ("units", "trail_percent")
COUNTS = ("slippage_points", "expires_at_ms", "position_id", "order_id")
KINDS = {"side": Side, "type": OrderType, "time_in_force": TimeInForce}
TEXTS = ("client_order_id", "label", "comment")
FLAGS = ("trailing_stop_loss", "trailing")

# The field that a broker's refusal is about; what is not here is about the request as a whole.
FIELDS = {
    Code.SYMBOL_NOT_FOUND: "instrument_id",
    Code.NO_QUOTES: "instrument_id",
    Code.NOT_ENOUGH_MONEY: "units",
    Code.POSITION_NOT_FOUND: "position_id",
    Code.ORDER_NOT_FOUND: "order_id",
    Code.UNABLE_TO_CANCEL_ORDER: "order_id",
    Code.TOO_MANY_POSITIONS: "units",
    Code.TRADING_BAD_VOLUME: "units",
    Code.TRADING_BAD_EXPIRATION_DATE: "expires_at_ms",
    Code.TRADING_DISABLED: "instrument_id",
    Code.TRADING_NOT_ALLOWED: "account_id",
    Code.RET_ACCOUNT_DISABLED: "account_id",
    Code.MARKET_CLOSED: "instrument_id",
    Code.SHORT_SELLING_NOT_ALLOWED: "side",
}
OWN_PRICES = ("limit_price", "stop_price", "base_price", "slippage_points", "trail_amount", "trail_percent")


def check_terms(terms: PaperTerms) -> None:
    """Raises Refused unless an account can be opened under the terms (its own terms are the engine's to check)."""
    if not terms.account_id:
        raise Refused("must not be empty", field="account_id", rule="present")
    if not terms.listings:
        raise Refused("must not be empty", field="listings", rule="present")
    seen: set[str] = set()
    for row, listing in enumerate(terms.listings):
        if listing.instrument.id in seen:
            raise Refused(f"{listing.instrument.id} is listed already", field="listings", rule="unique", row=row)
        seen.add(listing.instrument.id)
    if not 0 <= terms.market.partial_fill_chance <= 1:
        raise Refused("must be 0 to 1", field="market.partial_fill_chance", rule="range")
    if terms.engine.history_limit < 1:
        raise Refused("must be 1 or more", field="engine.history_limit", rule="range")


def check_time(now_ms: object) -> None:
    """Raises Refused unless it is a Unix time in whole ms."""
    if isinstance(now_ms, bool) or not isinstance(now_ms, int) or now_ms < 0:
        raise Refused(f"must be a whole number of ms, not {now_ms!r}", field="now_ms", rule="number")


def check_prices(prices: Sequence[Price], listings: Mapping[str, Listing], *, first_row: int = 0) -> None:
    """Raises Refused for the first row that is no price (kind, known, number, positive, digits, crossed)."""
    for row, price in enumerate(prices, start=first_row):
        if not isinstance(price, Price):
            raise Refused(f"must be a Price, not {type(price).__name__}", field="price", rule="kind", row=row)
        digits = _listed(price.instrument_id, listings, row).instrument.price_digits
        for name in ("bid", "ask"):
            _check_price(getattr(price, name), name, digits, row)
        if price.bid > price.ask:
            raise Refused(f"bid {price.bid} is above ask {price.ask}", field="bid", rule="crossed", row=row)


def check_requests(requests: Sequence[Request], listings: Mapping[str, Listing]) -> None:
    """Raises Refused for the first row that is no request (kind, known, number, positive, digits)."""
    for row, request in enumerate(requests):
        match request:
            case OrderRequest():
                digits = _listed(request.instrument_id, listings, row).instrument.price_digits
                _check_fields(request, digits, row)
                if request.units is None:
                    raise Refused("must be a Decimal", field="units", rule="number", row=row)
            case Amend(changes=OrderChanges()):
                _check_fields(request, None, row)
                _check_fields(request.changes, None, row)
            case Cancel() | Close() | Protect():
                _check_fields(request, None, row)
            case _:
                raise Refused(f"{type(request).__name__} is no request", field="request", rule="kind", row=row)


def refusal(request: Request, event: RequestRejected | OrderRejected, row: int) -> Refused:
    """The error for what the broker said no to."""
    match event.code:
        case Code.TRADING_BAD_STOPS | Code.PROTECTION_IS_TOO_CLOSE_TO_MARKET:
            field = "take_profit" if event.message.startswith("Take profit") else "stop_loss"
        case Code.TRADING_BAD_PRICES:
            asked = request.changes if isinstance(request, Amend) else request
            given = (name for name in OWN_PRICES if getattr(asked, name, None) not in (None, KEEP))
            field = next(given, "request")
        case _:
            field = FIELDS.get(event.code, "request")
    return Refused(event.message, field=field, rule=event.code.value, row=row)


def _listed(instrument_id: object, listings: Mapping[str, Listing], row: int) -> Listing:
    listing = listings.get(instrument_id) if isinstance(instrument_id, str) else None
    if listing is None:
        raise Refused(f"no instrument {instrument_id!r} is listed", field="instrument_id", rule="known", row=row)
    return listing


def _check_fields(value: Any, digits: int | None, row: int) -> None:
    """Every field of a request; `digits`: of its instrument, where it names one."""
    for each in fields(value):
        name, given = each.name, getattr(value, each.name)
        if name in KINDS and not isinstance(given, KINDS[name]):
            raise Refused(f"must be a {KINDS[name].__name__}, not {given!r}", field=name, rule="kind", row=row)
        if given is None or given is KEEP:
            continue
        if name in PRICES:
            _check_price(given, name, digits, row)
        elif name in AMOUNTS:
            _check_amount(given, name, row)
        elif name in COUNTS and (isinstance(given, bool) or not isinstance(given, int)):
            raise Refused(f"must be a whole number, not {given!r}", field=name, rule="number", row=row)
        elif (name in FLAGS and not isinstance(given, bool)) or (name in TEXTS and not isinstance(given, str)):
            raise Refused(f"must not be {type(given).__name__}", field=name, rule="kind", row=row)


def _check_price(value: Any, name: str, digits: int | None, row: int) -> None:
    _check_amount(value, name, row)
    if digits is not None and value != round(value, digits):
        raise Refused(f"{value} has more than {digits} decimals", field=name, rule="digits", row=row)


def _check_amount(value: Any, name: str, row: int) -> None:
    if not isinstance(value, Decimal) or not value.is_finite():
        raise Refused(f"must be a finite Decimal, not {value!r}", field=name, rule="number", row=row)
    if value <= 0:
        raise Refused(f"must be above 0, not {value}", field=name, rule="positive", row=row)
    if value > LARGEST:
        raise Refused(f"must be {LARGEST:,} at most", field=name, rule="size", row=row)
