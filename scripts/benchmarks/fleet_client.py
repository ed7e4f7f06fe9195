"""The plain comparison for memory: one `websockets` connection, one task and one dict per user, as a first version
would have it. Grows on command and says how much memory it holds."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
from typing import Any

import uvloop
from websockets.asyncio.client import ClientConnection, connect

from protos.ctrader import common_messages_pb2, messages_pb2
from scripts.benchmarks.children import commands, say
from scripts.benchmarks.measure import rss_kib
from tests.support.waiting import eventually

FIRST_ACCOUNT = 7_000_000
AT_ONCE = 100
SETTLE_S = 3.0


def plain_account(account: int) -> dict[str, Any]:
    """What a record needs, as nested dicts: an account with two positions."""
    position = {"side": "buy", "units": 10_000.0, "entryPrice": 1.0841, "swap": -0.12, "commission": -0.35}
    return {
        "accountId": str(account),
        "currency": "USD",
        "balance": float(account),
        "leverage": 100.0,
        "positions": {str(account + number): dict(position, symbol=number) for number in (1, 2)},
        "quotes": {},
    }


async def follow(connection: ClientConnection, held: dict[str, Any]) -> None:
    """Receive, decode, remember."""
    while True:
        envelope = common_messages_pb2.ProtoMessage.FromString(await connection.recv(decode=False))
        spot = messages_pb2.ProtoOASpotEvent.FromString(envelope.payload)
        held["quotes"][spot.symbolId] = (spot.bid, spot.ask)


class Fleet:
    def __init__(self, port: int) -> None:
        self._port = port
        self._tasks: list[asyncio.Task[None]] = []
        self._accounts: list[dict[str, Any]] = []
        self._gate = asyncio.Semaphore(AT_ONCE)

    async def grow(self, to: int) -> int:
        """Connect until there are `to` users, wait until they are fed, and return the memory of the process in KiB."""
        await asyncio.gather(*(self._add(FIRST_ACCOUNT + number) for number in range(len(self._accounts), to)))
        await eventually(lambda: all(held["quotes"] for held in self._accounts), within_s=60, every_s=0.05)
        await asyncio.sleep(SETTLE_S)
        gc.collect()
        return rss_kib(os.getpid())

    async def _add(self, account: int) -> None:
        async with self._gate:
            connection = await connect(
                f"ws://127.0.0.1:{self._port}/{account}", compression=None, ping_interval=None, proxy=None
            )
        held = plain_account(account)
        self._accounts.append(held)
        self._tasks.append(asyncio.get_running_loop().create_task(follow(connection, held)))


async def main(port: int) -> None:
    fleet = Fleet(port)
    say(ready=True)
    async for command in commands():
        say(rssKib=await fleet.grow(int(command["to"])))


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1])))
