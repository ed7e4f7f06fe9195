"""Several paper accounts side by side: the same prices for all, and totals in one currency.

Each account is at a broker of its own, so what one trades takes nothing from another. Accounts are in the order they
were added, and so are their events. Invariant: as with one account, a call that raises has changed nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal
from typing import Any, Self

from core.errors import Conflict, NotFound
from core.money import round_money
from core.paper_account.account import Events, PaperAccount
from core.paper_account.checking import check_prices, check_time
from core.paper_account.errors import Refused
from core.paper_account.plain import from_plain, to_plain
from core.paper_account.values import PortfolioState, PortfolioValuation, Price, Request, Valuation
from core.paper_account.valuing import EXACT
from core.paper_trader import Event


class Portfolio:
    """Paper accounts by id."""

    def __init__(self, accounts: Iterable[PaperAccount] = ()) -> None:
        """Raises Conflict for two accounts of one id."""
        self._accounts: dict[str, PaperAccount] = {}
        for account in accounts:
            self.add(account)

    def add(self, account: PaperAccount) -> None:
        """Take an account in. Raises Conflict when its id is taken."""
        if account.id in self._accounts:
            raise Conflict(f"account {account.id} exists")
        self._accounts[account.id] = account

    def remove(self, account_id: str) -> PaperAccount:
        """Take an account out and give it back. Raises NotFound."""
        return self._accounts.pop(self.account(account_id).id)

    def account(self, account_id: str) -> PaperAccount:
        """Raises NotFound."""
        account = self._accounts.get(account_id)
        if account is None:
            raise NotFound(f"no account {account_id}")
        return account

    def accounts(self) -> tuple[PaperAccount, ...]:
        return tuple(self._accounts.values())

    # ---- what happens

    def quote(self, prices: Sequence[Price], now_ms: int) -> Events:
        """New prices for every account that lists the instrument, price by price.

        Raises Refused for the first row that is no price, or that no account lists, or that is too precise for one.
        """
        check_time(now_ms)
        self._check(prices)
        events: list[Event] = []
        for price in prices:
            for account in self._accounts.values():
                if account.lists(price.instrument_id):
                    events += account.quote((price,), now_ms)
        return tuple(events)

    def apply(self, account_id: str, requests: Sequence[Request], now_ms: int) -> Events:
        """Carry out requests for one account, all or none. Raises NotFound, Refused."""
        return self.account(account_id).apply(requests, now_ms)

    def advance(self, now_ms: int) -> Events:
        """Let time pass for every account."""
        check_time(now_ms)
        return tuple(event for account in self._accounts.values() for event in account.advance(now_ms))

    def next_due_ms(self) -> int | None:
        """When `advance` has something to do next, for any account."""
        dues = [due for due in (each.next_due_ms() for each in self._accounts.values()) if due is not None]
        return min(dues, default=None)

    # ---- what there is

    def valuation(self, currency: str, *, money_digits: int = 2) -> PortfolioValuation:
        """Every account at its present prices, and totals in that currency."""
        valuations = tuple(each.valuation() for each in self._accounts.values())
        rates = {each.account_id: self.rate(each.currency, currency, first=each.account_id) for each in valuations}

        def total(amount_of: Callable[[Valuation], Decimal | None]) -> Decimal | None:
            whole = round_money(Decimal(0), money_digits)
            for each in valuations:
                amount, rate = amount_of(each), rates[each.account_id]
                if amount is None or (rate is None and amount != 0):
                    return None
                whole += round_money(EXACT.multiply(amount, rate or Decimal(0)), money_digits)
            return whole

        balance, unrealized = total(lambda each: each.balance), total(lambda each: each.unrealized)
        used = total(lambda each: each.used_margin)
        equity = None if balance is None or unrealized is None else balance + unrealized
        return PortfolioValuation(
            at_ms=max((each.at_ms for each in valuations), default=0),
            currency=currency,
            money_digits=money_digits,
            balance=balance,
            equity=equity,
            unrealized=unrealized,
            used_margin=used,
            free_margin=None if equity is None or used is None else equity - used,
            accounts=valuations,
            unconverted=tuple(name for name, rate in rates.items() if rate is None),
            unpriced=tuple(each.account_id for each in valuations if each.unpriced),
        )

    def rate(self, from_asset: str, to_asset: str, *, first: str | None = None) -> Decimal | None:
        """What one unit of an asset is worth in another by the prices of account `first`, else of the first that knows.

        None while no account knows.
        """
        asked = sorted(self._accounts.values(), key=lambda each: each.id != first)
        rates = (each.rate(from_asset, to_asset) for each in asked)
        return next((rate for rate in rates if rate is not None), None)

    # ---- kept elsewhere

    def state(self) -> PortfolioState:
        """All there is to know of every account."""
        return PortfolioState(accounts=tuple(each.state() for each in self._accounts.values()))

    @classmethod
    def of(cls, state: PortfolioState) -> Self:
        """The portfolio that a state describes. Raises Refused."""
        try:
            return cls(PaperAccount.of(each) for each in state.accounts)
        except Conflict as cause:
            raise Refused(str(cause), field="accounts", rule="unique") from cause

    def to_plain(self) -> dict[str, Any]:
        """`state` as plain data."""
        return to_plain(self.state())

    @classmethod
    def from_plain(cls, data: object) -> Self:
        """The portfolio that plain data describes. Raises Refused."""
        return cls.of(from_plain(PortfolioState, data))

    def _check(self, prices: Sequence[Price]) -> None:
        everything = {each.instrument.id: each for account in self.accounts() for each in account.listings}
        check_prices(prices, everything)
        for account in self._accounts.values():
            own = {each.instrument.id: each for each in account.listings}
            for row, price in enumerate(prices):
                if price.instrument_id in own:
                    check_prices((price,), own, first_row=row)
