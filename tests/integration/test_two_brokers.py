"""Two hundred Alpaca and a thousand cTrader sessions in one process (alone and at the real rate: `scripts/storm`)."""

from pathlib import Path

import pytest

from tests.support.two_brokers import run_two_brokers
from tests.support.world import running_world


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_every_record_and_execution_is_right_when_both_brokers_cut_their_sessions_three_times(
    tmp_path: Path,
) -> None:
    env = {"ALPACA_DIALS_PER_SECOND": "50"}  # ten times the default, as the other broker's rate
    async with running_world(tmp_path, users=1000, requests_per_second=500, bridge_env=env) as world:
        report = await run_two_brokers(world, second_users=200, rate=450, operations=5_000, say=print)
        assert report.sessions == {"ctrader": 1000, "alpaca": 200}
