"""Figures of the process, and the watchdog that says what stalls the loop."""

import asyncio
import logging
import random
import time

import pytest

from bridge.runtime.clock import ManualClock, SystemClock
from bridge.telemetry.process import CpuMeter, LoopWatch, rss_bytes
from tests.support.fault_table import fault
from tests.support.waiting import eventually


def test_memory_is_a_plausible_number():
    assert 1_000_000 < rss_bytes() < 100_000_000_000


def test_processor_share_is_read_once_a_second():
    clock = ManualClock()
    meter = CpuMeter(clock)
    assert meter.percent() == 0
    end = time.process_time() + 0.05
    while time.process_time() < end:
        pass
    assert meter.percent() == 0
    clock.advance(1)
    assert meter.percent() > 0


@fault("P05", "a callback that blocks", "measured, and said with its place")
async def test_a_stall_is_measured_and_reported_with_its_place(caplog: pytest.LogCaptureFixture):
    watch = LoopWatch(SystemClock(), random.Random(1), beat_s=0.02, stall_s=0.1)
    task = asyncio.ensure_future(watch.run())
    await eventually(lambda: watch.beats > 2, within_s=5)

    def stalls_here() -> None:
        deadline = time.monotonic() + 10
        while not watch.stalls and time.monotonic() < deadline:
            time.sleep(0.01)

    with caplog.at_level(logging.WARNING):
        stalls_here()
    assert watch.stalls == 1
    assert "stalls_here" in caplog.records[-1].stack
    await eventually(lambda: watch.lag_s() > 0.1, within_s=5)
    assert sum(watch.lags.counts) == watch.beats
    assert watch.stalls == 1
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
