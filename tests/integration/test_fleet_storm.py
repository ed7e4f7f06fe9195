"""Three real processes and sessions at both brokers: one is killed, all are restarted one after the other, under load.

The same drill as `scripts/storm --fleet`, small and at ten times the broker's rate.
"""

from pathlib import Path

import pytest

from tests.support.fault_table import fault
from tests.support.fleet_storm import Plan, run_fleet_storm
from tests.support.fleet_world import empty_fleet

USERS, SECOND_USERS = 60, 9
REQUESTS_PER_S = 500
LONGER_LEASE_S = 4.0  # three processes that start, trade and end leave little of two cores
HELD_SLOT_S = 5.5  # longer than the lease: whoever takes over finds the slot taken
SLOT_WAIT_S = 4.0  # the quick bridge waits for 2 s, and once more


@fault("P03", "SIGKILL of one of three processes under load", "all live elsewhere in the stated time; no double login")
@fault("P06", "rolling restart of three processes under load", "no late write, no double login, every record true")
@pytest.mark.timeout(180)
async def test_every_record_is_true_and_nobody_served_twice_when_processes_are_killed_and_restarted_under_load(
    tmp_path: Path, database_url: str
) -> None:
    plan = Plan(
        rate=REQUESTS_PER_S * 0.9,
        channels=2,
        operations=300,
        per_s=30,
        lease_s=LONGER_LEASE_S,
        second_users=SECOND_USERS,
        slot_wait_s=SLOT_WAIT_S,
        slack=4.0,
    )
    env = {"CTRADER_CHANNELS": str(plan.channels), "DATABASE_SESSION_URL": database_url}
    async with empty_fleet(
        tmp_path,
        database_url,
        users=USERS,
        processes=3,
        vaulted={"ctrader": USERS, "alpaca": SECOND_USERS},
        lease_s=LONGER_LEASE_S,
        env=env,
        module="tests.support.quick_bridge",
        requests_per_second=REQUESTS_PER_S,
        simulator_arguments=("--alpaca-slot-seconds", str(HELD_SLOT_S)),
    ) as fleet:
        verdicts = await run_fleet_storm(fleet, plan, say=print)
        assert verdicts.hold, str(verdicts)
