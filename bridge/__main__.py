"""`python -m bridge`: the command line on the fastest event loop there is."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable

from bridge.cli import main

LoopFactory = Callable[[], asyncio.AbstractEventLoop]


def loop_factory() -> LoopFactory | None:
    """uvloop where it exists (not on Windows), else the standard loop."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], loop_factory=loop_factory()))
