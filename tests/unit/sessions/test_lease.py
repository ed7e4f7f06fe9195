"""When a process may act, write and must renew: exact times, counted from before the request."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.sessions.lease import Lease


def test_nothing_is_allowed_before_the_first_renewal() -> None:
    lease = Lease(15)
    assert (lease.may_act(0), lease.may_write(0), lease.acts_until, lease.age_s(5)) == (False, False, None, None)
    assert lease.renew_at(Random(1)) == float("-inf")


@pytest.mark.parametrize(
    ("now", "acts", "writes"), [(100, True, True), (109.9, True, True), (110, False, True), (113.5, False, False)]
)
def test_acting_ends_at_two_thirds_and_writing_before_the_end(now: float, acts: bool, writes: bool) -> None:
    lease = Lease(15)
    lease.renewed(100)
    assert (lease.may_act(now), lease.may_write(now)) == (acts, writes)
    assert lease.acts_until == 110


def test_answers_that_overtake_one_another_never_shorten_or_lengthen_it() -> None:
    lease = Lease(15)
    lease.renewed(105)
    lease.renewed(100)  # asked for earlier, answered later
    assert lease.acts_until == 115


def test_lost_lease_allows_nothing_until_the_next_one() -> None:
    lease = Lease(15)
    lease.renewed(100)
    lease.lost()
    assert not lease.may_write(100.1)
    lease.renewed(101)
    assert lease.may_act(101.1)


@given(st.floats(1, 300), st.floats(0, 1e6), st.integers())
def test_it_is_renewed_so_early_that_one_renewal_may_fail(ttl_s: float, asked_at: float, seed: int) -> None:
    lease = Lease(ttl_s)
    lease.renewed(asked_at)
    at = lease.renew_at(Random(seed))
    assert asked_at < at <= asked_at + ttl_s / 3 + 1e-6
    assert at + ttl_s / 3 <= asked_at + ttl_s * 2 / 3 + 1e-6  # a renewal that takes its whole time is still in time
    assert lease.retry_s(Random(seed)) <= ttl_s / 30
