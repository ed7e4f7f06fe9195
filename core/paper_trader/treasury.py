"""Money that moves without a deal: deposits, withdrawals, bonus, swap charges, and terms that change margins."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

from core.errors import InvalidInput
from core.money import MAX_MINOR_UNITS
from core.paper_trader.events import (
    AccountChanged,
    BalanceCause,
    BalanceChanged,
    BonusMoved,
    CashMoved,
    Operation,
    RequestRejected,
    SwapCharged,
)
from core.paper_trader.market import Book, Market, fits
from core.paper_trader.portfolio import set_margin
from core.paper_trader.settings import AccountSettings
from core.paper_trader.state import Account, Desk, Holding
from core.paper_trader.swap import swap_days, swap_in_quote
from core.paper_trader.truth import totals
from core.paper_trader.types import ZERO, Code


def move_cash(desk: Desk, account: Account, delta: Decimal, note: str | None) -> None:
    """Deposit (delta > 0) or withdraw; refused when free margin does not cover a withdrawal."""
    check_amount(account, delta)
    if delta < 0:
        now = totals(account)
        if now.equity is None or now.equity - now.used_margin + delta < 0 or account.balance + delta < 0:
            _reject(desk, account, Operation.CASH, "Not enough free money to withdraw")
            return
    account.add_to_balance(delta)
    desk.emit(
        CashMoved(
            account_id=account.id,
            at_ms=desk.now_ms,
            cash_id=desk.new_cash_id(),
            delta=account.round(delta),
            balance=account.balance,
            balance_version=account.balance_version,
            equity=totals(account).equity,
            note=note,
        )
    )
    desk.emit(
        BalanceChanged(
            account_id=account.id,
            at_ms=desk.now_ms,
            delta=account.round(delta),
            balance=account.balance,
            balance_version=account.balance_version,
            cause=BalanceCause.CASH,
        )
    )
    desk.touch(account)


def move_bonus(desk: Desk, account: Account, delta: Decimal, note: str | None) -> None:
    """Give or take bonus; never below zero. It is no part of balance or equity."""
    check_amount(account, delta)
    if account.bonus + delta < 0:
        _reject(desk, account, Operation.BONUS, "Not enough bonus to withdraw")
        return
    account.bonus += delta
    desk.emit(
        BonusMoved(
            account_id=account.id,
            at_ms=desk.now_ms,
            cash_id=desk.new_cash_id(),
            delta=account.round(delta),
            bonus=account.bonus,
            note=note,
        )
    )


def check_amount(account: Account, delta: Decimal) -> None:
    """Raises InvalidInput unless the amount is finite, not zero, sane and within the deposit digits."""
    digits = account.settings.money_digits
    if not delta.is_finite() or delta == 0 or not fits(delta, digits):
        raise InvalidInput(f"amount must be a number other than zero with at most {digits} decimals", field="delta")
    if abs(account.balance + delta).scaleb(digits) > MAX_MINOR_UNITS:
        raise InvalidInput("amount is too large", field="delta")


def change_terms(desk: Desk, account: Account, settings: AccountSettings) -> None:
    """Put new terms in force and recompute margins under them."""
    account.settings = settings
    desk.emit(AccountChanged(account_id=account.id, at_ms=desk.now_ms, by_server=True, settings=settings))
    for holding in account.holdings.values():
        set_margin(desk, account, holding, account.market.book(holding.position.instrument_id), tell=True)
    desk.touch(account)


def remargin(desk: Desk, book: Book) -> None:
    """Recompute the margins of everyone who holds an instrument whose terms changed."""
    for position_id, account_id in book.holders.items():
        account = desk.accounts[account_id]
        set_margin(desk, account, account.holdings[position_id], book, tell=True)
        desk.touch(account)


def charge_swaps(desk: Desk, market: Market, book: Book, due_ms: int) -> None:
    """Charge one rollover on every position of the instrument; days that cannot be converted yet are owed."""
    days = swap_days(book.listing.swap, due_ms)
    if days == 0:
        return
    for position_id, account_id in book.holders.items():
        account = desk.accounts[account_id]
        if not account.settings.swap_free:
            holding = account.holdings[position_id]
            holding.owed_swap_days += days
            _charge(desk, market, book, account, holding)


def _charge(desk: Desk, market: Market, book: Book, account: Account, holding: Holding) -> None:
    position = holding.position
    quote_amount = swap_in_quote(
        book.listing, position.side, position.units, position.entry_price or ZERO, holding.owed_swap_days
    )
    amount = market.converter.convert(quote_amount, book.listing.instrument.quote_asset, account.settings.currency)
    if amount is None:
        return
    holding.owed_swap_days = 0
    amount = account.round(amount)
    if amount == 0:
        return
    holding.position = replace(position, swap=position.swap + amount, updated_at_ms=desk.now_ms)
    desk.emit(
        SwapCharged(account_id=account.id, at_ms=desk.now_ms, by_server=True, position=holding.position, amount=amount)
    )
    desk.touch(account)


def _reject(desk: Desk, account: Account, operation: Operation, message: str) -> None:
    desk.emit(
        RequestRejected(
            account_id=account.id,
            at_ms=desk.now_ms,
            operation=operation,
            code=Code.NOT_ENOUGH_MONEY,
            message=message,
        )
    )
