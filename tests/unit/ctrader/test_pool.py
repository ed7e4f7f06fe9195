"""Which channel is taken for a request that needs no account."""

import random
from dataclasses import dataclass
from typing import Any

import pytest

from bridge.brokers.base import Environment
from bridge.brokers.ctrader.pool import Pool
from bridge.brokers.ctrader.settings import CtraderSettings
from bridge.brokers.stats import Stats
from bridge.runtime.clock import ManualClock
from bridge.runtime.tasks import Tasks
from core.secret import Secret


@dataclass
class Channel:
    """As far as the choice goes."""

    busy: int
    up: bool = True


@pytest.fixture
def pool() -> Pool:
    settings = CtraderSettings(client_id="an-app", client_secret=Secret("its-secret-of-tests"))
    return Pool(Environment.DEMO, settings, ManualClock(), random.Random(1), Tasks("test"), Stats())


def given(pool: Pool, *channels: Any) -> None:
    pool.channels[:] = channels


def test_the_least_busy_open_channel_is_taken(pool: Pool) -> None:
    given(pool, Channel(7), idle := Channel(2), Channel(3), Channel(0, up=False))
    assert pool.open_channel() is idle
    assert pool.any() is idle


def test_requests_go_round_when_thousands_log_in_for_the_first_time(pool: Pool) -> None:
    channels = [Channel(0) for _ in range(8)]
    given(pool, *channels)
    for _ in range(800):
        pool.any().busy += 1  # type: ignore[misc]  # asks for an account list, as every login does once
    assert [channel.busy for channel in channels] == [100] * 8


def test_a_channel_that_is_not_open_yet_is_taken_when_none_is(pool: Pool) -> None:
    given(pool, first := Channel(0, up=False), Channel(0, up=False))
    assert pool.open_channel() is None
    assert pool.any() is first
