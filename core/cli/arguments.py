"""Arguments that commands share: reading them, and saying in one line what is wrong with one."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import Any, NoReturn

from core.errors import BridgeError

Subparsers = Any  # argparse names no public type for it
Value = bool | int | float | str
INTERVALS = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000}


class WrongArguments(Exception):
    """The arguments do not say what to do."""


class StrategyFailed(BridgeError):
    """A strategy of the user's own raised something; names the exception and the line it came from."""


class Parser(argparse.ArgumentParser):
    """Raises WrongArguments where argparse would print its usage and leave."""

    def error(self, message: str) -> NoReturn:
        raise WrongArguments(f"{message} (`{self.prog} --help` tells more)")


def command(
    subparsers: Subparsers, name: str, text: str, run: Callable[[argparse.Namespace], int], epilog: str
) -> argparse.ArgumentParser:
    """A command of its own, with what every command has."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        name, help=text, description=text, epilog=epilog, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.set_defaults(run=run)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a report")
    return parser


def _named(kind: str, read: Callable[[str], Any]) -> Callable[[str], Any]:
    """A reader whose refusal argparse words as: argument --x: must be `kind`, not 'y'."""

    def checked(text: str) -> Any:
        try:
            return read(text)
        except (ValueError, InvalidOperation, OverflowError) as cause:
            raise argparse.ArgumentTypeError(f"must be {kind}, not {text!r}") from cause

    return checked


def _number(text: str) -> Decimal:
    value = Decimal(text)
    if not value.is_finite():
        raise ValueError(text)
    return value


def _within(read: Callable[[str], Any], holds: Callable[[Any], bool]) -> Callable[[str], Any]:
    def checked(text: str) -> Any:
        value = read(text)
        if not holds(value):
            raise ValueError(text)
        return value

    return checked


def _moment(text: str) -> int:
    if text.isdecimal() and len(text) > 8:
        return int(text)
    moment = datetime.fromisoformat(text)
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return round(moment.timestamp() * 1000)


def _interval(text: str) -> int:
    unit = INTERVALS.get(text[-1:])
    count = int(text[:-1]) if unit else int(text)
    if count < 1:
        raise ValueError(text)
    return count * (unit or 1)


def _setting(text: str) -> tuple[str, Value]:
    name, found, value = text.partition("=")
    if not found or not name.isidentifier():
        raise ValueError(text)
    return name, value_of(value)


def _dividend(text: str) -> tuple[float, float]:
    years, found, amount = text.partition(":")
    if not found:
        raise ValueError(text)
    return float(_number(years)), float(_number(amount))


def value_of(text: str) -> Value:
    """true, false, a whole number, a number or else the text itself."""
    if text in ("true", "false"):
        return text == "true"
    for read in (int, float):
        try:
            return read(text)
        except ValueError:
            continue
    return text


number = _named("a number", _number)
positive = _named("a number above 0", _within(_number, lambda value: value > 0))
not_negative = _named("a number of at least 0", _within(_number, lambda value: value >= 0))
fraction = _named("a fraction of at least 0 and below 1", _within(_number, lambda value: 0 <= value < 1))
real = _named("a number", lambda text: float(_number(text)))
count = _named("a whole number above 0", _within(int, lambda value: value > 0))
whole = _named("a whole number of at least 0", _within(int, lambda value: value >= 0))
moment = _named("a UTC time such as 2024-01-31 or 2024-01-31T14:30, or Unix ms", _moment)
interval = _named("a time such as 30s, 5m, 1h, 1d, 1w, or ms", _interval)
setting = _named("NAME=VALUE", _setting)
dividend = _named("YEARS:AMOUNT, two numbers", _dividend)
