"""Terms under which whole numbers tell what the engine would book, and nothing but money or margin could refuse.

Bars, results in the deposit currency, commission by value or lot, no swap, margins from the instrument's own bid. Each
check raises `NotFast`, which says what stands against it.
"""

from __future__ import annotations

from decimal import Decimal

from core.backtester.data.bars import Bars
from core.backtester.fast_money import NotFast
from core.backtester.settings import MARKET, BacktestSettings
from core.backtester.tracks import Track
from core.orders import Side
from core.paper_trader import Access, CommissionKind, Engine, Listing, MarginTotal, SwapKind, TradingMode

MOST_UNITS = Decimal(10**12)


def check_account(settings: BacktestSettings) -> None:
    """Nothing about the account refuses orders or makes margins depend on each other."""
    account = settings.account
    if account.access is not Access.FULL or account.max_positions is not None:
        raise NotFast("the account may refuse orders")
    if account.margin_total is not MarginTotal.SUM or settings.market.partial_fill_chance:
        raise NotFast("margins or fills that only the engine works out")


def check_listing(settings: BacktestSettings, listing: Listing, track: Track) -> None:
    """Nothing about the instrument does, and its results and commission need no conversion."""
    instrument = listing.instrument
    if not isinstance(track.data, Bars):
        raise NotFast("ticks")
    if listing.trading_mode is not TradingMode.ENABLED:
        raise NotFast("the listing may refuse orders")
    if instrument.quote_asset != settings.account.currency:
        raise NotFast("results in another currency")
    kinds = (CommissionKind.NONE, CommissionKind.PERCENT_OF_VALUE, CommissionKind.PER_LOT_QUOTE)
    minimum_asset = listing.commission.minimum_asset or instrument.quote_asset
    if listing.commission.kind not in kinds or (listing.commission.minimum and minimum_asset != instrument.quote_asset):
        raise NotFast("commission by a conversion")
    if listing.swap.kind is not SwapKind.NONE and not settings.account.swap_free:
        raise NotFast("swap")


def check_size(listing: Listing, side: Side, units: Decimal) -> None:
    """The listing takes deals of that side and size, each as one."""
    instrument = listing.instrument
    if side is Side.SELL and not listing.short_selling:
        raise NotFast("the listing may refuse orders")
    if listing.max_deal_units is not None and units > listing.max_deal_units:
        raise NotFast("fills in several deals")
    low, high, step = instrument.min_units or units, instrument.max_units or units, instrument.step_units
    if not low <= units <= high or (step is not None and units % step) or not 0 < units <= MOST_UNITS:
        raise NotFast("units that the broker refuses")


def check_chain(engine: Engine, settings: BacktestSettings, listing: Listing) -> None:
    """Margins come from the instrument's own bid."""
    instrument = listing.instrument
    if engine.conversion_chain(MARKET, instrument.base_asset, settings.account.currency) != (instrument.id,):
        raise NotFast("margin by another instrument")
