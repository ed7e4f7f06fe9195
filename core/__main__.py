"""`python -m core {backtest,optimize,greeks}`. Worker processes import this module too: it must do nothing then."""

import sys

from core.cli.command import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
