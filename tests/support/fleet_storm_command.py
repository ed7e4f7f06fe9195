"""`scripts/storm --fleet`: three processes on one Postgres with thousands of sessions, at the broker's real rate."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from bridge.embedded.postgres import PostgresServer
from tests.support.databases import make_database, migrate_database
from tests.support.fleet_storm import PROCESSES, Plan, run_fleet_storm
from tests.support.fleet_world import Fleet, empty_fleet

USERS = 3000
SECOND_SHARE = 50  # one session at the second broker for so many at the first
LEASE_S = 15.0  # LEASE_TTL as it is by default
HELD_SLOT_S, SLOT_WAIT_S = 90.0, 95.0  # what the real broker does, and what we wait then
OPERATIONS_PER_S = 100.0


async def fleet_storm(users: int, requests_per_second: int, operations: int, channels: int) -> int:
    """Run it and print the report; 1 when a line does not hold."""
    begun = time.monotonic()
    second_users = users // SECOND_SHARE
    with PostgresServer() as server, tempfile.TemporaryDirectory() as folder:
        url = await make_database(server, "drill")
        await migrate_database(url)
        env = {
            "DATABASE_SESSION_URL": url,
            "CTRADER_CHANNELS": str(channels),
            "LOG_LEVEL": "INFO",
        }
        plan = Plan(
            rate=requests_per_second * 0.9,
            channels=channels,
            operations=operations,
            per_s=OPERATIONS_PER_S,
            lease_s=LEASE_S,
            second_users=second_users,
            slot_wait_s=SLOT_WAIT_S,
        )
        async with empty_fleet(
            Path(folder),
            url,
            users=users,
            processes=PROCESSES,
            vaulted={"ctrader": users, "alpaca": second_users},
            lease_s=LEASE_S,
            env=env,
            requests_per_second=requests_per_second,
            simulator_arguments=("--alpaca-slot-seconds", str(HELD_SLOT_S)),
        ) as fleet:
            verdicts = await run_fleet_storm(fleet, plan, say=lambda line: print(line, flush=True))
            verdicts.note("processor time", _used(fleet))
    verdicts.note("whole drill", f"{time.monotonic() - begun:.0f} s")
    print(f"\n{users} cTrader and {second_users} Alpaca sessions, {PROCESSES} processes, {channels} channels each\n")
    print(verdicts)
    return 0 if verdicts.hold else 1


def _used(fleet: Fleet) -> str:
    """Seconds of processor time of those that run."""
    pids = {"simulator": fleet.world.simulator.pid, **{name: each.bridge.pid for name, each in fleet.running.items()}}
    return ", ".join(f"{name} {_seconds(pid):.0f} s" for name, pid in pids.items())


def _seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100
