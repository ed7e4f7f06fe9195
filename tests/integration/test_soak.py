"""A soak of seconds, so that `scripts/soak` stays true; and one of a bridge that leaks, which it must notice."""

from pathlib import Path

import pytest

from tests.support.leaks import FEWEST
from tests.support.soak import Plan, run_soak
from tests.support.soak_world import soak_world
from tests.support.verdicts import Verdicts

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]
LEAKY_ROUNDS = 2 * FEWEST - 1  # enough are left after the warm-up
IN_USE = "blocks of memory in use"


async def test_everything_is_live_and_true_after_every_round_of_a_soak(tmp_path: Path) -> None:
    verdicts = Verdicts()
    async with soak_world(tmp_path, users=3, second_users=2) as world:
        await run_soak(world, Plan(rounds=3, seed=4), verdicts, print)
    wrong = [line for line in verdicts.lines if not line.holds and line.seen != "too few samples"]
    assert not wrong, str(verdicts)


async def test_a_soak_notices_a_bridge_that_leaks(tmp_path: Path) -> None:
    verdicts = Verdicts()
    async with soak_world(tmp_path, users=2, second_users=1, leaks=True, postgres=False) as world:
        await run_soak(world, Plan(rounds=LEAKY_ROUNDS, seed=2, rough=False), verdicts, print)
    assert [line.holds for line in verdicts.lines if line.what.startswith(IN_USE)] == [False], str(verdicts)
