"""`python -m core.cli.sample FOLDER`: the sample data set as files in the formats that the commands read.

Made from seeds, never downloaded: the same files on every machine, and no licence hangs on them.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from core.backtester.data.csv import bars_to_csv, ticks_to_csv
from core.backtester.data.sample import sample_bars, sample_hours, sample_ticks
from core.backtester.export import table_to_csv
from core.cli.output import write
from core.errors import InvalidInput
from core.greeks.sample import sample_chain


def sample_files() -> dict[str, str]:
    """Text by file name: minute bars, hourly bars of two instruments, ticks, and an option chain."""
    chain = sample_chain()
    return {
        "EURUSD.csv": bars_to_csv(sample_bars("EURUSD", 1_440)),
        "EURUSD-1h.csv": bars_to_csv(sample_hours()),
        "GBPUSD-1h.csv": bars_to_csv(sample_hours("GBPUSD", seed=2, price=1.27)),
        "EURUSD-ticks.csv": ticks_to_csv(sample_ticks("EURUSD", 2_000)),
        "options.csv": table_to_csv(
            {"kind": chain.kind, "strike": chain.strike, "years": chain.years, "price": chain.price}
        ),
    }


def main(argv: Sequence[str]) -> int:
    """Write them into a folder; 2 when that cannot be."""
    if len(argv) != 1:
        print("usage: python -m core.cli.sample FOLDER", file=sys.stderr)
        return 2
    try:
        for name, text in sample_files().items():
            print(write(Path(argv[0]) / name, text, "FOLDER"))
    except InvalidInput as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
