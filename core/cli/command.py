"""`python -m core <command>`: what each command is called, and what its errors look like.

Exit codes: 0 well, 1 the strategy or a whole search failed, 2 wrong input (one line on stderr names field, row and
rule), 130 cancelled. Invariant: bad input never ends in a traceback.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from core.cli import backtest, greeks, optimize
from core.cli.arguments import Parser, StrategyFailed, WrongArguments
from core.errors import BridgeError, InvalidInput

FAILED, WRONG, CANCELLED = 1, 2, 130
DESCRIPTION = "Backtests, searches of parameters, and option Greeks. Each command has --help of its own."


def main(argv: Sequence[str]) -> int:
    """Run one command and return the exit code."""
    parser = Parser(prog="python -m core", description=DESCRIPTION)
    subparsers = parser.add_subparsers(required=True, metavar="{backtest,optimize,greeks}")
    for name, add in (("backtest", backtest.add), ("optimize", optimize.add), ("greeks", greeks.add)):
        add(subparsers, name)
    try:
        if not argv:
            raise WrongArguments("a command is missing: backtest, optimize or greeks (--help tells more)")
        options = parser.parse_args(argv)
        code = int(options.run(options))
        sys.stdout.flush()  # so that a reader that has gone is noticed here
        return code
    except StrategyFailed as error:
        return _failed(error, FAILED)
    except InvalidInput as error:
        named = error.field is None or error.field.rpartition(".")[2] in str(error)
        return _failed(error if named else f"{error.field}: {error}", WRONG)
    except (BridgeError, WrongArguments) as error:
        return _failed(error, WRONG)
    except KeyboardInterrupt:
        return _failed("cancelled", CANCELLED)
    except BrokenPipeError:  # the reader of our output has gone, as `| head` does
        sys.stderr.close()
        return FAILED


def _failed(error: object, code: int) -> int:
    text = " ".join(str(error).split())
    print(text if code == CANCELLED else f"error: {text}", file=sys.stderr)
    return code
