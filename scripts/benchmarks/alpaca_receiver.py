"""The receiving side of Alpaca's events, in a process of its own: our adapter after a real login.

An event counts when the account mirror has applied it: socket callback, decoding, normalising and the mirror are in the
figure. What a fill makes the adapter ask for afterwards, over REST, is in it as well.
"""

from __future__ import annotations

import random
import sys

import uvloop

from bridge.brokers.alpaca.broker import AlpacaBroker
from bridge.brokers.alpaca.settings import AlpacaSettings
from bridge.brokers.base import Environment
from bridge.runtime.clock import SystemClock
from bridge.runtime.tasks import Tasks
from scripts.benchmarks.children import commands, say
from scripts.benchmarks.hot_path_receiver import Listener, flushed, timed
from scripts.benchmarks.measure import collect_as_served


async def main(rest_url: str, stream_port: int, account: str) -> None:
    settings = AlpacaSettings(
        paper_url=rest_url,
        paper_stream_url=f"ws://127.0.0.1:{stream_port}/stream",
        data_url=rest_url.replace("http", "ws"),  # no trades there: prices are frozen
    )
    broker = AlpacaBroker(settings, SystemClock(), random.Random(1), Tasks("broker"))
    entry = {"keyId": "SIMKEY1", "secretKey": "sim-alpaca-secret-1", "environment": "paper"}
    session = broker.session(Environment.DEMO, account, Listener())
    await session.login(broker.read_credential("grant-1", entry), at_risk=True)
    mirror = session.mirror
    if mirror is None:
        raise RuntimeError("a live session has no mirror")
    collect_as_served()
    say(live=True)
    async for command in commands():
        result = await timed(lambda: mirror.events, command["frames"], lambda: flushed(mirror))
        say(**result, last=mirror.fills[-1].execution_id if mirror.fills else "")


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], int(sys.argv[2]), sys.argv[3]))
