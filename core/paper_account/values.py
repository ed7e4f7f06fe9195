"""The words of the paper account: terms and requests that go in; trades, sums, valuations and states that come out.

Everything is immutable and plain: numbers, texts, and values made of them (`plain` writes them down and reads them
back). Money and prices are Decimals; a charge is negative; times are Unix ms; units are positive beside a side.
Orders, positions, deals and events are the paper trader's own values.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum

from core.orders import Side
from core.paper_trader import (
    AccountSettings,
    EngineMemory,
    EngineSettings,
    Listing,
    MarketSettings,
    OrderChanges,
    OrderRequest,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PaperTerms:
    """What a new account starts from: who it is, what its broker lists, its own terms, the broker's rules.

    `engine`: where ids begin, and how much history (deals, finished orders, trades) is kept. `seed`: of the partial
    fills, which happen only where `market` gives them a chance.
    """

    account_id: str
    listings: tuple[Listing, ...]
    account: AccountSettings
    market: MarketSettings = field(default_factory=MarketSettings)
    engine: EngineSettings = field(default_factory=EngineSettings)
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Price:
    """Best bid and ask of an instrument."""

    instrument_id: str
    bid: Decimal
    ask: Decimal


@dataclass(frozen=True, slots=True)
class Amend:
    """Change a working order."""

    order_id: int
    changes: OrderChanges


@dataclass(frozen=True, slots=True)
class Cancel:
    """Cancel a working order."""

    order_id: int


@dataclass(frozen=True, slots=True)
class Close:
    """Close a position, or `units` of it, at the market."""

    position_id: int
    units: Decimal | None = None


@dataclass(frozen=True, slots=True)
class Protect:
    """Replace a position's stop loss and take profit as a whole: a leg left out is removed."""

    position_id: int
    stop_loss: Decimal | None = None
    take_profit: Decimal | None = None
    trailing: bool = False


Request = OrderRequest | Amend | Cancel | Close | Protect


class CloseReason(StrEnum):
    """Why a trade ended."""

    ORDER = "order"  # asked for
    STOP_LOSS = "stop_loss"
    TAKE_PROFIT = "take_profit"
    STOP_OUT = "stop_out"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trade:
    """A round trip that has ended: one for each closing deal, so a position closed in parts gives one per part.

    `id`: the closing deal's. `side` and `entry_at_ms`: the position's. `entry_price`: average of its opening deals.
    `commission`: of both sides. `net` = gross + commission + swap, which went into the balance; `balance` is after it.
    """

    id: int
    position_id: int
    order_id: int
    instrument_id: str
    side: Side
    units: Decimal
    entry_at_ms: int
    exit_at_ms: int
    entry_price: Decimal
    exit_price: Decimal
    gross: Decimal
    commission: Decimal
    swap: Decimal
    net: Decimal
    balance: Decimal
    reason: CloseReason


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """Sums since the account was opened: balance = cash + gross + commission + swap, to the last digit.

    `cash`: deposits less withdrawals. The others are those of the trades. `trades`, `fills`: how many there were.
    """

    cash: Decimal = Decimal(0)
    gross: Decimal = Decimal(0)
    commission: Decimal = Decimal(0)
    swap: Decimal = Decimal(0)
    trades: int = 0
    fills: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class PositionValue:
    """An open position and what closing it would bring; None while a price or a conversion rate is not known.

    `current_price`: the side a close would use. `net` = gross + swap + commission, rounded half-even once.
    """

    position_id: int
    instrument_id: str
    side: Side
    units: Decimal
    entry_price: Decimal
    current_price: Decimal | None
    gross: Decimal | None
    swap: Decimal
    commission: Decimal
    net: Decimal | None
    used_margin: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class Valuation:
    """An account in money of its own currency at a moment: equity = balance + the net of every position.

    `margin_level` in percent, two decimals; None while no margin is used. `unpriced`: ids of the positions that could
    not be valued; as long as there are any, equity, unrealized, free margin and margin level are None.
    """

    account_id: str
    at_ms: int
    currency: str
    money_digits: int
    balance: Decimal
    bonus: Decimal
    equity: Decimal | None
    unrealized: Decimal | None
    used_margin: Decimal
    free_margin: Decimal | None
    margin_level: Decimal | None
    positions: tuple[PositionValue, ...]
    unpriced: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PaperState:
    """All there is to know of a paper account; one restored from it goes on as the first would have.

    `engine`: orders, positions, deals, prices and terms, as the paper trader remembers them. `random`: state of its
    generator once it has been used. `trades`: the newest, oldest first.
    """

    account_id: str
    seed: int
    random: tuple[int, ...] | None
    figures: Figures
    trades: tuple[Trade, ...]
    engine: EngineMemory


@dataclass(frozen=True, slots=True, kw_only=True)
class PortfolioValuation:
    """Several accounts in money of one currency, each amount converted at bid and rounded half-even by itself.

    equity = balance + unrealized, free margin = equity − used margin. None where an account's part is not known:
    `unconverted` names accounts without a rate to the currency, `unpriced` those with a position that has no price.
    """

    at_ms: int
    currency: str
    money_digits: int
    balance: Decimal | None
    equity: Decimal | None
    unrealized: Decimal | None
    used_margin: Decimal | None
    free_margin: Decimal | None
    accounts: tuple[Valuation, ...]
    unconverted: tuple[str, ...]
    unpriced: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PortfolioState:
    """All accounts of a portfolio, in the order they were added."""

    accounts: tuple[PaperState, ...]
