"""A record worked out in the plainest way: every number from its Decimal, every field anew. The oracle for the record
that is made in production, which keeps what does not move (`bridge/cache/lines.py`, `core/stakes.py`).

Invariant: knows nothing of what is kept; shares with production only value types and the rounding of money.
"""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Context, Decimal
from typing import Any

import orjson

from bridge.cache.record import Reading, stale_after_ms
from core.account import AccountMirror, EquityRule
from core.instruments import Chain, Instrument
from core.money import json_number, round_money
from core.orders import Order, Side
from core.positions import Position
from core.valuation import PositionValue, Valuation

_CONTEXT = Context(prec=34)
_LOTS = Context(prec=15)
_ZERO = Decimal(0)
_HUNDRED = Decimal(100)


def plain_document(reading: Reading, *, fence: int, version: int, now_ms: int) -> bytes:
    """The document of a reading with a mirror."""
    mirror = reading.mirror
    assert mirror is not None
    document: dict[str, Any] = {
        "schema": 1,
        "broker": reading.broker,
        "environment": reading.environment,
        "accountId": reading.account_id,
        **_account(reading, mirror),
        "fence": fence,
        "version": version,
        "asOf": reading.as_of_ms,
        "confirmedAt": mirror.confirmed_at_ms,
        "staleAfter": stale_after_ms(reading),
        "lastUpdate": mirror.content_at_ms,
        "_cache": True,
        "_cacheTimestamp": now_ms,
    }
    return orjson.dumps(document)


def _account(reading: Reading, mirror: AccountMirror) -> dict[str, Any]:
    reason = reading.reason and {"code": reading.reason.code.value, "message": reading.reason.message}
    fields: dict[str, Any] = {
        "login": mirror.login,
        "brokerTitle": mirror.broker_title,
        "canTrade": mirror.can_trade,
        "status": reading.status.value,
        "reason": reason,
        "currency": mirror.currency,
        "moneyDigits": None if mirror.currency is None else mirror.money_digits,
        "leverage": json_number(mirror.leverage),
        "balance": json_number(mirror.balance),
    }
    if mirror.confirmed_at_ms is None:
        fields.update(dict.fromkeys(_TOTALS))
        return fields
    value = value_account(mirror)
    instruments = mirror.catalogue.instruments
    fields["equity"] = json_number(value.equity)
    fields["unrealizedPnl"] = json_number(value.unrealized_pnl)
    fields["usedMargin"] = json_number(value.used_margin)
    fields["freeMargin"] = json_number(value.free_margin)
    fields["marginLevel"] = json_number(value.margin_level)
    fields["positions"] = [
        _position(position, value.positions[position.id], instruments.get(position.instrument_id))
        for position in mirror.positions.values()
    ]
    fields["orders"] = [_order(order, instruments.get(order.instrument_id)) for order in mirror.orders.values()]
    return fields


_TOTALS = ("equity", "unrealizedPnl", "usedMargin", "freeMargin", "marginLevel", "positions", "orders")


def _position(position: Position, value: PositionValue, instrument: Instrument | None) -> dict[str, Any]:
    return {
        "id": position.id,
        "symbol": None if instrument is None else instrument.name,
        "side": position.side.value,
        "units": json_number(position.units),
        "lots": None if instrument is None else _lots(position.units, instrument.lot_units),
        "priceDigits": None if instrument is None else instrument.price_digits,
        "entryPrice": json_number(position.entry_price),
        "currentPrice": json_number(value.current_price),
        "stopLoss": json_number(position.stop_loss),
        "takeProfit": json_number(position.take_profit),
        "swap": json_number(position.swap),
        "commission": json_number(position.commission),
        "unrealizedPnl": json_number(value.unrealized_pnl),
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


def value_account(mirror: AccountMirror) -> Valuation:
    """Value every position of the mirror with the quotes it holds."""
    values = {position.id: value_position(mirror, position) for position in mirror.positions.values()}
    pnl = _sum(value.unrealized_pnl for value in values.values())
    used = mirror.used_margin
    if used is None:
        used = _sum(position.used_margin for position in mirror.positions.values())
    equity = _equity(mirror, pnl, values.values())
    free = None if equity is None or used is None else equity - used
    level = None
    if equity is not None and used:
        level = round_money(_CONTEXT.divide(equity * _HUNDRED, used), 2)
    return Valuation(values, pnl, equity, used, free, level)


def _sum(amounts: Iterable[Decimal | None]) -> Decimal | None:
    """None as soon as one is not known."""
    total = _ZERO
    for amount in amounts:
        if amount is None:
            return None
        total += amount
    return total


def _equity(mirror: AccountMirror, pnl: Decimal | None, values: Iterable[PositionValue]) -> Decimal | None:
    profit = mirror.equity_rule is EquityRule.PROFIT
    held = pnl if profit else _sum(value.market_value for value in values)
    if held is None or mirror.balance is None:
        return None
    return mirror.balance + held if profit else round_money(mirror.balance + held, mirror.money_digits)


def value_position(mirror: AccountMirror, position: Position) -> PositionValue:
    """Price and net P&L of one position."""
    price = _closing_price(mirror, position)
    instrument = mirror.catalogue.instruments.get(position.instrument_id)
    if price is None or instrument is None:
        return PositionValue(price, None)
    units = _CONTEXT.multiply(position.units, instrument.multiplier)
    worth, cost = _CONTEXT.multiply(price, units), position.cost
    if cost is None:
        cost = _CONTEXT.multiply(position.entry_price, units)
    sign = 1 if position.side is Side.BUY else -1
    if mirror.currency is None:
        return PositionValue(price, None)
    chain = mirror.catalogue.chain(instrument.quote_asset, mirror.currency)
    gross = None if chain is None else convert(sign * _CONTEXT.subtract(worth, cost), chain, mirror)
    if chain is None or gross is None:
        return PositionValue(price, None)
    value = convert(sign * worth, chain, mirror) if mirror.equity_rule is EquityRule.VALUE else None
    return PositionValue(price, round_money(gross + position.swap + position.commission, mirror.money_digits), value)


def convert(amount: Decimal, chain: Chain, mirror: AccountMirror) -> Decimal | None:
    """Walk a conversion chain at bid on every hop; None when a bid is missing."""
    for hop in chain:
        quote = mirror.quotes.get(hop.instrument_id)
        if quote is None or not quote.bid:
            return None
        rate = Decimal(quote.bid).scaleb(-mirror.quote_digits)
        amount = _CONTEXT.divide(amount, rate) if hop.inverse else _CONTEXT.multiply(amount, rate)
    return amount


def _closing_price(mirror: AccountMirror, position: Position) -> Decimal | None:
    quote = mirror.quotes.get(position.instrument_id)
    if quote is None:
        return None
    raw = quote.bid if position.side is Side.BUY else quote.ask
    return None if raw is None else Decimal(raw).scaleb(-mirror.quote_digits)
