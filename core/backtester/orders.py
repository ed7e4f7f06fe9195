"""What a strategy asks for: collected while it decides, carried out by the runner afterwards, in order.

Numbers are checked here, so a wrong one raises at the line that wrote it and nothing of that decision is sent.
What only the broker can judge (money, levels on the wrong side …) comes back as an event.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from decimal import Decimal
from typing import Any

from core.errors import InvalidInput
from core.orders import OrderType, Side
from core.paper_trader import OrderChanges, OrderRequest, Position

Number = Decimal | int | float
PRICES = ("limit_price", "stop_price", "base_price", "trail_amount", "stop_loss", "take_profit", "relative_stop_loss")
PRICE_FIELDS = frozenset((*PRICES, "relative_take_profit", "trail_extreme"))


@dataclass(frozen=True, slots=True)
class Close:
    """Close a position, or `units` of it, at the market."""

    position: Position
    units: Decimal | None


@dataclass(frozen=True, slots=True)
class Cancel:
    """Cancel a working order."""

    order_id: int


@dataclass(frozen=True, slots=True)
class Amend:
    """Change a working order."""

    order_id: int
    changes: OrderChanges


@dataclass(frozen=True, slots=True)
class Protect:
    """Replace a position's protection as a whole."""

    position: Position
    stop_loss: Decimal | None
    take_profit: Decimal | None
    trailing: bool


Action = OrderRequest | Close | Cancel | Amend | Protect


@dataclass(slots=True)
class Orders:
    """Requests of one decision. `digits`: decimals of each instrument's prices.

    Units and prices may be Decimal, int or float. A float price is rounded to the instrument's digits, a Decimal is
    taken as it is. Options are the fields of `OrderRequest`: stop_loss, take_profit, relative_stop_loss,
    trailing_stop_loss, position_id, label …; all raise InvalidInput naming the field for a number that is none.
    """

    digits: Mapping[str, int]
    actions: list[Action] = field(default_factory=list)

    def buy(self, instrument_id: str, units: Number, **options: Any) -> None:
        """Buy at the market."""
        self.send(instrument_id, Side.BUY, OrderType.MARKET, units, **options)

    def sell(self, instrument_id: str, units: Number, **options: Any) -> None:
        """Sell at the market."""
        self.send(instrument_id, Side.SELL, OrderType.MARKET, units, **options)

    def limit(self, instrument_id: str, side: Side, units: Number, price: Number, **options: Any) -> None:
        """Trade at that price or better."""
        self.send(instrument_id, side, OrderType.LIMIT, units, limit_price=price, **options)

    def stop(self, instrument_id: str, side: Side, units: Number, price: Number, **options: Any) -> None:
        """Trade at the market once the price is reached."""
        self.send(instrument_id, side, OrderType.STOP, units, stop_price=price, **options)

    def stop_limit(
        self, instrument_id: str, side: Side, units: Number, stop: Number, limit: Number, **options: Any
    ) -> None:
        """A limit order once the stop price is reached."""
        self.send(instrument_id, side, OrderType.STOP_LIMIT, units, stop_price=stop, limit_price=limit, **options)

    def trailing_stop(self, instrument_id: str, side: Side, units: Number, distance: Number, **options: Any) -> None:
        """A stop that follows the market at a price distance."""
        self.send(instrument_id, side, OrderType.TRAILING_STOP, units, trail_amount=distance, **options)

    def send(self, instrument_id: str, side: Side, kind: OrderType, units: Number, **options: Any) -> None:
        """Any order of the engine."""
        places = self._digits(instrument_id)
        unknown = set(options) - _REQUEST_FIELDS
        if unknown:
            raise InvalidInput(f"orders have no {sorted(unknown)[0]}", field=sorted(unknown)[0])
        values = {name: _price(value, name, places) for name, value in options.items()}
        amount = exact(units, "units")
        if amount <= 0:
            raise InvalidInput("units must be above 0", field="units")
        self.actions.append(OrderRequest(instrument_id=instrument_id, side=side, type=kind, units=amount, **values))

    def place(self, request: OrderRequest) -> None:
        """A request that is made already. Raises InvalidInput for an unknown instrument or a number that is none."""
        self._digits(request.instrument_id)
        for name in ("units", *sorted(PRICE_FIELDS), "trail_percent"):
            value = getattr(request, name)
            if value is not None:
                exact(value, name)
        self.actions.append(request)

    def close(self, position: Position, units: Number | None = None) -> None:
        """Close a position, or part of it."""
        self.actions.append(Close(position, None if units is None else exact(units, "units")))

    def cancel(self, order_id: int) -> None:
        """Cancel a working order."""
        self.actions.append(Cancel(order_id))

    def amend(self, order_id: int, changes: OrderChanges) -> None:
        """Change a working order."""
        self.actions.append(Amend(order_id, changes))

    def protect(
        self,
        position: Position,
        *,
        stop_loss: Number | None = None,
        take_profit: Number | None = None,
        trailing: bool = False,
    ) -> None:
        """Replace a position's protection as a whole: a leg left out is removed."""
        places = self._digits(position.instrument_id)
        stop = _price(stop_loss, "stop_loss", places)
        target = _price(take_profit, "take_profit", places)
        self.actions.append(Protect(position, stop, target, trailing))

    def _digits(self, instrument_id: str) -> int:
        if instrument_id not in self.digits:
            raise InvalidInput(f"no instrument {instrument_id}", field="instrument_id")
        return self.digits[instrument_id]


def exact(value: object, name: str) -> Decimal:
    """The Decimal of a number: a float by its shortest digits. Raises InvalidInput unless it is a finite number."""
    if isinstance(value, bool) or not isinstance(value, Decimal | int | float) or not math.isfinite(value):
        raise InvalidInput(f"{name} must be a finite number, not {value!r}", field=name)
    return value if isinstance(value, Decimal) else Decimal(repr(float(value)) if isinstance(value, float) else value)


def _price(value: Any, name: str, digits: int) -> Any:
    if value is None or name not in PRICE_FIELDS:
        return value
    if isinstance(value, float) and math.isfinite(value):
        return Decimal(repr(float(value))).quantize(Decimal(1).scaleb(-digits))
    return exact(value, name)


_REQUEST_FIELDS = frozenset(each.name for each in fields(OrderRequest)) - {"instrument_id", "side", "type", "units"}
