"""REST documents to our facts: the account and its positions. Pure functions: same document, same result.

Shapes are those of reference/alpaca.md §1.3; what is not said is None. Anything absurd raises ProtocolViolation: the
document is then not used at all and its account is read again.
"""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal

from bridge.brokers.alpaca.instruments import Assets
from bridge.brokers.alpaca.values import (
    Document,
    UnknownValue,
    amount,
    flag,
    identity,
    needed,
    number,
    price,
    raw_price,
    word,
)
from core.errors import ProtocolViolation
from core.events import AccountChanged, BalanceChanged
from core.orders import Side
from core.positions import Position

MONEY_DIGITS = 2
_ZERO = Decimal(0)

_MAY_TRADE = frozenset({"ACTIVE", "PAPER_ONLY"})
_CLOSED = frozenset({"ACCOUNT_CLOSED", "REJECTED"})
# ---------------------------------------------------------------- account


def account_id(source: Document) -> str:
    """The account's own id. Raises ProtocolViolation."""
    found = identity(source, "id")
    if found is None:
        raise ProtocolViolation("an account without an id")
    return found


def closed(source: Document) -> bool:
    """Whether the broker says that there is no such account any more."""
    return word(source, "status") in _CLOSED


def account(source: Document) -> tuple[AccountChanged, BalanceChanged | None]:
    """Settings, and the cash when it is said. Raises ProtocolViolation."""
    halted = any(flag(source, name) for name in ("trading_blocked", "account_blocked", "trade_suspended_by_user"))
    cash = number(source.get("cash"))
    settings = AccountChanged(
        currency=word(source, "currency"),
        money_digits=MONEY_DIGITS,
        leverage=amount(source.get("multiplier")),
        can_trade=word(source, "status") in _MAY_TRADE and not halted,
        login=word(source, "account_number"),
        used_margin=amount(source.get("initial_margin")),
    )
    return settings, None if cash is None else BalanceChanged(cash)


# ---------------------------------------------------------------- positions


def position(source: Document, assets: Assets) -> Position | None:
    """A position; None when it is flat. Shorts have a negative quantity, or a side that says so (§1.3)."""
    quantity, side = needed(source, "qty"), word(source, "side")
    if side not in ("long", "short", None):
        raise UnknownValue("neither long nor short")
    if quantity < 0 and side == "long":
        raise ProtocolViolation("a long position of a negative quantity")
    if not quantity:
        return None
    entry, cost = needed(source, "avg_entry_price"), number(source.get("cost_basis"))
    if entry < 0:
        raise ProtocolViolation("a price below zero")
    instrument = assets.of_holding(source, price(source.get("current_price")))
    return Position(
        id=instrument.id,
        instrument_id=instrument.id,
        side=Side.SELL if quantity < 0 or side == "short" else Side.BUY,
        units=abs(quantity),
        entry_price=entry,
        cost=None if cost is None else abs(cost),
    )


def prices(positions: Iterable[Document], assets: Assets) -> dict[str, int]:
    """The present price of each held asset, as the mirror keeps quotes; those without one are left out."""
    found: dict[str, int] = {}
    for source in positions:
        now = price(source.get("current_price"))
        if now is not None:
            found[assets.of_holding(source, now).id] = raw_price(now)
    return found
