"""`python -m tests.support.soak_bridge serve`: the bridge with short waits, which on request lets go of what it can.

It remembers fewer executions of an account than production, so that what is bounded is full soon and grows no more.

On SIGRTMIN it collects garbage, so that what is sampled afterwards is what somebody still holds. With SOAK_LEAK it
keeps copies of every reading of a session: a bridge that leaks, for the test of the check. With SOAK_CENSUS, the
path of a file, it also writes down there how many objects of which type there are: where to look when something grows.
"""

import gc
import os
import signal
import sys
from collections import Counter
from pathlib import Path

import orjson

from bridge.__main__ import loop_factory
from bridge.brokers.alpaca import reading
from bridge.cache.record import Reading
from bridge.cli import main
from bridge.sessions.session import Session
from tests.support.quick_bridge import shorten

COPIES = 1000  # small ones of each reading, so that a leak shows within seconds
EXECUTIONS = 1000  # more than one search for them shows in a soak
kept: list[object] = []


def collect_on_signal() -> None:
    def collect(number: int, frame: object) -> None:
        unreachable = gc.collect()
        if path := os.environ.get("SOAK_CENSUS"):
            take_census(Path(path), unreachable)

    signal.signal(signal.SIGRTMIN, collect)


def take_census(path: Path, unreachable: int) -> None:
    """One more line: a JSON object of numbers by type; containers only, and none from before the start was over.

    `unreachable`: how many were just found to be garbage that referred to itself.
    """
    found = Counter(f"{type(each).__module__}.{type(each).__qualname__}" for each in gc.get_objects())
    with path.open("ab") as file:
        file.write(orjson.dumps({"unreachable": unreachable, **found}) + b"\n")


def leak() -> None:
    read = Session.reading

    def leaking(self: Session) -> Reading:
        made = read(self)
        kept.extend([made.status, each] for each in range(COPIES))
        return made

    Session.reading = leaking  # type: ignore[method-assign]


if __name__ == "__main__":
    shorten()
    reading.REMEMBERED = EXECUTIONS
    collect_on_signal()
    if os.environ.get("SOAK_LEAK"):
        leak()
    sys.exit(main(sys.argv[1:], loop_factory=loop_factory()))
