"""`scripts/storm`: the storms and the kill drill of the test suite, at a rate of your choice."""

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path

from bridge.embedded.postgres import PostgresServer
from tests.support import size_command
from tests.support.databases import make_database
from tests.support.fleet_storm_command import USERS as FLEET_USERS
from tests.support.fleet_storm_command import fleet_storm
from tests.support.kill_drill import drill_world, run_kill_drill
from tests.support.storm import run_storm
from tests.support.two_brokers import run_two_brokers
from tests.support.world import running_world

HELD_SLOTS_S = 90.0  # what the real broker does


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


async def kill_drill(users: int, requests_per_second: int, operations: int) -> None:
    with PostgresServer() as server, tempfile.TemporaryDirectory() as folder:
        url = await make_database(server, "drill")
        async with drill_world(Path(folder), url, users=users, requests_per_second=requests_per_second) as world:
            rate = requests_per_second * 0.9
            report = await run_kill_drill(world, url, rate=rate, operations=operations, say=print)
    print(
        f"{report.wanted} of {report.users} sessions wanted, {report.at_risk} accounts at risk at the kill\n"
        f"first live in {report.live_after_start_s:.1f} s; back after kill -9 in {report.back_live_s:.1f} s from the "
        f"start on (allowed {report.back_live_limit_s:.1f} s), holders first, 0 budget violations, 0 double logins\n"
        f"none of {report.commands} accepted starts and stops lost; every record, in Postgres and in Valkey, equal to "
        f"the broker's truth {report.equal_after_s:.1f} s after the last operation\n"
        f"ended by SIGTERM in {report.drained_s:.1f} s, every record marked as draining\n"
        f"requests since the start: {dict(report.requests.most_common())}"
    )


async def two_brokers(users: int, requests_per_second: int, operations: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        arguments = ("--alpaca-slot-seconds", str(HELD_SLOTS_S))
        async with running_world(
            Path(folder), users=users, requests_per_second=requests_per_second, simulator_arguments=arguments
        ) as world:
            report = await run_two_brokers(
                world,
                second_users=max(1, users // 5),
                rate=requests_per_second * 0.9,
                operations=operations,
                held_slots_s=HELD_SLOTS_S,
                say=print,
            )
    back = ", ".join(f"{seconds:.1f} s" for seconds in report.back_live_s)
    print(
        f"sessions {report.sessions}, {report.operations} operations, first live in {report.live_s:.1f} s, "
        f"back after the cuts in {back} (slots of cut streams held for {HELD_SLOTS_S:g} s)\n"
        f"every record equal to its broker's truth after {report.equal_after_s}\n"
        f"executions made {report.executions}, every one noted once, found after a cut {report.recovered}; "
        f"0 budget violations, 0 double logins"
    )


def main() -> None:
    if "--size" in sys.argv:
        sys.exit(size_command.main())
    parser = argparse.ArgumentParser(prog="scripts/storm", description=__doc__)
    parser.add_argument("--users", type=int, help=f"sessions, one account each (1000; with --fleet {FLEET_USERS})")
    parser.add_argument("--requests-per-second", type=int, default=50, help="what the broker allows; we keep to 90 %%")
    parser.add_argument("--operations", type=int, default=10_000, help="random trades, deposits and price moves")
    parser.add_argument(
        "--kill",
        action="store_true",
        help="kill -9 the bridge under load and start it again, with Postgres and credentials in the vault",
    )
    parser.add_argument(
        "--two-brokers", action="store_true", help="a fifth as many Alpaca sessions beside, three cuts at each broker"
    )
    parser.add_argument(
        "--fleet",
        action="store_true",
        help="three processes on one Postgres: kill -9 of one, rolling restart of all under the operations",
    )
    parser.add_argument("--channels", type=int, default=2, help="with --fleet: sockets of each process")
    arguments = parser.parse_args()
    if arguments.fleet:
        users, channels = arguments.users or FLEET_USERS, arguments.channels
        sys.exit(asyncio.run(fleet_storm(users, arguments.requests_per_second, arguments.operations, channels)))
    run = kill_drill if arguments.kill else two_brokers if arguments.two_brokers else storm
    asyncio.run(run(arguments.users or 1000, arguments.requests_per_second, arguments.operations))


if __name__ == "__main__":
    main()
