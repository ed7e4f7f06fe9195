"""Signals: the first SIGTERM or SIGINT asks for a drain, the second ends the process at once (faults.md P01, P02).

Must not do any work in the handler itself. Invariant: from `install` on, no signal is lost and a process that hangs
while draining can still be ended by hand.
"""

from __future__ import annotations

import asyncio
import os
import signal
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Shutdown:
    """Says once why the process must end. `requested` is set by a signal or by `request`."""

    def __init__(self) -> None:
        self.requested = asyncio.Event()
        self.cause: str | None = None

    def request(self, cause: str) -> None:
        """Ask for the end from inside the process. The first cause is kept."""
        if self.cause is None:
            self.cause = cause
        self.requested.set()

    def install(self) -> None:
        """Take over both signals for the running loop."""
        loop = asyncio.get_running_loop()
        for number in SIGNALS:
            loop.add_signal_handler(number, self._first, number)

    def remove(self) -> None:
        """Give both signals back to Python's defaults (for tests; a process that ends need not)."""
        loop = asyncio.get_running_loop()
        for number in SIGNALS:
            loop.remove_signal_handler(number)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def _first(self, number: signal.Signals) -> None:
        loop = asyncio.get_running_loop()
        for each in SIGNALS:
            loop.remove_signal_handler(each)
            signal.signal(each, _end_now)  # runs between two bytecodes, also while the loop is busy
        self.request(signal.Signals(number).name)


def _end_now(number: int, frame: FrameType | None) -> None:
    os._exit(128 + number)
