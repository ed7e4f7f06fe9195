"""Backoff and dial budget: first retry within a second, growth with full jitter, a cap, and a rate per host."""

import random

import pytest

from bridge.brokers.dialing import DialBackoff, DialBudget


class Highest(random.Random):
    """Always draws the upper end, to see the ceiling."""

    def uniform(self, a: float, b: float) -> float:
        return b


def test_ceiling_doubles_to_the_cap_when_dials_keep_failing() -> None:
    backoff = DialBackoff(Highest(), first_s=1.0, cap_s=60.0, stable_s=60.0)
    assert [backoff.down(0.0) for _ in range(8)] == [1, 2, 4, 8, 16, 32, 60, 60]


def test_jitter_is_full_when_drawn() -> None:
    backoff = DialBackoff(random.Random(5), first_s=1.0, cap_s=60.0, stable_s=60.0)
    for _ in range(10):
        backoff.down(0.0)
    delays = [backoff.down(0.0) for _ in range(500)]
    assert min(delays) < 5.0
    assert max(delays) > 55.0


@pytest.mark.parametrize(("up_for", "next_ceiling"), [(3.0, 16), (59.9, 16), (60.0, 1)])
def test_backoff_is_forgotten_only_when_the_channel_was_stable(up_for: float, next_ceiling: float) -> None:
    backoff = DialBackoff(Highest(), first_s=1.0, cap_s=60.0, stable_s=60.0)
    for _ in range(4):
        backoff.down(0.0)
    backoff.up(100.0)
    assert backoff.down(100.0 + up_for) == next_ceiling


def test_dials_start_at_the_hosts_rate_when_many_ask_at_once() -> None:
    budget = DialBudget(5)
    assert [budget.reserve(10.0) for _ in range(12)] == [0] * 5 + [1] * 5 + [2] * 2
    assert budget.wait_s(10.0) == 2.0
    assert budget.wait_s(13.0) == 0.0
