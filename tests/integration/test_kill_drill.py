"""Killed at size under load, at ten times the broker's rate (the real rate: `scripts/storm --kill`)."""

from pathlib import Path

import pytest

from tests.support.fault_table import fault
from tests.support.kill_drill import drill_world, run_kill_drill


@pytest.mark.slow
@pytest.mark.timeout(180)
@fault("P03", "SIGKILL at 300 sessions under load", "all wanted sessions back in time, every record true")
async def test_every_wanted_session_is_back_in_time_and_true_when_the_bridge_was_killed_under_load(
    tmp_path: Path, database_url: str
) -> None:
    async with drill_world(tmp_path, database_url, users=300, requests_per_second=500, lease_s=4) as world:
        report = await run_kill_drill(world, database_url, rate=450, operations=1500, say=print)
        assert report.at_risk >= 30
        assert report.commands > 30
