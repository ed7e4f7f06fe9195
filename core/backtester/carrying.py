"""Carrying out what a strategy asked for: at once what may rest, after the next step what would trade at once.

A strategy decides on prices that are past. What it sends reaches the broker before the next price: resting orders,
amendments, cancellations and protections are in place when the next bar opens, so a gap fills them there. What would
trade at the price just past (market orders, closes, limits already reached, IOC and FOK) waits for the next step of
its instrument and is sent right after it, in order.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from operator import attrgetter

from core.backtester.desk import Desk
from core.backtester.orders import Action, Amend, Cancel, Close, Protect
from core.backtester.settings import ACCOUNT, MARKET
from core.orders import OrderType, Side, TimeInForce
from core.paper_trader import KEEP, Event, OrderRequest

AT_ONCE = (TimeInForce.IOC, TimeInForce.FOK)
_options_of = attrgetter(
    *("time_in_force", "limit_price", "stop_price", "base_price", "slippage_points", "trail_amount", "trail_percent"),
    *("trail_extreme", "expires_at_ms", "stop_loss", "take_profit", "relative_stop_loss", "relative_take_profit"),
    *("trailing_stop_loss", "position_id"),
)
_NO_OPTIONS = _options_of(OrderRequest(instrument_id="", side=Side.BUY, type=OrderType.MARKET, units=Decimal(1)))


@dataclass(slots=True)
class Carrier:
    """Requests on their way. `waiting`: by instrument, those for after its next step."""

    desk: Desk
    waiting: dict[str, deque[Action]] = field(default_factory=dict)

    def send(self, actions: Sequence[Action]) -> None:
        """Carry out or queue, in order."""
        if self.desk.shortcut is not None and not all(map(is_plain, actions)):
            self.desk.give_up()
        done = False
        for action in actions:
            instrument_id = _surely_waits_for(action)
            if instrument_id is None:
                self.desk.sync()
                instrument_id = self._waits_for(action)
            if instrument_id is None:
                self.desk.note(carry_out(self.desk, action))
                done = True
            else:
                self.waiting.setdefault(instrument_id, deque()).append(action)
        if done:
            self.desk.refresh()

    def after_step(self, instrument_id: str) -> None:
        """The instrument has a new price: send what waited for it."""
        queue = self.waiting.pop(instrument_id, None)
        if queue is None:
            return
        self.desk.sync()
        for action in queue:
            self.desk.note(carry_out(self.desk, action))
        self.desk.refresh()

    def _waits_for(self, action: Action) -> str | None:
        """The instrument whose next step it must wait for by the present prices, if it must."""
        match action:
            case OrderRequest():
                return action.instrument_id if self._trades_now(action) else None
            case Amend(order_id=order_id, changes=changes):
                order = self.desk.engine.find_order(ACCOUNT, order_id)
                if order is None:
                    return None
                limit = changes.limit_price if changes.limit_price is not KEEP else order.limit_price
                moves = order.type is OrderType.TRAILING_STOP or self._reached(order.instrument_id, order.side, limit)
                return order.instrument_id if moves else None
            case _:
                return None

    def _trades_now(self, request: OrderRequest) -> bool:
        if request.type is OrderType.TRAILING_STOP:
            return request.trail_extreme is not None
        limit = request.limit_price if request.type is OrderType.LIMIT else None
        return self._reached(request.instrument_id, request.side, limit)

    def _reached(self, instrument_id: str, side: Side, limit: Decimal | None) -> bool:
        """Whether a limit order there would trade at the present price."""
        if limit is None:
            return False
        quote = self.desk.engine.quote_of(MARKET, instrument_id)
        price = quote.ask if side is Side.BUY else quote.bid
        return price is not None and (price <= limit if side is Side.BUY else price >= limit)


def _surely_waits_for(action: Action) -> str | None:
    """The instrument whose next step it must wait for whatever the prices are."""
    match action:
        case Close(position=position):
            return position.instrument_id
        case OrderRequest():
            at_market = action.type in (OrderType.MARKET, OrderType.MARKET_RANGE)
            return action.instrument_id if at_market or action.time_in_force in AT_ONCE else None
        case _:
            return None


def is_plain(action: Action) -> bool:
    """Whether it is a market order with nothing to it, or closes a whole position."""
    if isinstance(action, Close):
        return action.units is None
    return (
        isinstance(action, OrderRequest)
        and action.type is OrderType.MARKET
        and bool(_options_of(action) == _NO_OPTIONS)
    )


def carry_out(desk: Desk, action: Action) -> list[Event]:
    """Ask it of the engine; what happened."""
    engine, now_ms = desk.engine, desk.at_ms
    match action:
        case OrderRequest():
            return engine.place(ACCOUNT, action, now_ms)
        case Close(position=position, units=units):
            return engine.close(ACCOUNT, position.id, units, now_ms)
        case Cancel(order_id=order_id):
            return engine.cancel(ACCOUNT, order_id, now_ms)
        case Amend(order_id=order_id, changes=changes):
            return engine.amend(ACCOUNT, order_id, changes, now_ms)
        case Protect(position=position, stop_loss=stop, take_profit=target, trailing=trailing):
            return engine.protect(
                ACCOUNT, position.id, now_ms, stop_loss=stop, take_profit=target, trailing_stop_loss=trailing
            )
