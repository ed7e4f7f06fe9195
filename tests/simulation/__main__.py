"""`python -m tests.simulation --seed 7`: run a seed again, and show what is broken and what came before."""

from __future__ import annotations

import argparse
import sys

from tests.simulation.run import breakage, simulate


def main() -> int:
    """Exit code 1 when something is broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--steps", type=int, help="operations and faults; absent: as the seed draws it")
    parser.add_argument("--break", dest="breakage", metavar="MODULE:FUNCTION", help="called first, to break something")
    parser.add_argument("--tail", type=int, default=0, help="show so many of the last lines of the trace")
    arguments = parser.parse_args()
    if arguments.breakage:
        breakage(arguments.breakage)()
    outcome = simulate(arguments.seed, steps=arguments.steps)
    sys.stdout.writelines(f"{line}\n" for line in outcome.tail[len(outcome.tail) - arguments.tail :])
    seen = ", ".join(f"{name} {count}" for name, count in sorted(outcome.seen.items()))
    print(f"seed {outcome.seed}: trace {outcome.trace}, {outcome.virtual_s:.0f} virtual s in {outcome.real_s:.2f} s")
    print(f"seen: {seen}")
    print(outcome.broken or f"everything held; at rest {outcome.settled_s:.0f} s after the last fault")
    return 1 if outcome.broken else 0


if __name__ == "__main__":
    sys.exit(main())
