"""A small run of `scripts/storm --size`, so that it stays true: all of its phases and every line of its table."""

from pathlib import Path

import pytest

from tests.support.size import Plan, run_size, size_world
from tests.support.verdicts import Verdicts

TIMED = ("loop lag", "age of holders", "KiB per session")  # the machine is shared with other tests


@pytest.mark.slow
@pytest.mark.timeout(240)
async def test_every_line_of_a_run_at_size_holds_when_it_is_small(tmp_path: Path) -> None:
    verdicts = Verdicts()
    plan = Plan(users=60, second_users=12, requests_per_second=200, dials=50, steady_s=3, channels=2)
    async with size_world(tmp_path, plan, bridge_module="tests.support.quick_bridge") as world:
        await run_size(world, plan, verdicts, print)
    wrong = [line for line in verdicts.lines if not line.holds and not any(name in line.what for name in TIMED)]
    assert not wrong, str(verdicts)
    assert len(verdicts.lines) > 30
