"""`scripts/storm`: the storm of the test suite at a rate of your choice, with the figures printed."""

import argparse
import asyncio
import tempfile
from pathlib import Path

from tests.support.storm import run_storm
from tests.support.world import running_world


async def storm(users: int, requests_per_second: int, operations: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        async with running_world(Path(folder), users=users, requests_per_second=requests_per_second) as world:
            report = await run_storm(world, rate=requests_per_second * 0.9, operations=operations, say=print)
    print(
        f"{report.sessions} sessions, {report.operations} operations, "
        f"{report.holders_at_cut} accounts at risk at the cut\n"
        f"first live in {report.first_live_s:.1f} s; back after the cut in {report.back_live_s:.1f} s "
        f"(allowed {report.back_live_limit_s:.1f} s), holders first, 0 budget violations, 0 double logins\n"
        f"every record equal to the broker's truth {report.equal_after_s:.1f} s after the last operation"
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/storm", description=__doc__)
    parser.add_argument("--users", type=int, default=1000, help="sessions, one account each")
    parser.add_argument("--requests-per-second", type=int, default=50, help="what the broker allows; we keep to 90 %%")
    parser.add_argument("--operations", type=int, default=10_000, help="random trades, deposits and price moves")
    arguments = parser.parse_args()
    asyncio.run(storm(arguments.users, arguments.requests_per_second, arguments.operations))


if __name__ == "__main__":
    main()
