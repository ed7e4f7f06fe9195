"""Strategies by name: the examples, or `module:Name` of the user's own."""

from __future__ import annotations

import argparse
import inspect
import traceback
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from types import TracebackType

from core.backtester.examples import EXAMPLES
from core.backtester.strategy import Strategy
from core.cli import arguments
from core.cli.arguments import StrategyFailed, Value
from core.errors import BridgeError, InvalidInput

HERE = Path(__file__).parents[1]


def add_strategy(parser: argparse.ArgumentParser) -> None:
    """The strategy and its parameters."""
    parser.add_argument(
        "strategy", metavar="STRATEGY", help=f"{', '.join(EXAMPLES)}, or module:Name for one of your own"
    )
    parser.add_argument(
        "--set", dest="params", action="append", default=[], type=arguments.setting, metavar="NAME=VALUE",
        help="a parameter that the strategy is made with; can be given several times",
    )  # fmt: skip


def strategy_of(name: str) -> Callable[..., Strategy]:
    """What makes the strategy of that name. Raises InvalidInput when there is none."""
    if name in EXAMPLES:
        return EXAMPLES[name]
    module, found, attribute = name.partition(":")
    if not found or not module or not attribute:
        raise InvalidInput(
            f"STRATEGY: {name!r} is neither one of {', '.join(EXAMPLES)} nor module:Name", field="STRATEGY"
        )
    try:
        holder = import_module(module)
    except ModuleNotFoundError as cause:
        raise InvalidInput(f"STRATEGY: no module {cause.name} (looked from this folder)", field="STRATEGY") from cause
    except Exception as cause:  # the module is the user's own code and may raise anything
        raise failure(cause, f"importing {module}") from cause
    make = getattr(holder, attribute, None)
    if not callable(make):
        raise InvalidInput(f"STRATEGY: {module} has no class or function {attribute}", field="STRATEGY")
    made: Callable[..., Strategy] = make
    return made


def check_params(make: Callable[..., Strategy], params: Mapping[str, Value]) -> None:
    """Raises InvalidInput unless the strategy takes these parameters and needs no other."""
    signature = inspect.signature(make)
    try:
        signature.bind(**params)
    except TypeError as cause:
        takes = ", ".join(signature.parameters) or "none"
        raise InvalidInput(f"--set: {cause} (the strategy's parameters: {takes})", field="--set") from cause


def failure(cause: BaseException, doing: str) -> BridgeError:
    """What to tell of an exception of the user's own code: bad input as it is, all else with the line it came from."""
    if isinstance(cause, BridgeError):
        return cause
    return StrategyFailed(f"{doing}: {type(cause).__name__}: {cause}{_where(cause.__traceback__)}")


def _where(trace: TracebackType | None) -> str:
    """The last line outside of this library."""
    frames = [each for each in traceback.extract_tb(trace) if not Path(each.filename).is_relative_to(HERE)]
    own = [each for each in frames if "importlib" not in each.filename]
    return f" ({Path(own[-1].filename).name}, line {own[-1].lineno})" if own else ""
