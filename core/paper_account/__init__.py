"""Paper accounts: `core.paper_trader` as accounts that can be stored and served.

    terms = PaperTerms(account_id="a", listings=listings, account=AccountSettings(currency="EUR"))
    account = PaperAccount(terms, now_ms)
    account.move_cash(Decimal(10_000), now_ms)
    account.quote([Price("EURUSD", Decimal("1.10000"), Decimal("1.10002"))], now_ms)
    events = account.apply([OrderRequest(...), Close(position_id)], now_ms)    # all of them or none, else Refused
    account.valuation(), account.positions(), account.orders(), account.trades()
    again = PaperAccount.from_plain(account.to_plain())                        # goes on exactly as `account` would

Pure: no files, no clock, no randomness but the seed handed in; the standard library and `core` alone, no numpy.
"""

from core.paper_account.account import PaperAccount
from core.paper_account.errors import Refused
from core.paper_account.plain import VERSION, from_plain, to_plain
from core.paper_account.portfolio import Portfolio
from core.paper_account.values import (
    Amend,
    Cancel,
    Close,
    CloseReason,
    Figures,
    PaperState,
    PaperTerms,
    PortfolioState,
    PortfolioValuation,
    PositionValue,
    Price,
    Protect,
    Request,
    Trade,
    Valuation,
)

__all__ = [
    "VERSION",
    "Amend",
    "Cancel",
    "Close",
    "CloseReason",
    "Figures",
    "PaperAccount",
    "PaperState",
    "PaperTerms",
    "Portfolio",
    "PortfolioState",
    "PortfolioValuation",
    "PositionValue",
    "Price",
    "Protect",
    "Refused",
    "Request",
    "Trade",
    "Valuation",
    "from_plain",
    "to_plain",
]
