"""Money that moves without a trade: deposits, withdrawals, dividends, fees. Each is one activity."""

from __future__ import annotations

from decimal import Decimal

from bridge.simulator.alpaca.accounts.account import Account
from bridge.simulator.alpaca.accounts.activities import FILL, money_activity
from bridge.simulator.alpaca.numbers import decimals_of
from bridge.simulator.alpaca.trading.desk import Desk
from core.errors import InvalidInput

LARGEST = Decimal(10**11)


def deposit(desk: Desk, account: Account, amount: Decimal) -> None:
    """Pay in, or out when negative; it counts for buying power at once. Raises InvalidInput; nothing changed then."""
    _check(amount)
    if account.ledger.cash + amount < 0 and amount < 0:
        raise InvalidInput("not enough cash to withdraw", field="amount")
    _book(desk, account, "CSD" if amount > 0 else "CSW", amount, None)
    account.paid_in += amount
    account.last_equity += amount


def pay(desk: Desk, account: Account, kind: str, amount: Decimal, symbol: str | None) -> None:
    """Book another kind of money movement. Raises InvalidInput."""
    _check(amount)
    if not kind.isalpha() or not kind.isupper() or kind in (FILL, "CSD", "CSW"):
        raise InvalidInput("kind must be an activity type such as DIV or FEE", field="kind")
    _book(desk, account, kind, amount, symbol)


def _book(desk: Desk, account: Account, kind: str, amount: Decimal, symbol: str | None) -> None:
    account.ledger.cash += amount
    account.activities.append(money_activity(kind, desk.stamps.new_uuid(), desk.stamp(), amount, symbol=symbol))


def _check(amount: Decimal) -> None:
    if not amount.is_finite() or amount == 0 or decimals_of(amount) > 2 or abs(amount) > LARGEST:
        raise InvalidInput("amount must be a number other than zero with at most 2 decimals", field="amount")
