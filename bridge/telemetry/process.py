"""The process's own figures: memory, processor share, tasks, event loop lag, and a watchdog that names what stalls it.

The watchdog is a thread, because a stalled loop cannot report itself. It prints stacks without local variables.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import resource
import sys
import threading
import traceback
from collections import deque

from bridge.runtime.clock import Clock
from bridge.runtime.ticker import Ticker
from bridge.telemetry.histogram import Histogram

log = logging.getLogger(__name__)

BEAT_S = 0.25
STALL_S = 1.0
LAG_WINDOW = 240  # beats: one minute
LAG_BOUNDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)  # seconds
_PAGE = resource.getpagesize()


def rss_bytes() -> int:
    """Resident memory now (Linux), or the peak where the system does not tell."""
    try:
        with open("/proc/self/statm", "rb") as statm:
            return int(statm.read().split()[1]) * _PAGE
    except OSError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


def tasks() -> int:
    """Tasks of the running loop that have not ended."""
    return len(asyncio.all_tasks())


class CpuMeter:
    """Processor share since the previous reading, in percent of one core."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._at = clock.monotonic()
        self._used = _cpu_seconds()
        self._percent = 0.0

    def percent(self) -> float:
        """Readings closer than one second together return the same figure."""
        now, used = self._clock.monotonic(), _cpu_seconds()
        if now - self._at >= 1.0:
            self._percent = round(100 * (used - self._used) / (now - self._at), 1)
            self._at, self._used = now, used
        return self._percent


def _cpu_seconds() -> float:
    times = os.times()
    return times.user + times.system


class LoopWatch:
    """Measures how late the loop runs its timers; a thread reports a stall while it lasts.

    `lags`: of all beats so far, in seconds.
    """

    def __init__(self, clock: Clock, rng: random.Random, *, beat_s: float = BEAT_S, stall_s: float = STALL_S) -> None:
        self._ticker = Ticker(beat_s, clock=clock, rng=rng)
        self._clock = clock
        self._beat_s = beat_s
        self._stall_s = stall_s
        self._lags: deque[float] = deque(maxlen=LAG_WINDOW)
        self._beaten_at = clock.monotonic()
        self._stop = threading.Event()
        self._loop_thread = threading.get_ident()
        self.lags = Histogram(LAG_BOUNDS)
        self.stalls = 0
        self.beats = 0

    def lag_s(self) -> float:
        """The worst lag of the last minute, in seconds."""
        return max(self._lags, default=0.0)

    async def run(self) -> None:
        """Beat until cancelled."""
        self._loop_thread = threading.get_ident()
        self._beaten_at = self._clock.monotonic()
        self._stop.clear()
        watchdog = threading.Thread(target=self._watch, name="loop watchdog", daemon=True)
        watchdog.start()
        try:
            async for due in self._ticker:
                self._beaten_at = self._clock.monotonic()
                lag_s = max(0.0, self._beaten_at - due)
                self._lags.append(lag_s)
                self.lags.observe(lag_s)
                self.beats += 1
        finally:
            self._stop.set()

    def _watch(self) -> None:
        reported: float | None = None
        while not self._stop.wait(self._beat_s):
            beaten_at = self._beaten_at
            late_s = self._clock.monotonic() - beaten_at - self._beat_s
            if late_s > self._stall_s and reported != beaten_at:
                reported = beaten_at
                frame = sys._current_frames().get(self._loop_thread)
                stack = "".join(traceback.format_stack(frame)[-12:]) if frame else "unknown"
                log.warning("event loop stalled", extra={"seconds": round(late_s, 2), "stack": stack})
                self.stalls += 1
