"""Delays stay within their bounds for every history and every random number."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.sessions import backoff
from bridge.sessions.backoff import AuthBudget

attempts = st.integers(0, 5000)
seeds = st.integers(0, 2**32)
waits = st.none() | st.floats(0, 86_400)


@given(attempt=attempts, seed=seeds)
def test_jitter_is_full_and_capped_when_failures_grow(attempt: int, seed: int) -> None:
    delay = backoff.full_jitter(attempt, Random(seed))
    assert 0 <= delay <= min(60.0, 2.0 ** min(attempt, 10))


def test_jitter_uses_the_whole_range_when_drawn_often() -> None:
    rng = Random(7)
    drawn = [backoff.full_jitter(3, rng) for _ in range(2000)]
    assert min(drawn) < 0.1
    assert max(drawn) > 7.9
    assert 3.7 < sum(drawn) / len(drawn) < 4.3


@given(seed=seeds)
def test_first_retry_is_within_a_second_when_nothing_is_asked(seed: int) -> None:
    assert backoff.retry_delay(0, Random(seed), retry_after_s=None, shared=False) <= 1.0


@given(attempt=attempts, seed=seeds, wait=waits, shared=st.booleans())
def test_retry_is_never_sooner_than_asked(attempt: int, seed: int, wait: float | None, shared: bool) -> None:
    delay = backoff.retry_delay(attempt, Random(seed), retry_after_s=wait, shared=shared)
    assert delay >= (wait or 0.0)
    assert delay <= max(60.0, wait or 0.0)


@given(attempt=attempts, seed=seeds, wait=st.floats(0, 900))
def test_retry_adds_no_jitter_when_the_fault_is_shared(attempt: int, seed: int, wait: float) -> None:
    delay = backoff.retry_delay(attempt, Random(seed), retry_after_s=wait, shared=True)
    assert delay == (max(wait, 0.2) if attempt else wait)


@given(attempt=attempts, seed=seeds, wait=waits, shared=st.booleans())
def test_throttle_is_never_sooner_than_told(attempt: int, seed: int, wait: float | None, shared: bool) -> None:
    delay = backoff.throttle_delay(attempt, Random(seed), retry_after_s=wait, shared=shared)
    if wait is None:
        assert 1.0 <= delay <= 61.0
    else:
        assert wait <= delay <= max(wait + 1.0, 0.2)


@pytest.mark.parametrize(
    ("told", "expected"), [(None, 60.0), (0.0, 1.0), (-5.0, 1.0), (120.0, 120.0), (10 * 365 * 86_400.0, 900.0)]
)
def test_maintenance_wait_is_capped_when_the_announcement_is_absurd(told: float | None, expected: float) -> None:
    assert backoff.maintenance_delay(told) == expected


@given(attempt=attempts, seed=seeds, wait=st.none() | st.floats(0, 600))
def test_refused_application_waits_a_minute_to_five(attempt: int, seed: int, wait: float | None) -> None:
    delay = backoff.application_delay(attempt, Random(seed), retry_after_s=wait)
    assert max(60.0, wait or 0.0) <= delay <= max(300.0, wait or 0.0)


@given(st.lists(st.floats(0, 2000), max_size=30))
def test_no_hour_holds_more_refused_logins_than_allowed(gaps: list[float]) -> None:
    """Whoever obeys `wait_s` never shows a refused credential more than three times in an hour."""
    budget, now, refused = AuthBudget(), 0.0, []
    for gap in gaps:
        now += gap + budget.wait_s(now + gap)
        assert budget.wait_s(now) <= 1e-6
        budget.refused(now)
        refused.append(now)
    for first, fourth in zip(refused, refused[3:], strict=False):
        assert fourth - first >= 3600.0 - 1e-6


def test_budget_waits_until_the_oldest_refusal_is_an_hour_old() -> None:
    budget = AuthBudget()
    for at in (0.0, 100.0, 200.0):
        assert budget.wait_s(at) == 0.0
        budget.refused(at)
    assert budget.wait_s(300.0) == 3300.0
    assert budget.wait_s(3600.0) == 0.0
