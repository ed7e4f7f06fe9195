"""Valuation: what the positions of a mirror are worth now, in its deposit currency.

P&L of a position = gross + swap + commission (reference/ctrader.md §4.2): gross in the quote currency (bid for a
BUY, ask for a SELL), converted over the chain at bid on every hop, rounded half-even to the deposit digits per
position, then summed. A missing quote or rate makes that P&L and every total that needs it None, never 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Context, Decimal

from core.account import AccountMirror
from core.instruments import Chain
from core.money import round_money
from core.orders import Side
from core.positions import Position

_CONTEXT = Context(prec=34)
_ZERO = Decimal(0)
_HUNDRED = Decimal(100)


@dataclass(frozen=True, slots=True)
class PositionValue:
    """Present price (closing side) and net P&L in the deposit currency; None = cannot be known now."""

    current_price: Decimal | None
    unrealized_pnl: Decimal | None


@dataclass(frozen=True, slots=True)
class Valuation:
    """Totals in the deposit currency; margin level in percent, None when no margin is used."""

    positions: dict[str, PositionValue]
    unrealized_pnl: Decimal | None
    equity: Decimal | None
    used_margin: Decimal | None
    free_margin: Decimal | None
    margin_level: Decimal | None


def value_account(mirror: AccountMirror) -> Valuation:
    """Value every position of the mirror with the quotes it holds."""
    values: dict[str, PositionValue] = {}
    pnl: Decimal | None = _ZERO
    used: Decimal | None = _ZERO
    for position in mirror.positions.values():
        value = value_position(mirror, position)
        values[position.id] = value
        pnl = None if pnl is None or value.unrealized_pnl is None else pnl + value.unrealized_pnl
        used = None if used is None or position.used_margin is None else used + position.used_margin
    equity = None if pnl is None or mirror.balance is None else mirror.balance + pnl
    free = None if equity is None or used is None else equity - used
    level = None
    if equity is not None and used:
        level = round_money(_CONTEXT.divide(equity * _HUNDRED, used), 2)
    return Valuation(values, pnl, equity, used, free, level)


def value_position(mirror: AccountMirror, position: Position) -> PositionValue:
    """Price and net P&L of one position."""
    price = _closing_price(mirror, position)
    instrument = mirror.catalogue.instruments.get(position.instrument_id)
    if price is None or instrument is None:
        return PositionValue(price, None)
    distance = price - position.entry_price if position.side is Side.BUY else position.entry_price - price
    gross = _CONTEXT.multiply(distance, position.units)
    if mirror.currency is None:
        return PositionValue(price, None)
    chain = mirror.catalogue.chain(instrument.quote_asset, mirror.currency)
    converted = None if chain is None else convert(gross, chain, mirror)
    if converted is None:
        return PositionValue(price, None)
    return PositionValue(price, round_money(converted + position.swap + position.commission, mirror.money_digits))


def convert(amount: Decimal, chain: Chain, mirror: AccountMirror) -> Decimal | None:
    """Walk a conversion chain at bid on every hop; None when a bid is missing."""
    for hop in chain:
        quote = mirror.quotes.get(hop.instrument_id)
        if quote is None or not quote.bid:
            return None
        rate = Decimal(quote.bid).scaleb(-mirror.quote_digits)
        amount = _CONTEXT.divide(amount, rate) if hop.inverse else _CONTEXT.multiply(amount, rate)
    return amount


def needed_quotes(mirror: AccountMirror) -> set[str]:
    """Instrument ids whose quotes the valuation of this mirror needs (held ones and their known chains)."""
    needed: set[str] = set()
    for position in mirror.positions.values():
        needed.add(position.instrument_id)
        instrument = mirror.catalogue.instruments.get(position.instrument_id)
        if instrument is not None and mirror.currency is not None:
            chain = mirror.catalogue.chain(instrument.quote_asset, mirror.currency)
            needed.update(hop.instrument_id for hop in chain or ())
    return needed


def _closing_price(mirror: AccountMirror, position: Position) -> Decimal | None:
    quote = mirror.quotes.get(position.instrument_id)
    if quote is None:
        return None
    raw = quote.bid if position.side is Side.BUY else quote.ask
    return None if raw is None else Decimal(raw).scaleb(-mirror.quote_digits)
