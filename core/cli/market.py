"""Data and terms of a backtest from the command line: CSV files or the sample, balance, leverage and costs."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import numpy as np

from core.backtester.costs import commission_of_value, commission_per_million_usd, slippage_points
from core.backtester.data.bars import Bars
from core.backtester.data.csv import bars_from_csv, ticks_from_csv
from core.backtester.data.cutting import between
from core.backtester.data.errors import BadData
from core.backtester.data.resample import bars_from_ticks, resample_bars
from core.backtester.data.sample import sample_hours
from core.backtester.data.ticks import Ticks
from core.backtester.metrics import Sampling
from core.backtester.settings import BacktestSettings
from core.cli import arguments
from core.errors import InvalidInput
from core.instruments import Instrument
from core.paper_trader import AccountSettings, Commission, Listing, MarketSettings
from core.paper_trader.conversion import Converter

Data = Bars | Ticks
MOST_DIGITS = 8


def add_market(parser: argparse.ArgumentParser) -> None:
    """The flags that say what is traded and on which terms."""
    data = parser.add_argument_group("data")
    data.add_argument(
        "--csv", action="append", default=[], metavar="[NAME=]FILE",
        help="bars (time, open, high, low, close and perhaps volume, spread) or ticks (time, bid, ask); times in UTC "
        "or Unix ms; NAME is the file's own by default; can be given several times",
    )  # fmt: skip
    data.add_argument("--sample", action="store_true", help="a made-up EURUSD: half a year of hours")
    data.add_argument("--interval", type=arguments.interval, help="of the files' bars (default: their least step)")
    data.add_argument("--resample", type=arguments.interval, metavar="INTERVAL", help="make bars of this length")
    data.add_argument("--from", dest="from_ms", type=arguments.moment, metavar="TIME", help="leave out what is earlier")
    data.add_argument("--to", dest="to_ms", type=arguments.moment, metavar="TIME", help="leave out what is later")
    terms = parser.add_argument_group("terms")
    terms.add_argument("--balance", type=arguments.positive, default=Decimal(10_000), help="at the start (%(default)s)")
    terms.add_argument("--currency", default="USD", help="of the account (%(default)s)")
    terms.add_argument("--leverage", type=arguments.positive, default=Decimal(100), help="(%(default)s)")
    terms.add_argument("--digits", type=arguments.whole, help="decimals of a price (default: as many as the data has)")
    charge = terms.add_mutually_exclusive_group()
    charge.add_argument(
        "--commission", type=arguments.fraction, default=Decimal(0), metavar="FRACTION",
        help="of the value, charged at each side: 0.0001 is a hundredth of a percent",
    )  # fmt: skip
    charge.add_argument(
        "--commission-per-million", type=arguments.not_negative, metavar="USD", help="of volume, charged at each side"
    )
    terms.add_argument("--slippage", type=arguments.whole, default=0, metavar="POINTS", help="of fills at the market")
    terms.add_argument("--spread", type=arguments.whole, metavar="POINTS", help="of bars, instead of what the data has")
    terms.add_argument("--close-at-end", action="store_true", help="close what is open at the last prices")
    judged = parser.add_argument_group("figures")
    judged.add_argument(
        "--days-in-year", type=arguments.positive, default=Decimal(365), metavar="DAYS",
        help="to annualise daily returns; 365 takes calendar days, any other only days with data (%(default)s)",
    )  # fmt: skip
    judged.add_argument("--risk-free", type=arguments.number, default=Decimal(0), help="return a year, a fraction (0)")


def data_of(options: argparse.Namespace) -> dict[str, Data]:
    """Data by instrument. Raises InvalidInput, which names the file, and within it field, row and rule."""
    if options.sample == bool(options.csv):
        raise InvalidInput("give either --csv FILE or --sample", field="--csv")
    if options.sample:
        found: dict[str, Data] = {"EURUSD": sample_hours()}
    else:
        found = {}
        for text in options.csv:
            name, given, path = text.rpartition("=")
            name = name if given else Path(path).stem
            if name in found:
                raise InvalidInput(f"--csv: {name} is given twice: write NAME=FILE", field="--csv")
            found[name] = _read(name, path, options.interval)
    return {name: _fitted(data, options) for name, data in found.items()}


def settings_of(options: argparse.Namespace, data: dict[str, Data]) -> BacktestSettings:
    """Terms by the flags. Six capital letters name a currency pair; anything else is quoted in --currency."""
    commission = (
        commission_of_value(options.commission)
        if options.commission_per_million is None
        else commission_per_million_usd(options.commission_per_million)
    )
    listings = tuple(_listing(each, options, commission) for each in data.values())
    _check_currency(options.currency, [each.instrument for each in listings])
    return BacktestSettings(
        listings=listings,
        account=AccountSettings(currency=options.currency, leverage=options.leverage),
        market=MarketSettings(slippage=slippage_points(options.slippage)),
        balance=options.balance,
        close_at_end=options.close_at_end,
    )


def _check_currency(currency: str, instruments: Sequence[Instrument]) -> None:
    """Raises InvalidInput where no data converts an instrument's money to the account's: every order would fail."""
    converter = Converter(lambda _: None)
    for each in instruments:
        converter.add(each)
    for each in instruments:
        if converter.chain(each.quote_asset, currency) is None:
            message = f"--currency: no data converts {each.quote_asset} of {each.id} to {currency}"
            raise InvalidInput(message, field="--currency")


def sampling_of(options: argparse.Namespace) -> Sampling:
    """How figures are annualised."""
    days = float(options.days_in_year)
    return Sampling(days, traded_days_only=days != 365, risk_free=float(options.risk_free))


def text_of(path: str, field: str) -> str:
    """A file's text. Raises InvalidInput when it cannot be read."""
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except OSError as cause:
        raise InvalidInput(f"{field}: cannot read {path}: {cause.strerror}", field=field) from cause
    except UnicodeDecodeError as cause:
        raise InvalidInput(f"{field}: {path} is no UTF-8 text", field=field) from cause


def _read(name: str, path: str, interval_ms: int | None) -> Data:
    text = text_of(path, "--csv")
    header = [each.strip().lower() for each in text.partition("\n")[0].split(",")]
    try:
        if "bid" in header and "open" not in header:
            return ticks_from_csv(text, name)
        if interval_ms is not None:
            return bars_from_csv(text, name, interval_ms=interval_ms)
        bars = bars_from_csv(text, name, interval_ms=1)
        if len(bars) < 2:
            raise BadData("needs two rows to tell how long a bar is, or --interval", field="time", rule="interval")
        return replace(bars, interval_ms=int(np.diff(bars.time_ms).min()))
    except BadData as cause:
        raise InvalidInput(f"{path}: {cause}", field=cause.field) from cause


def _fitted(data: Data, options: argparse.Namespace) -> Data:
    if options.resample is not None:
        data = (resample_bars if isinstance(data, Bars) else bars_from_ticks)(data, options.resample)  # type: ignore[arg-type]
    data = between(data, options.from_ms, options.to_ms)
    if options.spread is not None:
        if isinstance(data, Ticks):
            raise InvalidInput(f"--spread: {data.instrument_id} has ticks, which have their own", field="--spread")
        width = options.spread / 10 ** digits_of(data, options)
        data = replace(data, spread=np.full(len(data), width))
    return data


def digits_of(data: Data, options: argparse.Namespace) -> int:
    """--digits, or the fewest with which every price can be written. Raises InvalidInput where 8 do not suffice."""
    if options.digits is not None:
        return int(options.digits)
    columns = ("open", "high", "low", "close") if isinstance(data, Bars) else ("bid", "ask")
    prices = np.concatenate([getattr(data, each) for each in columns])
    for digits in range(MOST_DIGITS + 1):
        if (np.rint(prices * 10.0**digits) / 10.0**digits == prices).all():
            return digits
    raise InvalidInput(
        f"--digits: {data.instrument_id} has prices with more than {MOST_DIGITS} decimals", field="--digits"
    )


def _listing(data: Data, options: argparse.Namespace, commission: Commission) -> Listing:
    name, digits = data.instrument_id, digits_of(data, options)
    pair = len(name) == 6 and name.isascii() and name.isalpha() and name.isupper()
    base, quote = (name[:3], name[3:]) if pair else (name, options.currency)
    return Listing(
        instrument=Instrument(name, name, digits, base, quote), pip_digits=max(digits - 1, 0), commission=commission
    )
