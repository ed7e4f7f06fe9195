"""Dials many sockets over TLS as the adapters do, and says what each cost in processor time and memory.

Arguments: `uvloop` or `asyncio`, the transport, `shared` or `own` (a TLS context for every connection), URL, the
certificate to trust, how many.
"""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import time

import uvloop

from bridge.brokers import stream
from bridge.brokers.alpaca.settings import AlpacaSettings
from bridge.brokers.sockets import Message, Socket
from bridge.brokers.tls import shared_tls
from scripts.benchmarks.aiohttp_socket import make_known
from scripts.benchmarks.children import say
from scripts.benchmarks.measure import rss_kib

AT_ONCE = 50
WARM_UP = 20
SETTLE_S = 1.0


class Listener:
    """Nothing but counted."""

    __slots__ = ("messages",)

    def __init__(self) -> None:
        self.messages = 0

    def heard(self, socket: Socket, size: int) -> None:
        pass

    def receive(self, data: Message) -> None:
        self.messages += 1

    receive_text = receive

    def pong(self, socket: Socket) -> None:
        pass

    def ended(self, socket: Socket) -> None:
        pass


async def dialled(count: int, url: str, settings: AlpacaSettings) -> list[Socket]:
    gate = asyncio.Semaphore(AT_ONCE)

    async def one() -> Socket:
        async with gate:
            return await stream.open_socket(Listener(), url, settings)

    return await asyncio.gather(*(one() for _ in range(count)))


async def main(transport: str, contexts: str, url: str, ca_file: str, count: int) -> None:
    make_known()
    settings = AlpacaSettings(transport=transport, tls_ca_file=ca_file, connect_timeout_s=60.0)
    if contexts == "own":
        stream.shared_tls = shared_tls.__wrapped__  # type: ignore[attr-defined]  # the same, kept by nobody
    kept = await dialled(WARM_UP, url, settings)
    gc.collect()
    before, processor = rss_kib(os.getpid()), time.process_time()
    kept += await dialled(count, url, settings)
    processor = time.process_time() - processor
    await asyncio.sleep(SETTLE_S)  # a first message has come on each
    gc.collect()
    say(cpuMs=processor / count * 1000, kib=(rss_kib(os.getpid()) - before) / count, open=len(kept))


if __name__ == "__main__":
    run = uvloop.run if sys.argv[1] == "uvloop" else asyncio.run
    run(main(sys.argv[2], sys.argv[3], sys.argv[4], sys.argv[5], int(sys.argv[6])))
