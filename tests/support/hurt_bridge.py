"""`python -m tests.support.hurt_bridge serve`: the quick bridge, which hurts itself when it gets a real-time signal.

What it does then happens where such faults happen: on the loop's own thread, between two steps of whatever runs.
"""

import asyncio
import logging
import signal
import sys
import time
from collections.abc import Callable
from functools import partialmethod
from types import FrameType

from bridge.__main__ import loop_factory
from bridge.cli import main
from bridge.sessions.supervisor import Supervisor
from bridge.telemetry.logs import LineHandler
from tests.support import quick_bridge

STALLS_S = {1: 0.2, 2: 2.0, 3: 6.0}  # by number of the signal
MISTAKE, CANCEL, CHATTER = 4, 5, 6
KEPT, LINES = 500, 2_000  # log lines that wait for a slow reader, fewer than in production; and more than those
CANCELLED = ("ctrader:", "alpaca:", "sessions:login:", "sessions:reconcile:", "sessions:logout:", "sessions:refresh:")
_supervisors: list[Supervisor] = []


def number(which: int) -> int:
    """The signal that makes it do this."""
    return int(signal.SIGRTMIN) + which


def stalls_here(seconds: float) -> None:
    time.sleep(seconds)  # the fault: a callback that blocks


def makes_a_mistake() -> None:
    """An unexpected error where one session's report is handled."""
    supervisor = _supervisors[-1]
    session = next(iter(supervisor.table))

    def mistake() -> None:
        raise ZeroDivisionError("a mistake of ours, on purpose")

    supervisor.machine.inbox.put(session, mistake)


def cancels() -> None:
    """Whatever an adapter or a session has under way."""
    for task in asyncio.all_tasks():
        if task.get_name().startswith(CANCELLED):
            task.cancel()


def chatters() -> None:
    log = logging.getLogger("bridge.chatter")
    for line in range(LINES):
        log.info("chatter", extra={"line": line})


def _remember_supervisors() -> None:
    make = Supervisor.__init__

    def remembering(self: Supervisor, **options: object) -> None:
        make(self, **options)  # type: ignore[arg-type]
        _supervisors.append(self)

    Supervisor.__init__ = remembering  # type: ignore[method-assign, assignment]


def _on_the_loop(act: Callable[[], None]) -> Callable[[int, FrameType | None], None]:
    return lambda *_: asyncio.get_running_loop().call_soon(act)


def hurt_on_signals() -> None:
    for which, seconds in STALLS_S.items():
        signal.signal(number(which), lambda *_, s=seconds: stalls_here(s))
    signal.signal(number(MISTAKE), _on_the_loop(makes_a_mistake))
    signal.signal(number(CANCEL), _on_the_loop(cancels))
    signal.signal(number(CHATTER), _on_the_loop(chatters))
    _remember_supervisors()


if __name__ == "__main__":
    quick_bridge.shorten()
    LineHandler.__init__ = partialmethod(LineHandler.__init__, lines_kept=KEPT)  # type: ignore[method-assign, assignment]
    hurt_on_signals()
    sys.exit(main(sys.argv[1:], loop_factory=loop_factory()))
