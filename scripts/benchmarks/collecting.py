"""`python -m scripts.benchmarks.collecting serve`: the bridge as it is, noting how long each garbage collection takes.

BENCH_GC=default leaves the collector as Python sets it. On SIGUSR1 the notes since the last time go to the file
BENCH_GC_REPORT: the longest pause and the number of each generation, objects that are tracked, and what one whole
collection takes, which is made then (of what is not frozen).
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import orjson

import bridge.daemon
from bridge.__main__ import loop_factory
from bridge.cli import main

NOTED: list[tuple[int, float]] = []


class Collector:
    """What the daemon sees as `gc` when Python's own settings are measured: nothing it asks for happens."""

    def collect(self) -> None:
        pass

    freeze = collect

    def set_threshold(self, *_: int) -> None:
        pass


def noted() -> None:
    """Note every pause from here on."""
    began = 0.0

    def note(phase: str, info: dict[str, int]) -> None:
        nonlocal began
        if phase == "start":
            began = time.perf_counter()
        else:
            NOTED.append((info["generation"], (time.perf_counter() - began) * 1000))

    gc.callbacks.append(note)


def report(path: Path) -> None:
    pauses, tracked = NOTED.copy(), len(gc.get_objects())
    began = time.perf_counter()
    gc.collect()
    whole_ms = (time.perf_counter() - began) * 1000
    NOTED.clear()
    generations: dict[str, Any] = {
        str(each): {"count": len(found), "maxMs": max(found, default=0.0)}
        for each in range(3)
        if (found := [ms for generation, ms in pauses if generation == each]) is not None
    }
    path.write_bytes(orjson.dumps({"generations": generations, "tracked": tracked, "wholeMs": whole_ms}))


def with_report() -> asyncio.AbstractEventLoop:
    make = loop_factory()
    loop = make() if make is not None else asyncio.new_event_loop()
    loop.add_signal_handler(signal.SIGUSR1, report, Path(os.environ["BENCH_GC_REPORT"]))
    return loop


if __name__ == "__main__":
    if os.environ.get("BENCH_GC") == "default":
        bridge.daemon.gc = Collector()  # type: ignore[attr-defined]
    noted()
    sys.exit(main(sys.argv[1:], loop_factory=with_report))
