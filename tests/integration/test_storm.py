"""A thousand sessions on one channel, at ten times the broker's rate (the real rate: `scripts/storm`)."""

from pathlib import Path

import pytest

from tests.support.fault_table import fault
from tests.support.storm import run_storm
from tests.support.world import running_world


@fault(
    "N40",
    "a thousand cTrader sessions are cut in a storm of trades",
    "back within the formula, holders first, no refusals",
)
@fault(
    "N28", "a thousand cTrader logins and ten thousand trades at a strict limit", "0 violations in any rolling second"
)
@pytest.mark.slow
@pytest.mark.timeout(420)
async def test_every_record_equals_the_truth_when_a_thousand_sessions_are_cut_in_a_storm(tmp_path: Path) -> None:
    async with running_world(tmp_path, users=1000, requests_per_second=500) as world:
        report = await run_storm(world, rate=450, operations=10_000, say=print)
        assert report.holders_at_cut >= 100
