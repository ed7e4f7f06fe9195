"""How much of an order can trade right now, and at which prices. Decides only; nothing is consumed here.

Fills are never worse than the order's limit; a fill-or-kill order gets all of its units or none.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal

from core.orders import OrderType, Side, TimeInForce
from core.paper_trader.conversion import EXACT
from core.paper_trader.settings import Listing, Slippage
from core.paper_trader.types import ZERO, Level, Order, OrderRole


@dataclass(frozen=True, slots=True)
class Fill:
    """Units at one price; becomes one deal."""

    price: Decimal
    units: Decimal


def worst_price(order: Order, point: Decimal) -> Decimal | None:
    """The limit a fill must respect; None for none."""
    match order.type:
        case OrderType.LIMIT | OrderType.STOP_LIMIT:
            return order.limit_price
        case OrderType.MARKET_RANGE if order.base_price is not None and order.slippage_points is not None:
            slippage = point * order.slippage_points
            return order.base_price + slippage if order.side is Side.BUY else order.base_price - slippage
        case _:
            return None


def acceptable(side: Side, price: Decimal, worst: Decimal | None) -> bool:
    """Whether an order of that side may trade at this price."""
    return worst is None or (price <= worst if side is Side.BUY else price >= worst)


def slipped(order: Order, price: Decimal, terms: Slippage, digits: int, *, closing: bool) -> Decimal:
    """The price after slippage: worse for the order's side, at least one point, the same where none is due."""
    if (not terms.points and not terms.fraction) or (closing and not terms.on_close) or not _at_market(order):
        return price
    sign = 1 if order.side is Side.BUY else -1
    point = Decimal(1).scaleb(-digits)
    moved = EXACT.multiply(price + sign * terms.points * point, 1 + sign * terms.fraction)
    if not terms.exact:
        moved = moved.quantize(point, rounding=ROUND_CEILING if sign > 0 else ROUND_FLOOR, context=EXACT)
    return max(moved, point)


def _at_market(order: Order) -> bool:
    """Whether nothing bounds the price of its fills: a protection that is not triggered is a take profit."""
    if order.role is OrderRole.PROTECTION:
        return order.triggered
    return order.type in (OrderType.MARKET, OrderType.STOP, OrderType.TRAILING_STOP)


def plan_fills(
    order: Order,
    units: Decimal,
    worst: Decimal | None,
    offers: Sequence[Level],
    listing: Listing,
    *,
    partial_chance: float,
    rng: random.Random,
) -> list[Fill]:
    """Fills for up to `units` of the order against `offers` (best first); empty when nothing can trade."""
    fills: list[Fill] = []
    left = units
    for level in offers:
        if left == 0 or not acceptable(order.side, level.price, worst):
            break
        take = left if level.units is None else min(left, level.units)
        if take > 0:
            fills.append(Fill(level.price, take))
            left -= take
    if order.time_in_force is TimeInForce.FOK:
        return _split(fills, listing) if left == 0 and units == order.remaining_units else []
    if partial_chance > 0 and fills and rng.random() < partial_chance:
        fills = _random_part(fills, listing, rng)
    return _split(fills, listing)


def _random_part(fills: list[Fill], listing: Listing, rng: random.Random) -> list[Fill]:
    """The first part of the fills, a random whole number of steps long but at least one."""
    step = listing.instrument.step_units or listing.instrument.min_units or Decimal(1)
    steps = int(sum((fill.units for fill in fills), ZERO) // step)
    if steps < 2:
        return fills
    left = step * rng.randint(1, steps - 1)
    part: list[Fill] = []
    for fill in fills:
        take = min(left, fill.units)
        if take > 0:
            part.append(Fill(fill.price, take))
            left -= take
    return part


def _split(fills: list[Fill], listing: Listing) -> list[Fill]:
    """No deal larger than the listing allows."""
    most = listing.max_deal_units
    if most is None:
        return fills
    parts: list[Fill] = []
    for fill in fills:
        left = fill.units
        while left > 0:
            parts.append(Fill(fill.price, min(left, most)))
            left -= most
    return parts
