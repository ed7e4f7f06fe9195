"""`scripts/storm --size`: sessions at both brokers in one process at the size that DESIGN §1 promises, as a table."""

import argparse
import asyncio
import tempfile
import time
from pathlib import Path

from tests.support.size import Plan, run_size, size_world
from tests.support.verdicts import Verdicts


async def size(plan: Plan) -> bool:
    """Run, print the table, and say whether every line holds."""
    verdicts, begun = Verdicts(), time.monotonic()

    def say(line: str) -> None:
        print(f"{time.monotonic() - begun:6.1f} s  {line}", flush=True)

    with tempfile.TemporaryDirectory() as folder:
        try:
            async with size_world(Path(folder), plan) as world:
                await run_size(world, plan, verdicts, say)
        finally:
            print(verdicts, flush=True)
    print(f"{time.monotonic() - begun:.0f} s in all; {'every line holds' if verdicts.hold else 'not every line holds'}")
    return verdicts.hold


def main() -> int:
    plan = Plan()
    parser = argparse.ArgumentParser(prog="scripts/storm --size", description=__doc__)
    add = parser.add_argument
    add("--size", action="store_true", required=True)
    add("--users", type=int, default=plan.users, help="cTrader sessions (default %(default)s)")
    add("--second-users", type=int, default=plan.second_users, help="Alpaca sessions beside (default %(default)s)")
    add("--channels", type=int, default=plan.channels, help="CTRADER_CHANNELS (default %(default)s)")
    add("--requests-per-second", type=int, default=plan.requests_per_second, help="cTrader's budget of a channel")
    add("--dials", type=int, default=plan.dials, help="ALPACA_DIALS_PER_SECOND (default %(default)s)")
    add("--holders", type=float, default=plan.holders, help="share of accounts that hold something")
    add("--operations-per-second", type=float, default=plan.operations_per_second, help="trades and deposits")
    add("--steady", type=float, default=plan.steady_s, help="seconds of steady load (default %(default)s)")
    add("--speed", type=float, default=plan.speed, help="moves of each price a second (default %(default)s)")
    add("--quotes", default=plan.quotes, help="CTRADER_QUOTES of the bridge, as it is by default if not given")
    add("--seed", type=int, default=plan.seed)
    given = parser.parse_args()
    plan = Plan(
        users=given.users,
        second_users=min(given.second_users, given.users),
        channels=given.channels,
        requests_per_second=given.requests_per_second,
        dials=given.dials,
        holders=given.holders,
        operations_per_second=given.operations_per_second,
        steady_s=given.steady,
        speed=given.speed,
        quotes=given.quotes,
        seed=given.seed,
    )
    return 0 if asyncio.run(size(plan)) else 1
