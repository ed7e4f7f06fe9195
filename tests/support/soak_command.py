"""`scripts/soak`: hours of random life and faults, and nothing that grows."""

import argparse
import asyncio
import tempfile
import time
from pathlib import Path

from tests.support.soak import Plan, run_soak
from tests.support.soak_world import soak_world
from tests.support.verdicts import Verdicts


async def soak(plan: Plan, *, leaks: bool, census: str) -> bool:
    """Run, print the table, and say whether every line holds."""
    verdicts, begun = Verdicts(), time.monotonic()

    def say(line: str) -> None:
        print(f"{time.monotonic() - begun:6.0f} s  {line}", flush=True)

    with tempfile.TemporaryDirectory() as folder:
        async with soak_world(
            Path(folder), users=plan.users, second_users=plan.second_users, leaks=leaks, census=census
        ) as world:
            await run_soak(world, plan, verdicts, say)
    print(verdicts)
    again = f"./scripts/soak --minutes {plan.minutes:g} --seed {plan.seed} --users {plan.users}"
    print(f"{'every line holds' if verdicts.hold else 'not every line holds'}; the same again: {again}")
    return verdicts.hold


def main() -> int:
    plan = Plan()
    parser = argparse.ArgumentParser(prog="scripts/soak", description=__doc__)
    add = parser.add_argument
    add("--minutes", type=float, default=plan.minutes, help="how long (default %(default)g)")
    add("--seed", type=int, default=plan.seed, help="the same seed begins the same deeds (default %(default)s)")
    add("--users", type=int, default=plan.users, help="cTrader sessions (default %(default)s), a third as many Alpaca")
    add("--leak", action="store_true", help="with a bridge that leaks, to see that it is noticed")
    add(
        "--census",
        default="",
        metavar="FILE",
        help="write down after each round how many objects of which type there are",
    )
    given = parser.parse_args()
    plan = Plan(given.minutes, given.users, max(1, given.users // 3), given.seed)
    return 0 if asyncio.run(soak(plan, leaks=given.leak, census=given.census)) else 1


if __name__ == "__main__":
    raise SystemExit(main())
