"""What a record shows of an account: figures, positions, orders. What does not move with prices is kept on the mirror.

Invariant: what is kept is never older than the mirror. It remembers all that it was made from (`_basis`) and is made
anew when any of that differs. Positions and orders are kept encoded, with gaps for what moves with prices: of
thousands of accounts, a few long texts are fetched sooner than hundreds of small objects each.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Context, Decimal
from typing import Any

import orjson

from core.account import AccountMirror
from core.instruments import Instrument
from core.money import json_number
from core.orders import Order
from core.positions import Position
from core.stakes import Stakes, stakes_of
from core.valuation import used_margin, value_account

_LOTS = Context(prec=15)  # a float64 carries 15 significant digits exactly
_LEVEL_UNIT = 100
_GAP = b"\0"  # raw, it occurs in no JSON
_NOTHING = orjson.Fragment(b"[]")

Number = float | int | None


@dataclass(slots=True)
class Shown:
    """One account's kept part. `stakes` None: only `value_account` can value it."""

    basis: list[object]
    leverage: Number
    balance: Number
    used: Number
    positions: tuple[bytes, ...]  # each with two gaps (%b): price and P&L
    orders: orjson.Fragment
    stakes: Stakes | None
    unit: int  # of money

    def put_figures(self, mirror: AccountMirror, fields: dict[str, Any]) -> None:
        """Value the account now: the totals, then the positions with price and P&L, into `fields`."""
        worth = None if self.stakes is None else self.stakes.worth(mirror.quotes)
        if self.stakes is None or worth is None:
            return self._put_decimals(mirror, fields)
        unit, price_unit = self.unit, self.stakes.price_unit
        fields["equity"] = _ratio(worth.equity, unit)
        fields["unrealizedPnl"] = _ratio(worth.profit, unit)
        fields["usedMargin"] = self.used
        fields["freeMargin"] = None if worth.free is None else _ratio(worth.free, unit)
        fields["marginLevel"] = None if worth.level is None else _ratio(worth.level, _LEVEL_UNIT)
        numbers: list[Number] = []
        for price, profit in zip(worth.prices, worth.profits, strict=True):
            numbers += (_ratio(price, price_unit), _ratio(profit, unit))
        fields["positions"] = self._filled(numbers)

    def _put_decimals(self, mirror: AccountMirror, fields: dict[str, Any]) -> None:
        value = value_account(mirror)
        fields["equity"] = json_number(value.equity)
        fields["unrealizedPnl"] = json_number(value.unrealized_pnl)
        fields["usedMargin"] = json_number(value.used_margin)
        fields["freeMargin"] = json_number(value.free_margin)
        fields["marginLevel"] = json_number(value.margin_level)
        numbers: list[Number] = []
        for position in mirror.positions.values():
            worth = value.positions[position.id]
            numbers += (json_number(worth.current_price), json_number(worth.unrealized_pnl))
        fields["positions"] = self._filled(numbers)

    def _filled(self, numbers: list[Number]) -> orjson.Fragment:
        """The positions with these numbers in their gaps; encoded together, for no number has a comma."""
        told = orjson.dumps(numbers)[1:-1].split(b",") if numbers else ()
        return orjson.Fragment(b"[%b]" % b",".join(self.positions) % tuple(told))


def shown_of(mirror: AccountMirror) -> Shown:
    """The kept part of this mirror, made anew if anything differs from what it was made of."""
    basis, kept = _basis(mirror), mirror.kept
    if kept is None or kept.basis != basis:
        kept = mirror.kept = _made(mirror, basis)
    found: Shown = kept
    return found


def _basis(mirror: AccountMirror) -> list[object]:
    """All that the kept part follows from; of a position also what is changed in place."""
    catalogue, currency = mirror.catalogue, mirror.currency
    instruments = catalogue.instruments
    basis: list[object] = [
        *(mirror.balance, mirror.used_margin, currency, mirror.money_digits, mirror.leverage),
        *(mirror.quote_digits, mirror.equity_rule),
    ]
    for position in mirror.positions.values():
        instrument = instruments.get(position.instrument_id)
        basis += (position, position.used_margin, position.stop_loss, instrument)
        if instrument is not None and instrument.quote_asset != currency and currency is not None:
            basis.append(catalogue.chains.get((instrument.quote_asset, currency)))
    for order in mirror.orders.values():
        basis += (order, instruments.get(order.instrument_id))
    return basis


def _made(mirror: AccountMirror, basis: list[object]) -> Shown:
    instruments = mirror.catalogue.instruments
    return Shown(
        basis,
        json_number(mirror.leverage),
        json_number(mirror.balance),
        json_number(used_margin(mirror)),
        tuple(_with_gaps(_position(each, instruments.get(each.instrument_id))) for each in mirror.positions.values()),
        _encoded([_order(each, instruments.get(each.instrument_id)) for each in mirror.orders.values()]),
        stakes_of(mirror),
        10**mirror.money_digits,
    )


def _with_gaps(position: dict[str, Any]) -> bytes:
    return orjson.dumps(position).replace(b"%", b"%%").replace(_GAP, b"%b")


def _encoded(orders: list[dict[str, Any]]) -> orjson.Fragment:
    """In a copy: what orjson returns stays where there was room for much more, and keeps others from it."""
    return orjson.Fragment(bytes(memoryview(orjson.dumps(orders)))) if orders else _NOTHING


def _ratio(amount: int, unit: int) -> float | int:
    """`json_number` of amount / unit: the division of integers, too, gives the nearest float."""
    number = amount / unit
    return int(number) if number.is_integer() else number


def _position(position: Position, instrument: Instrument | None) -> dict[str, Any]:
    """With gaps for what moves with prices."""
    return {
        "id": position.id,
        "symbol": None if instrument is None else instrument.name,
        "side": position.side.value,
        "units": json_number(position.units),
        "lots": None if instrument is None else _lots(position.units, instrument.lot_units),
        "priceDigits": None if instrument is None else instrument.price_digits,
        "entryPrice": json_number(position.entry_price),
        "currentPrice": orjson.Fragment(_GAP),
        "stopLoss": json_number(position.stop_loss),
        "takeProfit": json_number(position.take_profit),
        "swap": json_number(position.swap),
        "commission": json_number(position.commission),
        "unrealizedPnl": orjson.Fragment(_GAP),
        "usedMargin": json_number(position.used_margin),
        "openedAt": position.opened_at_ms,
    }


def _order(order: Order, instrument: Instrument | None) -> dict[str, Any]:
    return {
        "id": order.id,
        "symbol": None if instrument is None else instrument.name,
        "side": order.side.value,
        "type": order.type.value,
        "units": json_number(order.units),
        "filledUnits": json_number(order.filled_units),
        "limitPrice": json_number(order.limit_price),
        "stopPrice": json_number(order.stop_price),
        "stopLoss": json_number(order.stop_loss),
        "takeProfit": json_number(order.take_profit),
        "status": order.status.value,
        "createdAt": order.created_at_ms,
    }


def _lots(units: Decimal, lot_units: Decimal | None) -> float | int | None:
    """Units as lots; None where the broker has no lots."""
    return json_number(_LOTS.divide(units, lot_units)) if lot_units else None
