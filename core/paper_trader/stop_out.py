"""Margin calls and stop-out, looked at only when prices could have made a difference.

After each look an account arms watches: for every position and every conversion rate a price up to which the next
margin threshold certainly cannot be reached. Until one of them fires, quotes cost the account nothing. Half of the
headroom is shared among the positions' own prices, half is kept for the rates that convert their results.
Used margin does not move with prices (see margin), so equity is all there is to watch.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from core.orders import OrderType, Side, TimeInForce
from core.paper_trader.conversion import Step
from core.paper_trader.events import MarginCall, OrderAccepted, StopOut
from core.paper_trader.execution import execute, may_execute
from core.paper_trader.settings import StopOutOrder
from core.paper_trader.state import Account, Desk, Holding, Working
from core.paper_trader.triggers import Kind, Trigger
from core.paper_trader.truth import Totals, exact_gross, margin_level, net_pnl, totals
from core.paper_trader.types import ZERO, Order, OrderRole, Position

HUNDRED = Decimal(100)
HALF = Decimal("0.5")
# Conversion rates are watched for a move of this much at most, or of less when results are large.
WIDEST_RATE_MOVE = Decimal("0.01")
# Moves over several hops compound; a little less than each one's share keeps the product inside.
HOP_SLACK = Decimal("0.9")


def check_margin(desk: Desk, account: Account) -> None:
    """Send margin calls, stop out while the level is too low, and arm the watches for the next look."""
    _disarm(account)
    while account.holdings:
        now = totals(account)
        if now.equity is None or not now.used_margin:
            return  # the quote that is missing, or the next deal, leads here again
        _margin_calls(desk, account, now.equity, now.used_margin)
        if now.equity * HUNDRED > account.settings.stop_out_level * now.used_margin:
            _watch(account, now.equity, now.used_margin)
            if account.below_levels:
                _watch_every_quote(account)  # to notice when it recovers
            return
        if not _close_one(desk, account, now):
            _watch_every_quote(account)
            return
    account.below_levels.clear()


def close_order(
    desk: Desk,
    position: Position,
    units: Decimal,
    *,
    client_order_id: str | None = None,
    label: str | None = None,
    is_stop_out: bool = False,
) -> Order:
    """A market order that closes units of a position; what cannot trade at once is cancelled."""
    return Order(
        id=desk.new_order_id(),
        account_id=position.account_id,
        instrument_id=position.instrument_id,
        role=OrderRole.CLOSE,
        side=position.side.opposite,
        type=OrderType.MARKET,
        time_in_force=TimeInForce.IOC,
        units=units,
        created_at_ms=desk.now_ms,
        updated_at_ms=desk.now_ms,
        position_id=position.id,
        client_order_id=client_order_id,
        label=label,
        is_stop_out=is_stop_out,
    )


def _margin_calls(desk: Desk, account: Account, equity: Decimal, used: Decimal) -> None:
    for threshold in sorted(account.settings.margin_call_levels, reverse=True):
        if equity * HUNDRED > threshold * used:
            account.below_levels.discard(threshold)
            continue
        last = account.called_at_ms.get(threshold)
        quiet = last is None or desk.now_ms - last >= desk.settings.margin_call_pause_ms
        if threshold not in account.below_levels and quiet:
            account.called_at_ms[threshold] = desk.now_ms
            level = margin_level(equity, used) or ZERO
            desk.emit(
                MarginCall(
                    account_id=account.id, at_ms=desk.now_ms, by_server=True, threshold=threshold, margin_level=level
                )
            )
        account.below_levels.add(threshold)


def _close_one(desk: Desk, account: Account, now: Totals) -> bool:
    """Close the next position by the account's rule; False when nothing could be closed."""
    for holding in _stop_out_sequence(account):
        position = holding.position
        order = close_order(desk, position, position.units, is_stop_out=True)
        if not may_execute(account, account.market.book(position.instrument_id), order):
            continue
        level = margin_level(now.equity or ZERO, now.used_margin) or ZERO
        desk.emit(
            StopOut(
                account_id=account.id, at_ms=desk.now_ms, by_server=True, margin_level=level, position_id=position.id
            )
        )
        working = Working(order)
        account.working[order.id] = working
        desk.emit(
            OrderAccepted(account_id=account.id, at_ms=desk.now_ms, by_server=True, order=order, position=position)
        )
        execute(desk, account, working, by_server=True)
        if holding.position.units < position.units:
            return True
    return False


def _stop_out_sequence(account: Account) -> list[Holding]:
    holdings = list(account.holdings.values())
    if account.settings.stop_out_order is StopOutOrder.MOST_MARGIN_FIRST:
        return sorted(holdings, key=lambda each: (-each.position.used_margin, each.position.id))
    return sorted(holdings, key=lambda each: (net_pnl(account, each) or ZERO, each.position.id))


@dataclass(frozen=True, slots=True)
class _Exposure:
    """What one position loses per unit of price, and which rates convert its result."""

    holding: Holding
    price: Decimal
    per_price: Decimal  # deposit currency per whole unit of price
    gross: Decimal
    steps: tuple[Step, ...]


def _watch(account: Account, equity: Decimal, used: Decimal) -> None:
    """Arm prices that must be passed before the next threshold can be reached."""
    headroom = equity - _next_level(account) * used / HUNDRED
    exposures = [_exposure(account, holding) for holding in account.holdings.values()]
    converted = [each for each in exposures if each.steps]
    at_stake = sum((abs(each.gross) for each in converted), ZERO)
    rate_move = min(WIDEST_RATE_MOVE, headroom * HALF / at_stake) if at_stake else WIDEST_RATE_MOVE
    share = headroom * HALF / len(exposures)
    for each in exposures:
        distance = share / (each.per_price * (1 + rate_move))
        long = each.holding.position.side is Side.BUY
        level = each.price - distance if long else each.price + distance
        if level > 0:
            _arm(account, each.holding.position.instrument_id, level, on_ask=not long, rising=not long)
    for step in {step.instrument_id: step for each in converted for step in each.steps}.values():
        hops = max(len(each.steps) for each in converted)
        bid = account.market.book(step.instrument_id).bid or ZERO  # valued just now, so it is known
        move = bid * rate_move * HOP_SLACK / hops
        _arm(account, step.instrument_id, bid - move, on_ask=False, rising=False)
        _arm(account, step.instrument_id, bid + move, on_ask=False, rising=True)


def _watch_every_quote(account: Account) -> None:
    """Look again with the next quote of anything held: in margin call, or a stop-out that could not trade."""
    for instrument_id in dict.fromkeys(each.position.instrument_id for each in account.holdings.values()):
        _arm(account, instrument_id, None, on_ask=False, rising=False)


def _next_level(account: Account) -> Decimal:
    """The highest threshold that is still below the present margin level."""
    levels = [each for each in account.settings.margin_call_levels if each not in account.below_levels]
    return max([*levels, account.settings.stop_out_level])


def _exposure(account: Account, holding: Holding) -> _Exposure:
    position = holding.position
    market = account.market
    book = market.book(position.instrument_id)
    quote_asset, currency = book.listing.instrument.quote_asset, account.settings.currency
    return _Exposure(
        holding=holding,
        price=book.closing_price(position.side) or ZERO,  # valued just now, so it is known
        per_price=market.converter.convert(position.units, quote_asset, currency) or position.units,
        gross=exact_gross(account, holding) or ZERO,
        steps=market.converter.chain(quote_asset, currency) or (),
    )


def _arm(account: Account, instrument_id: str, level: Decimal | None, *, on_ask: bool, rising: bool) -> None:
    book = account.market.book(instrument_id)
    trigger = Trigger(Kind.MARGIN, account.id, 0, on_ask=on_ask, rising=rising, level=level)
    book.triggers.arm(trigger)
    account.margin_watches.append((book, trigger))


def _disarm(account: Account) -> None:
    for book, trigger in account.margin_watches:
        book.triggers.disarm(trigger)
    account.margin_watches.clear()
