"""What would bring real time or real randomness into a simulated world, replaced for as long as one runs.

Everything of ours takes its clock and its dice from outside; this is about the libraries under the adapters.
"""

from __future__ import annotations

import gc
import secrets
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from random import Random
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch
from zlib import crc32

import aiohttp.connector
import aiohttp.helpers

import bridge.simulator.alpaca.server
from bridge.cache.entry import Entry
from bridge.sessions.session import Session
from tests.simulation.loop import VirtualLoop

ALPACA_STEP_S = 0.2  # how often the simulated broker looks what is due: what takes turns of the loop takes real time
EPOCH_S = 1_732_341_600.0  # the wall clock when the loop's clock stands at 0


@contextmanager
def sealed_off(loop: VirtualLoop, rng: Random) -> Iterator[list[aiohttp.ClientSession]]:
    """Within the block the libraries have the loop's time and the seed's dice.

    The garbage collector waits: what it would find is found when the world is over. Yields every HTTP session that is
    made meanwhile: whoever is killed leaves some behind that nobody closes.
    """
    made: list[aiohttp.ClientSession] = []
    make = aiohttp.ClientSession.__init__

    def remember(session: aiohttp.ClientSession, *arguments: Any, **named: Any) -> None:
        make(session, *arguments, **named)
        made.append(session)

    wall = SimpleNamespace(time=lambda: EPOCH_S + loop.time(), gmtime=time.gmtime)
    with ExitStack() as stack:
        stack.enter_context(patch.object(aiohttp.connector, "monotonic", loop.time))
        stack.enter_context(patch.object(aiohttp.helpers, "time", wall))
        stack.enter_context(patch.object(secrets, "token_bytes", lambda size=32: rng.randbytes(size)))
        stack.enter_context(patch.object(uuid, "uuid4", lambda: uuid.UUID(int=rng.getrandbits(128), version=4)))
        stack.enter_context(patch.object(bridge.simulator.alpaca.server, "STEP_S", ALPACA_STEP_S))
        stack.enter_context(patch.object(Session, "__hash__", lambda session: session.serial))  # for the order of sets
        stack.enter_context(patch.object(Entry, "__hash__", lambda entry: crc32(entry.keys[0].encode())))
        stack.enter_context(patch.object(aiohttp.ClientSession, "__init__", remember))
        gc.disable()
        try:
            yield made
        finally:
            gc.enable()
