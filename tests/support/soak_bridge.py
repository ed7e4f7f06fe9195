"""`python -m tests.support.soak_bridge serve`: the bridge with short waits, which on request lets go of what it can.

On SIGRTMIN it collects garbage, so that what is sampled afterwards is what somebody still holds. With SOAK_LEAK it
keeps copies of every reading of a session: a bridge that leaks, for the test of the check.
"""

import gc
import os
import signal
import sys

from bridge.__main__ import loop_factory
from bridge.cache.record import Reading
from bridge.cli import main
from bridge.sessions.session import Session
from tests.support.quick_bridge import shorten

COPIES = 50  # small ones of each reading, so that a leak shows within seconds
kept: list[object] = []


def collect_on_signal() -> None:
    def collect(number: int, frame: object) -> None:
        gc.collect()

    signal.signal(signal.SIGRTMIN, collect)


def leak() -> None:
    reading = Session.reading

    def leaking(self: Session) -> Reading:
        made = reading(self)
        kept.extend([made.status, each] for each in range(COPIES))
        return made

    Session.reading = leaking  # type: ignore[method-assign]


if __name__ == "__main__":
    shorten()
    collect_on_signal()
    if os.environ.get("SOAK_LEAK"):
        leak()
    sys.exit(main(sys.argv[1:], loop_factory=loop_factory()))
