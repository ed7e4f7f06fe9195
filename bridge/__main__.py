"""`python -m bridge`: the command line on the fastest event loop there is."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable

from bridge.cli import main
from bridge.runtime.private_memory import keep_memory_private

LoopFactory = Callable[[], asyncio.AbstractEventLoop]


def loop_factory() -> LoopFactory | None:
    """uvloop where it exists (not on Windows), else the standard loop.

    Not for speed alone: asyncio's own TLS keeps a buffer of 256 KiB for each connection, so that a socket takes some
    310 KiB there and 55 KiB here (`./scripts/bench --rows runtime`). Without uvloop everything works, with that memory.
    """
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


def keep_standard_streams() -> None:
    """Open on /dev/null what our parent closed of stdin, stdout and stderr.

    Else a socket would take the free number: the event loop refuses to close one there, and output would go into it.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            opened = os.open(
                os.devnull, os.O_RDWR
            )  # the lowest free number: this one, or one that stays out of the way
            setattr(sys, name, os.fdopen(opened, "w" if number else "r"))


if __name__ == "__main__":
    keep_standard_streams()
    keep_memory_private()  # every command may read secrets
    sys.exit(main(sys.argv[1:], loop_factory=loop_factory()))
