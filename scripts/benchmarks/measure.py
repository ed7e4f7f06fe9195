"""Small tools every measurement shares: percentiles, memory of a process, lag of the running loop, pinning.

Invariant: nothing here changes what it measures by more than the wake-ups of the lag ticker.
"""

from __future__ import annotations

import asyncio
import gc
import math
import os
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path


def percentile(values: Sequence[float], share: float) -> float:
    """The nearest-rank percentile: a value that was really seen. `share` 0.99 for p99."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def rss_kib(pid: int) -> int:
    """Anonymous resident memory of a process in KiB; all resident memory where they are not told apart."""
    status = Path(f"/proc/{pid}/status")
    if status.exists():
        fields = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
        return int(fields.get("RssAnon", fields["VmRSS"]).split()[0])
    import psutil

    return int(psutil.Process(pid).memory_info().rss) // 1024


@contextmanager
def on_core(number: int) -> Iterator[None]:
    """Keep this process, and the children it starts meanwhile, on one core, where the system can and there are two.

    A client and its server are measured on a core each, as if on two machines: left alone, the scheduler now puts them
    on one and now on two, and a single round trip costs half or twice as much.
    """
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {sorted(allowed)[number % len(allowed)]})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


def collect_as_served() -> None:
    """Set the garbage collector as a serving process does, once everything is built."""
    from bridge.daemon import GC_THRESHOLDS

    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)


class LoopLag:
    """How late a 1 ms ticker woke up, in milliseconds, while `lagging()` ran."""

    def __init__(self) -> None:
        self.lags_ms: list[float] = []

    def p99_ms(self) -> float:
        return percentile(self.lags_ms, 0.99)

    def max_ms(self) -> float:
        return max(self.lags_ms)


@asynccontextmanager
async def lagging() -> AsyncIterator[LoopLag]:
    """Tick every millisecond on the running loop inside the block and note how late each tick was."""
    lag = LoopLag()

    async def tick() -> None:
        while True:
            due = time.perf_counter() + 0.001
            await asyncio.sleep(0.001)
            lag.lags_ms.append(max(0.0, time.perf_counter() - due) * 1000)

    ticker = asyncio.get_running_loop().create_task(tick())
    try:
        yield lag
    finally:
        ticker.cancel()
        await asyncio.gather(ticker, return_exceptions=True)
