"""`python -m core greeks`: price, Greeks and implied volatility of one option or a chain of them."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from core.backtester.data.csv import read_columns, read_numbers
from core.backtester.data.errors import BadData
from core.backtester.export import table_to_csv
from core.backtester.report import line
from core.cli import arguments
from core.cli.arguments import Subparsers, command
from core.cli.market import text_of
from core.cli.output import show, show_json, write
from core.cli.table import table_lines
from core.errors import InvalidInput
from core.greeks import Chain, Dividends, NoVolatility
from core.greeks.black_scholes import Greeks
from core.greeks.inputs import not_negative
from core.greeks.sample import sample_chain

EPILOG = """a chain's CSV has the columns kind (call or put), strike, years and either volatility or price; where the
column years is missing, --years is everybody's. Theta, charm and colour are per year, vega per 1.00 of volatility.

examples:
  python -m core greeks --kind call --spot 100 --strike 105 --years 0.5 --rate 0.03 --volatility 0.2
  python -m core greeks --kind put --spot 100 --strike 95 --years 0.5 --price 3.1 --dividend 0.25:1.5
  python -m core greeks --chain chain.csv --spot 100 --rate 0.03 --json"""
NAMES = tuple(each for each in Greeks.__dataclass_fields__)
WHY = {
    NoVolatility.EXPIRED: "expired: the price is the intrinsic value whatever the volatility",
    NoVolatility.BELOW_INTRINSIC: "the price is below the intrinsic value",
    NoVolatility.ABOVE_BOUND: "the price is at or above what any volatility gives",
    NoVolatility.NO_TIME_VALUE: "the price is the intrinsic value: any volatility near 0 gives it",
}


@dataclass(frozen=True, slots=True)
class Asked:
    """A chain with a volatility for each row, nan where there is none, and its reason ("" where there is one)."""

    chain: Chain
    volatility: Any
    reasons: list[str]
    prices: Any  # as given, None when they were not


def add(subparsers: Subparsers, name: str) -> None:
    """The command and its arguments."""
    parser = command(subparsers, name, "Price, Greeks and implied volatility.", run_greeks, EPILOG)
    many = parser.add_mutually_exclusive_group()
    many.add_argument("--chain", metavar="FILE", help="a CSV file of contracts on one underlying")
    many.add_argument("--sample", action="store_true", help="a made-up chain, the same every time")
    parser.add_argument("--kind", choices=["call", "put"])
    for flag, text in (
        ("--spot", "price of the underlying now"), ("--strike", "in the same units"), ("--years", "until it expires"),
        ("--volatility", "per square root of a year: 0.2 is 20 %%"), ("--price", "to find the implied volatility of"),
    ):  # fmt: skip
        parser.add_argument(flag, type=arguments.real, help=text)
    parser.add_argument("--rate", type=arguments.real, help="continuously compounded a year (0)")
    parser.add_argument("--yield", dest="dividend_yield", type=arguments.real, help="of dividends, as the rate (0)")
    parser.add_argument(
        "--dividend", action="append", default=[], type=arguments.dividend, metavar="YEARS:AMOUNT",
        help="a cash dividend; can be given several times",
    )  # fmt: skip
    parser.add_argument("--export", metavar="FILE", help="write the table there as CSV")


def run_greeks(options: argparse.Namespace) -> int:
    """Everything is checked first; a row without a volatility has its reason instead of Greeks."""
    one = not options.chain and not options.sample
    asked = _one(options) if one else _sampled(options) if options.sample else _chain(options)
    rows = _rows(asked)
    if options.export:
        write_rows(rows, options.export)
    if options.json:
        show_json({"contracts": rows})
    elif one:
        show(_lines(rows[0]))
    else:
        show(_table(rows))
    return 0


def write_rows(rows: Sequence[dict[str, Any]], path: str) -> None:
    """The table as a CSV file; what is not known is left empty."""
    table = {name: np.array([row[name] for row in rows], dtype=np.object_) for name in rows[0]}
    write(Path(path), table_to_csv(table), "--export")


def _one(options: argparse.Namespace) -> Asked:
    for name in ("kind", "spot", "strike", "years"):
        if getattr(options, name) is None:
            raise InvalidInput(f"--{name} is missing (or --chain FILE, or --sample)", field=f"--{name}")
    if (options.volatility is None) == (options.price is None):
        raise InvalidInput("give either --volatility or --price", field="--volatility")
    chain = _of(options, [options.kind], [options.strike], [options.years])
    return _asked(chain, None if options.volatility is None else [options.volatility], [options.price])


def _sampled(options: argparse.Namespace) -> Asked:
    _only_of_one(options, "spot", "rate", "dividend_yield", "years")
    sample = sample_chain()
    options.spot, options.rate, options.dividend_yield = sample.spot, sample.rate, sample.dividend_yield
    return _asked(_of(options, sample.kind, sample.strike, sample.years), None, sample.price)


def _chain(options: argparse.Namespace) -> Asked:
    _only_of_one(options)
    if options.spot is None:
        raise InvalidInput("--spot is missing: the price of the chain's underlying", field="--spot")
    text = text_of(options.chain, "--chain")
    try:
        cells = read_columns(text, ("kind", "strike"), ("years", "volatility", "price"))
        columns = {name: read_numbers(cells[name], name) for name in cells if name != "kind"}
        if not columns["strike"]:
            raise BadData("has no contract", field="strike", rule="present")
        if ("volatility" in columns) == ("price" in columns):
            raise BadData("must be in the header, or price, not both", field="volatility", rule="header")
        if "years" not in columns:
            if options.years is None:
                raise BadData("must be in the header, or --years given", field="years", rule="header")
            columns["years"] = [options.years] * len(columns["strike"])
        chain = _of(options, [each.lower() for each in cells["kind"]], columns["strike"], columns["years"])
        return _asked(chain, columns.get("volatility"), columns.get("price"))
    except InvalidInput as cause:
        raise InvalidInput(f"{options.chain}: {cause}", field=cause.field) from cause


def _only_of_one(options: argparse.Namespace, *more: str) -> None:
    """Raises InvalidInput for flags that a chain leaves no meaning to."""
    for name in ("kind", "strike", "volatility", "price", *more):
        if getattr(options, name) is not None:
            flag = "--yield" if name == "dividend_yield" else f"--{name}"
            raise InvalidInput(f"{flag} is not for this chain: it has its own", field=flag)


def _of(options: argparse.Namespace, kind: Any, strike: Any, years: Any) -> Chain:
    dividends = None
    if options.dividend:
        times, amounts = zip(*options.dividend, strict=True)
        dividends = Dividends(times, amounts)
    return Chain.of(
        kind, strike, years, spot=options.spot, rate=options.rate or 0.0,
        dividend_yield=options.dividend_yield or 0.0, dividends=dividends,
    )  # fmt: skip


def _asked(chain: Chain, volatility: Any, prices: Any) -> Asked:
    if volatility is not None:
        not_negative("years", chain.years)
        return Asked(chain, not_negative("volatility", volatility), [""] * len(chain), None)
    found = chain.implied_volatility(prices)
    codes = np.asarray(found.reason).tolist()
    return Asked(chain, found.volatility, [WHY.get(NoVolatility(code), "") for code in codes], prices)


def _rows(asked: Asked) -> list[dict[str, Any]]:
    """Rows for people and programs: null, with a reason, where there is no finite number."""
    chain, known = asked.chain, np.array([not reason for reason in asked.reasons])
    figures: dict[str, Any] = {}
    if known.any():
        years = np.where(known, chain.years, 1.0)  # rows without a volatility are computed and thrown away
        whole = Chain(chain.sign, chain.strike, years, chain.spot, chain.rate, chain.dividend_yield, chain.dividends)
        figures = whole.greeks(np.where(known, asked.volatility, 1.0)).columns()
    rows = []
    for row, reason in enumerate(asked.reasons):
        found = {name: float(figures[name][row]) if not reason else None for name in NAMES}
        if asked.prices is not None:
            found["price"] = float(asked.prices[row])
        endless = [name for name, value in found.items() if value is not None and not math.isfinite(value)]
        rows.append({
            "kind": "call" if chain.sign[row] > 0 else "put", "strike": float(chain.strike[row]),
            "years": float(chain.years[row]), "volatility": None if reason else float(asked.volatility[row]),
            **{name: None if name in endless else value for name, value in found.items()},
            "reason": reason or (f"not finite: {', '.join(endless)}" if endless else ""),
        })  # fmt: skip
    return rows


def _lines(row: dict[str, Any]) -> list[str]:
    told = f"{row['kind']}, strike {row['strike']:g}, {row['years']:g} years"
    lines = [told, "=" * len(told)]
    for name, value in row.items():
        if name in ("volatility", *NAMES):
            lines.append(line(name.capitalize(), "–" if value is None else f"{value:.10g}"))
    return [*lines, *([line("Reason", row["reason"])] if row["reason"] else [])]


def _table(rows: Sequence[dict[str, Any]]) -> list[str]:
    shown = [
        [row["kind"], f"{row['strike']:g}", f"{row['years']:.4g}"]
        + ["–" if row[name] is None else f"{row[name]:.4f}" for name in ("volatility", *NAMES)]
        + [row["reason"]]
        for row in rows
    ]
    return table_lines(["kind", "strike", "years", "volatility", *NAMES, ""], shown, texts={0, len(NAMES) + 4})
