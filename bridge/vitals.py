"""How the process is doing, for /health and its probes. Reads what the parts know of themselves; asks nobody."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping

from bridge.cache.entry import StoreHealth
from bridge.cache.flusher import Flusher
from bridge.config import VERSION
from bridge.runtime.clock import Clock
from bridge.telemetry.process import CpuMeter, LoopWatch, rss_bytes

FLUSHER_SILENT_S = 30.0


class ProcessVitals:
    """The `Vitals` that the API is handed. `not_live` and `not_ready`: one sentence, or None when all is well."""

    version = VERSION

    def __init__(self, clock: Clock, flusher: Flusher, watch: LoopWatch) -> None:
        self._clock = clock
        self._flusher = flusher
        self._watch = watch
        self._cpu = CpuMeter(clock)
        self._began = clock.monotonic()

    def uptime_s(self) -> float:
        return self._clock.monotonic() - self._began

    def stores(self) -> Mapping[str, StoreHealth]:
        return self._flusher.health()

    def rss_bytes(self) -> int:
        return rss_bytes()

    def cpu_percent(self) -> float:
        return self._cpu.percent()

    def loop_lag_ms(self) -> float:
        return self._watch.lag_s() * 1000

    def not_live(self) -> str | None:
        if self._clock.monotonic() - self._flusher.alive_at > FLUSHER_SILENT_S:
            return "the flusher makes no progress"
        return None

    def not_ready(self) -> str | None:
        if not self._flusher.primary_usable:
            return "the primary store does not answer"
        return None if _descriptor_left() else "no file descriptor is left for another connection"


def _descriptor_left() -> bool:
    try:
        os.close(os.dup(0))
    except OSError as error:
        return error.errno not in (errno.EMFILE, errno.ENFILE)
    return True
