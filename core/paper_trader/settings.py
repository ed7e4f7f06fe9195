"""What a broker decides: instrument terms, market rules, account terms, engine behaviour.

Values only; the formulas that use them are in commission, swap and margin.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum

from core.instruments import Instrument

DAY_MS = 86_400_000


class TradingMode(StrEnum):
    """What an instrument takes (Open API reference §4.4)."""

    ENABLED = "enabled"
    CLOSE_ONLY = "close_only"  # closing orders only; working orders that would open rest
    PENDING_ONLY = "pending_only"  # no new requests; working orders and protections are executed
    DISABLED = "disabled"  # nothing; working orders and protections rest


class CommissionKind(StrEnum):
    """Unit of a commission rate, charged per side (Open API reference §4.1)."""

    NONE = "none"
    PER_MILLION_USD = "per_million_usd"  # USD per million USD of volume
    PER_LOT_USD = "per_lot_usd"  # USD per lot
    PERCENT_OF_VALUE = "percent_of_value"  # percent of units × price
    PER_LOT_QUOTE = "per_lot_quote"  # quote currency per lot


class SwapKind(StrEnum):
    """Unit of a swap rate (Open API reference §4.1)."""

    NONE = "none"
    PIPS = "pips"  # pips per day
    POINTS = "points"  # points (10^-digits) per day
    PERCENT = "percent"  # percent a year of units × entry price


@dataclass(frozen=True, slots=True)
class Commission:
    """`rate` in the unit of `kind`; `minimum` per deal in `minimum_asset` (None = quote asset)."""

    kind: CommissionKind = CommissionKind.NONE
    rate: Decimal = Decimal(0)
    minimum: Decimal = Decimal(0)
    minimum_asset: str | None = None


@dataclass(frozen=True, slots=True)
class Swap:
    """Daily swap: rates are signed (negative = the holder pays).

    Charged once a day at `minute_utc`; on `triple_weekday` (0 = Monday … 6 = Sunday) three days at once, and never on
    Saturday and Sunday unless `at_weekends`. `days_in_year` divides PERCENT rates
    (brokers use 360 or 365; some do not publish theirs).
    """

    kind: SwapKind = SwapKind.NONE
    long: Decimal = Decimal(0)
    short: Decimal = Decimal(0)
    minute_utc: int = 22 * 60
    triple_weekday: int | None = 2
    at_weekends: bool = False
    days_in_year: int = 360


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """An instrument as one broker server lists it.

    `pip_digits`: a pip is 10^-pip_digits. Margin of a position = deposit value ÷ min(account leverage, `max_leverage`),
    or deposit value × `margin_fraction` when that is given. `max_deal_units` splits fills into several deals.
    `min_stop_points`: least distance of stop loss and take profit from the market, in points.
    """

    instrument: Instrument
    pip_digits: int = 4
    commission: Commission = Commission()
    swap: Swap = Swap()
    max_leverage: Decimal | None = None
    margin_fraction: Decimal | None = None
    trading_mode: TradingMode = TradingMode.ENABLED
    short_selling: bool = True
    max_deal_units: Decimal | None = None
    min_stop_points: int = 0


@dataclass(frozen=True, slots=True)
class Slippage:
    """What a fill at the market loses against the quote: `points` points and then `fraction` of the price.

    Market orders, triggered stops, stop losses, client closes and stop-outs pay it; whatever has a limit never does.
    `on_close`: closing deals pay too. The price is rounded to the instrument's digits against the trader, unless
    `exact`. All zero, the default, changes nothing.
    """

    points: Decimal = Decimal(0)
    fraction: Decimal = Decimal(0)
    on_close: bool = True
    exact: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class MarketSettings:
    """Rules of one broker server.

    `day_end_minute_utc`: when DAY orders expire. `queue_when_closed`: take market orders with GTC or DAY while the
    instrument is closed and fill them at the open (else MARKET_CLOSED). `partial_fill_chance` 0…1: chance that a fill
    takes only a random part of what it could (never FOK; an IOC loses the rest). `slippage`: what fills at the market
    lose against the quote.
    """

    day_end_minute_utc: int = 22 * 60
    queue_when_closed: bool = False
    partial_fill_chance: float = 0.0
    slippage: Slippage = Slippage()


class AccountType(StrEnum):
    """HEDGED: any number of positions per instrument. NETTED: at most one; opposite orders reduce or flip it."""

    HEDGED = "hedged"
    NETTED = "netted"


class Access(StrEnum):
    """What the account may do (the Open API's access rights)."""

    FULL = "full"
    CLOSE_ONLY = "close_only"  # only what reduces a position
    READ_ONLY = "read_only"  # no deals at all: requests refused, working orders, protections and stop-out rest
    DISABLED = "disabled"  # no login: requests refused, working orders and protections are still executed


class MarginTotal(StrEnum):
    """How the margins of one instrument's long and short positions add up."""

    SUM = "sum"
    MAX = "max"
    NET = "net"


class StopOutOrder(StrEnum):
    """Which position a stop-out closes first."""

    MOST_MARGIN_FIRST = "most_margin_first"
    MOST_LOSING_FIRST = "most_losing_first"


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountSettings:
    """Terms of one account. `margin_call_levels` and `stop_out_level` are margin levels in percent."""

    currency: str
    money_digits: int = 2
    type: AccountType = AccountType.HEDGED
    leverage: Decimal = Decimal(100)
    access: Access = Access.FULL
    swap_free: bool = False
    margin_total: MarginTotal = MarginTotal.SUM
    margin_call_levels: tuple[Decimal, ...] = ()
    stop_out_level: Decimal = Decimal(50)
    stop_out_order: StopOutOrder = StopOutOrder.MOST_MARGIN_FIRST
    max_positions: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
    """`first_*_id`: where the id counters start. `history_limit`: deals, and finished orders, kept per account."""

    first_order_id: int = 1
    first_position_id: int = 1
    first_deal_id: int = 1
    first_cash_id: int = 1
    history_limit: int = 1000
    margin_call_pause_ms: int = 600_000
