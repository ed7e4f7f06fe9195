"""`scripts/fuzz_api`: requests without end against the API, with what came of them printed."""

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path

from tests.support.fuzz import Outcome, fuzz


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/fuzz_api", description=__doc__)
    parser.add_argument("--requests", type=int, default=10_000, help="at least so many")
    parser.add_argument("--seed", type=int, default=1, help="another seed sends other requests")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        outcome = asyncio.run(fuzz(Path(folder), requests=arguments.requests, seed=arguments.seed))
    return report(outcome)


def report(outcome: Outcome) -> int:
    for found in outcome.found:
        print(found)
    answers = ", ".join(f"{count} × {status}" for status, count in sorted(outcome.answers.items()) if count)
    print(f"{outcome.requests} requests: {answers}")
    print(f"{outcome.server_errors} server errors; undocumented answers: {'see above' if outcome.found else 'none'}")
    return 1 if outcome.found or outcome.server_errors else 0


if __name__ == "__main__":
    sys.exit(main())
